//! What the Atlas room tells the outside, so that it need not know who counts.

use std::time::Duration;

use jiff::Timestamp;

use super::error::{Endpoint, FailureReason};
use crate::ids::OrgId;

/// What came of one request: the `code` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOutcome {
    /// An answer with this HTTP status.
    Status(u16),
    /// No answer.
    Failed(FailureReason),
}

/// Why a request was sent again: the `reason` label of retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// The access token was refused, and a new one was made.
    Unauthorized,
    /// A Digest challenge had to be answered first.
    Challenge,
    /// The API version was refused, and the preview is asked for.
    NotAcceptable,
    /// The connection broke.
    Connection,
    /// Atlas was out of order for a moment.
    ServerError,
    /// The request budget was spent.
    RateLimited,
}

impl RetryReason {
    /// Every reason, so that each counter can begin at 0.
    pub const ALL: [Self; 6] = [
        Self::Unauthorized,
        Self::Challenge,
        Self::NotAcceptable,
        Self::Connection,
        Self::ServerError,
        Self::RateLimited,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Challenge => "challenge",
            Self::NotAcceptable => "not_acceptable",
            Self::Connection => "connection",
            Self::ServerError => "server_error",
            Self::RateLimited => "rate_limited",
        }
    }
}

/// What came of asking for an access token: the `outcome` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenOutcome {
    /// There is a new token.
    Issued,
    /// The credential was refused, or may have no more tokens.
    Refused,
    /// Too many were asked for.
    RateLimited,
    /// No answer, or none that makes sense.
    Failed,
}

impl TokenOutcome {
    /// Every outcome, so that each counter can begin at 0.
    pub const ALL: [Self; 4] = [Self::Issued, Self::Refused, Self::RateLimited, Self::Failed];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Refused => "refused",
            Self::RateLimited => "rate_limited",
            Self::Failed => "failed",
        }
    }
}

/// Who is told of every request. Implemented where the rooms are put together; called from the
/// tasks that make requests, so it must not block.
pub trait ClientObserver: Send + Sync {
    /// A request has ended after `elapsed`.
    fn request_completed(&self, endpoint: Endpoint, outcome: RequestOutcome, elapsed: Duration);
    /// An answer came, with this `Date`: what time it is over there.
    fn server_date_received(&self, _date: &str) {}
    /// A request is sent again.
    fn request_retried(&self, endpoint: Endpoint, why: RetryReason);
    /// Atlas told the size of a token bucket and what is left in it.
    fn rate_limit_updated(
        &self,
        endpoint: Endpoint,
        org: Option<&OrgId>,
        capacity: Option<u64>,
        remaining: Option<u64>,
    );
    /// A request has waited for the budget before it was sent.
    fn request_throttled(&self, endpoint: Endpoint, org: Option<&OrgId>, waited: Duration);
    /// A token was asked for.
    fn token_requested(&self, credential: &str, outcome: TokenOutcome);
    /// The token in use ends then.
    fn token_expiry_changed(&self, credential: &str, at: Timestamp);
    /// Atlas refuses the token that was in use before its end, and there is no other yet.
    fn token_rejected(&self, credential: &str);
}
