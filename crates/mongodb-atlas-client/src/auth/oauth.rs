//! Service accounts: OAuth 2.0 client credentials. All requests share one token. One task
//! requests it while the others wait. The token is renewed before it expires, replaced once after a 401, and revoked at a
//! clean shutdown, because Atlas allows 100 valid tokens, and few new ones per minute.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request, Url};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use super::sensitive_header;
use super::token::{MAX_LIFETIME, StoredToken, TokenResponse, parse_token_response};
use crate::backoff::ExponentialBackoff;
use crate::client::{ClientConfig, ClientDeps};
use crate::credential::{SecretError, SecretSource, secrets_equal};
use crate::error::{Endpoint, Error, ErrorCode, ErrorKind};
use crate::ids::stable_hash;
use crate::observer::TokenOutcome;
use crate::transport::{ObservedTransport, Response};

/// Time before its expiry at which a token is renewed, or a tenth of its lifetime if that is shorter.
const REFRESH_MARGIN: Duration = Duration::from_mins(5);
/// Minimum time between two tokens, even with a short lifetime: Atlas allows few new ones per minute.
const MIN_RENEW_INTERVAL: Duration = Duration::from_secs(10);
/// Minimum time between two tokens that replace a rejected one.
const MIN_RENEW_AFTER_401_INTERVAL: Duration = Duration::from_mins(1);
/// Backoff of failed token requests. Jitter is not needed, because one task sends them.
const BACKOFF: ExponentialBackoff = ExponentialBackoff {
    initial: Duration::from_secs(1),
    max: Duration::from_mins(1),
    jitter: 1.0..1.0,
};

#[derive(Default)]
struct TokenState {
    active: Option<ActiveToken>,
    renewed_after_401: Option<Instant>,
    last_failure: Option<FailedAttempt>,
    store_loaded: bool,
}

struct ActiveToken {
    token: SecretString,
    renew_at: Instant,
    expires_at: Instant,
}

/// The last token request, which failed. Until `retry_at`, all callers get `error`.
struct FailedAttempt {
    retry_at: Instant,
    failures: u32,
    error: Error,
}

/// The access token of a service account.
pub(crate) struct TokenProvider {
    credential_name: Arc<str>,
    client_id: Arc<dyn SecretSource>,
    client_secret: Arc<dyn SecretSource>,
    base_url: Url,
    state: Mutex<TokenState>,
    deps: ClientDeps,
}

impl TokenProvider {
    pub(super) fn new(
        config: &ClientConfig,
        deps: ClientDeps,
        client_id: Arc<dyn SecretSource>,
        client_secret: Arc<dyn SecretSource>,
    ) -> Self {
        Self {
            credential_name: Arc::clone(&config.credential_name),
            client_id,
            client_secret,
            base_url: config.base_url.clone(),
            state: Mutex::default(),
            deps,
        }
    }

    /// Returns the current token, which is requested or renewed if necessary.
    pub(super) async fn current_token(
        &self,
        transport: &ObservedTransport,
    ) -> Result<SecretString, Error> {
        let mut state = self.state.lock().await;
        if !state.store_loaded {
            state.store_loaded = true;
            self.restore(&mut state).await;
        }
        let now = Instant::now();
        if let Some(active) = &state.active
            && now < active.renew_at
        {
            return Ok(active.token.clone());
        }
        let result = self.renew(transport, &mut state, now).await;
        match &state.active {
            Some(active) if now < active.expires_at => {
                if let Err(error) = result {
                    debug!(credential = &*self.credential_name, %error, "token renewal failed; using current token");
                }
                Ok(active.token.clone())
            }
            _ => result,
        }
    }

    /// Loads the token of an earlier process, if it is still valid.
    async fn restore(&self, state: &mut TokenState) {
        let Some(store) = &self.deps.token_store else {
            return;
        };
        let Some(stored) = store.load().await else {
            return;
        };
        let left = stored.expires_at.duration_since(self.deps.clock.now());
        let left = Duration::try_from(left).unwrap_or_default();
        let left = left.min(MAX_LIFETIME);
        let client_fingerprint = self.client_fingerprint().await.ok();
        if client_fingerprint.as_ref() != Some(&stored.client_fingerprint) || left <= REFRESH_MARGIN
        {
            return;
        }
        info!(credential = &*self.credential_name, expires_in = %humantime::format_duration(Duration::from_secs(left.as_secs())), "loaded stored access token");
        let observer = &self.deps.observer;
        observer.token_expiry_changed(&self.credential_name, stored.expires_at);
        let expires_at = Instant::now() + left;
        state.active = Some(ActiveToken {
            token: stored.token,
            renew_at: expires_at - REFRESH_MARGIN,
            expires_at,
        });
    }

    /// Reads the client id.
    pub(super) async fn client_id(&self) -> Result<SecretString, SecretError> {
        self.client_id.read().await
    }

    /// Returns a value that distinguishes service accounts without revealing their client id.
    async fn client_fingerprint(&self) -> Result<String, SecretError> {
        let id = self.client_id().await?;
        let token_url = Endpoint::Token.url(&self.base_url, &[]);
        let text = format!("{token_url} {}", id.expose_secret());
        Ok(format!("{:016x}", stable_hash(text.as_bytes(), 0)))
    }

    /// Requests a new token, unless the backoff of the last failed request has not ended.
    async fn renew(
        &self,
        transport: &ObservedTransport,
        state: &mut TokenState,
        now: Instant,
    ) -> Result<SecretString, Error> {
        let failures = match &state.last_failure {
            Some(failure) if now < failure.retry_at => return Err(failure.error.clone()),
            Some(failure) => failure.failures + 1,
            None => 1,
        };
        let mut retry_after = None;
        match self.issue(transport, &mut retry_after).await {
            Ok(response) => {
                let (token, lifetime) = (response.access_token.clone(), response.lifetime());
                let margin = REFRESH_MARGIN.min(lifetime / 10);
                // A token that expires earlier stays in use until a 401 replaces it, which is limited as well.
                let renew_in = lifetime.saturating_sub(margin).max(MIN_RENEW_INTERVAL);
                state.last_failure = None;
                state.active = Some(ActiveToken {
                    token: response.access_token,
                    renew_at: now + renew_in,
                    expires_at: now + lifetime,
                });
                Ok(token)
            }
            Err(error) => {
                let wait = BACKOFF.delay(failures).max(retry_after.unwrap_or_default());
                warn!(credential = &*self.credential_name, %error, reason = %error.kind.reason(), retry_in = %humantime::format_duration(wait), "access token request failed");
                state.last_failure = Some(FailedAttempt {
                    retry_at: now + wait,
                    failures,
                    error: error.clone(),
                });
                Err(error)
            }
        }
    }

    /// Requests a token, reports the outcome, and stores the token. `retry_after` is set to the wait that a response
    /// of any status requests.
    async fn issue(
        &self,
        transport: &ObservedTransport,
        retry_after: &mut Option<Duration>,
    ) -> Result<TokenResponse, Error> {
        let result = self.request_token(transport, retry_after).await;
        let outcome = match result.as_ref().map_err(|error| &error.kind) {
            Ok(_) => TokenOutcome::Issued,
            Err(
                ErrorKind::Unauthorized(_)
                | ErrorKind::Forbidden(_)
                | ErrorKind::TokenLimit
                | ErrorKind::Credential(_),
            ) => TokenOutcome::Refused,
            Err(ErrorKind::RateLimited { .. }) => TokenOutcome::RateLimited,
            Err(_) => TokenOutcome::Failed,
        };
        let (name, observer) = (&*self.credential_name, &self.deps.observer);
        observer.token_requested(name, outcome);
        let response = result?;
        let lifetime = response.lifetime();
        let signed = SignedDuration::try_from(lifetime).unwrap_or_default();
        if let Ok(expires_at) = self.deps.clock.now().saturating_add(signed) {
            observer.token_expiry_changed(name, expires_at);
            if let Some(store) = &self.deps.token_store
                && let Ok(client_fingerprint) = self.client_fingerprint().await
            {
                let token = response.access_token.clone();
                let stored = StoredToken {
                    client_fingerprint,
                    token,
                    expires_at,
                };
                store.save(stored).await;
            }
        }
        info!(credential = name, expires_in = %humantime::format_duration(lifetime), "access token issued");
        Ok(response)
    }

    async fn request_token(
        &self,
        transport: &ObservedTransport,
        retry_after: &mut Option<Duration>,
    ) -> Result<TokenResponse, Error> {
        let (endpoint, form) = (Endpoint::Token, "grant_type=client_credentials".to_owned());
        let response = self.post(transport, endpoint, form).await?;
        *retry_after = response.retry_after();
        let result = if response.is_token_limit() {
            Err(ErrorKind::TokenLimit)
        } else if response.is_client_rejected() {
            Err(ErrorKind::Unauthorized(ErrorCode::new("INVALID_CLIENT")))
        } else {
            let checked = response.check_json();
            checked.and_then(|()| parse_token_response(&response.body))
        };
        result.map_err(|kind| kind.with_endpoint(endpoint))
    }

    /// Sends `form` with the client id and secret.
    async fn post(
        &self,
        transport: &ObservedTransport,
        endpoint: Endpoint,
        form: String,
    ) -> Result<Response, Error> {
        let authorization = self.basic_authorization().await;
        let authorization = authorization.map_err(|kind| kind.with_endpoint(endpoint))?;
        let mut request = Request::new(Method::POST, endpoint.url(&self.base_url, &[]));
        let content_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, authorization);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, content_type);
        *request.body_mut() = Some(form.into());
        transport.send(endpoint, request).await
    }

    /// Returns the header with the client id and secret, each encoded as RFC 6749 §2.3.1 requires.
    async fn basic_authorization(&self) -> Result<HeaderValue, ErrorKind> {
        let id = form_encode(&self.client_id.read().await?);
        let secret = form_encode(&self.client_secret.read().await?);
        let pair = Zeroizing::new(format!("{}:{}", &*id, &*secret));
        let encoded = Zeroizing::new(STANDARD.encode(&*pair));
        sensitive_header(&Zeroizing::new(format!("Basic {}", &*encoded)))
    }

    /// Drops the current token, if it is the rejected one. Returns whether the request may be retried with another one.
    pub(super) async fn on_unauthorized(&self, rejected: &SecretString) -> bool {
        let mut state = self.state.lock().await;
        let active = state.active.as_ref();
        if !active.is_some_and(|active| secrets_equal(&active.token, rejected)) {
            // Another request was rejected earlier, so the token is already dropped or replaced.
            return true;
        }
        let now = Instant::now();
        let is_recent = |at: Instant| now < at + MIN_RENEW_AFTER_401_INTERVAL;
        if state.renewed_after_401.is_some_and(is_recent) {
            return false;
        }
        state.renewed_after_401 = Some(now);
        state.active = None;
        self.deps.observer.token_rejected(&self.credential_name);
        true
    }

    /// Handles a change of the client id or secret: the next request renews the token. The current one stays in use
    /// if the renewal fails.
    pub(super) async fn on_credential_changed(&self) {
        let mut state = self.state.lock().await;
        state.last_failure = None;
        state.renewed_after_401 = None;
        if let Some(active) = &mut state.active {
            active.renew_at = Instant::now();
        }
    }

    /// Revokes the token. Errors are only logged: the token expires anyway.
    pub(super) async fn revoke_token(&self, transport: &ObservedTransport) {
        let Some(active) = self.state.lock().await.active.take() else {
            return;
        };
        // Clear the store first, so that a concurrent start cannot load a token that is being revoked.
        if let Some(store) = &self.deps.token_store {
            store.clear().await;
        }
        let token = form_encode(&active.token);
        let form = format!("token={}&token_type_hint=access_token", &*token);
        let result = self.post(transport, Endpoint::Revoke, form).await;
        let credential = &*self.credential_name;
        let error = match result {
            Ok(response) if response.status.is_success() => {
                info!(credential, "released access token");
                return;
            }
            Ok(response) => format!("HTTP {}", response.status.as_u16()),
            Err(error) => error.to_string(),
        };
        warn!(credential, error, "failed to revoke access token");
    }
}

fn form_encode(secret: &SecretString) -> Zeroizing<String> {
    let bytes = secret.expose_secret().as_bytes();
    Zeroizing::new(url::form_urlencoded::byte_serialize(bytes).collect())
}

#[cfg(test)]
mod tests;
