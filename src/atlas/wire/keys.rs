//! Keys as they come over the wire, one or a page of them. Tolerant member by member: whatever is missing,
//! null or of the wrong kind costs that member, not the page. A member that is not named here,
//! `secret` above all, is skipped by the parser and becomes no value at all.

use std::fmt;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::super::error::Problem;
use super::lenient::{Count, Links, Text, any_value, skip_seq};
use super::parse;

/// A time that may be missing or unreadable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum When {
    /// Null, or not there.
    #[default]
    Missing,
    /// This time.
    At(Timestamp),
    /// Something that is no time.
    Broken,
}

/// One key of a page. Members that Atlas left out are none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApiKey {
    /// `apiKeyId`, never empty.
    pub id: String,
    /// `groupId`.
    pub project: Option<String>,
    /// `name`.
    pub name: Option<String>,
    /// `status`.
    pub status: Option<String>,
    /// `cloud`.
    pub cloud: Option<String>,
    /// `geography`.
    pub geography: Option<String>,
    /// `endpoint`.
    pub endpoint: Option<String>,
    /// `createdBy`, a person's name; none unless it was asked for.
    pub created_by: Option<String>,
    /// `maskedSecret`; none unless it was asked for.
    pub masked_secret: Option<String>,
    /// `createdAt`.
    pub created: When,
    /// `lastUsedAt`.
    pub last_used: When,
}

/// Members of a key that are read only for who exports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Members {
    /// `createdBy`.
    pub created_by: bool,
    /// `maskedSecret`.
    pub masked_secret: bool,
}

/// A key, or a member of one, that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// Its place among the page's results, from 0.
    pub index: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

/// Whether the page's links name a next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// There is a `next` link.
    Linked,
    /// There are links, but no `next`.
    NotLinked,
    /// There are no links.
    Unknown,
}

/// One page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPage {
    /// The keys that can be told apart.
    pub keys: Vec<ApiKey>,
    /// What cannot be used.
    pub malformed: Vec<Malformed>,
    /// Results on the page, usable or not.
    pub results: usize,
    /// Whether there is a next page.
    pub next: Next,
    /// `totalCount`, an estimate.
    pub total: Option<u64>,
}

/// Reads a page of keys.
///
/// # Errors
/// [`Problem::Invalid`] when the body is no JSON object with `results`. It says where, and
/// nothing of the body.
pub(in crate::atlas) fn page(body: &[u8], members: Members) -> Result<KeyPage, Problem> {
    let body: PageBody = parse(body, "it is no page with results")?;
    let mut page = KeyPage {
        keys: Vec::with_capacity(body.results.len()),
        malformed: Vec::new(),
        results: body.results.len(),
        next: match &body.links {
            Links(None) => Next::Unknown,
            Links(Some(true)) => Next::Linked,
            Links(Some(false)) => Next::NotLinked,
        },
        total: body.total.0,
    };
    for (index, result) in body.results.into_iter().enumerate() {
        let mut report = |what| page.malformed.push(Malformed { index, what });
        match result {
            RawResult::Key(raw) => {
                if let Some(key) = raw.key(members, &mut report) {
                    page.keys.push(key);
                }
            }
            RawResult::NoObject => report("it is no object"),
        }
    }
    Ok(page)
}

/// Reads one key.
///
/// # Errors
/// [`Problem::Invalid`] when the body is no JSON object with an `apiKeyId`.
pub(in crate::atlas) fn key(body: &[u8], members: Members) -> Result<ApiKey, Problem> {
    let raw: RawKey = parse(body, "it is no key")?;
    raw.key(members, &mut |_| {})
        .ok_or_else(|| Problem::Invalid("it is a key without an apiKeyId".to_owned()))
}

#[derive(Deserialize)]
struct PageBody {
    #[serde(default)]
    links: Links,
    results: Vec<RawResult>,
    #[serde(default, rename = "totalCount")]
    total: Count,
}

enum RawResult {
    Key(Box<RawKey>),
    NoObject,
}

/// The members that are read. There is no `secret`, and there must be none.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct RawKey {
    api_key_id: Text,
    group_id: Text,
    name: Text,
    status: Text,
    cloud: Text,
    geography: Text,
    endpoint: Text,
    created_by: Text,
    masked_secret: Text,
    created_at: Text,
    last_used_at: Text,
}

impl RawKey {
    fn key(self, members: Members, report: &mut impl FnMut(&'static str)) -> Option<ApiKey> {
        let Text::Is(id) = self.api_key_id else {
            report("it has no apiKeyId");
            return None;
        };
        if id.is_empty() {
            report("its apiKeyId is empty");
            return None;
        }
        let mut text = |text: Text, what| match text {
            Text::Is(text) => Some(text),
            Text::Missing => None,
            Text::Other => {
                report(what);
                None
            }
        };
        let mut key = ApiKey {
            id,
            project: text(self.group_id, "its groupId is no text"),
            name: text(self.name, "its name is no text"),
            status: text(self.status, "its status is no text"),
            cloud: text(self.cloud, "its cloud is no text"),
            geography: text(self.geography, "its geography is no text"),
            endpoint: text(self.endpoint, "its endpoint is no text"),
            created_by: members
                .created_by
                .then(|| text(self.created_by, "its createdBy is no text"))
                .flatten(),
            masked_secret: members
                .masked_secret
                .then(|| text(self.masked_secret, "its maskedSecret is no text"))
                .flatten(),
            ..ApiKey::default()
        };
        key.created = self.created_at.time();
        key.last_used = self.last_used_at.time();
        match (key.created, key.last_used) {
            (When::Broken, When::Broken) => report("its createdAt and lastUsedAt are no times"),
            (When::Broken, _) => report("its createdAt is no time"),
            (_, When::Broken) => report("its lastUsedAt is no time"),
            _ => {}
        }
        Some(key)
    }
}

any_value!(RawResult, RawResult::NoObject, {
    fn visit_u64<E>(self, _: u64) -> Result<RawResult, E> {
        Ok(RawResult::NoObject)
    }
    fn visit_i64<E>(self, _: i64) -> Result<RawResult, E> {
        Ok(RawResult::NoObject)
    }
    fn visit_str<E>(self, _: &str) -> Result<RawResult, E> {
        Ok(RawResult::NoObject)
    }
    fn visit_unit<E>(self) -> Result<RawResult, E> {
        Ok(RawResult::NoObject)
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawResult, A::Error> {
        let key = RawKey::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
        Ok(RawResult::Key(Box::new(key)))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<RawResult, A::Error> {
        skip_seq(seq).map(|()| RawResult::NoObject)
    }
});

#[cfg(test)]
mod tests {
    use super::*;

    /// The documentation's own example of the preview's answer, with a secret in it.
    const EXAMPLE: &str = r#"{"links":[{"href":"https://cloud.mongodb.com/api/atlas","rel":"self"}],
 "results":[{"apiKeyId":"a86r5kwrfsk5r5ku5tgvhmpj","createdAt":"2026-01-15T16:47:49.855000+00:00","createdBy":"John Doe",
  "groupId":"69681d39c9e8cfd375386316","lastUsedAt":"2026-01-15T16:47:49.855000+00:00","maskedSecret":"al-****odu2",
  "name":"Production key","secret":"al-jZsluhPMzPM9CFXepRWwMwvpZDDra6tZMgoAZKdodu2","status":"ACTIVE"}],
 "totalCount":42}"#;

    #[test]
    fn the_documented_example_is_read_without_its_secret() {
        let page = page(EXAMPLE.as_bytes(), Members::default()).expect("a page");
        assert_eq!(
            (page.results, page.next, page.total),
            (1, Next::NotLinked, Some(42))
        );
        assert_eq!(page.keys[0].id, "a86r5kwrfsk5r5ku5tgvhmpj");
        assert_eq!(
            page.keys[0].last_used,
            When::At("2026-01-15T16:47:49.855Z".parse().expect("a time"))
        );
        assert!(
            !format!("{page:?}").contains("al-"),
            "neither the secret nor its masked form is kept"
        );
    }

    #[test]
    fn members_that_are_personal_are_read_for_who_asks() {
        let members = Members {
            created_by: true,
            masked_secret: true,
        };
        let key = page(EXAMPLE.as_bytes(), members)
            .expect("a page")
            .keys
            .remove(0);
        assert_eq!(key.created_by.as_deref(), Some("John Doe"));
        assert_eq!(key.masked_secret.as_deref(), Some("al-****odu2"));
        assert!(
            !format!("{key:?}").contains("al-jZ"),
            "and the secret for nobody"
        );
    }

    #[test]
    fn offsets_and_z_are_read() {
        for (text, expected) in [
            (
                "2026-01-15T16:47:49.855000+00:00",
                "2026-01-15T16:47:49.855Z",
            ),
            ("2026-01-15T16:47:49Z", "2026-01-15T16:47:49Z"),
            ("2026-01-15T18:47:49+02:00", "2026-01-15T16:47:49Z"),
        ] {
            assert_eq!(
                Text::Is(text.into()).time(),
                When::At(expected.parse().expect("a time")),
                "{text}"
            );
        }
        for broken in [
            "",
            "yesterday",
            "2026-13-45T99:99:99Z",
            "2026-01-15",
            "2026-01-15T16:47:49",
        ] {
            assert_eq!(Text::Is(broken.into()).time(), When::Broken, "{broken}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_reported_with_its_place() {
        let body = r#"{"results":[{"apiKeyId":"good"},{"name":"no id"},null,7,"x",[1],{"apiKeyId":""},
            {"apiKeyId":"odd","name":5,"status":{"a":1},"groupId":["b"],"lastUsedAt":12,"createdAt":"never"}]}"#;
        let page = page(body.as_bytes(), Members::default()).expect("a page");
        assert_eq!(
            (page.results, page.next, page.total),
            (8, Next::Unknown, None)
        );
        let ids: Vec<_> = page.keys.iter().map(|key| key.id.as_str()).collect();
        assert_eq!(ids, ["good", "odd"]);
        let places: Vec<_> = page.malformed.iter().map(|m| m.index).collect();
        assert_eq!(places, [1, 2, 3, 4, 5, 6, 7, 7, 7, 7]);
        assert_eq!(
            (page.keys[1].created, page.keys[1].last_used),
            (When::Broken, When::Broken)
        );
    }

    #[test]
    fn odd_totals_and_links_count_as_missing() {
        for (body, next, total) in [
            (
                r#"{"results":[],"totalCount":null,"links":null}"#,
                Next::Unknown,
                None,
            ),
            (
                r#"{"results":[],"totalCount":-3,"links":[]}"#,
                Next::Unknown,
                None,
            ),
            (
                r#"{"results":[],"totalCount":"many","links":{"a":1}}"#,
                Next::Unknown,
                None,
            ),
            (
                r#"{"results":[],"totalCount":0,"links":[{"rel":"self"},{"rel":"next"}]}"#,
                Next::Linked,
                Some(0),
            ),
        ] {
            let page = page(body.as_bytes(), Members::default()).expect(body);
            assert_eq!((page.next, page.total), (next, total), "{body}");
        }
    }

    #[test]
    fn what_is_no_page_is_refused_without_repeating_it() {
        for body in [
            "",
            "{",
            "[]",
            "{}",
            "null",
            r#"{"results":null}"#,
            r#"{"results":"al-secret"}"#,
            r#"{"results":[{"secret":"al-"#,
        ] {
            let problem = page(body.as_bytes(), Members::default()).expect_err(body);
            assert!(matches!(problem, Problem::Invalid(_)));
            assert!(!problem.to_string().contains("al-"), "{problem}");
        }
    }
}
