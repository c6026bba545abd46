//! The lists beside that of the keys: organizations, projects, limits. A result that cannot be used is left out.

use super::super::body::Body;
use super::super::error::{Endpoint, ErrorKind};
use super::super::rate_limit::{BucketParams, EndpointSet, Scope};
use super::lenient::{JsonField, ListPage, parse_page};
use super::parse_json;
use crate::ids::{OrgId, ProjectId};

/// An organization that the credential can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrgSummary {
    /// `id`.
    pub id: OrgId,
    /// `name`.
    pub name: Option<String>,
    /// `isDeleted`.
    pub is_deleted: bool,
}

/// A project of an organization; Atlas calls it group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// `id`.
    pub id: ProjectId,
    /// `name`.
    pub name: String,
}

/// A limit of an organization for a group of models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelLimit {
    /// `modelGroupName`.
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

/// Longest free text that is kept, in characters; the rest is cut off. Atlas' own limit for names is 250 or less.
const MAX_TEXT_CHARS: usize = 250;
/// Longest id that is accepted.
const MAX_ID_CHARS: usize = 100;

/// Reads a page of any list with `read`; a result that cannot be used is left out.
///
/// # Errors
/// [`ErrorKind::InvalidResponse`] when the body is no JSON object with `results`, or has more of them than `max_results`.
pub(crate) fn parse_list<T>(
    body: &str,
    max_results: usize,
    read: fn(JsonField<'_>) -> Option<T>,
) -> Result<ListPage<T>, ErrorKind> {
    parse_page(body, max_results, |_, result| read(result))
}

/// Reads the name of the one organization that `body` is about.
///
/// # Errors
/// [`ErrorKind::InvalidResponse`] when the body is no JSON.
pub(crate) fn parse_org_name(body: &str) -> Result<Option<String>, ErrorKind> {
    parse_json(body).map(|value| parse_org(value).and_then(|org| org.name))
}

/// An organization, if `value` is one.
pub(crate) fn parse_org(value: JsonField<'_>) -> Option<OrgSummary> {
    let [id, name, deleted] = value.fields(["id", "name", "isDeleted"])?;
    Some(OrgSummary {
        id: OrgId::parse(&id.full_string(MAX_ID_CHARS)?).ok()?,
        name: name.truncated_string(MAX_TEXT_CHARS),
        is_deleted: deleted.is_true(),
    })
}

/// A project, if `value` is one with a name.
pub(crate) fn parse_project(value: JsonField<'_>) -> Option<Project> {
    let [id, name] = value.fields(["id", "name"])?;
    Some(Project {
        id: ProjectId::new(id.full_string(MAX_ID_CHARS)?),
        name: name.truncated_string(MAX_TEXT_CHARS)?,
    })
}

/// A limit, if `value` is one.
pub(crate) fn parse_model_limit(value: JsonField<'_>) -> Option<ModelLimit> {
    let [group, cloud, geography, requests, tokens] = value.fields([
        "modelGroupName",
        "cloud",
        "geography",
        "requestsPerMinuteLimit",
        "tokensPerMinuteLimit",
    ])?;
    Some(ModelLimit {
        model_group: group.truncated_string(MAX_TEXT_CHARS)?,
        cloud: cloud.truncated_string(MAX_TEXT_CHARS).unwrap_or_default(),
        geography: geography
            .truncated_string(MAX_TEXT_CHARS)
            .unwrap_or_default(),
        requests_per_minute: requests.as_u64(),
        tokens_per_minute: tokens.as_u64(),
    })
}

/// An endpoint set, if `value` is one that this exporter draws on.
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
        "IP" | "IP_ADDRESS" => Scope::Address,
        // a user's bucket, or one of a kind that is not known yet: the safe side
        _ => Scope::Credential,
    };
    let mut endpoints: Vec<Endpoint> = Vec::new();
    paths.for_each_element(|endpoint| {
        let known = parse_endpoint(endpoint).filter(|known| !endpoints.contains(known));
        endpoints.extend(known);
    });
    (!endpoints.is_empty()).then_some(EndpointSet {
        id: id.full_string(MAX_TEXT_CHARS)?,
        endpoints,
        scope,
        size: BucketParams::new(number(capacity)?, number(rate)?, number(seconds)?)?,
    })
}

/// The endpoint that a member of an endpoint set names, if this exporter asks it.
fn parse_endpoint(value: JsonField<'_>) -> Option<Endpoint> {
    let [method, path] = value.fields(["method", "path"])?;
    (method.full_string(MAX_ID_CHARS)?.as_str() == "GET")
        .then(|| Endpoint::from_path_template(&path.full_string(MAX_TEXT_CHARS)?))
        .flatten()
}

/// What the fuzz target does with any bytes: reads them as a page of rate limits.
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
mod tests {
    use super::super::lenient::NextLink;
    use super::*;
    use serde_json::json;

    /// What `read` makes of a result.
    fn read<T>(read: fn(JsonField<'_>) -> Option<T>, result: &serde_json::Value) -> Option<T> {
        read(JsonField::new(&result.to_string()))
    }

    #[test]
    fn invalid_items_are_skipped() {
        assert_eq!(read(parse_org, &json!({"id": "xyz", "name": "n"})), None);
        assert_eq!(read(parse_org, &json!(7)), None);
        let listed = read(
            parse_org,
            &json!({"id": "32b6e34b3d91647abb20e7b8", "isDeleted": true}),
        );
        assert_eq!(
            listed.map(|org| (org.name, org.is_deleted)),
            Some((None, true))
        );
        assert_eq!(read(parse_project, &json!({"id": "p"})), None);
        let long = json!({"id": "p".repeat(101), "name": "n"});
        assert_eq!(read(parse_project, &long), None);
        let limit = read(
            parse_model_limit,
            &json!({"modelGroupName": "g", "requestsPerMinuteLimit": -1}),
        );
        assert_eq!(limit.map(|limit| limit.requests_per_minute), Some(None));
    }

    #[test]
    fn free_text_is_truncated() {
        let long = "ä".repeat(60_000);
        let id = "32b6e34b3d91647abb20e7b8";
        let cut = Some("ä".repeat(MAX_TEXT_CHARS));
        let org = read(parse_org, &json!({"id": id, "name": long})).expect("an organization");
        assert_eq!(org.name, cut);
        let project = read(parse_project, &json!({"id": id, "name": long}));
        assert_eq!(project.map(|project| project.name), cut);
        let limit = json!({"modelGroupName": long, "cloud": long, "geography": long});
        let limit = read(parse_model_limit, &limit).expect("a limit");
        assert_eq!(
            [limit.model_group, limit.cloud, limit.geography].map(Some),
            [cut.clone(), cut.clone(), cut]
        );
    }

    #[test]
    fn endpoint_sets_are_parsed_with_known_endpoints() {
        let number = |value: u64| json!({"value": value, "defaultValue": 1});
        let keys = json!({"method": "GET", "path": "/api/atlas/v2/orgs/{orgId}/aiModelApiKeys"});
        let mut value = json!({
            "endpointSetId": "s", "scope": "ORGANIZATION",
            "capacity": number(10), "refillRate": number(5), "refillDurationSeconds": number(60),
            "endpoints": [
                {"method": "POST", "path": "/api/atlas/v2/orgs"},
                keys, keys, 7, null,
                {"method": "GET", "path": "/api/atlas/v2/somethingElse"},
            ],
        });
        let set = read(parse_endpoint_set, &value).expect("a set");
        assert_eq!(set.endpoints, [Endpoint::AiModelApiKeys]);
        assert_eq!(
            (set.scope, set.size.every.as_secs()),
            (Scope::Organization, 60)
        );
        value["scope"] = json!("USER");
        assert_eq!(
            read(parse_endpoint_set, &value).map(|set| set.scope),
            Some(Scope::Credential)
        );
        value["capacity"] = number(0);
        assert_eq!(read(parse_endpoint_set, &value), None);
    }

    #[test]
    fn next_link_is_detected() {
        for (body, next) in [
            (r#"{"results":[]}"#, NextLink::Unknown),
            (r#"{"results":null}"#, NextLink::Unknown),
            (r#"{"results":[],"links":[]}"#, NextLink::Unknown),
            (r#"{"results":[],"links":1e999}"#, NextLink::Unknown),
            (
                r#"{"results":[],"links":[{"rel":"self"}]}"#,
                NextLink::Absent,
            ),
            (
                r#"{"results":[],"links":[7,{"rel":"\ud83d"}]}"#,
                NextLink::Absent,
            ),
            (
                r#"{"results":[],"links":[{"rel":"next"}]}"#,
                NextLink::Present,
            ),
        ] {
            assert_eq!(
                parse_list(body, 5, parse_org).expect(body).next_link,
                next,
                "{body}"
            );
        }
        for body in [
            "[]",
            "{}",
            "",
            "null",
            r#"{"results":{}}"#,
            r#"{"results":7}"#,
        ] {
            assert!(parse_list(body, 5, parse_org).is_err(), "{body}");
        }
    }

    #[test]
    fn excess_results_are_rejected() {
        for result in ["{}", "0", "\"a\"", "[]", "null", r#"{"id":"a"}"#] {
            let body = |results| format!(r#"{{"results":[{}]}}"#, vec![result; results].join(","));
            assert_eq!(parse_list(&body(5), 5, parse_org).expect(result).results, 5);
            let problem = parse_list(&body(6), 5, parse_org).expect_err(result);
            assert!(
                problem.to_string().contains("expected at most 5 results"),
                "{problem}"
            );
        }
    }
}
