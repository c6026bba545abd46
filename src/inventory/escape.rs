//! Label escaping. Labels are escaped once, when an inventory is built.

use std::borrow::Cow;

/// Appends `name="value"` with the value escaped.
pub fn write_label(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push_str("=\"");
    write_escaped(text, value);
    text.push('"');
}

/// Appends a label's value, escaped for the text formats of Prometheus: backslash, double quote and newline.
pub fn write_escaped(text: &mut String, value: &str) {
    for part in value.split_inclusive(['\\', '"', '\n']) {
        let (plain, escaped) = match part.as_bytes().last() {
            Some(b'\\') => (part.len() - 1, "\\\\"),
            Some(b'"') => (part.len() - 1, "\\\""),
            Some(b'\n') => (part.len() - 1, "\\n"),
            _ => (part.len(), ""),
        };
        text.push_str(part.get(..plain).unwrap_or_default());
        text.push_str(escaped);
    }
}

/// Reverts [`write_escaped`].
pub fn unescape(escaped: &str) -> Cow<'_, str> {
    if !escaped.contains('\\') {
        return Cow::Borrowed(escaped);
    }
    let mut value = String::with_capacity(escaped.len());
    let mut chars = escaped.chars();
    while let Some(next) = chars.next() {
        value.push(match next {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some(other) => other,
                None => '\\',
            },
            plain => plain,
        });
    }
    Cow::Owned(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unescape_reverts_escaping() {
        for value in ["", "plain", "a \"b\" \\ c\nd", "\\n", "\\\\", "🔑\t\0"] {
            let mut text = String::new();
            write_label(&mut text, "n", value);
            let escaped = text
                .strip_prefix("n=\"")
                .and_then(|text| text.strip_suffix('"'))
                .expect("a label");
            assert!(!escaped.contains('\n'));
            assert_eq!(unescape(escaped), value);
        }
    }
}
