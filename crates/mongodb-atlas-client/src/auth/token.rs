//! Access tokens: the response of the token endpoint, and the store of the current token.

use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use crate::error::ErrorKind;
use crate::wire::LenientCount;

/// Lifetime of a token if the response has none.
const DEFAULT_LIFETIME_SECS: u64 = 3600;
/// Maximum lifetime of a token; a longer one in a response is reduced to it.
pub(super) const MAX_LIFETIME: Duration = Duration::from_hours(24);
/// Maximum length of a token; Atlas' own have about 1,000 bytes.
const MAX_TOKEN_BYTES: usize = 16 << 10;

/// An access token that outlives the process.
pub struct StoredToken {
    /// Identifies the service account: a hash of its client id.
    pub client_fingerprint: String,
    /// The token.
    pub token: SecretString,
    /// The expiry.
    pub expires_at: Timestamp,
}

/// Stores the access token, so that a crash loop does not request a new one at each start. Its methods log their errors.
pub trait TokenStore: Send + Sync {
    /// Returns the stored token.
    fn load(&self) -> BoxFuture<'_, Option<StoredToken>>;
    /// Replaces the stored token.
    fn save(&self, token: StoredToken) -> BoxFuture<'_, ()>;
    /// Removes the stored token, which is about to be revoked.
    fn clear(&self) -> BoxFuture<'_, ()>;
}

#[derive(Deserialize)]
pub(super) struct TokenResponse {
    pub(super) access_token: SecretString,
    token_type: Option<String>,
    #[serde(default)]
    expires_in: LenientCount,
}

impl TokenResponse {
    pub(super) fn lifetime(&self) -> Duration {
        let seconds = self.expires_in.0.unwrap_or(DEFAULT_LIFETIME_SECS).max(1);
        Duration::from_secs(seconds).min(MAX_LIFETIME)
    }
}

pub(super) fn parse_token_response(body: &[u8]) -> Result<TokenResponse, ErrorKind> {
    let invalid = |cause: &str| ErrorKind::InvalidResponse(cause.to_owned());
    let response: TokenResponse = serde_json::from_slice(body)
        // The message of serde could repeat a part of the response.
        .map_err(|_| invalid("expected a JSON object with access_token and expires_in"))?;
    let is_bearer = response
        .token_type
        .as_ref()
        .is_none_or(|token_type| token_type.eq_ignore_ascii_case("Bearer"));
    if !is_bearer {
        return Err(invalid("expected token_type Bearer, got another value"));
    }
    let token = response.access_token.expose_secret();
    if token.is_empty() {
        return Err(invalid("access_token is empty"));
    }
    if token.len() > MAX_TOKEN_BYTES {
        return Err(invalid("access_token is longer than 16 KiB"));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid(
            "access_token has characters that are not allowed in a header",
        ));
    }
    Ok(response)
}

/// Parses any bytes as a token response, for the fuzz target.
#[doc(hidden)]
pub fn fuzz_token_response(body: &[u8]) {
    if let Ok(response) = parse_token_response(body) {
        assert!(!response.access_token.expose_secret().is_empty());
        assert!(super::bearer_header(&response.access_token).is_ok());
    }
}

#[cfg(test)]
mod tests;
