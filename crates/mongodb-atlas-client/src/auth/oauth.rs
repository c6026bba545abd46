//! Service accounts: OAuth 2.0 client credentials. One token is shared by every request, made by
//! one task while the others wait, renewed ahead of its end, made anew once after a 401, and
//! given back on a clean stop: Atlas allows 100 live tokens and few new ones a minute.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use super::sensitive_header;
use crate::clock::Clock;
use crate::credential::{SecretError, SecretSource};
use crate::error::{Endpoint, Error, ErrorKind};
use crate::ids::stable_hash;
use crate::observer::{ClientObserver, TokenOutcome};
use crate::transport::{ObservedTransport, Response};
use crate::wire::LenientCount;

/// A token is renewed this long before its end, or a tenth of its life if that is shorter.
const REFRESH_MARGIN: Duration = Duration::from_mins(5);
/// What is believed of a token whose answer does not say how long it lives.
const DEFAULT_LIFETIME_SECS: u64 = 3600;
/// After a 401 a new token is made, but not more often than this.
const MIN_RENEW_AFTER_401_INTERVAL: Duration = Duration::from_mins(1);
/// The longest life that is believed of a token.
const MAX_LIFETIME: Duration = Duration::from_hours(24);
/// The shortest time between two tokens, however short-lived they are: Atlas allows few new ones a minute.
const MIN_RENEW_INTERVAL: Duration = Duration::from_secs(10);
/// The longest token that is accepted; Atlas' own have some 1,000 bytes.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// The longest pause after attempts to get a token that failed.
const MAX_BACKOFF: Duration = Duration::from_mins(1);

/// An access token that outlives the process.
pub struct StoredToken {
    /// Whom it was given to: not the client's id, but a number made of it.
    pub client_fingerprint: String,
    /// The token.
    pub token: SecretString,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Where the live access token is kept, so that a crash loop does not make a new one at each
/// start. Its methods block; what fails in them is told there.
pub trait TokenStore: Send + Sync {
    /// The token that was kept, if there is one.
    fn load(&self) -> BoxFuture<'_, Option<StoredToken>>;
    /// Keeps a token in the place of the one before.
    fn save(&self, token: StoredToken) -> BoxFuture<'_, ()>;
    /// Forgets it: it was given back.
    fn clear(&self) -> BoxFuture<'_, ()>;
}

#[derive(Default)]
struct TokenState {
    active: Option<ActiveToken>,
    generation: u64,
    renewed_after_401: Option<Instant>,
    last_failure: Option<FailedAttempt>,
    /// Whether the store has been looked into.
    store_loaded: bool,
}

struct ActiveToken {
    token: SecretString,
    renew_at: Instant,
    expires_at: Instant,
}

/// After a failed attempt nobody asks again before `until`; all who need a token get `error`.
struct FailedAttempt {
    retry_at: Instant,
    failures: u32,
    error: Error,
}

/// A service account and the one token that it has.
pub(crate) struct TokenProvider {
    credential_name: Arc<str>,
    client_id: Arc<dyn SecretSource>,
    client_secret: Arc<dyn SecretSource>,
    token_url: Url,
    revoke_url: Url,
    state: Mutex<TokenState>,
    store: Option<Arc<dyn TokenStore>>,
    observer: Arc<dyn ClientObserver>,
    clock: Clock,
}

#[derive(Deserialize)]
struct TokenResponse {
    access_token: SecretString,
    token_type: Option<String>,
    #[serde(default)]
    expires_in: LenientCount,
}

impl TokenProvider {
    pub(super) fn new(
        name: Arc<str>,
        id: Arc<dyn SecretSource>,
        secret: Arc<dyn SecretSource>,
        base: &Url,
        store: Option<Arc<dyn TokenStore>>,
        observer: Arc<dyn ClientObserver>,
        clock: Clock,
    ) -> Result<Self, String> {
        let join = |path: &str| base.join(path).map_err(|error| error.to_string());
        Ok(Self {
            credential_name: name,
            client_id: id,
            client_secret: secret,
            token_url: join("api/oauth/token")?,
            revoke_url: join("api/oauth/revoke")?,
            state: Mutex::default(),
            store,
            observer,
            clock,
        })
    }

    /// The token in use, made or renewed if need be, and its number.
    pub(super) async fn current_token(
        &self,
        line: &ObservedTransport,
    ) -> Result<(SecretString, u64), Error> {
        let mut tokens = self.state.lock().await;
        if !tokens.store_loaded {
            tokens.store_loaded = true;
            self.restore(&mut tokens).await;
        }
        let now = Instant::now();
        if let Some(live) = &tokens.active
            && now < live.renew_at
        {
            return Ok((live.token.clone(), tokens.generation));
        }
        match self.renew(line, &mut tokens, now).await {
            Ok(token) => Ok((token, tokens.generation)),
            Err(error) => match &tokens.active {
                Some(live) if now < live.expires_at => {
                    debug!(credential = &*self.credential_name, %error, "the token could not be renewed yet and is used on");
                    Ok((live.token.clone(), tokens.generation))
                }
                _ => Err(error),
            },
        }
    }

    /// Takes up the token that an earlier process has left, if it is still good.
    async fn restore(&self, tokens: &mut TokenState) {
        let Some(store) = &self.store else { return };
        let Some(kept) = store.load().await else {
            return;
        };
        let left = kept.expires_at.duration_since(self.clock.now());
        let left = Duration::try_from(left)
            .unwrap_or_default()
            .min(MAX_LIFETIME);
        if self.client_fingerprint().await.ok().as_ref() != Some(&kept.client_fingerprint)
            || left <= REFRESH_MARGIN
        {
            return;
        }
        info!(credential = &*self.credential_name, left = %humantime::format_duration(Duration::from_secs(left.as_secs())), "using the access token of an earlier start");
        self.observer
            .token_expiry_changed(&self.credential_name, kept.expires_at);
        let now = Instant::now();
        tokens.generation += 1;
        tokens.active = Some(ActiveToken {
            token: kept.token,
            renew_at: now + left.saturating_sub(REFRESH_MARGIN),
            expires_at: now + left,
        });
    }

    /// Tells one service account from another without saying which it is.
    async fn client_fingerprint(&self) -> Result<String, SecretError> {
        let id = self.client_id.read().await?;
        let whose = format!("{} {}", self.token_url, id.expose_secret());
        Ok(format!("{:016x}", stable_hash(whose.as_bytes(), 0)))
    }

    async fn renew(
        &self,
        line: &ObservedTransport,
        tokens: &mut TokenState,
        now: Instant,
    ) -> Result<SecretString, Error> {
        let failures = match &tokens.last_failure {
            Some(pause) if now < pause.retry_at => return Err(pause.error.clone()),
            Some(pause) => pause.failures,
            None => 0,
        };
        let mut retry_after = None;
        match self.issue(line, &mut retry_after).await {
            Ok((token, life)) => {
                let ahead = REFRESH_MARGIN.min(life / 10);
                // A token that ends sooner is used on: a 401 replaces it, which is bounded as well.
                let renew_in = life.saturating_sub(ahead).max(MIN_RENEW_INTERVAL);
                tokens.generation += 1;
                tokens.last_failure = None;
                tokens.active = Some(ActiveToken {
                    token: token.clone(),
                    renew_at: now + renew_in,
                    expires_at: now + life,
                });
                Ok(token)
            }
            Err(error) => {
                let backoff = Duration::from_secs(1 << failures.min(6)).min(MAX_BACKOFF);
                let pause = backoff.max(retry_after.unwrap_or_default());
                warn!(credential = &*self.credential_name, %error, reason = %error.kind.reason(), pause = %humantime::format_duration(pause), "no access token");
                tokens.last_failure = Some(FailedAttempt {
                    retry_at: now + pause,
                    failures: failures + 1,
                    error: error.clone(),
                });
                Err(error)
            }
        }
    }

    /// Gets a token; `retry_after` is what the response to a failed request asks to wait, whatever its status.
    async fn issue(
        &self,
        line: &ObservedTransport,
        retry_after: &mut Option<Duration>,
    ) -> Result<(SecretString, Duration), Error> {
        let minted = self.request_token(line, retry_after).await;
        let outcome = match &minted {
            Ok(_) => TokenOutcome::Issued,
            Err(error) => match error.kind {
                ErrorKind::Unauthorized(_)
                | ErrorKind::Forbidden(_)
                | ErrorKind::TokenLimit
                | ErrorKind::Credential(_) => TokenOutcome::Refused,
                ErrorKind::RateLimited { .. } => TokenOutcome::RateLimited,
                _ => TokenOutcome::Failed,
            },
        };
        self.observer
            .token_requested(&self.credential_name, outcome);
        let (token, life) = minted?;
        let ends = self
            .clock
            .now()
            .saturating_add(SignedDuration::try_from(life).unwrap_or_default());
        if let Ok(ends_at) = ends {
            self.observer
                .token_expiry_changed(&self.credential_name, ends_at);
            if let Some(store) = &self.store
                && let Ok(client) = self.client_fingerprint().await
            {
                let token = token.clone();
                let kept = StoredToken {
                    client_fingerprint: client,
                    token,
                    expires_at: ends_at,
                };
                store.save(kept).await;
            }
        }
        info!(credential = &*self.credential_name, life = %humantime::format_duration(life), "new access token");
        Ok((token, life))
    }

    async fn request_token(
        &self,
        line: &ObservedTransport,
        retry_after: &mut Option<Duration>,
    ) -> Result<(SecretString, Duration), Error> {
        let endpoint = Endpoint::Token;
        let problem = |problem: ErrorKind| problem.with_endpoint(endpoint);
        let request = self
            .form_request(&self.token_url, "grant_type=client_credentials".to_owned())
            .await
            .map_err(problem)?;
        let answer = line.send(endpoint, request).await?;
        *retry_after = answer.retry_after();
        if answer.is_token_limit() {
            return Err(problem(ErrorKind::TokenLimit));
        }
        if answer.is_client_rejected() {
            return Err(problem(ErrorKind::Unauthorized(crate::ErrorCode::new(
                "INVALID_CLIENT",
            ))));
        }
        let body: TokenResponse = parse_token_response(&answer).map_err(problem)?;
        let life = Duration::from_secs(body.expires_in.0.unwrap_or(DEFAULT_LIFETIME_SECS).max(1))
            .min(MAX_LIFETIME);
        Ok((body.access_token, life))
    }

    /// A form to be posted with the client's id and secret, each encoded as RFC 6749 §2.3.1 asks.
    async fn form_request(&self, url: &Url, body: String) -> Result<Request, ErrorKind> {
        let encode = |secret: &SecretString| -> Zeroizing<String> {
            Zeroizing::new(
                url::form_urlencoded::byte_serialize(secret.expose_secret().as_bytes()).collect(),
            )
        };
        let id = encode(&self.client_id.read().await?);
        let secret = encode(&self.client_secret.read().await?);
        let pair = Zeroizing::new(format!("{}:{}", &*id, &*secret));
        let basic = Zeroizing::new(format!(
            "Basic {}",
            &*Zeroizing::new(STANDARD.encode(&*pair))
        ));
        let mut request = Request::new(Method::POST, url.clone());
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, sensitive_header(&basic)?);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        *request.body_mut() = Some(body.into());
        Ok(request)
    }

    /// Told that token `generation` was refused: drops it, and says whether a new one may be made.
    pub(super) async fn on_unauthorized(&self, generation: u64) -> bool {
        let mut tokens = self.state.lock().await;
        if tokens.generation != generation {
            // another request was refused first, and there is a new token already
            return true;
        }
        let now = Instant::now();
        let recently = tokens
            .renewed_after_401
            .is_some_and(|at| now < at + MIN_RENEW_AFTER_401_INTERVAL);
        if recently {
            return false;
        }
        tokens.renewed_after_401 = Some(now);
        tokens.active = None;
        self.observer.token_rejected(&self.credential_name);
        true
    }

    /// Told that the client's id or secret has changed: a new token is made at the next request,
    /// and the one in hand serves on should that fail.
    pub(super) async fn on_credential_changed(&self) {
        let mut tokens = self.state.lock().await;
        tokens.last_failure = None;
        tokens.renewed_after_401 = None;
        if let Some(live) = &mut tokens.active {
            live.renew_at = Instant::now();
        }
    }

    /// Ends the token at Atlas. What goes wrong is only logged: the token ends by itself anyway.
    pub(super) async fn revoke(&self, line: &ObservedTransport) {
        let Some(live) = self.state.lock().await.active.take() else {
            return;
        };
        // first: a token that is being revoked is no token to take up
        if let Some(store) = &self.store {
            store.clear().await;
        }
        let token: String =
            url::form_urlencoded::byte_serialize(live.token.expose_secret().as_bytes()).collect();
        let body = format!("token={token}&token_type_hint=access_token");
        let sent = match self.form_request(&self.revoke_url, body).await {
            Ok(request) => line.send(Endpoint::Revoke, request).await,
            Err(problem) => Err(problem.with_endpoint(Endpoint::Revoke)),
        };
        match sent {
            Ok(answer) if answer.status.is_success() => {
                info!(credential = &*self.credential_name, "access token revoked");
            }
            Ok(answer) => {
                let status = answer.status.as_u16();
                warn!(
                    credential = &*self.credential_name,
                    status, "access token not revoked; it ends by itself"
                );
            }
            Err(error) => {
                warn!(credential = &*self.credential_name, %error, "access token not revoked; it ends by itself");
            }
        }
    }
}

fn parse_token_response(answer: &Response) -> Result<TokenResponse, ErrorKind> {
    parse_token_body(answer.json_body()?)
}

fn parse_token_body(body: &[u8]) -> Result<TokenResponse, ErrorKind> {
    let invalid =
        |what: &str| ErrorKind::InvalidResponse(format!("invalid token response: {what}"));
    let body: TokenResponse = serde_json::from_slice(body)
        // serde's own words could repeat a part of the answer
        .map_err(|_| invalid("expected a JSON object with access_token and expires_in"))?;
    let is_bearer = body
        .token_type
        .as_ref()
        .is_none_or(|token_type| token_type.eq_ignore_ascii_case("Bearer"));
    if !is_bearer {
        return Err(invalid("expected token_type Bearer, got another one"));
    }
    let token = body.access_token.expose_secret();
    if token.is_empty() {
        return Err(invalid("access_token is empty"));
    }
    if token.len() > MAX_TOKEN_BYTES {
        return Err(invalid("access_token is longer than 16 KiB"));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid("access_token has characters that fit no header"));
    }
    Ok(body)
}

/// What the fuzz target does with any bytes: parses them as a token response.
#[doc(hidden)]
pub fn fuzz_token_response(body: &[u8]) {
    if let Ok(body) = parse_token_body(body) {
        assert!(!body.access_token.expose_secret().is_empty());
        assert!(super::bearer_header(&body.access_token).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_token_response_is_rejected_without_echoing_it() {
        let json = |token: &str, more: &str| {
            format!("{{\"access_token\":{token},\"expires_in\":3600{more}}}")
        };
        for good in [
            json("\"aaa.bbb-._~+/=\"", ""),
            json("\"secret\"", ",\"token_type\":\"bearer\""),
            json("\"secret\"", ",\"token_type\":null,\"scope\":7"),
            "{\"access_token\":\"secret\"}".to_owned(),
        ] {
            assert!(parse_token_body(good.as_bytes()).is_ok(), "{good}");
        }
        let long = format!("\"secret{}\"", "x".repeat(1 << 20));
        for bad in [
            json("\"\"", ""),
            json("\" \"", ""),
            json("\"secret \"", ""),
            json("\"secret\\u0000\"", ""),
            json("\"secret\\t\"", ""),
            json("\"secret\\r\\nX: y\"", ""),
            json("\"secret\\u00e9\"", ""),
            json("\"\\ud83dsecret\"", ""),
            json(&long, ""),
            json("null", ""),
            json("7", ""),
            json("[\"secret\"]", ""),
            json("\"secret\"", ",\"token_type\":\"mac\""),
            json("\"secret\"", ",\"token_type\":\"\""),
            json("\"secret\"", ",\"token_type\":7"),
            json("\"secret\"", ",\"access_token\":\"secret\""),
            "[]".to_owned(),
            "\"secret\"".to_owned(),
            "secret".to_owned(),
            String::new(),
        ] {
            let shown = bad.get(..60).unwrap_or(&bad);
            let problem = parse_token_body(bad.as_bytes())
                .err()
                .unwrap_or_else(|| panic!("accepted: {shown}"));
            assert!(matches!(problem, ErrorKind::InvalidResponse(_)), "{shown}");
            assert!(!problem.to_string().contains("secret"), "{problem}");
        }
    }
}
