//! Events of requests, for metrics.

use std::time::Duration;

use jiff::Timestamp;

use crate::error::{Endpoint, FailureReason};
use crate::ids::OrgId;
use crate::names::named_enum;

/// The result of one request: the `code` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOutcome {
    /// A response with this HTTP status.
    Status(u16),
    /// There was no response.
    Failed(FailureReason),
}

named_enum! {
    /// The reason why a request was retried: the `reason` label of retries.
    pub enum RetryReason {
        /// The access token was rejected and replaced.
        Unauthorized => "unauthorized",
        /// The server sent a Digest challenge.
        Challenge => "challenge",
        /// The API version was rejected, and the preview is requested instead.
        NotAcceptable => "not_acceptable",
        /// The connection failed.
        Connection => "connection",
        /// Atlas returned a server error.
        ServerError => "server_error",
        /// The rate limit was exceeded.
        RateLimited => "rate_limited",
    }
}

named_enum! {
    /// The result of a request for an access token: the `outcome` label.
    pub enum TokenOutcome {
        /// Atlas issued a token.
        Issued => "issued",
        /// The credential was rejected, or has reached its limit of valid tokens.
        Refused => "refused",
        /// The rate limit was exceeded.
        RateLimited => "rate_limited",
        /// There was no response, or an invalid one.
        Failed => "failed",
    }
}

/// Receives the events of a [`Client`](crate::Client). The methods are called from the tasks that send requests, so they
/// must not block. By default they ignore the event.
pub trait ClientObserver: Send + Sync {
    /// A request ended after `elapsed`.
    fn request_completed(&self, _endpoint: Endpoint, _outcome: RequestOutcome, _elapsed: Duration) {
    }
    /// A response had this `Date` header: the time of the server's clock.
    fn server_date_received(&self, _date: &str) {}
    /// A request is retried.
    fn request_retried(&self, _endpoint: Endpoint, _reason: RetryReason) {}
    /// A response reported the capacity of a token bucket and the tokens that remain.
    fn rate_limit_updated(
        &self,
        _endpoint: Endpoint,
        _org: Option<&OrgId>,
        _capacity: Option<u64>,
        _remaining: Option<u64>,
    ) {
    }
    /// A request waited for the rate limit before it was sent.
    fn request_throttled(&self, _endpoint: Endpoint, _org: Option<&OrgId>, _waited: Duration) {}
    /// An access token was requested.
    fn token_requested(&self, _credential: &str, _outcome: TokenOutcome) {}
    /// A new token, which expires at this time, is in use.
    fn token_expiry_changed(&self, _credential: &str, _expires_at: Timestamp) {}
    /// Atlas rejected the current token before its expiry, and there is no new one yet.
    fn token_rejected(&self, _credential: &str) {}
}
