//! Token buckets, one per endpoint set and scope.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Serialize;

/// Parameters of a token bucket: `refill_tokens` are added every `refill_seconds`, up to `capacity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketConfig {
    /// Maximum and initial number of tokens.
    pub capacity: u32,
    /// Tokens added by one refill.
    pub refill_tokens: u32,
    /// Seconds between two refills.
    pub refill_seconds: u32,
}

impl BucketConfig {
    /// Typical bucket of an organization.
    pub const TYPICAL: Self = Self::new(500, 250);
    /// Smallest known bucket.
    pub const SMALLEST: Self = Self::new(10, 5);
    /// `GET /orgs`, at the scope of a user.
    pub(crate) const LIST_ORGS: Self = Self::new(300, 100);
    /// `POST /api/oauth/token`.
    pub(crate) const ISSUE_TOKEN: Self = Self::new(50, 50);

    /// Returns a bucket of `capacity` tokens, refilled with `refill_tokens` per minute.
    pub const fn new(capacity: u32, refill_tokens: u32) -> Self {
        Self {
            capacity,
            refill_tokens,
            refill_seconds: 60,
        }
    }

    fn interval(self) -> i64 {
        i64::from(self.refill_seconds.max(1))
    }
}

/// Scope of the bucket of the key endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum BucketScope {
    /// Shared by all requests for an organization.
    Organization,
    /// Shared by all requests of a user.
    User,
}

/// Result of taking one token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TakeResult {
    pub(crate) config: BucketConfig,
    /// Tokens left; `None` if the bucket was empty.
    pub(crate) remaining: Option<u32>,
    pub(crate) retry_after: u32,
}

struct TokenBucket {
    tokens: u32,
    refilled_at: i64,
}

/// All buckets by endpoint set and scope. Each is full at its first request.
pub(crate) struct Buckets {
    pub(crate) org_config: BucketConfig,
    pub(crate) scope: BucketScope,
    by_set_and_scope: HashMap<(&'static str, String), TokenBucket>,
}

impl Buckets {
    pub(crate) fn new(org_config: BucketConfig, scope: BucketScope) -> Self {
        Self {
            org_config,
            scope,
            by_set_and_scope: HashMap::new(),
        }
    }

    /// Takes a token for a request for `org`.
    pub(crate) fn take_org(&mut self, set: &'static str, org: &str, now: Timestamp) -> TakeResult {
        self.take(set, self.org_scope(org), self.org_config, now)
    }

    /// Returns the number of tokens in the bucket of `org`.
    pub(crate) fn org_level(&mut self, set: &'static str, org: &str, now: Timestamp) -> u32 {
        self.refilled(set, self.org_scope(org), self.org_config, now)
            .tokens
    }

    fn org_scope<'a>(&self, org: &'a str) -> &'a str {
        match self.scope {
            BucketScope::Organization => org,
            BucketScope::User => "user",
        }
    }

    /// Takes a token.
    pub(crate) fn take(
        &mut self,
        set: &'static str,
        scope: &str,
        config: BucketConfig,
        now: Timestamp,
    ) -> TakeResult {
        let bucket = self.refilled(set, scope, config, now);
        let tokens = bucket.tokens;
        bucket.tokens = tokens.saturating_sub(1);
        let retry_after = bucket.refilled_at + config.interval() - now.as_second();
        TakeResult {
            config,
            remaining: tokens.checked_sub(1),
            retry_after: u32::try_from(retry_after).unwrap_or(1).max(1),
        }
    }

    /// Returns a bucket with all refills that are due.
    fn refilled(
        &mut self,
        set: &'static str,
        scope: &str,
        config: BucketConfig,
        now: Timestamp,
    ) -> &mut TokenBucket {
        let now = now.as_second();
        let bucket = self
            .by_set_and_scope
            .entry((set, scope.to_owned()))
            .or_insert(TokenBucket {
                tokens: config.capacity,
                refilled_at: now,
            });
        let refills = (now - bucket.refilled_at).max(0) / config.interval();
        bucket.refilled_at += refills * config.interval();
        let added = u32::try_from(refills)
            .unwrap_or(u32::MAX)
            .saturating_mul(config.refill_tokens);
        bucket.tokens = bucket.tokens.saturating_add(added).min(config.capacity);
        bucket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_drain_and_refill_per_scope() {
        let mut buckets = Buckets::new(BucketConfig::SMALLEST, BucketScope::Organization);
        let at = |second| Timestamp::from_second(second).expect("a valid time");
        for left in (0..10).rev() {
            assert_eq!(buckets.take_org("keys", "o", at(5)).remaining, Some(left));
        }
        let rejected = buckets.take_org("keys", "o", at(10));
        assert_eq!((rejected.remaining, rejected.retry_after), (None, 55));
        assert_eq!(
            buckets.take_org("keys", "other", at(10)).remaining,
            Some(9),
            "each scope has a separate bucket"
        );
        assert_eq!(buckets.org_level("keys", "o", at(65)), 5);
        assert_eq!(buckets.take_org("keys", "o", at(65)).remaining, Some(4));
        assert_eq!(buckets.org_level("keys", "o", at(65)), 4);
    }
}
