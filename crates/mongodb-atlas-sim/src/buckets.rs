//! Token buckets, one for each endpoint set and scope.

use std::collections::HashMap;

use jiff::Timestamp;

/// The size of a token bucket: `refill` tokens come every `refill_seconds`, up to `capacity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketConfig {
    /// Most tokens that it holds, and what it begins with.
    pub capacity: u32,
    /// Tokens that come at once.
    pub refill_tokens: u32,
    /// Seconds between two refills.
    pub refill_seconds: u32,
}

impl BucketConfig {
    /// Typical at the scope of an organization.
    pub const TYPICAL: Self = Self::new(500, 250);
    /// The smallest that is known.
    pub const SMALLEST: Self = Self::new(10, 5);
    /// `GET /orgs`, at the scope of a user.
    pub(crate) const LIST_ORGS: Self = Self::new(300, 100);
    /// The minting of tokens.
    pub(crate) const ISSUE_TOKEN: Self = Self::new(50, 50);

    /// `capacity`, with `refill` tokens a minute.
    pub const fn new(capacity: u32, refill: u32) -> Self {
        Self {
            capacity,
            refill_tokens: refill,
            refill_seconds: 60,
        }
    }
}

/// Who shares the bucket of the keys and their limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketScope {
    /// Everybody who asks about the same organization.
    Organization,
    /// Every request of the same user.
    User,
}

impl BucketScope {
    /// As Atlas writes it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Organization => "ORGANIZATION",
            Self::User => "USER",
        }
    }
}

/// What a bucket says to one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TakeResult {
    pub(crate) config: BucketConfig,
    /// Tokens that are left; none when there was none to take.
    pub(crate) remaining: Option<u32>,
    pub(crate) retry_after: u32,
}

struct SimBucket {
    config: BucketConfig,
    tokens: u32,
    refilled_at: i64,
}

/// All buckets, by endpoint set and scope; each begins full at its first request.
pub(crate) struct Buckets {
    org_config: BucketConfig,
    scope: BucketScope,
    buckets: HashMap<(&'static str, String), SimBucket>,
}

impl Buckets {
    pub(crate) fn new(org: BucketConfig, scope: BucketScope) -> Self {
        Self {
            org_config: org,
            scope,
            buckets: HashMap::new(),
        }
    }

    /// The size of the buckets at the scope of an organization.
    pub(crate) fn org_config(&self) -> BucketConfig {
        self.org_config
    }

    /// Who shares the bucket of the keys.
    pub(crate) fn scope(&self) -> BucketScope {
        self.scope
    }

    /// Takes one token for a request about `org`.
    pub(crate) fn take_org(&mut self, set: &'static str, org: &str, now: Timestamp) -> TakeResult {
        let scope = match self.scope {
            BucketScope::Organization => org,
            BucketScope::User => "user",
        };
        self.take(set, scope, self.org_config, now)
    }

    /// Takes one token.
    pub(crate) fn take(
        &mut self,
        set: &'static str,
        scope: &str,
        size: BucketConfig,
        now: Timestamp,
    ) -> TakeResult {
        let now = now.as_second();
        let bucket = self
            .buckets
            .entry((set, scope.to_owned()))
            .or_insert(SimBucket {
                config: size,
                tokens: size.capacity,
                refilled_at: now,
            });
        let period = i64::from(size.refill_seconds.max(1));
        let refills = (now - bucket.refilled_at).max(0) / period;
        bucket.refilled_at += refills * period;
        let gained = u32::try_from(refills)
            .unwrap_or(u32::MAX)
            .saturating_mul(size.refill_tokens);
        bucket.tokens = bucket.tokens.saturating_add(gained).min(size.capacity);
        let remaining = bucket.tokens.checked_sub(1);
        bucket.tokens = remaining.unwrap_or(0);
        TakeResult {
            config: bucket.config,
            remaining,
            retry_after: u32::try_from(bucket.refilled_at + period - now)
                .unwrap_or(1)
                .max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_drain_and_refill_per_scope() {
        let mut buckets = Buckets::new(BucketConfig::SMALLEST, BucketScope::Organization);
        let at = |second| Timestamp::from_second(second).expect("a time");
        for left in (0..10).rev() {
            assert_eq!(buckets.take_org("keys", "o", at(5)).remaining, Some(left));
        }
        let refused = buckets.take_org("keys", "o", at(10));
        assert_eq!((refused.remaining, refused.retry_after), (None, 55));
        assert_eq!(
            buckets.take_org("keys", "other", at(10)).remaining,
            Some(9),
            "each scope has its own"
        );
        assert_eq!(buckets.take_org("keys", "o", at(65)).remaining, Some(4));
    }
}
