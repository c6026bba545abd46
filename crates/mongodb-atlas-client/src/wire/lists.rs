//! Organizations, projects and limits. Invalid results are skipped.

use serde::{Deserialize, Serialize};

use super::lenient::{JsonField, ListPage, parse_page};
use super::{MAX_ID_CHARS, MAX_TEXT_CHARS, parse_json};
use crate::body::Body;
use crate::error::{Endpoint, ErrorKind};
use crate::ids::{OrgId, ProjectId};
use crate::rate_limit::{BucketParams, EndpointSet, Scope};

/// An organization that is visible to the credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrgSummary {
    /// `id`.
    pub id: OrgId,
    /// `name`.
    pub name: Option<String>,
    /// `isDeleted`.
    pub is_deleted: bool,
}

/// A project of an organization, which is called group in Atlas' API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    /// `id`.
    pub id: ProjectId,
    /// `name`.
    pub name: String,
    /// The value of the requested tag, truncated to 250 characters; `None` if it is blank or missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// The limits of an organization for a group of models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelLimit {
    /// `modelGroupName`.
    #[serde(rename = "group")]
    pub model_group: String,
    /// `cloud`.
    pub cloud: String,
    /// `geography`.
    pub geography: String,
    /// `requestsPerMinuteLimit`.
    pub requests_per_minute: Option<u64>,
    /// `tokensPerMinuteLimit`.
    pub tokens_per_minute: Option<u64>,
}

/// Parses a page of any list with `parse`, which returns `None` for invalid results.
///
/// # Errors
/// [`ErrorKind::InvalidResponse`] when the body is not a JSON object with `results`, or has more than `max_results`.
pub(crate) fn parse_list<T>(
    body: &str,
    max_results: usize,
    parse: impl Fn(JsonField<'_>) -> Option<T>,
) -> Result<ListPage<T>, ErrorKind> {
    parse_page(body, max_results, |_, result| parse(result))
}

/// Parses an organization, and returns its name.
///
/// # Errors
/// [`ErrorKind::InvalidResponse`] when the body is not JSON.
pub(crate) fn parse_org_name(body: &str) -> Result<Option<String>, ErrorKind> {
    parse_json(body).map(|value| parse_org(value).and_then(|org| org.name))
}

/// Parses an organization.
pub(crate) fn parse_org(value: JsonField<'_>) -> Option<OrgSummary> {
    let [id, name, is_deleted] = value.fields(["id", "name", "isDeleted"])?;
    Some(OrgSummary {
        id: OrgId::parse(&id.full_string(MAX_ID_CHARS)?).ok()?,
        name: name.truncated_string(MAX_TEXT_CHARS),
        is_deleted: is_deleted.is_true(),
    })
}

/// Parses a project, and the value of its tag with the key `tag`.
pub(crate) fn parse_project(value: JsonField<'_>, tag: Option<&str>) -> Option<Project> {
    let [id, name, tags] = value.fields(["id", "name", "tags"])?;
    Some(Project {
        id: ProjectId::new(id.full_string(MAX_ID_CHARS)?),
        name: name.truncated_string(MAX_TEXT_CHARS)?,
        tag: tag.and_then(|tag| parse_tag_value(tags, tag)),
    })
}

/// Returns the value of the first tag with the key `wanted`; `None` if the value is blank or not a string. Tags can contain
/// any data, so no other value is decoded.
fn parse_tag_value(tags: JsonField<'_>, wanted: &str) -> Option<String> {
    let max_chars = wanted.chars().count();
    let mut first = None;
    tags.for_each_element(|tag| {
        let Some([key, value]) = tag.fields(["key", "value"]) else {
            return;
        };
        if first.is_none() && key.full_string(max_chars).as_deref() == Some(wanted) {
            first = Some(value);
        }
    });
    let value = first?.truncated_string(MAX_TEXT_CHARS)?;
    (!value.trim().is_empty()).then_some(value)
}

/// Parses a limit for a group of models.
pub(crate) fn parse_model_limit(value: JsonField<'_>) -> Option<ModelLimit> {
    let [model_group, cloud, geography, requests, tokens] = value.fields([
        "modelGroupName",
        "cloud",
        "geography",
        "requestsPerMinuteLimit",
        "tokensPerMinuteLimit",
    ])?;
    let text = |field: JsonField<'_>| field.truncated_string(MAX_TEXT_CHARS);
    Some(ModelLimit {
        model_group: text(model_group)?,
        cloud: text(cloud).unwrap_or_default(),
        geography: text(geography).unwrap_or_default(),
        requests_per_minute: requests.as_u64(),
        tokens_per_minute: tokens.as_u64(),
    })
}

/// Parses an endpoint set. Returns `None` for one without an endpoint of this client.
pub(crate) fn parse_endpoint_set(value: JsonField<'_>) -> Option<EndpointSet> {
    let [id, scope, capacity, rate, seconds, paths] = value.fields([
        "endpointSetId",
        "scope",
        "capacity",
        "refillRate",
        "refillDurationSeconds",
        "endpoints",
    ])?;
    let number = |field: JsonField<'_>| field.fields(["value"]).and_then(|[value]| value.as_u64());
    let scope = match scope
        .truncated_string(MAX_ID_CHARS)?
        .to_ascii_uppercase()
        .as_str()
    {
        "ORGANIZATION" | "ORG" | "PROJECT" | "GROUP" => Scope::Organization,
        "IP" | "IP_ADDRESS" => Scope::ClientIp,
        // The bucket of a user, or an unknown scope, for which this is the conservative choice.
        _ => Scope::Credential,
    };
    let mut endpoints: Vec<Endpoint> = Vec::new();
    paths.for_each_element(|path| {
        let endpoint = parse_endpoint(path).filter(|endpoint| !endpoints.contains(endpoint));
        endpoints.extend(endpoint);
    });
    (!endpoints.is_empty()).then_some(EndpointSet {
        id: id.full_string(MAX_TEXT_CHARS)?,
        endpoints,
        scope,
        params: BucketParams::new(number(capacity)?, number(rate)?, number(seconds)?)?,
    })
}

/// Parses an endpoint of an endpoint set. Returns `None` for one that this client does not use.
fn parse_endpoint(value: JsonField<'_>) -> Option<Endpoint> {
    let [method, path] = value.fields(["method", "path"])?;
    (method.full_string(MAX_ID_CHARS)? == "GET")
        .then(|| Endpoint::from_path_template(&path.full_string(MAX_TEXT_CHARS)?))
        .flatten()
}

/// Parses any bytes as a page of rate limits, for the fuzz target.
#[doc(hidden)]
pub fn fuzz_rate_limits(body: &[u8]) -> Vec<EndpointSet> {
    let mut body = Body::from(body.to_vec());
    let page = body
        .text()
        .and_then(|text| parse_list(text, 500, parse_endpoint_set))
        .ok();
    page.map(|page| page.items).unwrap_or_default()
}

#[cfg(test)]
mod tests;
