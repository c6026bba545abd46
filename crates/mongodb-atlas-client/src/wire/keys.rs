//! API keys, one or a page of them. Each field is optional: a missing, null or invalid field invalidates neither the key
//! nor the page. All fields that are not named here, in particular `secret`, are skipped and never decoded.

use std::time::Duration;

use jiff::Timestamp;

use super::lenient::{JsonField, LenientString, NextLink, parse_page};
use super::{MAX_ID_CHARS, MAX_TEXT_CHARS, parse_json};
use crate::body::Body;
use crate::error::ErrorKind;
use crate::ids::{KeyId, ProjectId};

/// Maximum length of a key's name, in characters, which is Atlas' own limit. Longer names are truncated.
pub const MAX_NAME_CHARS: usize = 250;

/// A timestamp that may be missing or invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ApiTime {
    /// The value is null or missing.
    #[default]
    Missing,
    /// A valid timestamp.
    Valid(Timestamp),
    /// The value is not a timestamp.
    Invalid,
}

/// An API key. Missing texts are empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApiKey {
    /// `apiKeyId`, which is never empty in a parsed response.
    pub id: KeyId,
    /// `groupId`.
    pub project: ProjectId,
    /// `name`, truncated to [`MAX_NAME_CHARS`] characters.
    pub name: String,
    /// Whether the name is longer.
    pub name_truncated: bool,
    /// `maskedSecret`; empty unless enabled in [`OptionalFields`].
    pub masked_secret: String,
    /// Fields that many keys have in common.
    pub attributes: KeyAttributes,
    /// `createdAt`.
    pub created: ApiTime,
    /// `lastUsedAt`.
    pub last_used: ApiTime,
}

/// The fields of a key with values that many keys share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct KeyAttributes {
    /// `status`.
    pub status: String,
    /// `cloud`.
    pub cloud: String,
    /// `geography`.
    pub geography: String,
    /// `endpoint`.
    pub endpoint: String,
    /// `createdBy`, a person's name; empty unless enabled in [`OptionalFields`].
    pub created_by: String,
}

/// Fields of a key that are parsed only if enabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OptionalFields {
    /// `createdBy`.
    pub created_by: bool,
    /// `maskedSecret`.
    pub masked_secret: bool,
}

/// An invalid key, or an invalid field of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidItem {
    /// Index among the page's results, from 0.
    pub index: usize,
    /// The reason.
    pub reason: &'static str,
}

/// One page of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPage {
    /// The keys that have an id.
    pub keys: Vec<ApiKey>,
    /// The invalid keys and fields.
    pub invalid_items: Vec<InvalidItem>,
    /// Number of results, valid or not.
    pub results: usize,
    /// Whether there is a next page.
    pub next_link: NextLink,
    /// `totalCount`, an estimate.
    pub total_count: Option<u64>,
    /// Size of the body.
    pub body_bytes: usize,
    /// Time that the request waited for the rate limit.
    pub rate_limit_wait: Duration,
}

/// Parses a page of at most `max_results` keys.
///
/// # Errors
/// [`ErrorKind::InvalidResponse`] when the body is not a JSON object with `results`, or has more than `max_results`. The
/// error contains the position of the error in the body, but nothing of the body.
pub(crate) fn parse_key_page(
    body: &str,
    max_results: usize,
    optional: OptionalFields,
) -> Result<KeyPage, ErrorKind> {
    let mut invalid_items = Vec::new();
    let page = parse_page(body, max_results, |index, result| {
        let mut report = |reason| invalid_items.push(InvalidItem { index, reason });
        let key = read_key(result, optional, &mut report);
        key.map_err(report).ok()
    })?;
    Ok(KeyPage {
        keys: page.items,
        invalid_items,
        results: page.results,
        next_link: page.next_link,
        total_count: page.total_count,
        body_bytes: body.len(),
        rate_limit_wait: Duration::ZERO,
    })
}

/// Parses any bytes as a page of keys, for the fuzz target.
///
/// # Errors
/// [`ErrorKind::InvalidResponse`], as for the body of a response.
#[doc(hidden)]
pub fn fuzz_key_page(body: Vec<u8>, max_results: usize) -> Result<KeyPage, ErrorKind> {
    let optional = OptionalFields {
        created_by: true,
        masked_secret: true,
    };
    parse_key_page(Body::from(body).text()?, max_results, optional)
}

/// Parses one key.
///
/// # Errors
/// [`ErrorKind::InvalidResponse`] when the body is not a JSON object with an `apiKeyId`.
pub(crate) fn parse_key(body: &str, optional: OptionalFields) -> Result<ApiKey, ErrorKind> {
    read_key(parse_json(body)?, optional, &mut |_| {})
        .map_err(|_| ErrorKind::InvalidResponse("expected a key with apiKeyId".to_owned()))
}

/// The decoded fields. `secret` must never be one of them.
const FIELDS: [&str; 11] = [
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
];

/// Reads a key, and reports invalid fields.
///
/// # Errors
/// Returns the reason why the key has no valid id.
fn read_key(
    result: JsonField<'_>,
    optional: OptionalFields,
    report: &mut impl FnMut(&'static str),
) -> Result<ApiKey, &'static str> {
    let fields = result.fields(FIELDS).ok_or("expected an object")?;
    let [id, project, name, status, cloud, geography, endpoint, ..] = fields;
    let [.., created_by, masked_secret, created, last_used] = fields;
    let id = read_id(id)?;
    let mut text = |field: JsonField<'_>, max_chars, reason| match field.lenient_string(max_chars) {
        LenientString::Missing => (String::new(), false),
        LenientString::Valid { text, truncated } => (text, truncated),
        LenientString::Invalid => {
            report(reason);
            (String::new(), false)
        }
    };
    let (name, name_truncated) = text(name, MAX_NAME_CHARS, "name is not a string");
    let mut short = |field, reason| text(field, MAX_TEXT_CHARS, reason).0;
    let enabled = |field, is_enabled| {
        if is_enabled {
            field
        } else {
            JsonField::default()
        }
    };
    let created_by = enabled(created_by, optional.created_by);
    let masked_secret = enabled(masked_secret, optional.masked_secret);
    let attributes = KeyAttributes {
        status: short(status, "status is not a string"),
        cloud: short(cloud, "cloud is not a string"),
        geography: short(geography, "geography is not a string"),
        endpoint: short(endpoint, "endpoint is not a string"),
        created_by: short(created_by, "createdBy is not a string"),
    };
    let masked_secret = short(masked_secret, "maskedSecret is not a string");
    let (project, is_truncated) = text(project, MAX_ID_CHARS, "groupId is not a string");
    let project = if is_truncated {
        // A truncated id could be the id of another project.
        report("groupId is too long");
        String::new()
    } else {
        project
    };
    let (created, last_used) = (created.as_time(), last_used.as_time());
    if let Some(reason) = invalid_times(created, last_used) {
        report(reason);
    }
    Ok(ApiKey {
        id,
        project: ProjectId::new(project),
        name,
        name_truncated,
        masked_secret,
        attributes,
        created,
        last_used,
    })
}

fn invalid_times(created: ApiTime, last_used: ApiTime) -> Option<&'static str> {
    match (created, last_used) {
        (ApiTime::Invalid, ApiTime::Invalid) => {
            Some("createdAt and lastUsedAt are invalid timestamps")
        }
        (ApiTime::Invalid, _) => Some("createdAt is an invalid timestamp"),
        (_, ApiTime::Invalid) => Some("lastUsedAt is an invalid timestamp"),
        _ => None,
    }
}

fn read_id(field: JsonField<'_>) -> Result<KeyId, &'static str> {
    match field.lenient_string(MAX_ID_CHARS) {
        LenientString::Valid { truncated, .. } if truncated => Err("apiKeyId is too long"),
        LenientString::Valid { text, .. } if text.is_empty() => Err("apiKeyId is empty"),
        LenientString::Valid { text, .. } => Ok(KeyId::new(text)),
        LenientString::Missing | LenientString::Invalid => {
            Err("apiKeyId is missing or not a string")
        }
    }
}

#[cfg(test)]
mod tests;
