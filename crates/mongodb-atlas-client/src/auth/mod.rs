//! The three ways to authenticate. Each request is sent with an [`Authorization`]; after a response with status 401, the
//! [`Authenticator`] decides whether to retry the request.

mod digest;
mod oauth;
mod token;

use std::sync::Arc;

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

pub use token::{StoredToken, TokenStore, fuzz_token_response};

use crate::client::{ClientConfig, ClientDeps};
use crate::credential::{Credential, SecretError, SecretSource, secrets_equal};
use crate::error::{Endpoint, Error, ErrorKind};
use crate::observer::RetryReason;
use crate::transport::ObservedTransport;

/// The authentication of one credential, shared by all its requests.
pub(crate) enum Authenticator {
    ServiceAccount(Box<oauth::TokenProvider>),
    Digest(digest::DigestAuth),
    AccessToken(Arc<dyn SecretSource>),
}

/// The authorization of one request.
pub(crate) enum Authorization<'a> {
    /// A Digest response. Holds the nonce until the server has received the request.
    Digest(digest::DigestAttempt<'a>),
    /// A token, of the service account or as configured.
    Token(SecretString),
}

impl Authenticator {
    pub(crate) fn new(config: &ClientConfig, deps: &ClientDeps) -> Self {
        match config.credential.clone() {
            Credential::ServiceAccount { id, secret } => Self::ServiceAccount(Box::new(
                oauth::TokenProvider::new(config, deps.clone(), id, secret),
            )),
            Credential::ApiKey { public, private } => {
                Self::Digest(digest::DigestAuth::new(public, private))
            }
            Credential::AccessToken { token } => Self::AccessToken(token),
        }
    }

    /// Returns the authorization of the next request to `url`.
    ///
    /// # Errors
    /// Returns an error if the credential cannot be read, or no token can be obtained.
    pub(crate) async fn authorize(
        &self,
        transport: &ObservedTransport,
        endpoint: Endpoint,
        method: &Method,
        url: &Url,
    ) -> Result<Authorization<'_>, Error> {
        let error = |kind: ErrorKind| kind.with_endpoint(endpoint);
        Ok(match self {
            Self::ServiceAccount(provider) => {
                Authorization::Token(provider.current_token(transport).await?)
            }
            Self::Digest(auth) => {
                Authorization::Digest(auth.begin(method, url).await.map_err(error)?)
            }
            Self::AccessToken(source) => {
                let token = source.read().await.map_err(ErrorKind::from);
                Authorization::Token(token.map_err(error)?)
            }
        })
    }

    /// Reads the client id of the service account; `None` for another kind of credential.
    ///
    /// # Errors
    /// Returns an error if the client id cannot be read.
    pub(crate) async fn client_id(&self) -> Result<Option<SecretString>, SecretError> {
        match self {
            Self::ServiceAccount(provider) => provider.client_id().await.map(Some),
            Self::Digest(_) | Self::AccessToken(_) => Ok(None),
        }
    }

    /// Handles a response with status 401. Returns the reason to retry the request with a new authorization, if
    /// there is one.
    pub(crate) async fn on_unauthorized(
        &self,
        rejected: Authorization<'_>,
        headers: &HeaderMap,
    ) -> Option<RetryReason> {
        let old = match rejected {
            Authorization::Digest(attempt) => {
                let can_succeed = attempt.on_unauthorized(headers);
                return can_succeed.then_some(RetryReason::Challenge);
            }
            Authorization::Token(token) => token,
        };
        let is_renewed = match self {
            Self::ServiceAccount(provider) => provider.on_unauthorized(&old).await,
            Self::AccessToken(source) => {
                let new = source.read().await;
                new.is_ok_and(|new| !secrets_equal(&old, &new))
            }
            Self::Digest(_) => false,
        };
        is_renewed.then_some(RetryReason::Unauthorized)
    }

    /// Handles a change of the credential's files. Only a service account has state that depends on them.
    pub(crate) async fn on_credential_changed(&self) {
        if let Self::ServiceAccount(provider) = self {
            provider.on_credential_changed().await;
        }
    }

    /// Revokes the access token: Atlas limits the number of valid ones.
    pub(crate) async fn revoke_token(&self, transport: &ObservedTransport) {
        if let Self::ServiceAccount(provider) = self {
            provider.revoke_token(transport).await;
        }
    }
}

impl Authorization<'_> {
    /// Returns the `Authorization` header. The first request with Digest has none, because its response has the challenge.
    pub(crate) fn header(&self) -> Result<Option<HeaderValue>, ErrorKind> {
        match self {
            Self::Token(token) => bearer_header(token).map(Some),
            Self::Digest(attempt) => Ok(attempt.header()),
        }
    }
}

/// Parses any bytes as a `WWW-Authenticate` header, for the fuzz target.
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
    if let Ok(response) = client.respond(&params) {
        assert!(sensitive_header(&response).is_ok());
        assert!(client.rfc2069_compat() || response.contains("qop=auth,"));
    }
}

/// Returns a header value that `Debug` output does not show.
fn sensitive_header(value: &str) -> Result<HeaderValue, ErrorKind> {
    let mut value = HeaderValue::from_str(value).map_err(|_| {
        ErrorKind::InvalidResponse(
            "the credential has characters that are not allowed in a header".to_owned(),
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn bearer_header(token: &SecretString) -> Result<HeaderValue, ErrorKind> {
    let value = Zeroizing::new(format!("Bearer {}", token.expose_secret()));
    sensitive_header(&value)
}
