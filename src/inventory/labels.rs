//! Label blocks: rendered and escaped once, when an inventory is made.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Appends `name="value"` with the value escaped as Prometheus' text formats ask: backslash,
/// double quote and newline, nothing else.
pub fn label(text: &mut String, name: &str, value: &str) {
    // writing to a String cannot fail
    let _ = write!(text, "{name}=\"");
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
    text.push('"');
}

/// The value that [`label`] has escaped.
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

/// The labels of a block that [`label`] wrote, with commas between: names, and values as escaped.
pub(super) fn split(block: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = block;
    std::iter::from_fn(move || {
        let (name, value) = rest.split_once("=\"")?;
        let mut escaped = false;
        let end = value.bytes().position(|byte| {
            let closing = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            closing
        })?;
        rest = value.get(end + 1..).unwrap_or_default();
        rest = rest.strip_prefix(',').unwrap_or(rest);
        Some((name, value.get(..end)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped_can_be_read_back() {
        for value in ["", "plain", "a \"b\" \\ c\nd", "\\n", "\\\\", "🔑\t\0"] {
            let mut text = String::new();
            label(&mut text, "n", value);
            let escaped = text
                .strip_prefix("n=\"")
                .and_then(|text| text.strip_suffix('"'))
                .expect("a label");
            assert!(!escaped.contains('\n'));
            assert_eq!(unescape(escaped), value);
        }
    }

    #[test]
    fn a_block_is_taken_apart() {
        let mut block = String::new();
        for (n, (name, value)) in [("a", "x=\"y\","), ("b", ""), ("c", "\\")]
            .into_iter()
            .enumerate()
        {
            if n > 0 {
                block.push(',');
            }
            label(&mut block, name, value);
        }
        let parts: Vec<_> = split(&block)
            .map(|(name, value)| (name, unescape(value).into_owned()))
            .collect();
        let expected = [("a", "x=\"y\","), ("b", ""), ("c", "\\")];
        assert_eq!(
            parts,
            expected.map(|(name, value)| (name, value.to_owned()))
        );
    }
}
