//! Detection of values that are not credentials of Atlas.

use zeroize::Zeroizing;

/// Returns whether a character is whitespace or has no width. Such characters occur at the ends of files and of copied
/// texts.
pub(super) fn is_blank(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
}

/// Returns why a value cannot be a credential of Atlas, with the likely cause. The check here avoids a failed request.
pub(super) fn find_defect(value: &str) -> Option<&'static str> {
    let is_quote = |letter| {
        matches!(
            letter,
            '"' | '\'' | '`' | '\u{ab}' | '\u{bb}' | '\u{2018}'..='\u{201f}'
        )
    };
    if value.starts_with(is_quote) || value.ends_with(is_quote) {
        return Some("expected the value alone, got quotes around it");
    }
    if value.starts_with(['{', '[']) {
        return Some("expected the value alone, got JSON");
    }
    if is_assignment(value) {
        return Some("expected the value alone, got a name before it (NAME=VALUE or NAME: VALUE)");
    }
    let is_scheme =
        |scheme: &str| ["bearer", "basic"].contains(&scheme.to_ascii_lowercase().as_str());
    if value
        .split_once(' ')
        .is_some_and(|(first, _)| is_scheme(first))
    {
        return Some("expected the value alone, got an Authorization header");
    }
    if value.starts_with("mdb_sa_id_") && value.contains([':', ' ']) {
        return Some("expected the value alone, got a client id before it");
    }
    let is_within = |open, close| value.starts_with(open) && value.ends_with(close);
    if ["${", "$("].iter().any(|start| value.starts_with(start))
        || is_within('<', '>')
        || is_within('(', ')')
        || value.ends_with([';', ','])
    {
        return Some(
            "expected the value alone, got an unexpanded variable, a placeholder or a trailing separator",
        );
    }
    if !value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Some(
            "expected a single line of printable ASCII, got line breaks, control characters or non-ASCII characters",
        );
    }
    None
}

/// Returns whether the text has a name before the value, as in a shell script, a YAML file or a header.
fn is_assignment(text: &str) -> bool {
    /// Last words of names of credentials, without separators.
    const NAMES: [&str; 9] = [
        "clientid",
        "clientsecret",
        "apikey",
        "publickey",
        "privatekey",
        "token",
        "secret",
        "password",
        "authorization",
    ];
    let lower = Zeroizing::new(text.to_ascii_lowercase());
    let text = lower.trim_start_matches("$env:");
    if ["export ", "set ", "declare "]
        .iter()
        .any(|command| text.starts_with(command))
    {
        return true;
    }
    let Some((name, value)) = text.split_once(['=', ':']) else {
        return false;
    };
    let name: Zeroizing<String> =
        Zeroizing::new(name.chars().filter(char::is_ascii_alphanumeric).collect());
    // The padding of base64 does not count as a value.
    let has_value = !value.trim_matches('=').is_empty();
    has_value && NAMES.iter().any(|known| name.ends_with(known))
}
