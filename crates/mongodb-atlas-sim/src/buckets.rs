//! Token buckets, one for each endpoint set and scope.

use std::collections::HashMap;

use jiff::Timestamp;

/// The size of a token bucket: `refill` tokens come every `refill_seconds`, up to `capacity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketSize {
    /// Most tokens that it holds, and what it begins with.
    pub capacity: u32,
    /// Tokens that come at once.
    pub refill: u32,
    /// Seconds between two refills.
    pub refill_seconds: u32,
}

impl BucketSize {
    /// Typical at the scope of an organization.
    pub const TYPICAL: Self = Self::new(500, 250);
    /// The smallest that is known.
    pub const SMALLEST: Self = Self::new(10, 5);
    /// `GET /orgs`, at the scope of a user.
    pub(crate) const ORGS: Self = Self::new(300, 100);
    /// The minting of tokens.
    pub(crate) const TOKENS: Self = Self::new(50, 50);

    /// `capacity`, with `refill` tokens a minute.
    pub const fn new(capacity: u32, refill: u32) -> Self {
        Self {
            capacity,
            refill,
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
pub(crate) struct Taken {
    pub(crate) size: BucketSize,
    /// Tokens that are left; none when there was none to take.
    pub(crate) remaining: Option<u32>,
    pub(crate) retry_after: u32,
}

struct Bucket {
    size: BucketSize,
    tokens: u32,
    filled_at: i64,
}

/// All buckets, by endpoint set and scope; each begins full at its first request.
pub(crate) struct Buckets {
    org: BucketSize,
    scope: BucketScope,
    all: HashMap<(&'static str, String), Bucket>,
}

impl Buckets {
    pub(crate) fn new(org: BucketSize, scope: BucketScope) -> Self {
        Self {
            org,
            scope,
            all: HashMap::new(),
        }
    }

    /// The size of the buckets at the scope of an organization.
    pub(crate) fn org_size(&self) -> BucketSize {
        self.org
    }

    /// Who shares the bucket of the keys.
    pub(crate) fn scope(&self) -> BucketScope {
        self.scope
    }

    /// Takes one token for a request about `org`.
    pub(crate) fn take_org(&mut self, set: &'static str, org: &str, now: Timestamp) -> Taken {
        let scope = match self.scope {
            BucketScope::Organization => org,
            BucketScope::User => "user",
        };
        self.take(set, scope, self.org, now)
    }

    /// Takes one token.
    pub(crate) fn take(
        &mut self,
        set: &'static str,
        scope: &str,
        size: BucketSize,
        now: Timestamp,
    ) -> Taken {
        let now = now.as_second();
        let bucket = self.all.entry((set, scope.to_owned())).or_insert(Bucket {
            size,
            tokens: size.capacity,
            filled_at: now,
        });
        let period = i64::from(size.refill_seconds.max(1));
        let refills = (now - bucket.filled_at).max(0) / period;
        bucket.filled_at += refills * period;
        let gained = u32::try_from(refills)
            .unwrap_or(u32::MAX)
            .saturating_mul(size.refill);
        bucket.tokens = bucket.tokens.saturating_add(gained).min(size.capacity);
        let remaining = bucket.tokens.checked_sub(1);
        bucket.tokens = remaining.unwrap_or(0);
        Taken {
            size: bucket.size,
            remaining,
            retry_after: u32::try_from(bucket.filled_at + period - now)
                .unwrap_or(1)
                .max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_refills() {
        let mut buckets = Buckets::new(BucketSize::SMALLEST, BucketScope::Organization);
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
