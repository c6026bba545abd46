//! The three ways to authenticate. A request asks for a [`Authorization`], is sent with it, and when it
//! is answered 401 the permit's maker says whether to try again.

mod digest;
mod oauth;

use std::sync::Arc;

pub use oauth::{StoredToken, TokenStore, fuzz_token_response};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use secrecy::{ExposeSecret as _, SecretString};

use super::error::{Endpoint, Error, ErrorKind};
use super::observer::{ClientObserver, RetryReason};
use super::transport::ObservedTransport;
use crate::clock::Clock;
use crate::credential::{Credential, SecretSource, secrets_equal};

/// How one credential authenticates; shared by all its requests.
pub(super) enum Authenticator {
    ServiceAccount(Box<oauth::TokenProvider>),
    Digest(digest::DigestAuth),
    AccessToken(Arc<dyn SecretSource>),
}

/// What a request is sent with.
pub(super) enum Authorization<'a> {
    /// The service account's token, and which one it was.
    Token(SecretString, u64),
    /// A Digest answer, with the nonce in hand until the server has seen it.
    Digest(digest::DigestAttempt<'a>),
    /// The ready token as it was read.
    StaticToken(SecretString),
}

impl Authenticator {
    pub(super) fn new(
        name: &Arc<str>,
        credential: Credential,
        base: &Url,
        store: Option<Arc<dyn TokenStore>>,
        observer: Arc<dyn ClientObserver>,
        clock: Clock,
    ) -> Result<Self, String> {
        Ok(match credential {
            Credential::ServiceAccount { id, secret } => {
                let name = Arc::clone(name);
                let account =
                    oauth::TokenProvider::new(name, id, secret, base, store, observer, clock)?;
                Self::ServiceAccount(Box::new(account))
            }
            Credential::ApiKey { public, private } => {
                Self::Digest(digest::DigestAuth::new(public, private))
            }
            Credential::AccessToken { token } => Self::AccessToken(token),
        })
    }

    /// What the next request to `url` may be sent with.
    ///
    /// # Errors
    /// When there is no credential to be had: a file that is gone, a token that is not given out.
    pub(super) async fn authorize(
        &self,
        line: &ObservedTransport,
        endpoint: Endpoint,
        method: &Method,
        url: &Url,
    ) -> Result<Authorization<'_>, Error> {
        match self {
            Self::ServiceAccount(account) => account
                .current_token(line)
                .await
                .map(|(token, generation)| Authorization::Token(token, generation)),
            Self::Digest(key) => key
                .begin(method, url)
                .await
                .map(Authorization::Digest)
                .map_err(|problem| problem.with_endpoint(endpoint)),
            Self::AccessToken(source) => source
                .read()
                .await
                .map(Authorization::StaticToken)
                .map_err(|error| ErrorKind::from(error).with_endpoint(endpoint)),
        }
    }

    /// Told of a 401: whether to ask for another permit and send the request again, and why.
    pub(super) async fn on_unauthorized(
        &self,
        permit: Authorization<'_>,
        headers: &HeaderMap,
    ) -> Option<RetryReason> {
        match (self, permit) {
            (Self::ServiceAccount(account), Authorization::Token(_, generation)) => account
                .on_unauthorized(generation)
                .await
                .then_some(RetryReason::Unauthorized),
            (_, Authorization::Digest(turn)) => turn
                .on_unauthorized(headers)
                .then_some(RetryReason::Challenge),
            (Self::AccessToken(source), Authorization::StaticToken(old)) => {
                let rotated = source
                    .read()
                    .await
                    .is_ok_and(|new| !secrets_equal(&old, &new));
                rotated.then_some(RetryReason::Unauthorized)
            }
            _ => None,
        }
    }

    /// Told that a file of the credential has changed.
    pub(super) async fn on_credential_changed(&self) {
        match self {
            Self::ServiceAccount(account) => account.on_credential_changed().await,
            // these read their files at each request
            Self::Digest(_) | Self::AccessToken(_) => {}
        }
    }

    /// Gives back what Atlas counts: the live access token.
    pub(super) async fn revoke_token(&self, line: &ObservedTransport) {
        if let Self::ServiceAccount(account) = self {
            account.revoke(line).await;
        }
    }
}

impl Authorization<'_> {
    /// The `Authorization` header, if the first request is not to be sent without one to get a
    /// challenge.
    pub(super) fn header(&self) -> Result<Option<HeaderValue>, ErrorKind> {
        match self {
            Self::Token(token, _) | Self::StaticToken(token) => bearer_header(token).map(Some),
            Self::Digest(turn) => Ok(turn.header()),
        }
    }
}

/// What the fuzz target does with any bytes: parses them as a `WWW-Authenticate` header.
#[doc(hidden)]
pub fn fuzz_www_authenticate(header: &[u8]) {
    let value = HeaderValue::from_bytes(header).ok();
    let client = value.and_then(|value| digest::parse_digest_challenge(value.to_str().ok()?));
    let Some(mut client) = client else {
        return;
    };
    let params = http_auth::PasswordParams {
        username: "user",
        password: "password",
        uri: "/",
        method: "GET",
        body: None,
    };
    if let Ok(answer) = client.respond(&params) {
        assert!(sensitive_header(&answer).is_ok());
        assert!(client.rfc2069_compat() || answer.contains("qop=auth,"));
    }
}

/// A header that no `Debug` output shows.
fn sensitive_header(value: &str) -> Result<HeaderValue, ErrorKind> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| ErrorKind::InvalidResponse("a credential that fits no header".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn bearer_header(token: &SecretString) -> Result<HeaderValue, ErrorKind> {
    sensitive_header(&zeroize::Zeroizing::new(format!(
        "Bearer {}",
        token.expose_secret()
    )))
}
