//! The lists beside that of the keys: organizations, projects, limits. They are short and hold no
//! secret, so they are read as they come; a result that cannot be used is left out.

use serde::Deserialize;
use serde_json::Value;

use super::super::budget::{BucketSize, EndpointSet, Scope};
use super::super::error::{Endpoint, Problem};
use super::parse;
use crate::ids::{OrgId, ProjectId};

/// An organization that the credential can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedOrg {
    /// `id`.
    pub id: OrgId,
    /// `name`.
    pub name: Option<String>,
    /// `isDeleted`.
    pub deleted: bool,
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
    pub group: String,
    /// `cloud`.
    pub cloud: String,
    /// `geography`.
    pub geography: String,
    /// `requestsPerMinuteLimit`.
    pub requests_per_minute: Option<u64>,
    /// `tokensPerMinuteLimit`.
    pub tokens_per_minute: Option<u64>,
}

/// One page of any list.
pub(in crate::atlas) struct ListPage {
    pub(in crate::atlas) results: Vec<Value>,
    /// Whether another page follows; none where there are no links that could say it.
    pub(in crate::atlas) more: Option<bool>,
}

#[derive(Deserialize)]
struct Body {
    results: Vec<Value>,
    links: Option<Value>,
}

/// Reads a page of any list.
///
/// # Errors
/// [`Problem::Invalid`] when the body is no JSON object with `results`.
pub(in crate::atlas) fn list(body: &[u8]) -> Result<ListPage, Problem> {
    let body: Body = parse(body, "it is no page with results")?;
    let links = body.links.as_ref().and_then(Value::as_array);
    let more = links
        .filter(|links| !links.is_empty())
        .map(|links| links.iter().any(|link| text(link, "rel") == Some("next")));
    Ok(ListPage {
        results: body.results,
        more,
    })
}

fn text<'a>(value: &'a Value, member: &str) -> Option<&'a str> {
    value.get(member)?.as_str()
}

/// An organization, if `value` is one.
pub(in crate::atlas) fn org(value: &Value) -> Option<ListedOrg> {
    Some(ListedOrg {
        id: OrgId::parse(text(value, "id")?).ok()?,
        name: text(value, "name").map(str::to_owned),
        deleted: value.get("isDeleted").and_then(Value::as_bool) == Some(true),
    })
}

/// A project, if `value` is one with a name.
pub(in crate::atlas) fn project(value: &Value) -> Option<Project> {
    Some(Project {
        id: ProjectId::new(text(value, "id")?),
        name: text(value, "name")?.to_owned(),
    })
}

/// A limit, if `value` is one.
pub(in crate::atlas) fn model_limit(value: &Value) -> Option<ModelLimit> {
    let or_empty = |member| text(value, member).unwrap_or_default().to_owned();
    let number = |member| value.get(member).and_then(Value::as_u64);
    Some(ModelLimit {
        group: text(value, "modelGroupName")?.to_owned(),
        cloud: or_empty("cloud"),
        geography: or_empty("geography"),
        requests_per_minute: number("requestsPerMinuteLimit"),
        tokens_per_minute: number("tokensPerMinuteLimit"),
    })
}

/// An endpoint set, if `value` is one that this exporter draws on.
pub(in crate::atlas) fn endpoint_set(value: &Value) -> Option<EndpointSet> {
    let number = |member| value.get(member)?.get("value")?.as_u64();
    let scope = match text(value, "scope")?.to_ascii_uppercase().as_str() {
        "ORGANIZATION" | "ORG" | "PROJECT" | "GROUP" => Scope::Organization,
        "IP" | "IP_ADDRESS" => Scope::Address,
        // a user's bucket, or one of a kind that is not known yet: the safe side
        _ => Scope::Credential,
    };
    let endpoints: Vec<Endpoint> = value
        .get("endpoints")?
        .as_array()?
        .iter()
        .filter(|endpoint| text(endpoint, "method") == Some("GET"))
        .filter_map(|endpoint| Endpoint::at(text(endpoint, "path")?))
        .collect();
    (!endpoints.is_empty()).then_some(EndpointSet {
        id: text(value, "endpointSetId")?.to_owned(),
        endpoints,
        scope,
        size: BucketSize::new(
            number("capacity")?,
            number("refillRate")?,
            number("refillDurationSeconds")?,
        )?,
    })
}

/// What the fuzz target does with any bytes: reads them as a page of rate limits.
#[doc(hidden)]
pub fn fuzz_rate_limits(body: &[u8]) -> Vec<EndpointSet> {
    let page = list(body).ok();
    let results = page.map(|page| page.results).unwrap_or_default();
    results.iter().filter_map(endpoint_set).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_cannot_be_used_is_left_out() {
        assert_eq!(org(&json!({"id": "xyz", "name": "n"})), None);
        assert_eq!(org(&json!(7)), None);
        let listed = org(&json!({"id": "32b6e34b3d91647abb20e7b8", "isDeleted": true}));
        assert_eq!(
            listed.map(|org| (org.name, org.deleted)),
            Some((None, true))
        );
        assert_eq!(project(&json!({"id": "p"})), None);
        let limit = model_limit(&json!({"modelGroupName": "g", "requestsPerMinuteLimit": -1}));
        assert_eq!(limit.map(|limit| limit.requests_per_minute), Some(None));
    }

    #[test]
    fn sets_are_known_by_their_endpoints() {
        let number = |value: u64| json!({"value": value, "defaultValue": 1});
        let mut value = json!({
            "endpointSetId": "s", "scope": "ORGANIZATION",
            "capacity": number(10), "refillRate": number(5), "refillDurationSeconds": number(60),
            "endpoints": [
                {"method": "POST", "path": "/api/atlas/v2/orgs"},
                {"method": "GET", "path": "/api/atlas/v2/orgs/{orgId}/aiModelApiKeys"},
                {"method": "GET", "path": "/api/atlas/v2/somethingElse"},
            ],
        });
        let set = endpoint_set(&value).expect("a set");
        assert_eq!(set.endpoints, [Endpoint::AiModelApiKeys]);
        assert_eq!(
            (set.scope, set.size.every.as_secs()),
            (Scope::Organization, 60)
        );
        value["scope"] = json!("USER");
        assert_eq!(
            endpoint_set(&value).map(|set| set.scope),
            Some(Scope::Credential)
        );
        value["capacity"] = number(0);
        assert_eq!(endpoint_set(&value), None);
    }

    #[test]
    fn the_next_page_is_known_by_its_link() {
        for (body, more) in [
            (r#"{"results":[]}"#, None),
            (r#"{"results":[],"links":[]}"#, None),
            (r#"{"results":[],"links":[{"rel":"self"}]}"#, Some(false)),
            (r#"{"results":[],"links":[{"rel":"next"}]}"#, Some(true)),
        ] {
            assert_eq!(list(body.as_bytes()).expect(body).more, more, "{body}");
        }
        assert!(list(b"[]").is_err() && list(b"{}").is_err());
    }
}
