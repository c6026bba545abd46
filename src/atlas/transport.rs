//! The HTTP client: what it sends along, how long it waits, and how much it takes in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Request, StatusCode, Url, redirect};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::error::{Endpoint, Error, ErrorCode, Problem};
use super::observer::{Observer, Outcome};

/// Most bytes of an answer that are taken in, unpacked. A page of 500 keys has some 300 kB.
const MAX_BODY: usize = 64 << 20;

/// Sends requests for one credential. Connections are kept and reused between walks.
pub(super) struct Transport {
    http: reqwest::Client,
    timeout: Duration,
    observer: Arc<dyn Observer>,
}

/// An answer, whatever its status.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Wiped when dropped: an answer can hold a key's full secret, or an access token.
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Transport {
    /// Makes the client for `base`.
    ///
    /// # Errors
    /// What the TLS library says when it cannot be set up, most likely for want of system roots.
    pub(super) fn new(
        base: &Url,
        timeout: Duration,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, String> {
        // one provider for the whole process; a second call finds it set, which is what is wanted
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!(
                "atlas-ai-keys-exporter/",
                env!("CARGO_PKG_VERSION")
            ))
            .redirect(redirect::Policy::none())
            .timeout(timeout)
            .pool_max_idle_per_host(4)
            .tcp_nodelay(true)
            .referer(false);
        if base.scheme() == "http" {
            // plain text is for loopback only: no proxy may see it
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| chain(&error))?;
        Ok(Self {
            http,
            timeout,
            observer,
        })
    }

    /// A request to build upon.
    pub(super) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Sends `request` and reads its whole answer. Cancelled safely at any moment.
    ///
    /// # Errors
    /// [`Problem::Timeout`], [`Problem::Connection`], [`Problem::Tls`], or [`Problem::Invalid`]
    /// for a body that is too large or cannot be unpacked.
    pub(super) async fn send(&self, endpoint: Endpoint, request: Request) -> Result<Answer, Error> {
        let begun = Instant::now();
        let answer = self.exchange(request).await;
        let outcome = match &answer {
            Ok(answer) => Outcome::Status(answer.status.as_u16()),
            Err(problem) => Outcome::Failed(problem.reason()),
        };
        self.observer.request(endpoint, outcome, begun.elapsed());
        answer.map_err(|problem| problem.at(endpoint))
    }

    async fn exchange(&self, request: Request) -> Result<Answer, Problem> {
        let mut response = self
            .http
            .execute(request)
            .await
            .map_err(|error| self.problem(error))?;
        let announced = response
            .content_length()
            .and_then(|length| usize::try_from(length).ok());
        let mut body = Zeroizing::new(Vec::with_capacity(announced.unwrap_or(0).min(MAX_BODY)));
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.problem(error))?
        {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(Problem::Invalid("it is larger than 64 MiB".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status: response.status(),
            headers: response.headers().clone(),
            body,
        })
    }

    fn problem(&self, error: reqwest::Error) -> Problem {
        // the address is known, and a query could hold what does not belong into a log
        let error = error.without_url();
        if error.is_timeout() {
            return Problem::Timeout(self.timeout);
        }
        if is_tls(&error) {
            return Problem::Tls(chain(&error));
        }
        if error.is_decode() && !is_cut_off(&error) {
            return Problem::Invalid(format!("its body cannot be read: {}", chain(&error)));
        }
        Problem::Connection(chain(&error))
    }
}

/// The last cause of an error, which is the one that says something.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    causes(error)
        .last()
        .map_or_else(String::new, ToString::to_string)
}

type Cause<'a> = &'a (dyn std::error::Error + 'static);

/// An error and its causes. [`std::io::Error`] names the source of the error that it wraps, not
/// the wrapped one, which may itself be another `io::Error` around what matters.
fn causes(error: Cause<'_>) -> impl Iterator<Item = Cause<'_>> {
    std::iter::successors(Some(error), |error| {
        let wrapped = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        match wrapped {
            Some(wrapped) => Some(wrapped as Cause<'_>),
            None => error.source(),
        }
    })
}

fn is_tls(error: &reqwest::Error) -> bool {
    causes(error).any(<dyn std::error::Error>::is::<rustls::Error>)
}

/// Whether the body ended before its announced length: a matter of the connection.
fn is_cut_off(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| {
        cause.downcast_ref::<hyper::Error>().is_some_and(|error| {
            error.is_incomplete_message() || error.is_body_write_aborted() || error.is_closed()
        }) || cause.downcast_ref::<std::io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                std::io::ErrorKind::UnexpectedEof
                    | std::io::ErrorKind::ConnectionReset
                    | std::io::ErrorKind::BrokenPipe
            )
        })
    })
}

/// The members of Atlas' error object that are used; its words are not repeated.
#[derive(Deserialize)]
struct ErrorBody {
    #[serde(rename = "errorCode")]
    code: Option<String>,
    /// `[path, seconds, capacity, refill rate, refill seconds]` with `RATE_LIMITED_TOKEN_BUCKET`.
    #[serde(default)]
    parameters: Vec<serde_json::Value>,
}

/// Most that is believed of a `Retry-After`: a day.
const MAX_RETRY_AFTER: u64 = 86_400;

impl Answer {
    /// The body, if the status is good and the type is JSON.
    ///
    /// # Errors
    /// The [`Problem`] that any other answer means.
    pub(super) fn json(&self) -> Result<&[u8], Problem> {
        if !self.status.is_success() {
            return Err(self.problem());
        }
        let content_type = self
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let essence = content_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        if essence == "application/json"
            || (essence.starts_with("application/") && essence.ends_with("+json"))
        {
            return Ok(&self.body);
        }
        let seen: String = essence
            .chars()
            .filter(char::is_ascii_graphic)
            .take(60)
            .collect();
        Err(Problem::Invalid(format!(
            "it is {seen:?} instead of JSON; does a proxy or a login page answer in Atlas' place?"
        )))
    }

    /// What a status other than 2xx means.
    fn problem(&self) -> Problem {
        let body: Option<ErrorBody> = serde_json::from_slice(&self.body).ok();
        let code = ErrorCode::new(
            body.as_ref()
                .and_then(|body| body.code.as_deref())
                .unwrap_or_default(),
        );
        let retry_after = self.retry_after(body.as_ref());
        match self.status.as_u16() {
            401 => Problem::Unauthorized(code),
            403 => Problem::Forbidden(code),
            404 => Problem::NotFound(code),
            429 => Problem::RateLimited { code, retry_after },
            status @ 500..=599 => Problem::Server {
                status,
                code,
                retry_after,
            },
            status @ 300..=399 => Problem::Invalid(format!(
                "it redirects (HTTP {status}), and redirects are not followed; check --atlas.base-url"
            )),
            status => Problem::Invalid(format!("HTTP {status}{code}")),
        }
    }

    fn retry_after(&self, body: Option<&ErrorBody>) -> Option<Duration> {
        let header = self
            .headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
        let parameter = body.and_then(|body| body.parameters.get(1)?.as_u64());
        let seconds = header.max(if self.status == StatusCode::TOO_MANY_REQUESTS {
            parameter
        } else {
            None
        })?;
        Some(Duration::from_secs(seconds.min(MAX_RETRY_AFTER)))
    }

    /// The error code of an OAuth answer (RFC 6749 §5.2) or of Atlas' error object.
    pub(super) fn is_token_limit(&self) -> bool {
        #[derive(Deserialize)]
        struct OAuthError {
            error: String,
        }
        self.status == StatusCode::FORBIDDEN
            && serde_json::from_slice::<OAuthError>(&self.body)
                .is_ok_and(|body| body.error == "access_denied")
    }

    /// A header that is a whole number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.headers.get(name)?.to_str().ok()?.trim().parse().ok()
    }
}
