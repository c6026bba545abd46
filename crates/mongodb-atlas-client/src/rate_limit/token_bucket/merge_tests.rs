//! Merging two buckets, and requests that end without a level.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn smallest() -> BucketParams {
    BucketParams::new(10, 5, 60).expect("the smallest bucket of Atlas")
}

/// Returns a bucket with known parameters and this level.
fn bucket_with(tokens: u64, now: Instant) -> TokenBucket {
    let mut bucket = TokenBucket::default();
    bucket.set_params(smallest(), now);
    let seq = bucket.take(now);
    bucket.on_response(seq, now, Some(10), Some(tokens));
    bucket
}

/// Returns an unknown bucket with consecutive rejections and their wait.
fn rejected_bucket(rejections: u32, retry_after: Duration, now: Instant) -> TokenBucket {
    let mut bucket = TokenBucket::default();
    for _ in 0..rejections {
        let seq = bucket.take(now);
        let rejection = Rejection {
            retry_after: Some(retry_after),
            ..Rejection::default()
        };
        bucket.on_rejected(seq, now, rejection);
    }
    bucket
}

#[test]
fn merged_bucket_has_the_lower_level() {
    let now = Instant::now();
    for (own, other, expected) in [(7, 3, 3), (3, 7, 3), (5, 5, 5), (0, 9, 0), (9, 0, 0)] {
        let mut bucket = bucket_with(own, now);
        bucket.merge(&bucket_with(other, now), now);
        assert_eq!(
            bucket.available_tokens(now),
            Some(expected),
            "{own} {other}"
        );
    }
}

#[test]
fn merged_bucket_compares_levels_of_the_same_time() {
    let now = Instant::now();
    let later = now + 60 * SECOND;
    // Five tokens were refilled since the other level was reported.
    let mut bucket = bucket_with(4, later);
    bucket.merge(&bucket_with(1, now), later);
    assert_eq!(bucket.available_tokens(later), Some(4));
    let mut bucket = bucket_with(8, later);
    bucket.merge(&bucket_with(1, now), later);
    assert_eq!(bucket.available_tokens(later), Some(6));
    assert_eq!(
        bucket.available_tokens(later + 59 * SECOND),
        Some(6),
        "the next refill counts from the merge"
    );
}

#[test]
fn merged_bucket_gets_parameters_known_only_to_the_other() {
    let now = Instant::now();
    let mut bucket = TokenBucket::default();
    bucket.merge(&bucket_with(3, now), now);
    assert_eq!(bucket.params(), Some(smallest()));
    assert_eq!(bucket.available_tokens(now), Some(3));
    // Only the capacity of the other bucket is known.
    let mut other = TokenBucket::default();
    let seq = other.take(now);
    other.on_response(seq, now, Some(500), Some(100));
    let mut bucket = TokenBucket::default();
    bucket.merge(&other, now);
    assert_eq!(bucket.params(), None, "the refill is still assumed");
    assert_eq!(bucket.available_tokens(now), Some(100));
    assert_eq!(bucket.available_tokens(now + 60 * SECOND), Some(150));
    // The other bucket is unknown.
    let mut bucket = bucket_with(3, now);
    bucket.merge(&TokenBucket::default(), now);
    assert_eq!(bucket.params(), Some(smallest()));
    assert_eq!(bucket.available_tokens(now), Some(3));
}

#[test]
fn merged_bucket_prefers_known_parameters_to_assumed_ones() {
    let now = Instant::now();
    let assumed = || {
        let mut bucket = TokenBucket::default();
        let seq = bucket.take(now);
        bucket.on_response(seq, now, Some(500), Some(100));
        bucket
    };
    let mut bucket = assumed();
    bucket.merge(&bucket_with(3, now), now);
    assert_eq!(bucket.params(), Some(smallest()));
    assert_eq!(bucket.available_tokens(now), Some(3));
    let mut bucket = bucket_with(3, now);
    bucket.merge(&assumed(), now);
    assert_eq!(bucket.params(), Some(smallest()));
    assert_eq!(bucket.available_tokens(now), Some(3));
    // Both are known, so the parameters do not change.
    let mut other = TokenBucket::default();
    let larger = BucketParams::new(500, 250, 60).expect("a plausible bucket");
    other.set_params(larger, now);
    let mut bucket = bucket_with(3, now);
    bucket.merge(&other, now);
    assert_eq!(bucket.params(), Some(smallest()));
}

#[test]
fn merged_bucket_waits_for_the_later_block() {
    let now = Instant::now();
    for (own, other) in [(60, 600), (600, 60)] {
        let mut bucket = rejected_bucket(1, own * SECOND, now);
        let other = rejected_bucket(1, other * SECOND, now);
        let waits = [&bucket, &other].map(|bucket| bucket.time_until_ready(now));
        let longest = waits.into_iter().max();
        bucket.merge(&other, now);
        assert_eq!(Some(bucket.time_until_ready(now)), longest);
        assert!(longest >= Some(600 * SECOND), "{longest:?}");
    }
    let mut bucket = TokenBucket::default();
    bucket.merge(&rejected_bucket(1, 600 * SECOND, now), now);
    assert!(bucket.time_until_ready(now) >= 600 * SECOND);
}

#[test]
fn merged_bucket_continues_the_longer_series_of_rejections() {
    let now = Instant::now();
    for (own, other) in [(1, 4), (4, 1), (0, 4), (4, 0)] {
        let mut bucket = rejected_bucket(own, Duration::ZERO, now);
        bucket.merge(&rejected_bucket(other, Duration::ZERO, now), now);
        let later = now + Duration::from_hours(1);
        let seq = bucket.take(later);
        let delay = bucket.on_rejected(seq, later, Rejection::default());
        let fifth = 160 * SECOND..=200 * SECOND;
        assert!(fifth.contains(&delay), "{own} {other}: {delay:?}");
    }
}

#[test]
fn merged_bucket_counts_the_maximum_wait_from_the_merge() {
    let now = Instant::now();
    let later = now + Duration::from_hours(1);
    let mut bucket = rejected_bucket(1, MAX_WAIT, now);
    bucket.merge(&rejected_bucket(1, MAX_WAIT, later), later);
    assert_eq!(bucket.time_until_ready(later), MAX_WAIT);
}

#[test]
fn rejected_and_abandoned_requests_are_not_in_flight() {
    let now = Instant::now();
    let mut bucket = TokenBucket::default();
    let seqs = [0; 3].map(|_| bucket.take(now));
    for seq in seqs {
        bucket.on_rejected(seq, now, Rejection::default());
    }
    let seq = bucket.take(now);
    bucket.on_response(seq, now, Some(10), Some(5));
    assert_eq!(bucket.available_tokens(now), Some(5));
    let mut bucket = TokenBucket::default();
    for _ in 0..3 {
        bucket.take(now);
    }
    bucket.abandon();
    bucket.abandon();
    let seq = bucket.take(now);
    bucket.on_response(seq, now, Some(10), Some(5));
    assert_eq!(bucket.available_tokens(now), Some(4), "one is in flight");
}
