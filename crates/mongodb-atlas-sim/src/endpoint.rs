//! The endpoints of the API: paths, methods, versions.

use axum::http::{HeaderMap, Method, header};
use serde::{Deserialize, Serialize};

/// An endpoint, as named in faults and in the request log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SimEndpoint {
    /// `POST /api/oauth/token`.
    Token,
    /// `POST /api/oauth/revoke`.
    Revoke,
    /// `GET /api/atlas/v2/orgs/{orgId}/aiModelApiKeys`.
    AiModelApiKeys,
    /// `GET /api/atlas/v2/orgs/{orgId}/aiModelApiKeys/{apiKeyId}`.
    AiModelApiKey,
    /// `GET /api/atlas/v2/orgs`.
    Orgs,
    /// `GET /api/atlas/v2/orgs/{orgId}`.
    Org,
    /// `GET /api/atlas/v2/orgs/{orgId}/groups`.
    Groups,
    /// `GET /api/atlas/v2/orgs/{orgId}/aiModelApiRateLimits`.
    AiModelApiRateLimits,
    /// `GET /api/atlas/v2/orgs/{orgId}/serviceAccounts/{clientId}`.
    ServiceAccount,
    /// `GET /api/atlas/v2/rateLimits`.
    RateLimits,
    /// Any other path.
    Unknown,
}

/// The ids in a path.
#[derive(Debug, Default)]
pub(crate) struct PathIds {
    pub(crate) org: Option<String>,
    /// Id of a key, or client id of a service account.
    pub(crate) resource: Option<String>,
}

/// A version of the API, as named in `Accept`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ApiVersion {
    Preview,
    Date(&'static str),
}

impl ApiVersion {
    pub(crate) fn media_type(self) -> String {
        let version = match self {
            Self::Preview => "preview",
            Self::Date(date) => date,
        };
        format!("application/vnd.atlas.{version}+json")
    }

    /// Returns the first version in `Accept` that is among `offered`.
    pub(crate) fn from_accept(headers: &HeaderMap, offered: &[Self]) -> Option<Self> {
        let accept = headers.get(header::ACCEPT)?.to_str().ok()?;
        let media_types = accept.split(',').filter_map(|part| part.split(';').next());
        media_types.map(str::trim).find_map(|wanted| {
            let mut offered = offered.iter().copied();
            offered.find(|version| version.media_type() == wanted)
        })
    }
}

impl SimEndpoint {
    /// Returns the endpoint of a path, and the ids in it.
    pub(crate) fn from_path(path: &str) -> (Self, PathIds) {
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let (endpoint, org_id, resource_id) = match *segments.as_slice() {
            ["api", "oauth", "token"] => (Self::Token, None, None),
            ["api", "oauth", "revoke"] => (Self::Revoke, None, None),
            ["api", "atlas", "v2", ref path @ ..] => match *path {
                ["rateLimits"] => (Self::RateLimits, None, None),
                ["orgs"] => (Self::Orgs, None, None),
                ["orgs", org] => (Self::Org, Some(org), None),
                ["orgs", org, "groups"] => (Self::Groups, Some(org), None),
                ["orgs", org, "aiModelApiKeys"] => (Self::AiModelApiKeys, Some(org), None),
                ["orgs", org, "aiModelApiKeys", key] => (Self::AiModelApiKey, Some(org), Some(key)),
                ["orgs", org, "aiModelApiRateLimits"] => {
                    (Self::AiModelApiRateLimits, Some(org), None)
                }
                ["orgs", org, "serviceAccounts", client] => {
                    (Self::ServiceAccount, Some(org), Some(client))
                }
                _ => (Self::Unknown, None, None),
            },
            _ => (Self::Unknown, None, None),
        };
        let ids = PathIds {
            org: org_id.map(str::to_owned),
            resource: resource_id.map(str::to_owned),
        };
        (endpoint, ids)
    }

    pub(crate) fn method(self) -> Method {
        match self {
            Self::Token | Self::Revoke => Method::POST,
            _ => Method::GET,
        }
    }

    /// Returns the API versions that the endpoint offers.
    pub(crate) fn versions(self) -> &'static [ApiVersion] {
        match self {
            Self::AiModelApiKeys | Self::AiModelApiKey | Self::AiModelApiRateLimits => {
                &[ApiVersion::Date("2025-03-12"), ApiVersion::Preview]
            }
            Self::RateLimits => &[ApiVersion::Date("2025-03-12")],
            Self::ServiceAccount => &[ApiVersion::Date("2024-08-05")],
            _ => &[ApiVersion::Date("2023-01-01")],
        }
    }

    /// Returns the endpoint set; the endpoints of a set share a token bucket.
    pub(crate) fn rate_limit_set(self) -> &'static str {
        match self {
            Self::Orgs => "orgs",
            Self::Org => "org",
            Self::Groups => "groups",
            Self::RateLimits => "rateLimits",
            Self::ServiceAccount => "serviceAccounts",
            _ => "aiModelApi",
        }
    }
}
