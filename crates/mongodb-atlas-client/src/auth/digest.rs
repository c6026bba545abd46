//! Programmatic API keys: HTTP Digest. A challenge costs one request; its nonce is then used with an increasing count as
//! long as the server accepts it.

use std::sync::Arc;

use http_auth::parser::ChallengeParser;
use http_auth::{ChallengeRef, DigestClient, ParamValue, PasswordParams};
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Url};
use secrecy::ExposeSecret as _;
use tokio::sync::{Mutex, MutexGuard};

use super::sensitive_header;
use crate::credential::SecretSource;
use crate::error::ErrorKind;

/// Maximum length of a `WWW-Authenticate` header; Atlas' own has about 150 bytes.
const MAX_CHALLENGE_BYTES: usize = 16 << 10;
/// Maximum number of offsets in a header at which a challenge is searched.
const MAX_CHALLENGE_OFFSETS: usize = 16;

/// A programmatic API key, and the current challenge.
///
/// Requests are sent one at a time: a server may reject a count that is lower than one it has seen, and concurrent
/// requests can arrive in any order.
pub(crate) struct DigestAuth {
    public_key: Arc<dyn SecretSource>,
    private_key: Arc<dyn SecretSource>,
    challenge: Mutex<Option<DigestClient>>,
}

/// One request, which holds the challenge until its response is received.
pub(crate) struct DigestAttempt<'a> {
    challenge: MutexGuard<'a, Option<DigestClient>>,
    header: Option<HeaderValue>,
}

impl DigestAuth {
    pub(super) fn new(
        public_key: Arc<dyn SecretSource>,
        private_key: Arc<dyn SecretSource>,
    ) -> Self {
        Self {
            public_key,
            private_key,
            challenge: Mutex::new(None),
        }
    }

    /// Waits for the previous request, and responds to the current challenge.
    pub(super) async fn begin(
        &self,
        method: &Method,
        url: &Url,
    ) -> Result<DigestAttempt<'_>, ErrorKind> {
        let mut challenge = self.challenge.lock().await;
        let Some(client) = challenge.as_mut() else {
            return Ok(DigestAttempt {
                challenge,
                header: None,
            });
        };
        let public_key = self.public_key.read().await?;
        let private_key = self.private_key.read().await?;
        let uri = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let response = client.respond(&PasswordParams {
            username: public_key.expose_secret(),
            password: private_key.expose_secret(),
            uri: &uri,
            method: method.as_str(),
            // Without a body the crate chooses `auth`, as curl does. Its `auth-int` is
            // incorrect: it uses the body, where RFC 7616 requires the body's hash.
            body: None,
        });
        let response = response.map_err(|cause| {
            // The next request gets another challenge: the server may be fixed by then, or the nonce may be used up.
            *challenge = None;
            ErrorKind::InvalidResponse(format!("unsupported Digest challenge: {cause}"))
        })?;
        let header = Some(sensitive_header(&response)?);
        Ok(DigestAttempt { challenge, header })
    }
}

impl DigestAttempt<'_> {
    pub(super) fn header(&self) -> Option<HeaderValue> {
        self.header.clone()
    }

    /// Takes the challenge of a response with status 401, and returns whether another attempt can succeed.
    pub(super) fn on_unauthorized(mut self, headers: &HeaderMap) -> bool {
        // A new nonce that was rejected and is not stale means that the key itself is invalid.
        let old = self.challenge.take();
        let is_key_invalid = old.is_some_and(|client| client.nonce_count() <= 1);
        *self.challenge = headers
            .get_all(WWW_AUTHENTICATE)
            .into_iter()
            .find_map(|value| parse_digest_challenge(value.to_str().ok()?));
        let new = self.challenge.as_ref();
        new.is_some_and(|new| new.stale() || !is_key_invalid)
    }
}

/// Returns the first supported Digest challenge in a `WWW-Authenticate` header. A header can have several schemes and
/// several Digest challenges, in the server's order of preference.
pub(crate) fn parse_digest_challenge(header: &str) -> Option<DigestClient> {
    if header.len() > MAX_CHALLENGE_BYTES {
        return None;
    }
    // The parser stops at the first scheme without a list of parameters, such as `Negotiate` with its token. A Digest
    // challenge after it is found by its name.
    let by_name = header.match_indices(['d', 'D']).filter(|(at, _)| {
        let before = header.get(..*at).unwrap_or_default().trim_end();
        let name = header.get(*at..at + 7);
        before.ends_with(',') && name.is_some_and(|name| name.eq_ignore_ascii_case("digest "))
    });
    std::iter::once(0)
        .chain(by_name.map(|(at, _)| at))
        .take(MAX_CHALLENGE_OFFSETS)
        .filter_map(|at| header.get(at..))
        .find_map(|rest| {
            ChallengeParser::new(rest)
                .map_while(Result::ok)
                .find_map(to_digest_client)
        })
}

/// Converts a challenge to the form that the crate accepts: algorithms in one spelling, and no empty `qop`.
fn to_digest_client(mut challenge: ChallengeRef<'_>) -> Option<DigestClient> {
    const ALGORITHMS: [&str; 6] = [
        "MD5",
        "MD5-sess",
        "SHA-256",
        "SHA-256-sess",
        "SHA-512-256",
        "SHA-512-256-sess",
    ];
    challenge.params.retain(|(name, value)| {
        !name.eq_ignore_ascii_case("qop") || !value.as_escaped().trim().is_empty()
    });
    for (name, value) in &mut challenge.params {
        let known = ALGORITHMS
            .iter()
            .find(|known| known.eq_ignore_ascii_case(value.as_escaped()));
        if name.eq_ignore_ascii_case("algorithm")
            && let Some(known) = known
        {
            *value = ParamValue::try_from_escaped(known).ok()?;
        }
    }
    DigestClient::try_from(&challenge).ok()
}

#[cfg(test)]
mod tests;
