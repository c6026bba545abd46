//! How a request gets to Atlas and its answer back: over HTTPS, or in a test over anything else.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, RETRY_AFTER};
use reqwest::{Request, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::budget::BucketSize;
use super::client::ClientConfig;
use super::error::{Endpoint, Error, ErrorCode, Problem};
use super::observer::{Observer, Outcome};

/// Something that takes a request to Atlas and brings its whole answer. Dropping the future at
/// any moment is safe.
pub trait Transport: Send + Sync {
    /// Sends `request` and reads its whole answer, however long that takes.
    ///
    /// # Errors
    /// [`Problem::Connection`], [`Problem::Tls`], or [`Problem::Invalid`] for a body that is too
    /// large or cannot be unpacked.
    fn exchange(&self, request: Request) -> BoxFuture<'_, Result<Answer, Problem>>;

    /// The proxy that requests go through, without its password.
    fn proxy(&self) -> Option<&str> {
        None
    }
}

/// Makes the transport of a client; an error is what the TLS library says.
pub type Connect = Arc<dyn Fn(&ClientConfig) -> Result<Arc<dyn Transport>, String> + Send + Sync>;

/// An answer, whatever its status.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// Wiped when dropped: an answer can hold a key's full secret, or an access token.
    pub body: Zeroizing<Vec<u8>>,
}

/// A transport with a limit of time, whose requests are counted and measured. One for a
/// credential.
pub(super) struct Line {
    transport: Arc<dyn Transport>,
    timeout: Duration,
    observer: Arc<dyn Observer>,
}

impl Line {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        timeout: Duration,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self {
            transport,
            timeout,
            observer,
        }
    }

    /// Sends `request` and reads its whole answer.
    ///
    /// # Errors
    /// What the transport says, or a [`Problem::Timeout`].
    pub(super) async fn send(&self, endpoint: Endpoint, request: Request) -> Result<Answer, Error> {
        let begun = Instant::now();
        let answer = tokio::time::timeout(self.timeout, self.transport.exchange(request))
            .await
            .unwrap_or_else(|_| {
                Err(Problem::Timeout {
                    limit: self.timeout,
                    proxy: self.transport.proxy().map(str::to_owned),
                })
            });
        let outcome = match &answer {
            Ok(answer) => Outcome::Status(answer.status.as_u16()),
            Err(problem) => Outcome::Failed(problem.reason()),
        };
        self.observer.request(endpoint, outcome, begun.elapsed());
        let date = answer
            .as_ref()
            .ok()
            .and_then(|answer| answer.headers.get(DATE));
        if let Some(date) = date.and_then(|date| date.to_str().ok()) {
            self.observer.dated(date);
        }
        answer.map_err(|problem| problem.at(endpoint))
    }
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
        let code = ErrorCode::new(
            self.error_body()
                .and_then(|body| body.code)
                .as_deref()
                .unwrap_or_default(),
        );
        let retry_after = self.retry_after();
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

    fn error_body(&self) -> Option<ErrorBody> {
        serde_json::from_slice(&self.body).ok()
    }

    /// What `Retry-After` or, with a 429, the error body asks to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let header = self
            .headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
        let parameter = (self.status == StatusCode::TOO_MANY_REQUESTS)
            .then(|| self.error_body())
            .flatten()
            .and_then(|body| body.parameters.get(1)?.as_u64());
        let seconds = header.max(parameter)?;
        Some(Duration::from_secs(seconds.min(MAX_RETRY_AFTER)))
    }

    /// The size of the bucket that was empty, from the error body of a 429.
    pub(super) fn bucket_size(&self) -> Option<BucketSize> {
        let body = self.error_body()?;
        let number = |index: usize| body.parameters.get(index)?.as_u64();
        BucketSize::new(number(2)?, number(3)?, number(4)?)
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
