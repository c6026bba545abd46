//! What can go wrong with a request to Atlas, and the closed list of reasons it is counted under.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::credential::SecretError;

/// What a request asks for: the `endpoint` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Endpoint {
    /// `GET /api/atlas/v2/orgs/{orgId}/aiModelApiKeys`.
    AiModelApiKeys,
    /// `GET /api/atlas/v2/orgs/{orgId}/aiModelApiKeys/{apiKeyId}`.
    AiModelApiKey,
    /// `GET /api/atlas/v2/orgs/{orgId}/aiModelApiRateLimits`.
    AiModelApiRateLimits,
    /// `GET /api/atlas/v2/orgs`.
    Orgs,
    /// `GET /api/atlas/v2/orgs/{orgId}`.
    Org,
    /// `GET /api/atlas/v2/orgs/{orgId}/groups`.
    Groups,
    /// `GET /api/atlas/v2/rateLimits`.
    RateLimits,
    /// `POST /api/oauth/token`.
    Token,
    /// `POST /api/oauth/revoke`.
    Revoke,
}

impl Endpoint {
    /// Every endpoint.
    pub const ALL: [Self; 9] = [
        Self::AiModelApiKeys,
        Self::AiModelApiKey,
        Self::AiModelApiRateLimits,
        Self::Orgs,
        Self::Org,
        Self::Groups,
        Self::RateLimits,
        Self::Token,
        Self::Revoke,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AiModelApiKeys => "ai_model_api_keys",
            Self::AiModelApiKey => "ai_model_api_key",
            Self::AiModelApiRateLimits => "ai_model_api_rate_limits",
            Self::Orgs => "orgs",
            Self::Org => "org",
            Self::Groups => "groups",
            Self::RateLimits => "rate_limits",
            Self::Token => "oauth_token",
            Self::Revoke => "oauth_revoke",
        }
    }

    /// The endpoint with this path, whose variable parts are in braces, as Atlas writes it in its
    /// list of rate limits.
    pub(super) fn from_path_template(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path
            .split('/')
            .skip_while(|part| *part != "v2")
            .skip(1)
            .map(|part| if part.starts_with('{') { "{}" } else { part })
            .collect();
        Some(match *parts.as_slice() {
            ["orgs", "{}", "aiModelApiKeys"] => Self::AiModelApiKeys,
            ["orgs", "{}", "aiModelApiKeys", "{}"] => Self::AiModelApiKey,
            ["orgs", "{}", "aiModelApiRateLimits"] => Self::AiModelApiRateLimits,
            ["orgs"] => Self::Orgs,
            ["orgs", "{}"] => Self::Org,
            ["orgs", "{}", "groups"] => Self::Groups,
            ["rateLimits"] => Self::RateLimits,
            _ => return None,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a walk failed: the `reason` label, a closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureReason {
    /// 401, or the credential cannot be read.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 429.
    RateLimited,
    /// 5xx.
    ServerError,
    /// No whole answer in the time that a request may take.
    Timeout,
    /// No connection, or one that broke.
    Connection,
    /// No trust in the server's certificate, or no common TLS version.
    Tls,
    /// An answer that is not what the API promises.
    InvalidResponse,
    /// Pages that do not come to an end.
    Incomplete,
}

impl FailureReason {
    /// Every reason, so that each counter can begin at 0.
    pub const ALL: [Self; 10] = [
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::RateLimited,
        Self::ServerError,
        Self::Timeout,
        Self::Connection,
        Self::Tls,
        Self::InvalidResponse,
        Self::Incomplete,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::RateLimited => "rate_limited",
            Self::ServerError => "server_error",
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::Tls => "tls",
            Self::InvalidResponse => "invalid_response",
            Self::Incomplete => "incomplete",
        }
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Atlas' `errorCode`, if the answer had one that is safe to repeat: capitals, digits and
/// underscores only, so that nothing that an answer echoes back can get into a log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ErrorCode(Option<String>);

impl ErrorCode {
    /// Takes `text` if it has the form of an error code.
    pub fn new(text: &str) -> Self {
        let safe = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        Self(
            (!text.is_empty() && text.len() <= 64 && text.bytes().all(safe))
                .then(|| text.to_owned()),
        )
    }
}

impl ErrorCode {
    /// Whether these letters are in it.
    pub fn contains(&self, part: &str) -> bool {
        self.0.as_deref().is_some_and(|code| code.contains(part))
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(code) => write!(f, ", {code}"),
            None => Ok(()),
        }
    }
}

/// A request that failed. Holds nothing of the answer's body but Atlas' error code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{endpoint}: {kind}")]
pub struct Error {
    /// What was asked.
    pub endpoint: Endpoint,
    /// What went wrong.
    pub kind: ErrorKind,
}

/// What went wrong with a request, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ErrorKind {
    /// The credential is wrong, revoked or expired.
    #[error(
        "Atlas refuses the credential (HTTP 401{0}); check that it is whole, not expired and not deleted"
    )]
    Unauthorized(ErrorCode),
    /// The credential is good but may not do this.
    #[error(
        "Atlas forbids it (HTTP 403{0}); check the role (Organization Read Only) and the IP access list"
    )]
    Forbidden(ErrorCode),
    /// The service account has too many live tokens.
    #[error(
        "Atlas makes no more access tokens for this service account (HTTP 403): 100 are live; wait for an hour, or revoke some"
    )]
    TokenLimit,
    /// There is no such organization, or this credential cannot see it.
    #[error(
        "Atlas does not know it (HTTP 404{0}); check the organization id and that the credential belongs to it"
    )]
    NotFound(ErrorCode),
    /// The request budget is spent.
    #[error("Atlas asks to slow down (HTTP 429{code}{})", retry_after_suffix(*retry_after))]
    RateLimited {
        /// Atlas' error code.
        code: ErrorCode,
        /// What `Retry-After` asked for.
        retry_after: Option<Duration>,
    },
    /// Atlas, or something before it, is out of order.
    #[error("Atlas is out of order (HTTP {status}{code}{})", retry_after_suffix(*retry_after))]
    ServerError {
        /// The HTTP status.
        status: u16,
        /// Atlas' error code.
        code: ErrorCode,
        /// What `Retry-After` asked for.
        retry_after: Option<Duration>,
    },
    /// No whole answer in time.
    #[error("no complete response within {}{}; check the network, or raise --atlas.timeout", humantime::format_duration(*limit), proxy_suffix(proxy.as_deref()))]
    Timeout {
        /// `--atlas.timeout`.
        limit: Duration,
        /// The proxy that the request went through, if any.
        proxy: Option<String>,
    },
    /// No connection, or one that broke.
    #[error("the connection failed: {0}")]
    Connection(String),
    /// TLS failed.
    #[error(
        "TLS failed: {0}; check the system's certificates and what stands between here and Atlas"
    )]
    Tls(String),
    /// The answer makes no sense.
    #[error("the answer is not what the API promises: {0}")]
    InvalidResponse(String),
    /// The pages do not come to an end.
    #[error("the pages do not come to an end: {0}")]
    PaginationIncomplete(String),
    /// There is no credential to ask with.
    #[error("the credential cannot be used: {0}")]
    Credential(#[from] SecretError),
}

fn retry_after_suffix(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |wait| {
        format!(", retry after {}", humantime::format_duration(wait))
    })
}

/// Names the proxy in an error; without its password, as [`super::Proxy`] is shown.
pub(super) fn proxy_suffix(proxy: Option<&str>) -> String {
    proxy.map_or_else(String::new, |proxy| format!(" (via proxy {proxy})"))
}

impl ErrorKind {
    /// What it is counted under.
    pub fn reason(&self) -> FailureReason {
        match self {
            Self::Unauthorized(_) | Self::Credential(_) => FailureReason::Unauthorized,
            Self::Forbidden(_) | Self::TokenLimit => FailureReason::Forbidden,
            Self::NotFound(_) => FailureReason::NotFound,
            Self::RateLimited { .. } => FailureReason::RateLimited,
            Self::ServerError { .. } => FailureReason::ServerError,
            Self::Timeout { .. } => FailureReason::Timeout,
            Self::Connection(_) => FailureReason::Connection,
            Self::Tls(_) => FailureReason::Tls,
            Self::InvalidResponse(_) => FailureReason::InvalidResponse,
            Self::PaginationIncomplete(_) => FailureReason::Incomplete,
        }
    }

    /// How long Atlas asked to wait, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::ServerError { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }

    /// The problem at an endpoint.
    pub fn with_endpoint(self, endpoint: Endpoint) -> Error {
        Error {
            endpoint,
            kind: self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_code_omits_unsafe_text() {
        assert_eq!(ErrorCode::new("RATE_LIMITED").to_string(), ", RATE_LIMITED");
        for echo in [
            "al-jZsluhPMzPM9CFXepRWwMwvp",
            "bearer abc",
            "",
            &"A".repeat(65),
        ] {
            assert_eq!(ErrorCode::new(echo).to_string(), "", "{echo}");
        }
    }
}
