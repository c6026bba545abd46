//! Fields with a value of any type: an invalid value is skipped, and does not invalidate the response that contains it.
//!
//! Values are references to the text of the response, and only the used part is decoded. A number out of range, half of a
//! surrogate pair, deep nesting or a string of several megabytes invalidates only that field, and needs no memory.

use std::borrow::Cow;
use std::fmt;
use std::str::Chars;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::keys::ApiTime;
use crate::error::ErrorKind;

/// Maximum number of links of a page that are read. Atlas sends at most three.
const MAX_LINKS: usize = 100;
/// Maximum length of a text that is read as a timestamp, a number or a field's name.
const MAX_SHORT_CHARS: usize = 64;

/// The value of a text field.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum LenientString {
    /// The value is null or missing.
    #[default]
    Missing,
    /// A string.
    Valid {
        /// The first characters, up to the limit.
        text: String,
        /// Whether the text has more characters.
        truncated: bool,
    },
    /// A value of another type.
    Invalid,
}

/// The value of a field as the text of the response; `None` when the field is missing.
#[derive(Clone, Copy, Default)]
pub(crate) struct JsonField<'a>(Option<&'a str>);

impl<'a> JsonField<'a> {
    /// Returns the value in `json`, which must be one valid JSON value.
    #[cfg(test)]
    pub(super) fn new(json: &'a str) -> Self {
        Self(Some(json))
    }

    /// Returns the text, truncated to `max_chars` characters.
    pub(super) fn lenient_string(self, max_chars: usize) -> LenientString {
        match self.0 {
            None | Some("null") => LenientString::Missing,
            Some(json) => unquote(json).map_or(LenientString::Invalid, |inner| {
                let (text, truncated) = decode_string(inner, max_chars);
                LenientString::Valid { text, truncated }
            }),
        }
    }

    /// Returns the text, truncated to `max_chars` characters; `None` if the value has another type.
    pub(super) fn truncated_string(self, max_chars: usize) -> Option<String> {
        match self.lenient_string(max_chars) {
            LenientString::Valid { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Returns the text; `None` if it is longer than `max_chars` characters, or the value has another type.
    pub(crate) fn full_string(self, max_chars: usize) -> Option<String> {
        match self.lenient_string(max_chars) {
            LenientString::Valid { text, truncated } if !truncated => Some(text),
            _ => None,
        }
    }

    /// Returns a count, which may be written as `3600`, `3600.0` or `"3600"`.
    pub(crate) fn as_u64(self) -> Option<u64> {
        let json = self.0?;
        if unquote(json).is_some() {
            return parse_count(self.full_string(MAX_SHORT_CHARS)?.trim());
        }
        parse_count(json)
    }

    pub(super) fn as_time(self) -> ApiTime {
        match self.lenient_string(MAX_SHORT_CHARS) {
            LenientString::Missing => ApiTime::Missing,
            LenientString::Valid { text, .. } => {
                text.parse().map_or(ApiTime::Invalid, ApiTime::Valid)
            }
            LenientString::Invalid => ApiTime::Invalid,
        }
    }

    pub(super) fn is_true(self) -> bool {
        self.0 == Some("true")
    }

    /// Returns the fields of an object with these names; `None` if the value is not an object. The last of duplicate fields
    /// is used, as in most JSON parsers.
    pub(crate) fn fields<const N: usize>(self, names: [&str; N]) -> Option<[JsonField<'a>; N]> {
        let mut deserializer = serde_json::Deserializer::from_str(self.0?);
        deserializer.deserialize_map(FieldsVisitor(names)).ok()
    }

    /// Calls `visit` with each element of an array. Returns `false` if the value is not an array.
    pub(crate) fn for_each_element(self, visit: impl FnMut(JsonField<'a>)) -> bool {
        let Some(json) = self.0 else {
            return false;
        };
        let mut deserializer = serde_json::Deserializer::from_str(json);
        deserializer.deserialize_seq(ElementsVisitor(visit)).is_ok()
    }
}

impl<'a> From<&'a RawValue> for JsonField<'a> {
    fn from(value: &'a RawValue) -> Self {
        Self(Some(value.get()))
    }
}

/// Returns the text between the quotes of a JSON string.
fn unquote(json: &str) -> Option<&str> {
    json.strip_prefix('"')?.strip_suffix('"')
}

/// Decodes at most `max_chars` characters of a JSON string, and returns whether the string has more. Half of a surrogate pair
/// becomes U+FFFD.
fn decode_string(inner: &str, max_chars: usize) -> (String, bool) {
    // Most strings are short and have no escapes.
    if inner.len() <= max_chars && !inner.contains('\\') {
        return (inner.to_owned(), false);
    }
    let mut text = String::new();
    let mut chars = inner.chars();
    for _ in 0..max_chars {
        match chars.next() {
            Some('\\') => text.push(decode_escape(&mut chars)),
            Some(char) => text.push(char),
            None => break,
        }
    }
    (text, !chars.as_str().is_empty())
}

/// Decodes an escape sequence after its backslash.
fn decode_escape(chars: &mut Chars<'_>) -> char {
    match chars.next() {
        Some('b') => '\u{8}',
        Some('f') => '\u{c}',
        Some('n') => '\n',
        Some('r') => '\r',
        Some('t') => '\t',
        Some('u') => {
            let unit = read_code_unit(chars);
            let mut ahead = chars.clone();
            let pair = match (ahead.next(), ahead.next()) {
                (Some('\\'), Some('u')) => [unit, read_code_unit(&mut ahead)],
                _ => [unit, 0],
            };
            let mut decoded = char::decode_utf16(pair);
            match decoded.next() {
                Some(Ok(char)) => {
                    if decoded.next().is_none() {
                        *chars = ahead;
                    }
                    char
                }
                _ => char::REPLACEMENT_CHARACTER,
            }
        }
        Some(other) => other,
        None => char::REPLACEMENT_CHARACTER,
    }
}

/// Reads the UTF-16 code unit of four hexadecimal digits.
fn read_code_unit(chars: &mut Chars<'_>) -> u16 {
    let digits = chars.by_ref().take(4);
    let values = digits.filter_map(|digit| u16::try_from(digit.to_digit(16)?).ok());
    values.fold(0, |unit, value| unit << 4 | value)
}

fn parse_count(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().or_else(|| {
        let number: f64 = text.parse().ok()?;
        let is_count = number.is_finite() && (0.0..9e18).contains(&number);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range was checked, and fractions are truncated"
        )]
        is_count.then_some(number as u64)
    })
}

/// Decodes the name of a field. A name that is longer than any known name is truncated.
fn decode_field_name(key: &RawValue) -> Cow<'_, str> {
    let inner = unquote(key.get()).unwrap_or_default();
    if inner.len() > MAX_SHORT_CHARS || inner.contains('\\') {
        return decode_string(inner, MAX_SHORT_CHARS).0.into();
    }
    inner.into()
}

struct FieldsVisitor<'n, const N: usize>([&'n str; N]);

impl<'de, const N: usize> Visitor<'de> for FieldsVisitor<'_, N> {
    type Value = [JsonField<'de>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [JsonField(None); N];
        while let Some(key) = map.next_key::<&RawValue>()? {
            let key = decode_field_name(key);
            let index = self.0.iter().position(|name| *name == key);
            match index.and_then(|index| found.get_mut(index)) {
                Some(field) => *field = map.next_value::<&RawValue>()?.into(),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

struct ElementsVisitor<F>(F);

impl<'de, F: FnMut(JsonField<'de>)> Visitor<'de> for ElementsVisitor<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while let Some(element) = seq.next_element::<&RawValue>()? {
            (self.0)(element.into());
        }
        Ok(())
    }
}

/// Whether the links of a page include one to the next page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextLink {
    /// There is a `next` link.
    Present,
    /// There are links, but no `next`.
    Absent,
    /// There are no links.
    Unknown,
}

impl NextLink {
    fn from_links(links: JsonField<'_>) -> Self {
        let mut next_link = Self::Unknown;
        let mut count = 0;
        links.for_each_element(|link| {
            count += 1;
            if count > MAX_LINKS {
                return;
            }
            let rel = link.fields(["rel"]).and_then(|[rel]| rel.full_string(4));
            if rel.as_deref() == Some("next") {
                next_link = Self::Present;
            } else if next_link == Self::Unknown {
                next_link = Self::Absent;
            }
        });
        next_link
    }
}

/// A page of any list.
#[derive(Debug)]
pub(crate) struct ListPage<T> {
    /// The valid results.
    pub(crate) items: Vec<T>,
    /// Number of results, valid or not.
    pub(crate) results: usize,
    /// Whether there is a next page.
    pub(crate) next_link: NextLink,
    /// `totalCount`, an estimate.
    pub(crate) total_count: Option<u64>,
}

/// Parses a page of a list. `parse` is called with the index of each result and the result.
///
/// # Errors
/// [`ErrorKind::InvalidResponse`] when the body is not a JSON object with `results`, or has more than `max_results`. The
/// error contains nothing of the body.
pub(super) fn parse_page<T>(
    body: &str,
    max_results: usize,
    mut parse: impl FnMut(usize, JsonField<'_>) -> Option<T>,
) -> Result<ListPage<T>, ErrorKind> {
    let not_a_page = "expected an object with results";
    let mut deserializer = serde_json::Deserializer::from_str(body);
    let visitor = FieldsVisitor(["results", "links", "totalCount"]);
    let [list, links, total_count] = deserializer
        .deserialize_map(visitor)
        .and_then(|fields| deserializer.end().map(|()| fields))
        .map_err(|error| super::invalid_json(&error, not_a_page))?;
    let (mut items, mut results) = (Vec::new(), 0);
    let is_array = list.for_each_element(|result| {
        // A small compressed body can hold millions of results.
        if results < max_results {
            items.extend(parse(results, result));
        }
        results += 1;
    });
    if !is_array && list.0 != Some("null") {
        return Err(ErrorKind::InvalidResponse(not_a_page.to_owned()));
    }
    if results > max_results {
        return Err(ErrorKind::InvalidResponse(format!(
            "expected at most {max_results} results, got more"
        )));
    }
    Ok(ListPage {
        items,
        results,
        next_link: NextLink::from_links(links),
        total_count: total_count.as_u64(),
    })
}

/// A count in a response that serde parses otherwise: `3600`, `3600.0` and `"3600"` are equal, and a value of another type
/// is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LenientCount(pub(crate) Option<u64>);

impl<'de> Deserialize<'de> for LenientCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|json| Self(JsonField::from(json).as_u64()))
    }
}

#[cfg(test)]
mod tests;
