//! How a request gets to Atlas and its answer back: over HTTPS, or in a test over anything else.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Request, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use super::body::{Body, MAX_SHORT_BYTES};
use super::client::ClientConfig;
use super::error::{Endpoint, Error, ErrorCode, ErrorKind};
use super::observer::{ClientObserver, RequestOutcome};
use super::rate_limit::{BucketParams, MAX_WAIT};
use crate::clock::Clock;

/// Something that takes a request to Atlas and brings its whole answer. Dropping the future at
/// any moment is safe.
pub trait Transport: Send + Sync {
    /// Sends `request` and reads its whole answer, however long that takes.
    ///
    /// # Errors
    /// [`ErrorKind::Connection`], [`ErrorKind::Tls`], or [`ErrorKind::InvalidResponse`] for a body that is too
    /// large or cannot be unpacked.
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, ErrorKind>>;

    /// The proxy that requests go through, without its password.
    fn proxy(&self) -> Option<&str> {
        None
    }
}

/// Makes the transport of a client; an error is what the TLS library says.
pub type TransportFactory =
    Arc<dyn Fn(&ClientConfig) -> Result<Arc<dyn Transport>, String> + Send + Sync>;

/// An answer, whatever its status.
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// Wiped when dropped: an answer can hold a key's full secret, or an access token.
    pub body: Body,
}

/// A transport with a limit of time, whose requests are counted and measured. One for a
/// credential.
pub(super) struct ObservedTransport {
    transport: Arc<dyn Transport>,
    timeout: Duration,
    observer: Arc<dyn ClientObserver>,
    clock: Clock,
}

impl ObservedTransport {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        timeout: Duration,
        observer: Arc<dyn ClientObserver>,
        clock: Clock,
    ) -> Self {
        Self {
            transport,
            timeout,
            observer,
            clock,
        }
    }

    /// Sends `request` and reads its whole answer.
    ///
    /// # Errors
    /// What the transport says, or a [`ErrorKind::Timeout`].
    pub(super) async fn send(
        &self,
        endpoint: Endpoint,
        request: Request,
    ) -> Result<Response, Error> {
        let begun = Instant::now();
        let mut answer = tokio::time::timeout(self.timeout, self.transport.send(request))
            .await
            .unwrap_or_else(|_| {
                Err(ErrorKind::Timeout {
                    limit: self.timeout,
                    proxy: self.transport.proxy().map(str::to_owned),
                })
            });
        if let Ok(answer) = &mut answer {
            normalize_retry_after(&mut answer.headers, self.clock.now());
            // larger ones are repaired off this thread, before they are parsed
            if answer.body.len() <= MAX_SHORT_BYTES {
                let _ = answer.body.text();
            }
        }
        let outcome = match &answer {
            Ok(answer) => RequestOutcome::Status(answer.status.as_u16()),
            Err(problem) => RequestOutcome::Failed(problem.reason()),
        };
        self.observer
            .request_completed(endpoint, outcome, begun.elapsed());
        let date = answer
            .as_ref()
            .ok()
            .and_then(|answer| answer.headers.get(DATE));
        if let Some(date) = date.and_then(|date| date.to_str().ok()) {
            self.observer.server_date_received(date);
        }
        answer.map_err(|problem| problem.with_endpoint(endpoint))
    }
}

/// The members of Atlas' error object that are used; its words are not repeated.
#[derive(Deserialize)]
struct ErrorResponse {
    #[serde(rename = "errorCode", default)]
    code: serde_json::Value,
    /// `[path, seconds, capacity, refill rate, refill seconds]` with `RATE_LIMITED_TOKEN_BUCKET`.
    #[serde(default)]
    parameters: serde_json::Value,
}

/// Replaces `Retry-After` by one whole number of seconds of a day at most, whichever of its forms (RFC 9110 §10.2.3) it
/// has, or removes it when it has none. The time is taken while the response is new.
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

/// Seconds that a `Retry-After` asks to wait.
fn parse_retry_after(value: &str, date: Option<Timestamp>, now: Timestamp) -> Option<u64> {
    let longest = MAX_WAIT.as_secs();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are a long wait.
        return Some(value.parse().unwrap_or(u64::MAX).min(longest));
    }
    let until = parse_http_date(value)?;
    let seconds_from = |from: Timestamp| {
        let wait = until.duration_since(from);
        // A fraction of a second is a second: the date has none.
        let wait = wait.as_secs() + i64::from(wait.subsec_nanos() > 0);
        u64::try_from(wait).unwrap_or_default()
    };
    // The server's clock is the one that the date was read from. Where that makes no sense, it may be the `Date` that is
    // wrong.
    let by_date = date.map(seconds_from).filter(|wait| *wait <= longest);
    Some(by_date.unwrap_or_else(|| seconds_from(now).min(longest)))
}

/// An HTTP date in any of the three forms of RFC 9110 §5.6.7.
fn parse_http_date(text: &str) -> Option<Timestamp> {
    let time = httpdate::parse_http_date(text).ok()?;
    Some(Timestamp::try_from(time).unwrap_or(Timestamp::MAX))
}

impl Response {
    /// The body, if the status is good and the type is JSON.
    ///
    /// # Errors
    /// The [`ErrorKind`] that any other answer means.
    pub(super) fn json_body(&self) -> Result<&[u8], ErrorKind> {
        if !self.status.is_success() {
            return Err(self.to_error());
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
        Err(ErrorKind::InvalidResponse(format!(
            "it is {seen:?} instead of JSON; does a proxy or a login page answer in Atlas' place?"
        )))
    }

    /// What `read` makes of the body, if the status is good and the type is JSON. No thread that serves is kept busy
    /// by a large body.
    ///
    /// # Errors
    /// The [`ErrorKind`] that any other answer means, or what `read` says.
    pub(super) async fn parse<T: Send + 'static>(
        mut self,
        read: impl FnOnce(&str) -> Result<T, ErrorKind> + Send + 'static,
    ) -> Result<T, ErrorKind> {
        self.json_body()?;
        if self.body.len() <= MAX_SHORT_BYTES {
            return read(self.body.text()?);
        }
        tokio::task::spawn_blocking(move || read(self.body.text()?))
            .await
            .unwrap_or_else(|_| {
                let why = "reading it panicked, which is a bug in this exporter; please report it";
                Err(ErrorKind::InvalidResponse(why.to_owned()))
            })
    }

    /// What a status other than 2xx means.
    fn to_error(&self) -> ErrorKind {
        let code = ErrorCode::new(
            self.parse_error_body()
                .as_ref()
                .and_then(|body| body.code.as_str())
                .unwrap_or_default(),
        );
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
                "it redirects (HTTP {status}), and redirects are not followed; check --atlas.base-url"
            )),
            status => ErrorKind::InvalidResponse(format!("HTTP {status}{code}")),
        }
    }

    fn parse_error_body(&self) -> Option<ErrorResponse> {
        serde_json::from_slice(&self.body).ok()
    }

    /// What `Retry-After` or, with a 429, the error body asks to wait: a day at most.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let header = self.header_u64(RETRY_AFTER.as_str());
        let parameter = (self.status == StatusCode::TOO_MANY_REQUESTS)
            .then(|| self.parse_error_body())
            .flatten()
            .and_then(|body| body.parameters.get(1)?.as_u64());
        let seconds = header.max(parameter)?;
        Some(Duration::from_secs(seconds).min(MAX_WAIT))
    }

    /// The size of the bucket that was empty, from the error body of a 429.
    pub(super) fn bucket_params(&self) -> Option<BucketParams> {
        let body = self.parse_error_body()?;
        let number = |index: usize| body.parameters.get(index)?.as_u64();
        BucketParams::new(number(2)?, number(3)?, number(4)?)
    }

    /// Whether the service account has too many tokens.
    pub(super) fn is_token_limit(&self) -> bool {
        self.status == StatusCode::FORBIDDEN
            && self.oauth_error().as_deref() == Some("access_denied")
    }

    /// Whether the client id or secret is refused with 400 instead of 401, as RFC 6749 §5.2 allows. Any other 400 says
    /// nothing about the credential.
    pub(super) fn is_client_rejected(&self) -> bool {
        let refused = ["invalid_client", "invalid_grant", "unauthorized_client"];
        self.status == StatusCode::BAD_REQUEST
            && self
                .oauth_error()
                .is_some_and(|error| refused.contains(&&*error))
    }

    /// The error code of an OAuth error response (RFC 6749 §5.2).
    fn oauth_error(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct OAuthError {
            error: String,
        }
        let body: OAuthError = serde_json::from_slice(&self.body).ok()?;
        Some(body.error)
    }

    /// A header that is a whole number.
    pub(super) fn header_u64(&self, name: &str) -> Option<u64> {
        self.headers.get(name)?.to_str().ok()?.trim().parse().ok()
    }
}

/// What the fuzz target does with any bytes: reads them as the body of a 429, and returns how long it asks to wait and how
/// large it says the bucket is.
#[doc(hidden)]
pub fn fuzz_rate_limited(body: &[u8]) -> (Option<Duration>, Option<BucketParams>) {
    let answer = Response {
        status: StatusCode::TOO_MANY_REQUESTS,
        headers: HeaderMap::new(),
        body: body.to_vec().into(),
    };
    (answer.retry_after(), answer.bucket_params())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_error_field_is_ignored() {
        for (text, expected) in [
            (r#"{"errorCode":"A_CODE","parameters":null}"#, "A_CODE"),
            (r#"{"errorCode":"A_CODE","parameters":7}"#, "A_CODE"),
            (r#"{"errorCode":7,"parameters":[]}"#, ""),
            (r#"{"errorCode":null}"#, ""),
        ] {
            let answer = Response {
                status: StatusCode::FORBIDDEN,
                headers: HeaderMap::new(),
                body: text.as_bytes().to_vec().into(),
            };
            let expected = ErrorKind::Forbidden(ErrorCode::new(expected));
            assert_eq!(answer.to_error(), expected, "{text}");
        }
    }

    #[test]
    fn retry_after_accepts_both_forms_up_to_a_day() {
        let now: Timestamp = "2026-03-01T12:00:00.5Z".parse().expect("a time");
        // The server's clock is an hour ahead of ours.
        let date = Some("Sun, 01 Mar 2026 13:00:00 GMT");
        for (value, date, expected) in [
            ("120", None, Some(120)),
            (" 120 ", None, Some(120)),
            ("0", None, Some(0)),
            ("86401", None, Some(86_400)),
            ("99999999999999999999999", None, Some(86_400)),
            ("", None, None),
            ("-5", None, None),
            ("1.5", None, None),
            ("soon", None, None),
            ("2026-03-01T13:00:30Z", date, None),
            // The three forms of a date, relative to the response's own.
            ("Sun, 01 Mar 2026 13:00:30 GMT", date, Some(30)),
            ("Sunday, 01-Mar-26 13:00:30 GMT", date, Some(30)),
            ("Sun Mar  1 13:00:30 2026", date, Some(30)),
            ("Sun, 01 Mar 2026 13:00:00 GMT", date, Some(0)),
            ("Sun, 01 Mar 2026 12:59:00 GMT", date, Some(0)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", date, Some(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", date, Some(86_400)),
            // Without a date that makes sense the clock counts.
            ("Sun, 01 Mar 2026 12:00:30 GMT", None, Some(30)),
            ("Sun, 01 Mar 2026 12:00:30 GMT", Some("yesterday"), Some(30)),
            (
                "Sun, 01 Mar 2026 12:00:30 GMT",
                Some("Sat, 01 Jan 2000 00:00:00 GMT"),
                Some(30),
            ),
            ("Sun, 01 Mar 2026 11:00:00 GMT", None, Some(0)),
            ("Tue, 01 Mar 2044 00:00:00 GMT", None, Some(86_400)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(value).expect(value));
            if let Some(date) = date {
                headers.insert(DATE, HeaderValue::from_str(date).expect(date));
            }
            normalize_retry_after(&mut headers, now);
            let answer = Response {
                status: StatusCode::SERVICE_UNAVAILABLE,
                headers,
                body: Body::default(),
            };
            let expected = expected.map(Duration::from_secs);
            assert_eq!(answer.retry_after(), expected, "{value:?} {date:?}");
        }
    }

    #[test]
    fn longest_retry_after_wins() {
        let mut headers = HeaderMap::new();
        for value in ["10", "nonsense", "30", "20"] {
            headers.append(RETRY_AFTER, HeaderValue::from_static(value));
        }
        normalize_retry_after(&mut headers, Timestamp::UNIX_EPOCH);
        assert_eq!(
            headers.get_all(RETRY_AFTER).iter().collect::<Vec<_>>(),
            ["30"]
        );
    }

    proptest::proptest! {
        #[test]
        fn error_body_never_asks_for_more_than_a_day(
            numbers in proptest::collection::vec(proptest::num::u64::ANY, 0..6),
        ) {
            let mut parameters = vec![serde_json::Value::from("path")];
            parameters.extend(numbers.into_iter().map(serde_json::Value::from));
            let body = serde_json::json!({"errorCode": "RATE_LIMITED_TOKEN_BUCKET", "parameters": parameters});
            let answer = Response {
                status: StatusCode::TOO_MANY_REQUESTS,
                headers: HeaderMap::new(),
                body: body.to_string().into_bytes().into(),
            };
            proptest::prop_assert!(answer.retry_after().is_none_or(|wait| wait <= MAX_WAIT));
            proptest::prop_assert!(answer.bucket_params().is_none_or(|size| size.every <= MAX_WAIT));
        }
    }
}
