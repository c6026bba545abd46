//! Keys as they come over the wire, one or a page of them. Tolerant field by field: whatever is missing,
//! null or of the wrong type costs that field, not the page. A field that is not named here,
//! `secret` above all, is skipped by the parser and becomes no value at all.

use std::time::Duration;

use jiff::Timestamp;

use super::super::body::Body;
use super::super::error::ErrorKind;
use super::lenient::{JsonField, LenientString, NextLink, parse_page};
use super::parse_json;

/// Longest name of a key, in characters: Atlas accepts no longer one. The rest is cut off.
pub const MAX_NAME_CHARS: usize = 250;
/// Longest of the other free texts that is kept.
const MAX_TEXT_CHARS: usize = 250;
/// Longest id that is accepted. Those of Atlas have 24 characters.
const MAX_ID_CHARS: usize = 100;

/// A time that may be missing or unreadable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ApiTime {
    /// Null, or not there.
    #[default]
    Missing,
    /// This time.
    Valid(Timestamp),
    /// Something that is no time.
    Invalid,
}

/// One key of a page. Members that Atlas left out are none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApiKey {
    /// `apiKeyId`, never empty.
    pub id: String,
    /// `groupId`.
    pub project: Option<String>,
    /// `name`, at most [`MAX_NAME_CHARS`] characters of it.
    pub name: Option<String>,
    /// Whether the name is longer.
    pub name_truncated: bool,
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
    pub created: ApiTime,
    /// `lastUsedAt`.
    pub last_used: ApiTime,
}

/// Members of a key that are read only for who exports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OptionalFields {
    /// `createdBy`.
    pub created_by: bool,
    /// `maskedSecret`.
    pub masked_secret: bool,
}

/// A key, or a member of one, that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidItem {
    /// Its place among the page's results, from 0.
    pub index: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// One page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPage {
    /// The keys that can be told apart.
    pub keys: Vec<ApiKey>,
    /// What cannot be used.
    pub invalid_items: Vec<InvalidItem>,
    /// Results on the page, usable or not.
    pub results: usize,
    /// Whether there is a next page.
    pub next_link: NextLink,
    /// `totalCount`, an estimate.
    pub total_count: Option<u64>,
    /// Size of the body.
    pub body_bytes: usize,
    /// How long the request had to wait for its rate limit.
    pub rate_limit_wait: Duration,
}

/// Reads a page of at most `max_results` keys.
///
/// # Errors
/// [`ErrorKind::InvalidResponse`] when the body is no JSON object with `results`, or has more of them. It says where, and
/// nothing of the body.
pub(crate) fn parse_key_page(
    body: &str,
    max_results: usize,
    members: OptionalFields,
) -> Result<KeyPage, ErrorKind> {
    let mut malformed = Vec::new();
    let page = parse_page(body, max_results, |index, result| {
        read_key(result, members, &mut |what| {
            malformed.push(InvalidItem {
                index,
                reason: what,
            });
        })
    })?;
    Ok(KeyPage {
        keys: page.items,
        invalid_items: malformed,
        results: page.results,
        next_link: page.next_link,
        total_count: page.total_count,
        body_bytes: body.len(),
        rate_limit_wait: Duration::ZERO,
    })
}

/// What the exporter reads of the body of a page, whatever the body holds. For fuzzing.
///
/// # Errors
/// As [`fuzz_key_page`].
#[doc(hidden)]
pub fn fuzz_key_page(body: Vec<u8>, max_results: usize) -> Result<KeyPage, ErrorKind> {
    let members = OptionalFields {
        created_by: true,
        masked_secret: true,
    };
    parse_key_page(Body::from(body).text()?, max_results, members)
}

/// Reads one key.
///
/// # Errors
/// [`ErrorKind::InvalidResponse`] when the body is no JSON object with an `apiKeyId`.
pub(crate) fn parse_key(body: &str, members: OptionalFields) -> Result<ApiKey, ErrorKind> {
    read_key(parse_json(body)?, members, &mut |_| {})
        .ok_or_else(|| ErrorKind::InvalidResponse("it is no key with an apiKeyId".to_owned()))
}

/// Reads a key; none, and a report, when it cannot be told from others. There is no `secret` among the fields, and
/// there must be none.
fn read_key(
    result: JsonField<'_>,
    members: OptionalFields,
    report: &mut impl FnMut(&'static str),
) -> Option<ApiKey> {
    let Some(
        [
            id,
            project,
            name,
            status,
            cloud,
            geography,
            endpoint,
            created_by,
            masked_secret,
            created,
            last_used,
        ],
    ) = result.fields([
        "apiKeyId",
        "groupId",
        "name",
        "status",
        "cloud",
        "geography",
        "endpoint",
        "createdBy",
        "maskedSecret",
        "createdAt",
        "lastUsedAt",
    ])
    else {
        report("it is no object");
        return None;
    };
    let id = match id.lenient_string(MAX_ID_CHARS) {
        LenientString::Valid { truncated, .. } if truncated => Err("its apiKeyId is too long"),
        LenientString::Valid { text, .. } if text.is_empty() => Err("its apiKeyId is empty"),
        LenientString::Valid { text, .. } => Ok(text),
        LenientString::Missing | LenientString::Invalid => Err("it has no apiKeyId"),
    };
    let id = id.map_err(&mut *report).ok()?;
    let mut text = |field: JsonField<'_>, max_chars, what| match field.lenient_string(max_chars) {
        LenientString::Missing => None,
        LenientString::Valid { text, truncated } => Some((text, truncated)),
        LenientString::Invalid => {
            report(what);
            None
        }
    };
    let (name, name_truncated) = text(name, MAX_NAME_CHARS, "its name is no text").unzip();
    let mut short = |field, what| text(field, MAX_TEXT_CHARS, what).map(|(text, _)| text);
    let mut key = ApiKey {
        id,
        project: None,
        name,
        name_truncated: name_truncated == Some(true),
        status: short(status, "its status is no text"),
        cloud: short(cloud, "its cloud is no text"),
        geography: short(geography, "its geography is no text"),
        endpoint: short(endpoint, "its endpoint is no text"),
        created_by: members
            .created_by
            .then(|| short(created_by, "its createdBy is no text"))
            .flatten(),
        masked_secret: members
            .masked_secret
            .then(|| short(masked_secret, "its maskedSecret is no text"))
            .flatten(),
        created: created.as_time(),
        last_used: last_used.as_time(),
    };
    // half of an id would be the id of something else
    key.project = match text(project, MAX_ID_CHARS, "its groupId is no text") {
        Some((_, true)) => {
            report("its groupId is too long");
            None
        }
        project => project.map(|(project, _)| project),
    };
    match (key.created, key.last_used) {
        (ApiTime::Invalid, ApiTime::Invalid) => report("its createdAt and lastUsedAt are no times"),
        (ApiTime::Invalid, _) => report("its createdAt is no time"),
        (_, ApiTime::Invalid) => report("its lastUsedAt is no time"),
        _ => {}
    }
    Some(key)
}

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
    fn documented_example_is_parsed_without_its_secret() {
        let page = parse_key_page(EXAMPLE, 500, OptionalFields::default()).expect("a page");
        assert_eq!(
            (page.results, page.next_link, page.total_count),
            (1, NextLink::Absent, Some(42))
        );
        assert_eq!(page.keys[0].id, "a86r5kwrfsk5r5ku5tgvhmpj");
        assert_eq!(
            page.keys[0].last_used,
            ApiTime::Valid("2026-01-15T16:47:49.855Z".parse().expect("a time"))
        );
        assert!(
            !format!("{page:?}").contains("al-"),
            "neither the secret nor its masked form is kept"
        );
    }

    #[test]
    fn personal_fields_are_parsed_only_when_enabled() {
        let members = OptionalFields {
            created_by: true,
            masked_secret: true,
        };
        let key = parse_key_page(EXAMPLE, 500, members)
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
    fn timestamps_accept_offsets_and_z() {
        for (text, expected) in [
            (
                "2026-01-15T16:47:49.855000+00:00",
                "2026-01-15T16:47:49.855Z",
            ),
            ("2026-01-15T16:47:49Z", "2026-01-15T16:47:49Z"),
            ("2026-01-15T18:47:49+02:00", "2026-01-15T16:47:49Z"),
        ] {
            assert_eq!(
                JsonField::new(&format!("{text:?}")).as_time(),
                ApiTime::Valid(expected.parse().expect("a time")),
                "{text}"
            );
        }
        for broken in [
            "",
            "yesterday",
            "2026-13-45T99:99:99Z",
            "2026-01-15",
            "2026-01-15T16:47:49",
            &format!("2026-01-15T16:47:49Z{}", " ".repeat(100)),
        ] {
            let json = format!("{broken:?}");
            assert_eq!(
                JsonField::new(&json).as_time(),
                ApiTime::Invalid,
                "{broken}"
            );
        }
    }

    #[test]
    fn invalid_items_are_reported_with_their_index() {
        let body = r#"{"results":[{"apiKeyId":"good"},{"name":"no id"},null,7,"x",[1],{"apiKeyId":""},
            {"apiKeyId":"odd","name":5,"status":{"a":1},"groupId":["b"],"lastUsedAt":12,"createdAt":"never"}]}"#;
        let page = parse_key_page(body, 500, OptionalFields::default()).expect("a page");
        assert_eq!(
            (page.results, page.next_link, page.total_count),
            (8, NextLink::Unknown, None)
        );
        let ids: Vec<_> = page.keys.iter().map(|key| key.id.as_str()).collect();
        assert_eq!(ids, ["good", "odd"]);
        let places: Vec<_> = page.invalid_items.iter().map(|m| m.index).collect();
        assert_eq!(places, [1, 2, 3, 4, 5, 6, 7, 7, 7, 7]);
        assert_eq!(
            (page.keys[1].created, page.keys[1].last_used),
            (ApiTime::Invalid, ApiTime::Invalid)
        );
    }

    #[test]
    fn invalid_total_count_and_links_are_ignored() {
        for (body, next, total) in [
            (
                r#"{"results":[],"totalCount":null,"links":null}"#,
                NextLink::Unknown,
                None,
            ),
            (
                r#"{"results":[],"totalCount":-3,"links":[]}"#,
                NextLink::Unknown,
                None,
            ),
            (
                r#"{"results":[],"totalCount":"many","links":{"a":1}}"#,
                NextLink::Unknown,
                None,
            ),
            (
                r#"{"results":[],"totalCount":0,"links":[{"rel":"self"},{"rel":"next"}]}"#,
                NextLink::Present,
                Some(0),
            ),
        ] {
            let page = parse_key_page(body, 500, OptionalFields::default()).expect(body);
            assert_eq!((page.next_link, page.total_count), (next, total), "{body}");
        }
    }

    #[test]
    fn invalid_page_is_rejected_without_echoing_it() {
        for body in [
            "",
            "{",
            "[]",
            "{}",
            "null",
            r#"{"results":{}}"#,
            r#"{"results":"al-secret"}"#,
            r#"{"results":[{"secret":"al-"#,
        ] {
            let problem = parse_key_page(body, 500, OptionalFields::default()).expect_err(body);
            assert!(matches!(problem, ErrorKind::InvalidResponse(_)));
            assert!(!problem.to_string().contains("al-"), "{problem}");
        }
    }
}
