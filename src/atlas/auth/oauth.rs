//! Service accounts: OAuth 2.0 client credentials. One token is shared by every request, made by
//! one task while the others wait, renewed ahead of its end, made anew once after a 401, and
//! given back on a clean stop: Atlas allows 100 live tokens and few new ones a minute.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Request, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use super::sensitive;
use crate::atlas::error::{Endpoint, Error, Problem};
use crate::atlas::observer::{Observer, TokenOutcome};
use crate::atlas::transport::{Answer, Transport};
use crate::clock::Clock;
use crate::credentials::Source;

/// A token is renewed this long before its end, or a tenth of its life if that is shorter.
const RENEW_AHEAD: Duration = Duration::from_secs(300);
/// What is believed of a token whose answer does not say how long it lives.
const USUAL_LIFE: u64 = 3600;
/// After a 401 a new token is made, but not more often than this.
const RENEW_AFTER_401_EVERY: Duration = Duration::from_secs(60);
/// The longest pause after attempts to get a token that failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

pub(super) struct Tokens {
    live: Option<Live>,
    generation: u64,
    renewed_after_401: Option<Instant>,
    pause: Option<Pause>,
}

struct Live {
    token: SecretString,
    renew_at: Instant,
    ends_at: Instant,
}

/// After a failed attempt nobody asks again before `until`; all who need a token get `error`.
struct Pause {
    until: Instant,
    failures: u32,
    error: Error,
}

/// A service account and the one token that it has.
pub(in crate::atlas) struct ServiceAccount {
    name: String,
    id: Source,
    secret: Source,
    token_url: Url,
    revoke_url: Url,
    tokens: Mutex<Tokens>,
    observer: Arc<dyn Observer>,
    clock: Clock,
}

#[derive(Deserialize)]
struct TokenBody {
    access_token: SecretString,
    expires_in: Option<u64>,
}

impl ServiceAccount {
    pub(super) fn new(
        name: String,
        id: Source,
        secret: Source,
        base: &Url,
        observer: Arc<dyn Observer>,
        clock: Clock,
    ) -> Result<Self, String> {
        let join = |path: &str| base.join(path).map_err(|error| error.to_string());
        Ok(Self {
            name,
            id,
            secret,
            token_url: join("api/oauth/token")?,
            revoke_url: join("api/oauth/revoke")?,
            tokens: Mutex::new(Tokens {
                live: None,
                generation: 0,
                renewed_after_401: None,
                pause: None,
            }),
            observer,
            clock,
        })
    }

    /// The token in use, made or renewed if need be, and its number.
    pub(super) async fn token(&self, transport: &Transport) -> Result<(SecretString, u64), Error> {
        let mut tokens = self.tokens.lock().await;
        let now = Instant::now();
        if let Some(live) = &tokens.live
            && now < live.renew_at
        {
            return Ok((live.token.clone(), tokens.generation));
        }
        match self.renew(transport, &mut tokens, now).await {
            Ok(token) => Ok((token, tokens.generation)),
            Err(error) => match &tokens.live {
                Some(live) if now < live.ends_at => {
                    debug!(credential = self.name, %error, "the token could not be renewed yet and is used on");
                    Ok((live.token.clone(), tokens.generation))
                }
                _ => Err(error),
            },
        }
    }

    async fn renew(
        &self,
        transport: &Transport,
        tokens: &mut Tokens,
        now: Instant,
    ) -> Result<SecretString, Error> {
        let failures = match &tokens.pause {
            Some(pause) if now < pause.until => return Err(pause.error.clone()),
            Some(pause) => pause.failures,
            None => 0,
        };
        match self.mint(transport).await {
            Ok((token, life)) => {
                let ahead = RENEW_AHEAD.min(life / 10);
                tokens.generation += 1;
                tokens.pause = None;
                tokens.live = Some(Live {
                    token: token.clone(),
                    renew_at: now + life.saturating_sub(ahead),
                    ends_at: now + life,
                });
                Ok(token)
            }
            Err(error) => {
                let backoff = Duration::from_secs(1 << failures.min(6)).min(LONGEST_PAUSE);
                let pause = backoff.max(error.problem.retry_after().unwrap_or_default());
                warn!(credential = self.name, %error, reason = %error.problem.reason(), pause = %humantime::format_duration(pause), "no access token");
                tokens.pause = Some(Pause {
                    until: now + pause,
                    failures: failures + 1,
                    error: error.clone(),
                });
                Err(error)
            }
        }
    }

    async fn mint(&self, transport: &Transport) -> Result<(SecretString, Duration), Error> {
        let minted = self.ask_for_token(transport).await;
        let outcome = match &minted {
            Ok(_) => TokenOutcome::Issued,
            Err(error) => match error.problem {
                Problem::Unauthorized(_)
                | Problem::Forbidden(_)
                | Problem::TokenLimit
                | Problem::Credential(_) => TokenOutcome::Refused,
                Problem::RateLimited { .. } => TokenOutcome::RateLimited,
                _ => TokenOutcome::Failed,
            },
        };
        self.observer.token(&self.name, outcome);
        let (token, life) = minted?;
        let ends = self
            .clock
            .now()
            .saturating_add(SignedDuration::try_from(life).unwrap_or_default());
        if let Ok(ends) = ends {
            self.observer.token_ends(&self.name, ends);
        }
        info!(credential = self.name, life = %humantime::format_duration(life), "new access token");
        Ok((token, life))
    }

    async fn ask_for_token(
        &self,
        transport: &Transport,
    ) -> Result<(SecretString, Duration), Error> {
        let endpoint = Endpoint::Token;
        let problem = |problem: Problem| problem.at(endpoint);
        let request = self
            .form(
                transport,
                &self.token_url,
                "grant_type=client_credentials".to_owned(),
            )
            .map_err(problem)?;
        let answer = transport.send(endpoint, request).await?;
        if answer.is_token_limit() {
            return Err(problem(Problem::TokenLimit));
        }
        // RFC 6749 §5.2: a wrong client may be told so with 400 as well
        if answer.status == reqwest::StatusCode::BAD_REQUEST {
            return Err(problem(Problem::Unauthorized(
                crate::atlas::ErrorCode::new("INVALID_CLIENT"),
            )));
        }
        let body: TokenBody = parse(&answer).map_err(problem)?;
        let life = Duration::from_secs(body.expires_in.unwrap_or(USUAL_LIFE).clamp(1, 86_400));
        Ok((body.access_token, life))
    }

    /// A form to be posted with the client's id and secret, each encoded as RFC 6749 §2.3.1 asks.
    fn form(&self, transport: &Transport, url: &Url, body: String) -> Result<Request, Problem> {
        let encode = |secret: &SecretString| -> Zeroizing<String> {
            Zeroizing::new(
                url::form_urlencoded::byte_serialize(secret.expose_secret().as_bytes()).collect(),
            )
        };
        let (id, secret) = (self.id.read()?, self.secret.read()?);
        let mut request = transport
            .http()
            .post(url.clone())
            .basic_auth(encode(&id).as_str(), Some(encode(&secret).as_str()))
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .header(
                CONTENT_TYPE,
                HeaderValue::from_static("application/x-www-form-urlencoded"),
            )
            .body(body)
            .build()
            .map_err(|error| Problem::Invalid(error.without_url().to_string()))?;
        if let Some(value) = request.headers_mut().get_mut(AUTHORIZATION) {
            value.set_sensitive(true);
        }
        Ok(request)
    }

    /// Told that token `generation` was refused: drops it, and says whether a new one may be made.
    pub(super) async fn refused(&self, generation: u64) -> bool {
        let mut tokens = self.tokens.lock().await;
        if tokens.generation != generation {
            // another request was refused first, and there is a new token already
            return true;
        }
        let now = Instant::now();
        let recently = tokens
            .renewed_after_401
            .is_some_and(|at| now < at + RENEW_AFTER_401_EVERY);
        if recently {
            return false;
        }
        tokens.renewed_after_401 = Some(now);
        tokens.live = None;
        true
    }

    /// Ends the token at Atlas. What goes wrong is only logged: the token ends by itself anyway.
    pub(super) async fn revoke(&self, transport: &Transport) {
        let Some(live) = self.tokens.lock().await.live.take() else {
            return;
        };
        let token: String =
            url::form_urlencoded::byte_serialize(live.token.expose_secret().as_bytes()).collect();
        let body = format!("token={token}&token_type_hint=access_token");
        let sent = match self.form(transport, &self.revoke_url, body) {
            Ok(request) => transport.send(Endpoint::Revoke, request).await,
            Err(problem) => Err(problem.at(Endpoint::Revoke)),
        };
        match sent {
            Ok(answer) if answer.status.is_success() => {
                info!(credential = self.name, "access token revoked");
            }
            Ok(answer) => {
                let status = answer.status.as_u16();
                warn!(
                    credential = self.name,
                    status, "access token not revoked; it ends by itself"
                );
            }
            Err(error) => {
                warn!(credential = self.name, %error, "access token not revoked; it ends by itself");
            }
        }
    }
}

fn parse(answer: &Answer) -> Result<TokenBody, Problem> {
    let body: TokenBody = serde_json::from_slice(answer.json()?)
        // serde's own words could repeat a part of the answer
        .map_err(|_| {
            Problem::Invalid("it is no token answer (access_token, expires_in)".to_owned())
        })?;
    // a token that fits no header is refused here, where its length may still be told
    sensitive(body.access_token.expose_secret())?;
    Ok(body)
}
