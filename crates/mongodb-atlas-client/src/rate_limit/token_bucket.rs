//! The known state of one of Atlas' token buckets, and the wait before the next request that prevents an empty bucket.
//! Time is an argument.
//!
//! All estimates are conservative. A refill is counted only when a full interval has passed since Atlas last
//! reported the level, and Atlas is assumed not to have counted the requests in flight yet.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::backoff::ExponentialBackoff;

/// The parameters of a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketParams {
    /// Maximum number of tokens.
    pub capacity: u64,
    /// Tokens that are added every `refill_interval`.
    #[serde(rename = "refill")]
    pub refill_tokens: u64,
    /// Time between two refills.
    #[serde(rename = "every")]
    pub refill_interval: Duration,
}

impl BucketParams {
    /// Returns the parameters if they are plausible: an empty bucket is full again within a day. Without this limit one
    /// invalid response could stop requests for years.
    pub fn new(capacity: u64, refill_tokens: u64, refill_seconds: u64) -> Option<Self> {
        let params = Self {
            capacity,
            refill_tokens,
            refill_interval: Duration::from_secs(refill_seconds),
        };
        params.is_plausible().then_some(params)
    }

    /// Returns whether [`Self::new`] would accept the parameters: the fields are public, and can come from a state file.
    pub(super) fn is_plausible(self) -> bool {
        let refills = u32::try_from(self.capacity.div_ceil(self.refill_tokens.max(1)));
        self.capacity > 0
            && self.refill_tokens > 0
            && self.refill_interval >= MIN_REFILL_INTERVAL
            && refills.is_ok_and(|n| self.refill_interval.saturating_mul(n) <= MAX_WAIT)
    }

    /// Returns assumed parameters for a bucket of which only the capacity is known. Atlas refills a third to a half of the
    /// capacity of its buckets each minute, so the assumption is conservative.
    fn assumed(capacity: u64) -> Self {
        Self {
            capacity,
            refill_tokens: (capacity / 10).max(1),
            refill_interval: DEFAULT_REFILL_INTERVAL,
        }
    }

    /// Returns the number of tokens that are reserved for other clients.
    fn reserved_tokens(self) -> u64 {
        // This order prevents an overflow of the products.
        self.capacity / 100 * RESERVED_PERCENT + self.capacity % 100 * RESERVED_PERCENT / 100
    }

    /// Returns the number of full refill intervals from `from` to `now`.
    fn refills(self, from: Instant, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(from).as_nanos();
        u64::try_from(passed / self.refill_interval.as_nanos().max(1)).unwrap_or(u64::MAX)
    }

    /// Returns the time that `refills` refills take.
    fn refill_time(self, refills: u64) -> Duration {
        let refills = u32::try_from(refills).unwrap_or(u32::MAX);
        self.refill_interval.saturating_mul(refills)
    }
}

/// Maximum wait, even if a response requests a longer one.
pub(crate) const MAX_WAIT: Duration = Duration::from_hours(24);
/// Minimum time between two refills.
const MIN_REFILL_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two refills of a bucket of which only the capacity is known.
const DEFAULT_REFILL_INTERVAL: Duration = Duration::from_mins(1);
/// Percentage of a bucket that is reserved for other clients.
const RESERVED_PERCENT: u64 = 20;
/// Wait after rejections without a `Retry-After`.
const BACKOFF: ExponentialBackoff = ExponentialBackoff {
    initial: Duration::from_secs(10),
    max: Duration::from_mins(10),
    jitter: 1.0..1.25,
};

/// A response that rejects a request (status 429 or 503).
#[derive(Debug, Clone, Copy, Default)]
pub struct Rejection {
    /// The wait that Atlas requests.
    pub retry_after: Option<Duration>,
    /// Whether the bucket is empty (429).
    pub is_empty: bool,
    /// The parameters of the bucket, if the response has them.
    pub params: Option<BucketParams>,
}

/// One bucket. Its queue sends requests one at a time.
#[derive(Debug, Default)]
pub(super) struct TokenBucket {
    /// The parameters. The refill is an assumption unless `is_refill_known` is set.
    params: Option<BucketParams>,
    is_refill_known: bool,
    level: Option<BucketLevel>,
    /// The sequence number of the last request.
    last_seq: u64,
    in_flight: u64,
    /// The last request with a response that reported a level.
    last_level_seq: u64,
    blocked_until: Option<Instant>,
    /// The time of the last change of the state, from which [`MAX_WAIT`] is counted.
    updated_at: Option<Instant>,
    consecutive_rejections: u32,
    /// The last request before the last rejection. A rejection of an earlier request is not counted again.
    last_rejected_seq: u64,
}

#[derive(Debug, Clone, Copy)]
struct BucketLevel {
    tokens: u64,
    at: Instant,
}

impl TokenBucket {
    /// Returns the wait until a request may be sent; zero if one may be sent now.
    pub(super) fn time_until_ready(&self, now: Instant) -> Duration {
        let blocked = self
            .blocked_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let max = self.updated_at.map_or(MAX_WAIT, |at| {
            saturating_add(at, MAX_WAIT).saturating_duration_since(now)
        });
        blocked.max(self.time_until_token(now)).min(max)
    }

    fn time_until_token(&self, now: Instant) -> Duration {
        let (Some(level), Some(params)) = (self.level, self.params) else {
            return Duration::ZERO;
        };
        let reserved = params.reserved_tokens();
        let tokens = self.available_tokens(now).unwrap_or(params.capacity);
        if tokens > reserved {
            return Duration::ZERO;
        }
        let passed = params.refill_time(params.refills(level.at, now));
        let missing = (reserved - tokens).saturating_add(1);
        let wait = params.refill_time(missing.div_ceil(params.refill_tokens));
        let due = saturating_add(saturating_add(level.at, passed), wait.min(MAX_WAIT));
        due.saturating_duration_since(now)
    }

    /// Returns the number of tokens that are certainly available; `None` if the bucket is unknown.
    pub(super) fn available_tokens(&self, now: Instant) -> Option<u64> {
        let (level, params) = (self.level?, self.params?);
        let refilled = params
            .refill_tokens
            .saturating_mul(params.refills(level.at, now));
        Some(level.tokens.saturating_add(refilled).min(params.capacity))
    }

    /// Returns the parameters, if all of them are known.
    pub(super) fn params(&self) -> Option<BucketParams> {
        self.params.filter(|_| self.is_refill_known)
    }

    /// Returns the number of requests per second that the bucket sustains, without the share of other clients; `None` if
    /// the refill is unknown.
    pub(super) fn sustained_rate(&self) -> Option<f64> {
        let params = self.params()?;
        #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
        let (tokens, percent) = (params.refill_tokens as f64, (100 - RESERVED_PERCENT) as f64);
        Some(tokens * percent / 100.0 / params.refill_interval.as_secs_f64())
    }

    /// Takes a token for a request that is sent now. Returns the request's sequence number.
    pub(super) fn take(&mut self, now: Instant) -> u64 {
        self.updated_at = Some(now);
        if let (Some(params), Some(tokens)) = (self.params, self.available_tokens(now))
            && let Some(level) = &mut self.level
        {
            // Atlas may already have refilled while the bucket was nearly full, and the next refill expected here may be
            // lost. The interval therefore starts again.
            let is_nearly_full = tokens.saturating_add(params.refill_tokens) > params.capacity;
            let passed = params.refill_time(params.refills(level.at, now));
            let last_refill = saturating_add(level.at, passed);
            level.at = if is_nearly_full { now } else { last_refill };
            level.tokens = tokens.saturating_sub(1);
        }
        self.last_seq = self.last_seq.saturating_add(1);
        self.in_flight = self.in_flight.saturating_add(1);
        self.last_seq
    }

    /// Records that a request ended without a response.
    pub(super) fn abandon(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Records the response to request `seq`, with the values of `RateLimit-Limit` and `RateLimit-Remaining`. A limit of 0,
    /// or 0 remaining without a limit, comes from a server that does not support the headers, and is ignored.
    pub(super) fn on_response(
        &mut self,
        seq: u64,
        now: Instant,
        limit: Option<u64>,
        remaining: Option<u64>,
    ) {
        self.abandon();
        self.updated_at = Some(now);
        self.consecutive_rejections = 0;
        let known = self.params.map(|params| params.capacity);
        let Some(capacity) = limit.or(known).filter(|limit| *limit > 0) else {
            return;
        };
        // The known refill may be implausible with another capacity.
        let params = self
            .params()
            .map(|params| BucketParams { capacity, ..params });
        let params = params.filter(|params| params.is_plausible());
        self.is_refill_known = params.is_some();
        self.params = Some(params.unwrap_or_else(|| BucketParams::assumed(capacity)));
        let reported = remaining.unwrap_or_else(|| match self.level {
            Some(_) => u64::MAX,
            None => capacity.saturating_sub(1),
        });
        let tokens = reported.min(capacity).saturating_sub(self.in_flight);
        let is_latest = remaining.is_some() && seq > self.last_level_seq;
        let available = self.available_tokens(now).unwrap_or(u64::MAX);
        // A response that arrives after that of a later request may only lower the level.
        if is_latest || tokens < available {
            self.level = Some(BucketLevel { tokens, at: now });
            self.last_level_seq = self.last_level_seq.max(seq);
        }
    }

    /// Records the rejection of request `seq`. Returns the time for which no request may be sent.
    pub(super) fn on_rejected(&mut self, seq: u64, now: Instant, rejection: Rejection) -> Duration {
        self.abandon();
        self.updated_at = Some(now);
        // Concurrent requests that are rejected together are counted once.
        if seq > self.last_rejected_seq {
            self.consecutive_rejections = self.consecutive_rejections.saturating_add(1);
            self.last_rejected_seq = self.last_seq;
        }
        let delay = BACKOFF.delay(self.consecutive_rejections);
        let delay = delay.max(rejection.retry_after.unwrap_or_default());
        let delay = BACKOFF.jittered(delay.min(MAX_WAIT)).min(MAX_WAIT);
        let until = saturating_add(now, delay);
        let until = self.blocked_until.map_or(until, |before| before.max(until));
        self.blocked_until = Some(until);
        if let Some(params) = rejection.params {
            self.set_params(params, now);
        }
        if rejection.is_empty
            && let Some(params) = self.params
        {
            // The wait that Atlas requests ends with the next refill.
            let at = until.checked_sub(params.refill_interval).unwrap_or(now);
            self.level = Some(BucketLevel { tokens: 0, at });
            self.last_level_seq = self.last_seq;
        }
        until.saturating_duration_since(now)
    }

    /// Sets the parameters that Atlas reports. Implausible ones are ignored.
    pub(super) fn set_params(&mut self, params: BucketParams, now: Instant) {
        if !params.is_plausible() {
            return;
        }
        self.updated_at = Some(now);
        self.params = Some(params);
        self.is_refill_known = true;
        if self.level.is_none() {
            let tokens = params.capacity.saturating_sub(self.in_flight);
            self.level = Some(BucketLevel { tokens, at: now });
        }
    }

    /// Replaces the parameters by those that Atlas reports now. Refills until now count as before.
    pub(super) fn update_params(&mut self, params: BucketParams, now: Instant) {
        if self.params() == Some(params) {
            return;
        }
        if let Some(tokens) = self.available_tokens(now) {
            self.level = Some(BucketLevel { tokens, at: now });
        }
        self.set_params(params, now);
    }

    /// Merges the state of `other`, which is now known to be the same bucket. The worse value of both is used.
    pub(super) fn merge(&mut self, other: &Self, now: Instant) {
        self.updated_at = Some(now);
        if let Some(params) = other.params().filter(|_| !self.is_refill_known) {
            self.set_params(params, now);
        }
        self.params = self.params.or(other.params);
        if let Some(tokens) = other.available_tokens(now)
            && self.available_tokens(now).is_none_or(|own| tokens < own)
        {
            self.level = Some(BucketLevel { tokens, at: now });
        }
        self.blocked_until = self.blocked_until.max(other.blocked_until);
        self.consecutive_rejections = self
            .consecutive_rejections
            .max(other.consecutive_rejections);
    }
}

/// Returns `at` plus `duration`, or `at` if the sum is out of range.
fn saturating_add(at: Instant, duration: Duration) -> Instant {
    at.checked_add(duration).unwrap_or(at)
}

#[cfg(test)]
mod merge_tests;
#[cfg(test)]
mod tests;
