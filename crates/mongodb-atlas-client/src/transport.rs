//! Sends requests to Atlas and reads the responses: over HTTPS, or in a test through any other [`Transport`].

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Request, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use crate::body::{Body, MAX_SHORT_BYTES};
use crate::client::{ClientConfig, ClientDeps};
use crate::error::{Endpoint, Error, ErrorCode, ErrorKind};
use crate::observer::RequestOutcome;
use crate::rate_limit::{BucketParams, MAX_WAIT, Rejection};
use crate::wire::{JsonField, parse_json};

/// Sends requests to Atlas. The future of [`Transport::send`] may be dropped at any time.
pub trait Transport: Send + Sync {
    /// Sends `request` and reads the complete response, without a timeout.
    ///
    /// # Errors
    /// [`ErrorKind::Connection`], [`ErrorKind::Tls`], or [`ErrorKind::InvalidResponse`] for a body that is too large or
    /// cannot be decompressed.
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, ErrorKind>>;

    /// Returns the proxy that requests go through, without its password.
    fn proxy(&self) -> Option<&str> {
        None
    }
}

/// Creates the transport of a client. The error is the message of the TLS library.
pub type TransportFactory =
    Arc<dyn Fn(&ClientConfig) -> Result<Arc<dyn Transport>, String> + Send + Sync>;

/// A response of any status.
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body. Cleared when dropped: it can hold a key's full secret, or an access token.
    pub body: Body,
}

/// The transport of one client, with a timeout; reports each request to the observer.
pub(crate) struct ObservedTransport {
    timeout: Duration,
    deps: ClientDeps,
}

impl ObservedTransport {
    pub(crate) fn new(timeout: Duration, deps: ClientDeps) -> Self {
        Self { timeout, deps }
    }

    /// Sends `request` and reads the complete response.
    ///
    /// # Errors
    /// The transport's error, or [`ErrorKind::Timeout`].
    pub(crate) async fn send(
        &self,
        endpoint: Endpoint,
        request: Request,
    ) -> Result<Response, Error> {
        let started_at = Instant::now();
        let transport = &self.deps.transport;
        let mut result = tokio::time::timeout(self.timeout, transport.send(request))
            .await
            .unwrap_or_else(|_| {
                Err(ErrorKind::Timeout {
                    limit: self.timeout,
                    proxy: transport.proxy().map(str::to_owned),
                })
            });
        let outcome = match &mut result {
            Ok(response) => {
                normalize_retry_after(&mut response.headers, self.deps.clock.now());
                // A larger body is repaired on a blocking thread, before it is parsed.
                if response.body.len() <= MAX_SHORT_BYTES {
                    let _ = response.body.repair();
                }
                RequestOutcome::Status(response.status.as_u16())
            }
            Err(kind) => RequestOutcome::Failed(kind.reason()),
        };
        let observer = &self.deps.observer;
        observer.request_completed(endpoint, outcome, started_at.elapsed());
        if let Ok(response) = &result
            && let Some(date) = response.header(DATE.as_str())
        {
            observer.server_date_received(date);
        }
        result.map_err(|kind| kind.with_endpoint(endpoint))
    }
}

/// Replaces `Retry-After`, in either of its forms (RFC 9110 §10.2.3), by a number of seconds (at most one day), or removes
/// an invalid one. `now` is the time at which the response was received.
fn normalize_retry_after(headers: &mut HeaderMap, now: Timestamp) {
    let date = headers
        .get(DATE)
        .and_then(|date| parse_http_date(date.to_str().ok()?));
    let seconds = headers
        .get_all(RETRY_AFTER)
        .iter()
        .filter_map(|value| parse_retry_after(value.to_str().ok()?.trim(), date, now))
        .max();
    headers.remove(RETRY_AFTER);
    if let Some(seconds) = seconds {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
}

/// Returns the number of seconds to wait according to a `Retry-After`.
fn parse_retry_after(value: &str, date: Option<Timestamp>, now: Timestamp) -> Option<u64> {
    let max = MAX_WAIT.as_secs();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that does not fit requests a long wait.
        return Some(value.parse().unwrap_or(u64::MAX).min(max));
    }
    let until = parse_http_date(value)?;
    let seconds_from = |from: Timestamp| {
        let wait = until.duration_since(from);
        // Fractions are rounded up, because the date has whole seconds.
        let wait = wait.as_secs() + i64::from(wait.subsec_nanos() > 0);
        u64::try_from(wait).unwrap_or_default()
    };
    // The server computed the date with its own clock, so its `Date` header is used unless the result is implausible.
    let by_date = date.map(seconds_from).filter(|wait| *wait <= max);
    Some(by_date.unwrap_or_else(|| seconds_from(now).min(max)))
}

/// Parses an HTTP date in any of the three forms of RFC 9110 §5.6.7.
fn parse_http_date(text: &str) -> Option<Timestamp> {
    let time = httpdate::parse_http_date(text).ok()?;
    Some(Timestamp::try_from(time).unwrap_or(Timestamp::MAX))
}

/// Maximum length of an error code.
const MAX_ERROR_CODE_CHARS: usize = 64;

/// The error code of an OAuth error response (RFC 6749 §5.2).
#[derive(Deserialize)]
struct OAuthErrorResponse {
    error: String,
}

impl Response {
    /// Checks that the status is 2xx and the type is JSON.
    ///
    /// # Errors
    /// The [`ErrorKind`] of any other response.
    pub(crate) fn check_json(&self) -> Result<(), ErrorKind> {
        if !self.status.is_success() {
            return Err(self.to_error());
        }
        let content_type = self.header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default();
        let essence = essence.trim().to_ascii_lowercase();
        if essence == "application/json"
            || (essence.starts_with("application/") && essence.ends_with("+json"))
        {
            return Ok(());
        }
        let seen: String = essence
            .chars()
            .filter(char::is_ascii_graphic)
            .take(60)
            .collect();
        Err(ErrorKind::InvalidResponse(format!(
            "unexpected Content-Type {seen:?} (expected JSON); check for a proxy or login page"
        )))
    }

    /// Parses the body with `parse`, if the status is 2xx and the type is JSON. Large bodies are parsed on a blocking
    /// thread.
    ///
    /// # Errors
    /// The [`ErrorKind`] of any other response, or the error of `parse`.
    pub(crate) async fn parse<T: Send + 'static>(
        self,
        parse: impl FnOnce(&str) -> Result<T, ErrorKind> + Send + 'static,
    ) -> Result<T, ErrorKind> {
        self.check_json()?;
        let mut body = self.body;
        if body.len() <= MAX_SHORT_BYTES {
            return parse(body.text()?);
        }
        tokio::task::spawn_blocking(move || parse(body.text()?))
            .await
            .unwrap_or_else(|_| {
                let why = "parsing the body panicked; please report this bug";
                Err(ErrorKind::InvalidResponse(why.to_owned()))
            })
    }

    /// Returns the error for a status other than 2xx.
    fn to_error(&self) -> ErrorKind {
        let code = self
            .error_field("errorCode")
            .full_string(MAX_ERROR_CODE_CHARS);
        let code = ErrorCode::new(&code.unwrap_or_default());
        let retry_after = self.retry_after();
        match self.status.as_u16() {
            401 => ErrorKind::Unauthorized(code),
            403 => ErrorKind::Forbidden(code),
            404 => ErrorKind::NotFound(code),
            429 => ErrorKind::RateLimited { code, retry_after },
            status @ 500..=599 => ErrorKind::ServerError {
                status,
                code,
                retry_after,
            },
            status @ 300..=399 => ErrorKind::InvalidResponse(format!(
                "unexpected redirect (HTTP {status}); check the base URL"
            )),
            status => ErrorKind::InvalidResponse(format!("HTTP {status}{code}")),
        }
    }

    /// Returns a field of Atlas' error object. The caller must not log its free text, which may repeat parts of the request.
    fn error_field(&self, name: &str) -> JsonField<'_> {
        let text = std::str::from_utf8(&self.body).unwrap_or_default();
        let fields = parse_json(text).ok().and_then(|body| body.fields([name]));
        fields.map_or_else(JsonField::default, |[field]| field)
    }

    /// Returns a parameter of an error. `RATE_LIMITED_TOKEN_BUCKET` has path, seconds to wait, capacity, refill rate and
    /// refill seconds.
    fn error_parameter(&self, index: usize) -> Option<u64> {
        let mut parameters = Vec::new();
        self.error_field("parameters")
            .for_each_element(|parameter| parameters.push(parameter.as_u64()));
        parameters.get(index).copied().flatten()
    }

    fn bucket_params(&self) -> Option<BucketParams> {
        let [capacity, rate, seconds] = [2, 3, 4].map(|index| self.error_parameter(index));
        BucketParams::new(capacity?, rate?, seconds?)
    }

    /// Returns the wait requested by `Retry-After` or, with a 429, by the error body: at most one day.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let header = self.header_u64(RETRY_AFTER.as_str());
        let parameter = (self.status == StatusCode::TOO_MANY_REQUESTS)
            .then(|| self.error_parameter(1))
            .flatten();
        let seconds = header.max(parameter)?;
        Some(Duration::from_secs(seconds).min(MAX_WAIT))
    }

    /// Returns the state of the token bucket according to a response with status 429 or 503; `None` for any other status.
    pub(crate) fn rejection(&self) -> Option<Rejection> {
        let is_empty = self.status == StatusCode::TOO_MANY_REQUESTS;
        (is_empty || self.status == StatusCode::SERVICE_UNAVAILABLE).then(|| Rejection {
            retry_after: self.retry_after(),
            is_empty,
            params: self.bucket_params().filter(|_| is_empty),
        })
    }

    /// Returns whether the service account has reached its limit of valid tokens.
    pub(crate) fn is_token_limit(&self) -> bool {
        self.status == StatusCode::FORBIDDEN
            && self.oauth_error().as_deref() == Some("access_denied")
    }

    /// Returns whether the client id or secret was rejected with status 400 instead of 401, as RFC 6749 §5.2 allows. No
    /// other 400 is about the credential.
    pub(crate) fn is_client_rejected(&self) -> bool {
        let codes = ["invalid_client", "invalid_grant", "unauthorized_client"];
        self.status == StatusCode::BAD_REQUEST
            && self
                .oauth_error()
                .is_some_and(|code| codes.contains(&&*code))
    }

    fn oauth_error(&self) -> Option<String> {
        let response: OAuthErrorResponse = serde_json::from_slice(&self.body).ok()?;
        Some(response.error)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns a header that is an integer.
    pub(crate) fn header_u64(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }
}

/// Parses any bytes as the body of a 429, for the fuzz target.
#[doc(hidden)]
pub fn fuzz_rate_limited(body: &[u8]) -> Option<Rejection> {
    let response = Response {
        status: StatusCode::TOO_MANY_REQUESTS,
        headers: HeaderMap::new(),
        body: body.to_vec().into(),
    };
    response.rejection()
}

#[cfg(test)]
mod tests;
