//! Members of an answer that may be of any kind: what is not of the right one is skipped, instead
//! of costing the page that it stands on.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::keys::When;

#[derive(Default)]
pub(super) enum Text {
    #[default]
    Missing,
    Is(String),
    Other,
}

impl Text {
    pub(super) fn time(self) -> When {
        match self {
            Self::Missing => When::Missing,
            Self::Is(text) => text.parse().map_or(When::Broken, When::At),
            Self::Other => When::Broken,
        }
    }
}

/// `totalCount`; none when it is missing or no number that can count something.
#[derive(Default)]
pub(super) struct Count(pub(super) Option<u64>);

/// Whether there is a `next` among the links; none when there are no links.
#[derive(Default)]
pub(super) struct Links(pub(super) Option<bool>);

/// Takes a value of any kind and drops what the implementor has no use for.
macro_rules! any_value {
    ($type:ident, $default:expr, { $($method:item)* }) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Any;
                impl<'de> Visitor<'de> for Any {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("any value")
                    }
                    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                        Ok($default)
                    }
                    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                        Ok($default)
                    }
                    $($method)*
                }
                deserializer.deserialize_any(Any)
            }
        }
    };
}

/// A value that is skipped whole.
pub(super) fn skip_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

pub(super) fn skip_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

any_value!(Text, Text::Other, {
    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text::Is(text.to_owned()))
    }
    fn visit_string<E>(self, text: String) -> Result<Text, E> {
        Ok(Text::Is(text))
    }
    fn visit_unit<E>(self) -> Result<Text, E> {
        Ok(Text::Missing)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
        Ok(Text::Other)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
        Ok(Text::Other)
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Text, A::Error> {
        skip_map(map).map(|()| Text::Other)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Text, A::Error> {
        skip_seq(seq).map(|()| Text::Other)
    }
});

any_value!(Count, Count(None), {
    fn visit_u64<E>(self, count: u64) -> Result<Count, E> {
        Ok(Count(Some(count)))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Count, E> {
        Ok(Count(None))
    }
    fn visit_str<E>(self, _: &str) -> Result<Count, E> {
        Ok(Count(None))
    }
    fn visit_unit<E>(self) -> Result<Count, E> {
        Ok(Count(None))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Count, A::Error> {
        skip_map(map).map(|()| Count(None))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Count, A::Error> {
        skip_seq(seq).map(|()| Count(None))
    }
});

#[derive(Deserialize)]
struct Link {
    #[serde(default)]
    rel: Text,
}

any_value!(Links, Links(None), {
    fn visit_u64<E>(self, _: u64) -> Result<Links, E> {
        Ok(Links(None))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Links, E> {
        Ok(Links(None))
    }
    fn visit_str<E>(self, _: &str) -> Result<Links, E> {
        Ok(Links(None))
    }
    fn visit_unit<E>(self) -> Result<Links, E> {
        Ok(Links(None))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Links, A::Error> {
        skip_map(map).map(|()| Links(None))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Links, A::Error> {
        let mut next = None;
        while let Some(link) = seq.next_element::<Link>()? {
            let is_next = matches!(&link.rel, Text::Is(rel) if rel == "next");
            next = Some(next.unwrap_or(false) || is_next);
        }
        Ok(Links(next))
    }
});

pub(super) use any_value;
