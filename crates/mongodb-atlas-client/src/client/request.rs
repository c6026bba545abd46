//! One request: authentication, API version, rate limit and retries.

use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::{Method, Request, StatusCode, Url};
use tracing::{debug, warn};

use super::{Client, PREVIEW_API_VERSION};
use crate::backoff::ExponentialBackoff;
use crate::error::{Endpoint, Error, ErrorCode, ErrorKind};
use crate::observer::RetryReason;
use crate::rate_limit::{Rejection, RequestPermit, RequestTarget};
use crate::transport::Response;

/// Backoff before a failed request is retried.
const RETRY: ExponentialBackoff = ExponentialBackoff {
    initial: Duration::from_millis(500),
    max: Duration::from_millis(500),
    jitter: 0.5..1.0,
};
/// Maximum time that a request waits while Atlas is unavailable (503): enough for a restart, too short to hide an outage.
const MAX_503_WAIT: Duration = Duration::from_secs(30);
/// Minimum wait for the rate limit that is reported. A shorter one is only the time in the queue.
const MIN_REPORTED_WAIT: Duration = Duration::from_millis(10);
/// The only version of the endpoints for organizations and projects.
const LEGACY_API_VERSION: HeaderValue =
    HeaderValue::from_static("application/vnd.atlas.2023-01-01+json");
/// The version of the endpoint for a service account.
const SERVICE_ACCOUNT_API_VERSION: HeaderValue =
    HeaderValue::from_static("application/vnd.atlas.2024-08-05+json");
/// The version of the list of rate limits.
const RATE_LIMITS_API_VERSION: HeaderValue =
    HeaderValue::from_static("application/vnd.atlas.2025-03-12+json");

/// A response, or the value that was parsed from it.
pub(super) struct Fetched<T> {
    pub(super) value: T,
    /// Time that the request waited for the rate limit.
    pub(super) rate_limit_wait: Duration,
}

impl Fetched<Response> {
    /// Parses the response.
    pub(super) async fn parse<T: Send + 'static>(
        self,
        endpoint: Endpoint,
        parse: impl FnOnce(&str) -> Result<T, ErrorKind> + Send + 'static,
    ) -> Result<Fetched<T>, Error> {
        let value = self.value.parse(parse).await;
        Ok(Fetched {
            value: value.map_err(|kind| kind.with_endpoint(endpoint))?,
            rate_limit_wait: self.rate_limit_wait,
        })
    }
}

impl Client {
    /// Requests `url`, and parses the response.
    pub(super) async fn fetch<T: Send + 'static>(
        &self,
        target: RequestTarget<'_>,
        url: &Url,
        parse: impl FnOnce(&str) -> Result<T, ErrorKind> + Send + 'static,
    ) -> Result<Fetched<T>, Error> {
        let response = self.get(target, url).await?;
        response.parse(target.endpoint, parse).await
    }

    /// Requests `url` within the rate limit, and returns the response of any status. Retries if
    /// a retry can succeed.
    pub(super) async fn get(
        &self,
        target: RequestTarget<'_>,
        url: &Url,
    ) -> Result<Fetched<Response>, Error> {
        let endpoint = target.endpoint;
        let observer = &self.deps.observer;
        let (mut may_retry, mut rejected_for) = (true, Duration::ZERO);
        let mut rate_limit_wait = Duration::ZERO;
        loop {
            let permit = self.acquire_permit(target).await;
            rate_limit_wait += permit.waited();
            // The semaphore is never closed.
            let slot = self.concurrency.acquire().await.ok();
            let result = self.send_authenticated(endpoint, url).await;
            drop(slot);
            let reason = match result {
                // The server may have closed an idle connection at the same moment.
                Err(error) if may_retry && matches!(error.kind, ErrorKind::Connection(_)) => {
                    RetryReason::Connection
                }
                Err(error) => return Err(error),
                Ok(response) => {
                    let fetched = Fetched {
                        value: response,
                        rate_limit_wait,
                    };
                    let response = &fetched.value;
                    let status = response.status.as_u16();
                    if let Some(rejection) = response.rejection() {
                        rejected_for += self.record_rejection(target, permit, rejection);
                        let (reason, max_wait) = self.rejection_limits(rejection);
                        if rejected_for > max_wait {
                            return Ok(fetched);
                        }
                        debug!(%endpoint, status, "retrying rejected request");
                        observer.request_retried(endpoint, reason);
                        continue;
                    }
                    self.record_response(target, permit, response);
                    if !may_retry || !matches!(status, 500 | 502 | 504) {
                        return Ok(fetched);
                    }
                    RetryReason::ServerError
                }
            };
            may_retry = false;
            debug!(%endpoint, reason = reason.as_str(), "retrying failed request");
            tokio::time::sleep(RETRY.jittered(RETRY.delay(1))).await;
            observer.request_retried(endpoint, reason);
        }
    }

    /// Returns the reason to retry a rejected request, and the maximum wait.
    fn rejection_limits(&self, rejection: Rejection) -> (RetryReason, Duration) {
        let max_wait = self.config.max_retry_wait;
        if rejection.is_empty {
            (RetryReason::RateLimited, max_wait)
        } else {
            (RetryReason::ServerError, max_wait.min(MAX_503_WAIT))
        }
    }

    async fn acquire_permit(&self, target: RequestTarget<'_>) -> RequestPermit {
        let permit = self.deps.rate_limiter.acquire(target).await;
        let waited = permit.waited();
        if waited >= MIN_REPORTED_WAIT {
            let observer = &self.deps.observer;
            observer.request_throttled(target.endpoint, target.org, waited);
        }
        permit
    }

    async fn send_authenticated(&self, endpoint: Endpoint, url: &Url) -> Result<Response, Error> {
        let error = |kind: ErrorKind| kind.with_endpoint(endpoint);
        // One attempt each for a challenge, a stale nonce, a renewed token and an older version.
        for _ in 0..4 {
            let authorization = self
                .auth
                .authorize(&self.transport, endpoint, &Method::GET, url)
                .await?;
            let using_preview = self.using_preview.load(Ordering::Relaxed);
            let mut request = Request::new(Method::GET, url.clone());
            let headers = request.headers_mut();
            headers.insert(ACCEPT, self.accept_header(endpoint, using_preview));
            if let Some(value) = authorization.header().map_err(error)? {
                headers.insert(AUTHORIZATION, value);
            }
            let response = self.transport.send(endpoint, request).await?;
            let retry = match response.status {
                StatusCode::UNAUTHORIZED => {
                    let headers = &response.headers;
                    self.auth.on_unauthorized(authorization, headers).await
                }
                StatusCode::NOT_ACCEPTABLE
                    if endpoint == Endpoint::AiModelApiKeys && !using_preview =>
                {
                    self.fall_back_to_preview();
                    Some(RetryReason::NotAcceptable)
                }
                _ => None,
            };
            let Some(reason) = retry else {
                return Ok(response);
            };
            self.deps.observer.request_retried(endpoint, reason);
        }
        Err(error(ErrorKind::Unauthorized(ErrorCode::default())))
    }

    fn accept_header(&self, endpoint: Endpoint, using_preview: bool) -> HeaderValue {
        match endpoint {
            Endpoint::RateLimits => RATE_LIMITS_API_VERSION,
            Endpoint::ServiceAccount => SERVICE_ACCOUNT_API_VERSION,
            Endpoint::Orgs | Endpoint::Org | Endpoint::Groups => LEGACY_API_VERSION,
            _ if using_preview => PREVIEW_API_VERSION,
            _ => self.media_type.clone(),
        }
    }

    fn fall_back_to_preview(&self) {
        if !self.using_preview.swap(true, Ordering::Relaxed) {
            warn!(
                credential = &**self.credential_name(),
                media_type = self.media_type.to_str().unwrap_or_default(),
                hint = "set --atlas.api-version to a supported version",
                "API version not supported; using preview"
            );
        }
    }

    fn record_response(
        &self,
        target: RequestTarget<'_>,
        permit: RequestPermit,
        response: &Response,
    ) {
        let capacity = response.header_u64("ratelimit-limit");
        let remaining = response.header_u64("ratelimit-remaining");
        permit.on_response(capacity, remaining);
        // A server that does not support the headers may send a limit of 0.
        if capacity == Some(0) || (capacity.is_none() && remaining.is_none()) {
            return;
        }
        let observer = &self.deps.observer;
        observer.rate_limit_updated(target.endpoint, target.org, capacity, remaining);
    }

    /// Records a rejection. Returns the time for which no request may be sent to this bucket.
    fn record_rejection(
        &self,
        target: RequestTarget<'_>,
        permit: RequestPermit,
        rejection: Rejection,
    ) -> Duration {
        if rejection.is_empty {
            let capacity = rejection.params.map(|params| params.capacity);
            let observer = &self.deps.observer;
            observer.rate_limit_updated(target.endpoint, target.org, capacity, Some(0));
        }
        self.deps.rate_limiter.on_rejected(permit, rejection)
    }
}
