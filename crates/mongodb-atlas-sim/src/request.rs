//! A request, taken apart: what it asks for, of whom, and which page.

use axum::http::request::Parts;

use super::faults::SimEndpoint;
use super::response::SimResponse;

/// A request, taken apart as far as routing needs it.
pub(crate) struct SimRequest {
    pub(crate) endpoint: SimEndpoint,
    pub(crate) org_id: Option<String>,
    pub(crate) key_id: Option<String>,
    pub(crate) query: QueryParams,
    pub(crate) parts: Parts,
    pub(crate) body: Vec<u8>,
}

/// The query string's members.
pub(crate) struct QueryParams(Vec<(String, String)>);

impl QueryParams {
    fn from_parts(parts: &Parts) -> Self {
        let query = parts.uri.query().unwrap_or_default();
        Self(
            url::form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// The page asked for, as `(pageNum, itemsPerPage)`, or the error that Atlas answers with.
    pub(crate) fn page(&self) -> Result<(u32, u32), SimResponse> {
        let number = |name: &'static str, default: u32, most: u32| match self.get(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .ok()
                .filter(|n| (1..=most).contains(n))
                .ok_or_else(|| {
                    SimResponse::bad_request(
                        "INVALID_QUERY_PARAMETER",
                        name,
                        &format!("Invalid value for query parameter {name}."),
                    )
                }),
        };
        Ok((
            number("pageNum", 1, u32::MAX)?,
            number("itemsPerPage", 100, 500)?,
        ))
    }
}

impl SimRequest {
    pub(crate) fn new(parts: Parts, body: Vec<u8>) -> Self {
        let (endpoint, org, key) = route(parts.uri.path());
        Self {
            endpoint,
            org_id: org,
            key_id: key,
            query: QueryParams::from_parts(&parts),
            parts,
            body,
        }
    }
}

fn route(path: &str) -> (SimEndpoint, Option<String>, Option<String>) {
    let owned = |text: &str| Some(text.to_owned());
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match *parts.as_slice() {
        ["api", "oauth", "token"] => (SimEndpoint::Token, None, None),
        ["api", "oauth", "revoke"] => (SimEndpoint::Revoke, None, None),
        ["api", "atlas", "v2", "rateLimits"] => (SimEndpoint::RateLimits, None, None),
        ["api", "atlas", "v2", "orgs"] => (SimEndpoint::Orgs, None, None),
        ["api", "atlas", "v2", "orgs", org] => (SimEndpoint::Org, owned(org), None),
        ["api", "atlas", "v2", "orgs", org, "groups"] => (SimEndpoint::Groups, owned(org), None),
        ["api", "atlas", "v2", "orgs", org, "aiModelApiKeys"] => {
            (SimEndpoint::AiModelApiKeys, owned(org), None)
        }
        ["api", "atlas", "v2", "orgs", org, "aiModelApiKeys", key] => {
            (SimEndpoint::AiModelApiKey, owned(org), owned(key))
        }
        ["api", "atlas", "v2", "orgs", org, "aiModelApiRateLimits"] => {
            (SimEndpoint::AiModelApiRateLimits, owned(org), None)
        }
        _ => (SimEndpoint::Unknown, None, None),
    }
}
