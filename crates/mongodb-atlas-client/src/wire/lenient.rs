//! Fields that may hold a value of any type: one that is not of the expected type is skipped, instead of failing the
//! response that it stands in.
//!
//! Values are looked at as they stand in the response, and only the part that is used is decoded. So a number out of
//! range, half of a surrogate pair, deep nesting or a string of megabytes costs that field alone, and no memory.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::str::Chars;

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

use super::super::error::ErrorKind;
use super::keys::ApiTime;

/// Links of a page that are looked at. Atlas gives three at most.
const MAX_LINKS: usize = 100;
/// Longest text that is read as a timestamp or a number.
const MAX_SHORT_CHARS: usize = 64;

/// A text field.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum LenientString {
    /// Null, or not there.
    #[default]
    Missing,
    /// A string.
    Valid {
        /// Its first characters, as many as were asked for.
        text: String,
        /// Whether there are more.
        truncated: bool,
    },
    /// A value of another type.
    Invalid,
}

impl LenientString {
    /// The text, truncated or not.
    pub(super) fn into_string(self) -> Option<String> {
        match self {
            Self::Valid { text, .. } => Some(text),
            Self::Missing | Self::Invalid => None,
        }
    }
}

/// The value of a field as it stands in the response; none when the field is missing.
#[derive(Clone, Copy, Default)]
pub(crate) struct JsonField<'a>(Option<&'a str>);

impl<'a> JsonField<'a> {
    /// The value in `json`, which is one valid JSON value.
    #[cfg(test)]
    pub(super) fn new(json: &'a str) -> Self {
        Self(Some(json))
    }

    /// The text, of which at most `max_chars` characters are read.
    pub(super) fn lenient_string(self, max_chars: usize) -> LenientString {
        match self.0 {
            None | Some("null") => LenientString::Missing,
            Some(json) => unquote(json).map_or(LenientString::Invalid, |inner| {
                let (text, truncated) = decode_string(inner, max_chars);
                LenientString::Valid { text, truncated }
            }),
        }
    }

    /// The first characters of a text; none for a value of another type.
    pub(super) fn truncated_string(self, max_chars: usize) -> Option<String> {
        self.lenient_string(max_chars).into_string()
    }

    /// A whole text; none for one that is longer.
    pub(super) fn full_string(self, max_chars: usize) -> Option<String> {
        match self.lenient_string(max_chars) {
            LenientString::Valid {
                text,
                truncated: false,
            } => Some(text),
            _ => None,
        }
    }

    /// A number that can count something, also written as `3600.0` or `"3600"`.
    pub(super) fn as_u64(self) -> Option<u64> {
        let json = self.0?;
        if unquote(json).is_some() {
            return parse_number(self.full_string(MAX_SHORT_CHARS)?.trim());
        }
        parse_number(json)
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

    /// The fields of an object with these names; none when the value is no object. Of a field that is there twice the
    /// last one counts, as in most JSON parsers.
    pub(super) fn fields<const N: usize>(self, names: [&str; N]) -> Option<[JsonField<'a>; N]> {
        let mut deserializer = serde_json::Deserializer::from_str(self.0?);
        deserializer.deserialize_map(FieldsVisitor(names)).ok()
    }

    /// Calls `visit` with each element of an array; false when the value is no array.
    pub(super) fn for_each_element(self, visit: impl FnMut(JsonField<'a>)) -> bool {
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

/// What stands between the quotes of a JSON string.
fn unquote(json: &str) -> Option<&str> {
    json.strip_prefix('"')?.strip_suffix('"')
}

/// Decodes at most `max_chars` characters of a JSON string, and says whether there are more. Half of a surrogate pair
/// becomes U+FFFD.
fn decode_string(inner: &str, max_chars: usize) -> (String, bool) {
    let mut text = String::new();
    let mut chars = inner.chars();
    let mut count = 0;
    while let Some(char) = chars.next() {
        if count == max_chars {
            return (text, true);
        }
        text.push(if char == '\\' {
            decode_escape(&mut chars)
        } else {
            char
        });
        count += 1;
    }
    (text, false)
}

/// The character that an escape stands for; `chars` is behind the backslash.
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
            let low = match (unit, ahead.next(), ahead.next()) {
                (0xD800..=0xDBFF, Some('\\'), Some('u')) => read_code_unit(&mut ahead),
                _ => 0,
            };
            if !(0xDC00..=0xDFFF).contains(&low) {
                return char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER);
            }
            *chars = ahead;
            char::from_u32(0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00))
                .unwrap_or(char::REPLACEMENT_CHARACTER)
        }
        Some(other) => other,
        None => char::REPLACEMENT_CHARACTER,
    }
}

/// The UTF-16 code unit of four hexadecimal digits.
fn read_code_unit(chars: &mut Chars<'_>) -> u32 {
    chars
        .by_ref()
        .take(4)
        .fold(0, |unit, digit| unit << 4 | digit.to_digit(16).unwrap_or(0))
}

fn parse_number(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().or_else(|| {
        let number: f64 = text.parse().ok()?;
        let whole = number.is_finite() && (0.0..9e18).contains(&number);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range was checked, and fractions are cut off"
        )]
        whole.then_some(number as u64)
    })
}

/// The name of a field. Of one that is longer than any name here, only the beginning.
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
            let place = self.0.iter().position(|name| *name == key);
            match place.and_then(|place| found.get_mut(place)) {
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

/// Whether the links of a page name a next one.
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
        let mut next = Self::Unknown;
        let mut count = 0;
        links.for_each_element(|link| {
            count += 1;
            if count > MAX_LINKS {
                return;
            }
            let rel = link.fields(["rel"]).and_then(|[rel]| rel.full_string(4));
            if rel.as_deref() == Some("next") {
                next = Self::Present;
            } else if next == Self::Unknown {
                next = Self::Absent;
            }
        });
        next
    }
}

/// A page of any list.
#[derive(Debug)]
pub(crate) struct ListPage<T> {
    /// The results that could be read.
    pub(crate) items: Vec<T>,
    /// Number of results, readable or not.
    pub(crate) results: usize,
    /// Whether there is a next page.
    pub(crate) next_link: NextLink,
    /// `totalCount`, an estimate.
    pub(crate) total_count: Option<u64>,
}

/// Reads a page of a list. `read` gets each result with its index, and none of it is kept but what `read` returns.
///
/// # Errors
/// [`ErrorKind::InvalidResponse`] when the body is no JSON object with `results`, or has more results than `max_results`. It says
/// where, and nothing of the body.
pub(super) fn parse_page<T>(
    body: &str,
    max_results: usize,
    mut read: impl FnMut(usize, JsonField<'_>) -> Option<T>,
) -> Result<ListPage<T>, ErrorKind> {
    let too_many = Cell::new(false);
    let visitor = PageVisitor {
        max_results,
        too_many: &too_many,
        read: &mut read,
    };
    let mut deserializer = serde_json::Deserializer::from_str(body);
    deserializer
        .deserialize_map(visitor)
        .and_then(|page| deserializer.end().map(|()| page))
        .map_err(|error| {
            if too_many.get() {
                ErrorKind::InvalidResponse(format!(
                    "expected at most {max_results} results, got more"
                ))
            } else {
                super::invalid_json(&error, "it is no page with results")
            }
        })
}

/// Reads one result, given its index.
type ItemParser<'a, T> = &'a mut dyn FnMut(usize, JsonField<'_>) -> Option<T>;

struct PageVisitor<'a, T> {
    max_results: usize,
    too_many: &'a Cell<bool>,
    read: ItemParser<'a, T>,
}

impl<'de, T> Visitor<'de> for PageVisitor<'_, T> {
    type Value = ListPage<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a page")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ListPage<T>, A::Error> {
        let (mut results, mut links, mut total) = (None, JsonField(None), JsonField(None));
        while let Some(key) = map.next_key::<&RawValue>()? {
            match &*decode_field_name(key) {
                "results" => {
                    results = Some(map.next_value_seed(ResultsVisitor {
                        max_results: self.max_results,
                        too_many: self.too_many,
                        read: &mut *self.read,
                    })?);
                }
                "links" => links = map.next_value::<&RawValue>()?.into(),
                "totalCount" => total = map.next_value::<&RawValue>()?.into(),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let (items, results) = results.ok_or_else(|| A::Error::missing_field("results"))?;
        Ok(ListPage {
            items,
            results,
            next_link: NextLink::from_links(links),
            total_count: total.as_u64(),
        })
    }
}

/// Reads the results one by one, and stops at more than were asked for: a small compressed body can hold millions.
struct ResultsVisitor<'a, T> {
    max_results: usize,
    too_many: &'a Cell<bool>,
    read: ItemParser<'a, T>,
}

impl<'de, T> DeserializeSeed<'de> for ResultsVisitor<'_, T> {
    type Value = (Vec<T>, usize);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T> Visitor<'de> for ResultsVisitor<'_, T> {
    type Value = (Vec<T>, usize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array or null")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let (mut items, mut results) = (Vec::new(), 0);
        while let Some(result) = seq.next_element::<&RawValue>()? {
            if results == self.max_results {
                self.too_many.set(true);
                return Err(A::Error::custom("too many results"));
            }
            items.extend((self.read)(results, result.into()));
            results += 1;
        }
        Ok((items, results))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok((Vec::new(), 0))
    }
}

/// A number in an answer that is read by serde's own rules otherwise: `3600`, `3600.0` and `"3600"` are the same, and a
/// value of another type is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LenientCount(pub(crate) Option<u64>);

impl<'de> Deserialize<'de> for LenientCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|json| Self(JsonField::from(json).as_u64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> String {
        JsonField::new(json).truncated_string(250).expect("a text")
    }

    #[test]
    fn lone_surrogate_becomes_a_replacement_character() {
        for (json, expected) in [
            (r#""team rocket \ud83d""#, "team rocket \u{fffd}"),
            (r#""\uD83D at the start""#, "\u{fffd} at the start"),
            (r#""\ude00 low alone""#, "\u{fffd} low alone"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (r#""\ud83d\n""#, "\u{fffd}\n"),
            (r#""\ud83dA""#, "\u{fffd}A"),
            (r#""\ud83d\\ude00""#, "\u{fffd}\\ude00"),
            (r#""\\ud83d is no escape""#, "\\ud83d is no escape"),
            (r#""\ud83d\ude00 whole""#, "\u{1f600} whole"),
            (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
            (
                r#""\u0000\b\f\n\r\t\/\"\\\u00e9""#,
                "\0\u{8}\u{c}\n\r\t/\"\\é",
            ),
        ] {
            assert_eq!(text(json), expected, "{json}");
        }
    }

    #[test]
    fn strings_are_truncated_at_a_character() {
        for (json, expected, truncated) in [
            ("\"abc\"", "abc", false),
            ("\"abcd\"", "abc", true),
            ("\"äöü\"", "äöü", false),
            ("\"äöüß\"", "äöü", true),
            (r#""\ud83d\ude00\ud83d\ude00\ud83d\ude00""#, "😀😀😀", false),
            (
                r#""\ud83d\ude00\ud83d\ude00\ud83d\ude00\n""#,
                "😀😀😀",
                true,
            ),
        ] {
            let expected = LenientString::Valid {
                text: expected.to_owned(),
                truncated,
            };
            assert_eq!(JsonField::new(json).lenient_string(3), expected, "{json}");
        }
        assert_eq!(
            JsonField::new("null").lenient_string(3),
            LenientString::Missing
        );
        assert_eq!(JsonField(None).lenient_string(3), LenientString::Missing);
        for other in ["1", "1e999", "true", "{\"a\":1}", "[\"a\"]"] {
            assert_eq!(
                JsonField::new(other).lenient_string(3),
                LenientString::Invalid,
                "{other}"
            );
        }
    }

    #[test]
    fn counts_accept_integers_floats_and_strings() {
        let digits = "9".repeat(100_000);
        for (json, expected) in [
            ("3600", Some(3600)),
            ("3600.0", Some(3600)),
            ("3.6e3", Some(3600)),
            ("\"3600\"", Some(3600)),
            ("\" 3600.0 \"", Some(3600)),
            ("18446744073709551615", Some(u64::MAX)),
            ("-3", None),
            ("1e999", None),
            ("\"many\"", None),
            ("\"NaN\"", None),
            ("null", None),
            ("true", None),
            ("[1]", None),
            ("{\"a\":1}", None),
            (digits.as_str(), None),
        ] {
            assert_eq!(JsonField::new(json).as_u64(), expected, "{json:.20}");
        }
        let token = |json| serde_json::from_str::<LenientCount>(json).expect(json);
        assert_eq!(token("\"3600\""), LenientCount(Some(3600)));
        assert_eq!(token("{\"in\":3600}"), LenientCount(None));
    }

    #[test]
    fn last_duplicate_field_wins() {
        let object = JsonField::new(r#"{"a":1,"b":{"a":7},"a":2,"\u0061":3,"c":[1e999]}"#);
        let [a, c] = object.fields(["a", "c"]).expect("an object");
        assert_eq!(a.as_u64(), Some(3));
        assert!(c.for_each_element(|_| {}));
        assert!(JsonField::new("[1]").fields(["a"]).is_none());
    }
}
