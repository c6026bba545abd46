//! Errors of requests, and the closed list of reasons under which they are counted.

use std::fmt;
use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::credential::SecretError;
use crate::names::named_enum;

named_enum! {
    /// The resource that a request is for: the `operation` label of metrics.
    #[derive(Serialize, Deserialize)]
    pub enum Endpoint {
        /// `GET /api/atlas/v2/orgs/{orgId}/aiModelApiKeys`.
        AiModelApiKeys => "ai_model_api_keys",
        /// `GET /api/atlas/v2/orgs/{orgId}/aiModelApiKeys/{apiKeyId}`.
        AiModelApiKey => "ai_model_api_key",
        /// `GET /api/atlas/v2/orgs/{orgId}/aiModelApiRateLimits`.
        AiModelApiRateLimits => "ai_model_api_rate_limits",
        /// `GET /api/atlas/v2/orgs`.
        Orgs => "orgs",
        /// `GET /api/atlas/v2/orgs/{orgId}`.
        Org => "org",
        /// `GET /api/atlas/v2/orgs/{orgId}/groups`.
        Groups => "groups",
        /// `GET /api/atlas/v2/orgs/{orgId}/serviceAccounts/{clientId}`.
        ServiceAccount => "service_account",
        /// `GET /api/atlas/v2/rateLimits`.
        RateLimits => "rate_limits",
        /// `POST /api/oauth/token`.
        Token => "oauth_token",
        /// `POST /api/oauth/revoke`.
        Revoke => "oauth_revoke",
    }
}

impl Endpoint {
    fn path_template(self) -> &'static str {
        match self {
            Self::AiModelApiKeys => "/api/atlas/v2/orgs/{}/aiModelApiKeys",
            Self::AiModelApiKey => "/api/atlas/v2/orgs/{}/aiModelApiKeys/{}",
            Self::AiModelApiRateLimits => "/api/atlas/v2/orgs/{}/aiModelApiRateLimits",
            Self::Orgs => "/api/atlas/v2/orgs",
            Self::Org => "/api/atlas/v2/orgs/{}",
            Self::Groups => "/api/atlas/v2/orgs/{}/groups",
            Self::ServiceAccount => "/api/atlas/v2/orgs/{}/serviceAccounts/{}",
            Self::RateLimits => "/api/atlas/v2/rateLimits",
            Self::Token => "/api/oauth/token",
            Self::Revoke => "/api/oauth/revoke",
        }
    }

    /// Returns the URL below `base`, with `ids` in place of the variable segments.
    pub(crate) fn url(self, base: &Url, ids: &[&str]) -> Url {
        let mut url = base.clone();
        let mut ids = ids.iter().copied();
        let segments = self.path_template().split('/').skip(1);
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty()
                .extend(segments.map(|segment| match segment {
                    "{}" => ids.next().unwrap_or_default(),
                    segment => segment,
                }));
        }
        url
    }

    /// Returns the endpoint with this path, in which variable segments are in braces, as in Atlas' list of rate limits.
    pub(crate) fn from_path_template(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path
            .split('/')
            .skip_while(|segment| *segment != "v2")
            .map(|segment| {
                if segment.starts_with('{') {
                    "{}"
                } else {
                    segment
                }
            })
            .collect();
        let is_same = |endpoint: &Self| {
            let template = endpoint.path_template().strip_prefix("/api/atlas/");
            template.is_some_and(|template| template.split('/').eq(segments.iter().copied()))
        };
        Self::ALL.into_iter().find(is_same)
    }
}

named_enum! {
    /// The reason why a request failed: the `reason` label.
    pub enum FailureReason {
        /// Status 401, or the credential cannot be read.
        Unauthorized => "unauthorized",
        /// Status 403.
        Forbidden => "forbidden",
        /// Status 404.
        NotFound => "not_found",
        /// Status 429.
        RateLimited => "rate_limited",
        /// Status 5xx.
        ServerError => "server_error",
        /// The response was not complete within the request timeout.
        Timeout => "timeout",
        /// The connection could not be established, or was lost.
        Connection => "connection",
        /// The server's certificate is not trusted, or there is no common TLS version.
        Tls => "tls",
        /// The response does not conform to the API.
        InvalidResponse => "invalid_response",
        /// Pagination of a list did not terminate.
        Incomplete => "incomplete",
    }
}

/// Atlas' `errorCode`, if it is safe to log: only capital letters, digits and underscores, so that a response cannot
/// inject other text into a log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ErrorCode(Option<String>);

impl ErrorCode {
    /// Returns `text` as an error code, or an empty one if it does not have the form of an error code.
    pub fn new(text: &str) -> Self {
        let is_safe = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        let is_code = !text.is_empty() && text.len() <= 64 && text.bytes().all(is_safe);
        Self(is_code.then(|| text.to_owned()))
    }

    /// Returns whether the code contains `part`.
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

/// A failed request. Contains nothing of the response's body except Atlas' error code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{endpoint}: {kind}")]
pub struct Error {
    /// The endpoint of the request.
    pub endpoint: Endpoint,
    /// The cause.
    pub kind: ErrorKind,
}

/// The cause of a failed request. The text has no remedy, because the remedy depends on the program that uses the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ErrorKind {
    /// The credential is invalid, revoked or expired.
    #[error("Atlas rejected the credential (HTTP 401{0})")]
    Unauthorized(ErrorCode),
    /// The credential is valid but lacks the permission.
    #[error("Atlas denied access (HTTP 403{0})")]
    Forbidden(ErrorCode),
    /// The service account has reached the limit of valid tokens.
    #[error(
        "Atlas issues no more access tokens for this service account (HTTP 403): limit of 100 valid tokens reached"
    )]
    TokenLimit,
    /// The organization does not exist, or is not visible to the credential.
    #[error("not found in Atlas (HTTP 404{0})")]
    NotFound(ErrorCode),
    /// The rate limit is exceeded.
    #[error("Atlas rate limit exceeded (HTTP 429{code}{})", retry_after_suffix(*retry_after))]
    RateLimited {
        /// Atlas' error code.
        code: ErrorCode,
        /// The wait that `Retry-After` requested.
        retry_after: Option<Duration>,
    },
    /// Atlas, or a gateway before it, is unavailable.
    #[error("Atlas is unavailable (HTTP {status}{code}{})", retry_after_suffix(*retry_after))]
    ServerError {
        /// The HTTP status.
        status: u16,
        /// Atlas' error code.
        code: ErrorCode,
        /// The wait that `Retry-After` requested.
        retry_after: Option<Duration>,
    },
    /// The response was not complete within the timeout.
    #[error("timeout: no complete response within {}{}", humantime::format_duration(*limit), proxy_suffix(proxy.as_deref()))]
    Timeout {
        /// The request timeout.
        limit: Duration,
        /// The proxy that the request went through, if any.
        proxy: Option<String>,
    },
    /// The connection could not be established, or was lost.
    #[error("connection failed: {0}")]
    Connection(String),
    /// TLS failed.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The response does not conform to the API.
    #[error("invalid response: {0}")]
    InvalidResponse(String),
    /// Pagination of a list did not terminate.
    #[error("pagination did not terminate: {0}")]
    PaginationIncomplete(String),
    /// The credential cannot be read.
    #[error("cannot use the credential: {0}")]
    Credential(#[from] SecretError),
}

fn retry_after_suffix(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |wait| {
        format!(", retry after {}", humantime::format_duration(wait))
    })
}

/// Returns the proxy for the end of an error message; without its password, as [`crate::Proxy`] displays it.
pub(crate) fn proxy_suffix(proxy: Option<&str>) -> String {
    proxy.map_or_else(String::new, |proxy| format!(" (via proxy {proxy})"))
}

impl ErrorKind {
    /// Returns the reason under which the error is counted.
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

    /// Returns the error of a request to `endpoint`.
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
