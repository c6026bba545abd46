//! The three ways to authenticate. A request asks for a [`Permit`], is sent with it, and when it
//! is answered 401 the permit's maker says whether to try again.

mod digest;
mod oauth;

use std::sync::Arc;

pub use oauth::{KeptToken, TokenStore, fuzz_token_response};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use secrecy::{ExposeSecret as _, SecretString};

use super::error::{Endpoint, Error, Problem};
use super::observer::{Observer, Retry};
use super::transport::Line;
use crate::clock::Clock;
use crate::credential::{Credential, SecretSource, secrets_equal};

/// How one credential authenticates; shared by all its requests.
pub(super) enum Auth {
    ServiceAccount(Box<oauth::ServiceAccount>),
    ApiKey(digest::ApiKey),
    AccessToken(Arc<dyn SecretSource>),
}

/// What a request is sent with.
pub(super) enum Permit<'a> {
    /// The service account's token, and which one it was.
    Token(SecretString, u64),
    /// A Digest answer, with the nonce in hand until the server has seen it.
    Digest(digest::Turn<'a>),
    /// The ready token as it was read.
    Ready(SecretString),
}

impl Auth {
    pub(super) fn new(
        name: &Arc<str>,
        credential: Credential,
        base: &Url,
        store: Option<Arc<dyn TokenStore>>,
        observer: Arc<dyn Observer>,
        clock: Clock,
    ) -> Result<Self, String> {
        Ok(match credential {
            Credential::ServiceAccount { id, secret } => {
                let name = Arc::clone(name);
                let account =
                    oauth::ServiceAccount::new(name, id, secret, base, store, observer, clock)?;
                Self::ServiceAccount(Box::new(account))
            }
            Credential::ApiKey { public, private } => {
                Self::ApiKey(digest::ApiKey::new(public, private))
            }
            Credential::AccessToken { token } => Self::AccessToken(token),
        })
    }

    /// What the next request to `url` may be sent with.
    ///
    /// # Errors
    /// When there is no credential to be had: a file that is gone, a token that is not given out.
    pub(super) async fn permit(
        &self,
        line: &Line,
        endpoint: Endpoint,
        method: &Method,
        url: &Url,
    ) -> Result<Permit<'_>, Error> {
        match self {
            Self::ServiceAccount(account) => account
                .token(line)
                .await
                .map(|(token, generation)| Permit::Token(token, generation)),
            Self::ApiKey(key) => key
                .turn(method, url)
                .await
                .map(Permit::Digest)
                .map_err(|problem| problem.at(endpoint)),
            Self::AccessToken(source) => source
                .read()
                .await
                .map(Permit::Ready)
                .map_err(|error| Problem::from(error).at(endpoint)),
        }
    }

    /// Told of a 401: whether to ask for another permit and send the request again, and why.
    pub(super) async fn refused(&self, permit: Permit<'_>, headers: &HeaderMap) -> Option<Retry> {
        match (self, permit) {
            (Self::ServiceAccount(account), Permit::Token(_, generation)) => account
                .refused(generation)
                .await
                .then_some(Retry::Unauthorized),
            (_, Permit::Digest(turn)) => turn.refused(headers).then_some(Retry::Challenge),
            (Self::AccessToken(source), Permit::Ready(old)) => {
                let rotated = source
                    .read()
                    .await
                    .is_ok_and(|new| !secrets_equal(&old, &new));
                rotated.then_some(Retry::Unauthorized)
            }
            _ => None,
        }
    }

    /// Told that a file of the credential has changed.
    pub(super) async fn changed(&self) {
        match self {
            Self::ServiceAccount(account) => account.changed().await,
            // these read their files at each request
            Self::ApiKey(_) | Self::AccessToken(_) => {}
        }
    }

    /// Gives back what Atlas counts: the live access token.
    pub(super) async fn close(&self, line: &Line) {
        if let Self::ServiceAccount(account) = self {
            account.revoke(line).await;
        }
    }
}

impl Permit<'_> {
    /// The `Authorization` header, if the first request is not to be sent without one to get a
    /// challenge.
    pub(super) fn header(&self) -> Result<Option<HeaderValue>, Problem> {
        match self {
            Self::Token(token, _) | Self::Ready(token) => bearer(token).map(Some),
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
        assert!(sensitive(&answer).is_ok());
        assert!(client.rfc2069_compat() || answer.contains("qop=auth,"));
    }
}

/// A header that no `Debug` output shows.
fn sensitive(value: &str) -> Result<HeaderValue, Problem> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| Problem::Invalid("a credential that fits no header".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn bearer(token: &SecretString) -> Result<HeaderValue, Problem> {
    sensitive(&zeroize::Zeroizing::new(format!(
        "Bearer {}",
        token.expose_secret()
    )))
}
