use super::*;

const SECOND: Duration = Duration::from_secs(1);

const EMPTY: Rejection = Rejection {
    retry_after: None,
    is_empty: true,
    params: None,
};

fn empty_for(seconds: u64, params: Option<BucketParams>) -> Rejection {
    Rejection {
        retry_after: Some(Duration::from_secs(seconds)),
        is_empty: true,
        params,
    }
}

fn params() -> BucketParams {
    BucketParams::new(10, 5, 60).expect("the smallest bucket of Atlas")
}

#[test]
fn unknown_bucket_never_delays() {
    let (mut bucket, now) = (TokenBucket::default(), Instant::now());
    for _ in 0..1000 {
        assert_eq!(bucket.time_until_ready(now), Duration::ZERO);
        let seq = bucket.take(now);
        bucket.on_response(seq, now, None, None);
    }
}

#[test]
fn zero_limit_headers_are_ignored() {
    let (mut bucket, now) = (TokenBucket::default(), Instant::now());
    for (limit, remaining) in [(Some(0), Some(0)), (None, Some(0)), (Some(0), None)] {
        let seq = bucket.take(now);
        bucket.on_response(seq, now, limit, remaining);
        assert_eq!(
            (bucket.available_tokens(now), bucket.time_until_ready(now)),
            (None, Duration::ZERO)
        );
    }
}

#[test]
fn reserved_tokens_are_not_taken_before_the_refill() {
    let (mut bucket, now) = (TokenBucket::default(), Instant::now());
    bucket.set_params(params(), now);
    let mut sent = 0;
    while bucket.time_until_ready(now).is_zero() {
        let seq = bucket.take(now);
        sent += 1;
        bucket.on_response(seq, now, Some(10), Some(10 - sent));
    }
    assert_eq!(sent, 8, "two of ten are reserved");
    assert_eq!(bucket.time_until_ready(now), 60 * SECOND);
    let later = now + 61 * SECOND;
    assert_eq!(
        (
            bucket.time_until_ready(later),
            bucket.available_tokens(later)
        ),
        (Duration::ZERO, Some(7))
    );
    assert_eq!(
        bucket.available_tokens(now + 3600 * SECOND),
        Some(10),
        "never more than the capacity"
    );
}

#[test]
fn tokens_taken_by_other_clients_lower_the_level() {
    let (mut bucket, now) = (TokenBucket::default(), Instant::now());
    let seq = bucket.take(now);
    bucket.on_response(seq, now, Some(10), Some(3));
    assert_eq!(bucket.available_tokens(now), Some(3));
    let seq = bucket.take(now);
    bucket.on_response(seq, now, Some(10), Some(0));
    assert!(bucket.time_until_ready(now) > Duration::ZERO);
}

#[test]
fn in_flight_requests_lower_the_level() {
    let (mut bucket, now) = (TokenBucket::default(), Instant::now());
    let first = bucket.take(now);
    let second = bucket.take(now);
    let third = bucket.take(now);
    bucket.on_response(second, now, Some(10), Some(8));
    assert_eq!(bucket.available_tokens(now), Some(6));
    bucket.on_response(first, now, Some(10), Some(9));
    assert_eq!(
        bucket.available_tokens(now),
        Some(6),
        "an earlier request does not raise the level"
    );
    bucket.on_response(third, now, Some(10), Some(7));
    assert_eq!(bucket.available_tokens(now), Some(7));
}

#[test]
fn rejections_back_off_exponentially_and_respect_retry_after() {
    let (mut bucket, mut now) = (TokenBucket::default(), Instant::now());
    for min in [10, 20, 40, 80, 160, 320, 600, 600] {
        let seq = bucket.take(now);
        let delay = bucket.on_rejected(seq, now, EMPTY);
        assert!(
            delay >= min * SECOND && delay <= min * SECOND * 5 / 4,
            "{delay:?} after {min}"
        );
        assert_eq!(bucket.time_until_ready(now), delay);
        now += delay;
        assert_eq!(bucket.time_until_ready(now), Duration::ZERO);
    }
    let seq = bucket.take(now);
    bucket.on_response(seq, now, None, None);
    let seq = bucket.take(now);
    let delay = bucket.on_rejected(seq, now, empty_for(55, None));
    assert!(delay >= 55 * SECOND && delay <= 69 * SECOND, "{delay:?}");
}

#[test]
fn concurrent_rejections_count_once() {
    let (mut bucket, now) = (TokenBucket::default(), Instant::now());
    let seqs = [0; 4].map(|_| bucket.take(now));
    for seq in seqs {
        let delay = bucket.on_rejected(seq, now, EMPTY);
        assert!(delay <= Duration::from_millis(12_500), "{delay:?}");
    }
}

#[test]
fn rejection_sets_the_bucket_parameters() {
    let (mut bucket, now) = (TokenBucket::default(), Instant::now());
    let seq = bucket.take(now);
    let delay = bucket.on_rejected(seq, now, empty_for(55, Some(params())));
    assert_eq!(bucket.params(), Some(params()));
    let then = now + delay;
    assert_eq!(bucket.available_tokens(then), Some(5), "the next refill");
    assert_eq!(bucket.time_until_ready(then), Duration::ZERO);
    for _ in 0..3 {
        bucket.take(then);
    }
    assert_eq!(bucket.time_until_ready(then), 60 * SECOND);
}

#[test]
fn unknown_refill_assumes_ten_percent_per_minute() {
    let (mut bucket, now) = (TokenBucket::default(), Instant::now());
    let seq = bucket.take(now);
    bucket.on_response(seq, now, Some(500), Some(100));
    assert_eq!(bucket.sustained_rate(), None);
    assert_eq!(
        bucket.time_until_ready(now),
        60 * SECOND,
        "ten percent per minute is assumed"
    );
    assert_eq!(bucket.available_tokens(now + 60 * SECOND), Some(150));
}

#[test]
fn parameters_with_refill_over_a_day_are_ignored() {
    for (capacity, refill, seconds) in [
        (1_000_000_000_000, 1, 86_400),
        (1_000_000_000_000, 1, 1),
        (u64::MAX, u64::MAX / 2, 86_400),
        (10, 1, 86_400),
        (1, 1, 86_401),
        (1, 1, u64::MAX),
        (u64::MAX, 1, 1),
        (10, 5, 0),
        (0, 5, 60),
        (10, 0, 60),
    ] {
        assert_eq!(BucketParams::new(capacity, refill, seconds), None);
        let (mut bucket, now) = (TokenBucket::default(), Instant::now());
        let params = BucketParams {
            capacity,
            refill_tokens: refill,
            refill_interval: Duration::from_secs(seconds),
        };
        bucket.set_params(params, now);
        assert_eq!(bucket.params(), None, "{capacity} {refill} {seconds}");
    }
    for (capacity, refill, seconds) in [(1, 1, 86_400), (1440, 1, 60), (u64::MAX, u64::MAX, 86_400)]
    {
        assert!(BucketParams::new(capacity, refill, seconds).is_some());
    }
}

#[test]
fn implausible_rejection_parameters_are_ignored() {
    let (mut bucket, now) = (TokenBucket::default(), Instant::now());
    let seq = bucket.take(now);
    let implausible = BucketParams {
        capacity: 1_000_000_000_000,
        refill_tokens: 1,
        refill_interval: MAX_WAIT,
    };
    let rejection = Rejection {
        params: Some(implausible),
        ..EMPTY
    };
    bucket.on_rejected(seq, now, rejection);
    assert!(
        bucket.time_until_ready(now) <= 13 * SECOND,
        "{:?}",
        bucket.time_until_ready(now)
    );
    // A limit that is implausible with the known refill discards the refill.
    let (mut bucket, now) = (TokenBucket::default(), Instant::now());
    bucket.set_params(params(), now);
    let seq = bucket.take(now);
    bucket.on_response(seq, now, Some(1_000_000_000_000), Some(0));
    assert!(
        bucket.time_until_ready(now) <= 10 * 60 * SECOND,
        "{:?}",
        bucket.time_until_ready(now)
    );
}

#[derive(Debug, Clone)]
enum Event {
    Take,
    Response {
        seq: u64,
        limit: Option<u64>,
        remaining: Option<u64>,
    },
    Rejected {
        seq: u64,
        rejection: Rejection,
    },
    SetParams(BucketParams),
    Merge(BucketParams, Option<u64>),
    Abandon,
    Pass(u64),
}

/// Generates any sequence number; small ones and the limits are more frequent.
fn number() -> impl proptest::strategy::Strategy<Value = u64> {
    use proptest::prelude::*;
    prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        Just(86_400),
        0..100_u64,
        any::<u64>()
    ]
}

fn any_params() -> impl proptest::strategy::Strategy<Value = BucketParams> {
    use proptest::prelude::*;
    (number(), number(), number(), 0..1_000_000_000_u32).prop_map(
        |(capacity, refill, seconds, nanos)| BucketParams {
            capacity,
            refill_tokens: refill,
            refill_interval: Duration::new(seconds, nanos),
        },
    )
}

fn event() -> impl proptest::strategy::Strategy<Value = Event> {
    use proptest::option::of;
    use proptest::prelude::*;
    prop_oneof![
        Just(Event::Take),
        (number(), of(number()), of(number())).prop_map(|(seq, limit, remaining)| {
            Event::Response {
                seq,
                limit,
                remaining,
            }
        }),
        (number(), of(number()), any::<bool>(), of(any_params())).prop_map(
            |(seq, retry_after, is_empty, params)| {
                let retry_after = retry_after.map(Duration::from_secs);
                let rejection = Rejection {
                    retry_after,
                    is_empty,
                    params,
                };
                Event::Rejected { seq, rejection }
            }
        ),
        any_params().prop_map(Event::SetParams),
        (any_params(), of(number())).prop_map(|(params, left)| Event::Merge(params, left)),
        Just(Event::Abandon),
        (0..1_000_000_u64).prop_map(Event::Pass),
    ]
}

proptest::proptest! {
    #[test]
    fn arbitrary_input_never_panics_or_waits_over_a_day(
        events in proptest::collection::vec(event(), 1..40),
    ) {
        let (mut bucket, mut now) = (TokenBucket::default(), Instant::now());
        for event in events {
            match event.clone() {
                Event::Take => { bucket.take(now); }
                Event::Response { seq, limit, remaining } => bucket.on_response(seq, now, limit, remaining),
                Event::Rejected { seq, rejection } => {
                    let delay = bucket.on_rejected(seq, now, rejection);
                    proptest::prop_assert!(delay <= MAX_WAIT, "{delay:?} after {event:?}");
                }
                Event::SetParams(params) => bucket.set_params(params, now),
                Event::Merge(params, left) => {
                    let mut other = TokenBucket::default();
                    other.set_params(params, now);
                    other.on_response(1, now, None, left);
                    bucket.merge(&other, now);
                }
                Event::Abandon => bucket.abandon(),
                Event::Pass(seconds) => now += Duration::from_secs(seconds),
            }
            let delay = bucket.time_until_ready(now);
            proptest::prop_assert!(delay <= MAX_WAIT, "{delay:?} after {event:?}");
            proptest::prop_assert_eq!(bucket.time_until_ready(now + MAX_WAIT), Duration::ZERO, "{:?}", event);
            let rate = bucket.sustained_rate();
            proptest::prop_assert!(rate.is_none_or(|rate| rate.is_finite() && rate > 0.0));
        }
    }
}

/// Atlas' own bucket, with refills at times that are unknown to the client.
struct ServerBucket {
    tokens: u64,
    refills: u64,
    phase: u64,
}

impl ServerBucket {
    fn take(&mut self, second: u64) -> bool {
        let due = (second + self.phase) / 60;
        for _ in self.refills..due {
            self.tokens = (self.tokens + 5).min(10);
        }
        self.refills = self.refills.max(due);
        self.tokens = self.tokens.checked_sub(1).unwrap_or(u64::MAX);
        self.tokens != u64::MAX
    }
}

proptest::proptest! {
    #[test]
    fn never_exceeds_the_real_bucket_for_any_refill_phase(
        phase in 0_u64..60,
        pauses in proptest::collection::vec(
            proptest::prop_oneof![6 => proptest::prelude::Just(0_u64), 1 => 0_u64..200],
            1..300,
        ),
    ) {
        let begin = Instant::now();
        let mut bucket = TokenBucket::default();
        bucket.set_params(params(), begin);
        let mut server = ServerBucket { tokens: 10, refills: phase / 60, phase };
        let mut second = 0;
        for pause in pauses {
            second += pause;
            let wait = bucket.time_until_ready(begin + Duration::from_secs(second));
            second += wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            let seq = bucket.take(begin + Duration::from_secs(second));
            proptest::prop_assert!(server.take(second), "rejected at {second}");
            bucket.on_response(seq, begin + Duration::from_secs(second), None, None);
        }
    }
}
