//! What is known of one of Atlas' token buckets, and how long to wait before the next request so
//! that it never runs dry. Pure state: time comes in as an argument.
//!
//! Everything is rounded to the safe side. A refill that is due is believed only once a whole
//! period has passed since Atlas last told the level; of requests that are under way it is
//! assumed that Atlas has not counted them yet.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// How large a token bucket is, and how it fills again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketParams {
    /// Most tokens that it holds.
    pub capacity: u64,
    /// Tokens that come every `every`.
    pub refill: u64,
    /// The time between two refills.
    pub every: Duration,
}

impl BucketParams {
    /// A size, if the numbers make sense: an empty bucket is full again within a day. Without that bound one
    /// absurd response would keep an organization from being polled for years.
    pub fn new(capacity: u64, refill: u64, seconds: u64) -> Option<Self> {
        let size = Self {
            capacity,
            refill,
            every: Duration::from_secs(seconds),
        };
        size.is_plausible().then_some(size)
    }

    /// Whether [`Self::new`] would have made it; the fields are public, and can come from a state file.
    pub(super) fn is_plausible(self) -> bool {
        let refills = u32::try_from(self.capacity.div_ceil(self.refill.max(1)));
        self.capacity > 0
            && self.refill > 0
            && self.every >= MIN_REFILL_INTERVAL
            && refills.is_ok_and(|refills| self.every.saturating_mul(refills) <= MAX_WAIT)
    }
}

/// The longest wait, whatever a response asks for.
pub(crate) const MAX_WAIT: Duration = Duration::from_hours(24);
/// The shortest time between two refills.
const MIN_REFILL_INTERVAL: Duration = Duration::from_secs(1);
/// Percent of a bucket that is left to the account's other tools.
const RESERVED_PERCENT: u64 = 20;
/// The pause after a first refusal that does not say how long; doubled with each further one.
const INITIAL_BACKOFF: Duration = Duration::from_secs(10);
/// The longest pause that is not asked for by Atlas itself.
const MAX_BACKOFF: Duration = Duration::from_mins(10);
/// The period that is assumed of a bucket whose capacity alone is known.
const DEFAULT_REFILL_INTERVAL: Duration = Duration::from_mins(1);

/// One bucket. Held by its lane, which lets requests through one after the other.
#[derive(Debug, Default)]
pub(super) struct TokenBucket {
    capacity: Option<u64>,
    refill: Option<(u64, Duration)>,
    level: Option<BucketLevel>,
    /// Requests so far; each is known by its number.
    last_seq: u64,
    in_flight: u64,
    /// The latest request whose answer told a level.
    last_level_seq: u64,
    blocked_until: Option<Instant>,
    /// When something was last learnt or sent: no wait is longer than [`MAX_WAIT`] from then on.
    updated_at: Option<Instant>,
    consecutive_rejections: u32,
    /// Requests sent up to the last refusal: a refusal of one of them is the same refusal.
    last_rejected_seq: u64,
}

#[derive(Debug, Clone, Copy)]
struct BucketLevel {
    tokens: u64,
    at: Instant,
}

impl TokenBucket {
    /// How long to wait until a request may be sent; zero for now.
    pub(super) fn time_until_ready(&self, now: Instant) -> Duration {
        let blocked = self
            .blocked_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let longest = self.updated_at.map_or(MAX_WAIT, |at| {
            saturating_add(at, MAX_WAIT).saturating_duration_since(now)
        });
        blocked.max(self.time_until_token(now)).min(longest)
    }

    fn time_until_token(&self, now: Instant) -> Duration {
        let (Some(level), Some(capacity)) = (self.level, self.capacity) else {
            return Duration::ZERO;
        };
        let kept = reserved_tokens(capacity);
        let tokens = self.available_tokens(now).unwrap_or(capacity);
        if tokens > kept {
            return Duration::ZERO;
        }
        let (refill, every) = self.refill_or_default(capacity);
        let refilled_at = saturating_add(
            level.at,
            saturating_mul(every, elapsed_periods(level.at, now, every)),
        );
        let missing = (kept - tokens).saturating_add(1).div_ceil(refill);
        let due = saturating_add(refilled_at, saturating_mul(every, missing).min(MAX_WAIT));
        due.saturating_duration_since(now)
    }

    /// Tokens that are in it for sure; none when nothing is known.
    pub(super) fn available_tokens(&self, now: Instant) -> Option<u64> {
        let (level, capacity) = (self.level?, self.capacity?);
        let (refill, every) = self.refill_or_default(capacity);
        let refilled = refill.saturating_mul(elapsed_periods(level.at, now, every));
        Some(level.tokens.saturating_add(refilled).min(capacity))
    }

    fn refill_or_default(&self, capacity: u64) -> (u64, Duration) {
        // Atlas' own buckets get a third to a half of their capacity back each minute
        self.refill
            .unwrap_or(((capacity / 10).max(1), DEFAULT_REFILL_INTERVAL))
    }

    /// The size, when all of it is known.
    pub(super) fn params(&self) -> Option<BucketParams> {
        let (refill, every) = self.refill?;
        Some(BucketParams {
            capacity: self.capacity?,
            refill,
            every,
        })
    }

    /// Requests a second that can go on for ever, the others' share left out; none when the
    /// refill is not known.
    pub(super) fn sustained_rate(&self) -> Option<f64> {
        let size = self.params()?;
        #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
        let (refill, percent) = (size.refill as f64, (100 - RESERVED_PERCENT) as f64);
        Some(refill * percent / 100.0 / size.every.as_secs_f64())
    }

    /// A request is sent; its number.
    pub(super) fn take(&mut self, now: Instant) -> u64 {
        self.updated_at = Some(now);
        if let (Some(capacity), Some(tokens)) = (self.capacity, self.available_tokens(now)) {
            let (refill, every) = self.refill_or_default(capacity);
            if let Some(level) = &mut self.level {
                let passed = elapsed_periods(level.at, now, every);
                level.at = saturating_add(level.at, saturating_mul(every, passed));
                level.tokens = tokens.saturating_sub(1);
                // Atlas' own refill may have come already, into a bucket that had no room for all
                // of it: the one that is due here cannot be counted on any more
                if tokens.saturating_add(refill) > capacity {
                    level.at = now;
                }
            }
        }
        self.last_seq = self.last_seq.saturating_add(1);
        self.in_flight = self.in_flight.saturating_add(1);
        self.last_seq
    }

    /// A request ended without an answer that tells anything.
    pub(super) fn abandon(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Request `number` was answered, with what the headers `RateLimit-Limit` and
    /// `RateLimit-Remaining` say. A limit of 0, or nothing left without a limit, is what a server
    /// says that fills in nothing: it teaches nothing.
    pub(super) fn on_response(
        &mut self,
        number: u64,
        now: Instant,
        limit: Option<u64>,
        remaining: Option<u64>,
    ) {
        self.abandon();
        self.updated_at = Some(now);
        self.consecutive_rejections = 0;
        let Some(capacity) = limit.or(self.capacity).filter(|limit| *limit > 0) else {
            return;
        };
        if limit == Some(0) {
            return;
        }
        self.capacity = Some(capacity);
        // A refill that was learnt before may not fit to another capacity.
        self.refill = self
            .params()
            .filter(|size| size.is_plausible())
            .and(self.refill);
        let told = remaining.unwrap_or_else(|| match self.level {
            Some(_) => u64::MAX,
            None => capacity.saturating_sub(1),
        });
        let told = told.min(capacity).saturating_sub(self.in_flight);
        let latest = remaining.is_some() && number > self.last_level_seq;
        let known = self.available_tokens(now).unwrap_or(u64::MAX);
        // an answer that was overtaken may only lower the level
        if latest || told < known {
            self.level = Some(BucketLevel {
                tokens: told,
                at: now,
            });
            self.last_level_seq = self.last_level_seq.max(number);
        }
    }

    /// Request `number` was refused: how long nobody may send anything. `asked` is `Retry-After`;
    /// `empty` says that it was for want of tokens (429), `params` what the refusal tells of them.
    pub(super) fn on_rejected(
        &mut self,
        number: u64,
        now: Instant,
        asked: Option<Duration>,
        empty: bool,
        size: Option<BucketParams>,
    ) -> Duration {
        self.abandon();
        self.updated_at = Some(now);
        // requests that were under way together are refused together, once
        if number > self.last_rejected_seq {
            self.consecutive_rejections = self.consecutive_rejections.saturating_add(1);
            self.last_rejected_seq = self.last_seq;
        }
        let doubled = INITIAL_BACKOFF
            .saturating_mul(1 << (self.consecutive_rejections.saturating_sub(1)).min(10))
            .min(MAX_BACKOFF);
        let pause = asked.unwrap_or_default().max(doubled).min(MAX_WAIT);
        let pause = (pause + pause.mul_f64(fastrand::f64() / 4.0)).min(MAX_WAIT);
        let until = saturating_add(now, pause);
        let until = self.blocked_until.map_or(until, |before| before.max(until));
        self.blocked_until = Some(until);
        if let Some(size) = size {
            self.set_params(size, now);
        }
        if empty && let Some(capacity) = self.capacity {
            // what Atlas asks to wait for is the next refill
            let (_, every) = self.refill_or_default(capacity);
            self.level = Some(BucketLevel {
                tokens: 0,
                at: until.checked_sub(every).unwrap_or(now),
            });
            self.last_level_seq = self.last_seq;
        }
        until.saturating_duration_since(now)
    }

    /// The size is known now, from Atlas itself. One that makes no sense is ignored.
    pub(super) fn set_params(&mut self, size: BucketParams, now: Instant) {
        if !size.is_plausible() {
            return;
        }
        self.updated_at = Some(now);
        self.capacity = Some(size.capacity);
        self.refill = Some((size.refill, size.every));
        if self.level.is_none() {
            self.level = Some(BucketLevel {
                tokens: size.capacity.saturating_sub(self.in_flight),
                at: now,
            });
        }
    }

    /// This bucket turned out to be `other` as well: the worse of both is believed.
    pub(super) fn merge(&mut self, other: &Self, now: Instant) {
        self.updated_at = Some(now);
        if let Some(size) = other.params().filter(|_| self.params().is_none()) {
            self.set_params(size, now);
        }
        self.capacity = self.capacity.or(other.capacity);
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

/// Tokens of a bucket that are left to the account's other tools.
fn reserved_tokens(capacity: u64) -> u64 {
    // In this order no product overflows.
    capacity / 100 * RESERVED_PERCENT + capacity % 100 * RESERVED_PERCENT / 100
}

/// `duration` several times, without an overflow.
fn saturating_mul(duration: Duration, factor: u64) -> Duration {
    duration.saturating_mul(u32::try_from(factor).unwrap_or(u32::MAX))
}

/// `at` moved by `duration`; as it is where the clock does not reach that far.
fn saturating_add(at: Instant, duration: Duration) -> Instant {
    at.checked_add(duration).unwrap_or(at)
}

/// Whole periods from `from` to `now`.
fn elapsed_periods(from: Instant, now: Instant, every: Duration) -> u64 {
    let passed = now.saturating_duration_since(from).as_nanos();
    u64::try_from(passed / every.as_nanos().max(1)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn size() -> BucketParams {
        BucketParams::new(10, 5, 60).expect("the smallest that is known")
    }

    #[test]
    fn unknown_bucket_never_delays() {
        let (mut bucket, now) = (TokenBucket::default(), Instant::now());
        for _ in 0..1000 {
            assert_eq!(bucket.time_until_ready(now), Duration::ZERO);
            let number = bucket.take(now);
            bucket.on_response(number, now, None, None);
        }
    }

    #[test]
    fn zero_limit_headers_are_ignored() {
        let (mut bucket, now) = (TokenBucket::default(), Instant::now());
        for (limit, remaining) in [(Some(0), Some(0)), (None, Some(0)), (Some(0), None)] {
            let number = bucket.take(now);
            bucket.on_response(number, now, limit, remaining);
            assert_eq!(
                (bucket.available_tokens(now), bucket.time_until_ready(now)),
                (None, Duration::ZERO)
            );
        }
    }

    #[test]
    fn reserved_tokens_are_not_taken_before_the_refill() {
        let (mut bucket, now) = (TokenBucket::default(), Instant::now());
        bucket.set_params(size(), now);
        let mut sent = 0;
        while bucket.time_until_ready(now).is_zero() {
            let number = bucket.take(now);
            sent += 1;
            bucket.on_response(number, now, Some(10), Some(10 - sent));
        }
        assert_eq!(sent, 8, "two of ten are left to others");
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
            "never more than it holds"
        );
    }

    #[test]
    fn tokens_taken_by_other_clients_lower_the_level() {
        let (mut bucket, now) = (TokenBucket::default(), Instant::now());
        let number = bucket.take(now);
        bucket.on_response(number, now, Some(10), Some(3));
        assert_eq!(bucket.available_tokens(now), Some(3));
        let number = bucket.take(now);
        bucket.on_response(number, now, Some(10), Some(0));
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
            "an overtaken answer raises nothing"
        );
        bucket.on_response(third, now, Some(10), Some(7));
        assert_eq!(bucket.available_tokens(now), Some(7));
    }

    #[test]
    fn rejections_back_off_exponentially_and_respect_retry_after() {
        let (mut bucket, mut now) = (TokenBucket::default(), Instant::now());
        for least in [10, 20, 40, 80, 160, 320, 600, 600] {
            let number = bucket.take(now);
            let pause = bucket.on_rejected(number, now, None, true, None);
            assert!(
                pause >= least * SECOND && pause <= least * SECOND * 5 / 4,
                "{pause:?} after {least}"
            );
            assert_eq!(bucket.time_until_ready(now), pause);
            now += pause;
            assert_eq!(bucket.time_until_ready(now), Duration::ZERO);
        }
        let number = bucket.take(now);
        bucket.on_response(number, now, None, None);
        let number = bucket.take(now);
        let pause = bucket.on_rejected(number, now, Some(55 * SECOND), true, None);
        assert!(pause >= 55 * SECOND && pause <= 69 * SECOND, "{pause:?}");
    }

    #[test]
    fn concurrent_rejections_count_once() {
        let (mut bucket, now) = (TokenBucket::default(), Instant::now());
        let numbers = [0; 4].map(|_| bucket.take(now));
        for number in numbers {
            let pause = bucket.on_rejected(number, now, None, true, None);
            assert!(pause <= Duration::from_millis(12_500), "{pause:?}");
        }
    }

    #[test]
    fn rejection_sets_the_bucket_parameters() {
        let (mut bucket, now) = (TokenBucket::default(), Instant::now());
        let number = bucket.take(now);
        let pause = bucket.on_rejected(number, now, Some(55 * SECOND), true, Some(size()));
        assert_eq!(bucket.params(), Some(size()));
        let then = now + pause;
        assert_eq!(
            bucket.available_tokens(then),
            Some(5),
            "the refill that was waited for"
        );
        assert_eq!(bucket.time_until_ready(then), Duration::ZERO);
        for _ in 0..3 {
            bucket.take(then);
        }
        assert_eq!(bucket.time_until_ready(then), 60 * SECOND);
    }

    #[test]
    fn unknown_refill_assumes_ten_percent_per_minute() {
        let (mut bucket, now) = (TokenBucket::default(), Instant::now());
        let number = bucket.take(now);
        bucket.on_response(number, now, Some(500), Some(100));
        assert_eq!(bucket.sustained_rate(), None);
        assert_eq!(
            bucket.time_until_ready(now),
            60 * SECOND,
            "a tenth a minute is assumed"
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
            let every = Duration::from_secs(seconds);
            bucket.set_params(
                BucketParams {
                    capacity,
                    refill,
                    every,
                },
                now,
            );
            assert_eq!(bucket.params(), None, "{capacity} {refill} {seconds}");
        }
        for (capacity, refill, seconds) in
            [(1, 1, 86_400), (1440, 1, 60), (u64::MAX, u64::MAX, 86_400)]
        {
            assert!(BucketParams::new(capacity, refill, seconds).is_some());
        }
    }

    #[test]
    fn implausible_rejection_parameters_are_ignored() {
        let (mut bucket, now) = (TokenBucket::default(), Instant::now());
        let number = bucket.take(now);
        let absurd = BucketParams {
            capacity: 1_000_000_000_000,
            refill: 1,
            every: MAX_WAIT,
        };
        bucket.on_rejected(number, now, None, true, Some(absurd));
        assert!(
            bucket.time_until_ready(now) <= 13 * SECOND,
            "{:?}",
            bucket.time_until_ready(now)
        );
        // And a limit that does not fit to the refill that is known drops the refill.
        let (mut bucket, now) = (TokenBucket::default(), Instant::now());
        bucket.set_params(size(), now);
        let number = bucket.take(now);
        bucket.on_response(number, now, Some(1_000_000_000_000), Some(0));
        assert!(
            bucket.time_until_ready(now) <= 10 * 60 * SECOND,
            "{:?}",
            bucket.time_until_ready(now)
        );
    }

    #[derive(Debug, Clone)]
    enum Event {
        Spend,
        Answered(u64, Option<u64>, Option<u64>),
        Refused(u64, Option<u64>, bool, Option<BucketParams>),
        Learn(BucketParams),
        Merge(BucketParams, Option<u64>),
        Lost,
        Pass(u64),
    }

    /// Any number, small ones and the ends more often.
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

    fn any_size() -> impl proptest::strategy::Strategy<Value = BucketParams> {
        use proptest::prelude::*;
        (number(), number(), number(), 0..1_000_000_000_u32).prop_map(
            |(capacity, refill, seconds, nanos)| BucketParams {
                capacity,
                refill,
                every: Duration::new(seconds, nanos),
            },
        )
    }

    fn event() -> impl proptest::strategy::Strategy<Value = Event> {
        use proptest::option::of;
        use proptest::prelude::*;
        prop_oneof![
            Just(Event::Spend),
            (number(), of(number()), of(number()))
                .prop_map(|(n, limit, left)| Event::Answered(n, limit, left)),
            (number(), of(number()), any::<bool>(), of(any_size()))
                .prop_map(|(n, asked, empty, size)| Event::Refused(n, asked, empty, size)),
            any_size().prop_map(Event::Learn),
            (any_size(), of(number())).prop_map(|(size, left)| Event::Merge(size, left)),
            Just(Event::Lost),
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
                    Event::Spend => { bucket.take(now); }
                    Event::Answered(n, limit, left) => bucket.on_response(n, now, limit, left),
                    Event::Refused(n, asked, empty, size) => {
                        let asked = asked.map(Duration::from_secs);
                        let pause = bucket.on_rejected(n, now, asked, empty, size);
                        proptest::prop_assert!(pause <= MAX_WAIT, "{pause:?} after {event:?}");
                    }
                    Event::Learn(size) => bucket.set_params(size, now),
                    Event::Merge(size, left) => {
                        let mut other = TokenBucket::default();
                        other.set_params(size, now);
                        other.on_response(1, now, None, left);
                        bucket.merge(&other, now);
                    }
                    Event::Lost => bucket.abandon(),
                    Event::Pass(seconds) => now += Duration::from_secs(seconds),
                }
                let delay = bucket.time_until_ready(now);
                proptest::prop_assert!(delay <= MAX_WAIT, "{delay:?} after {event:?}");
                proptest::prop_assert_eq!(bucket.time_until_ready(now + MAX_WAIT), Duration::ZERO, "{:?}", event);
                let supply = bucket.sustained_rate();
                proptest::prop_assert!(supply.is_none_or(|supply| supply.is_finite() && supply > 0.0));
            }
        }
    }

    /// A bucket as Atlas has it: whole refills at times that nobody knows.
    struct Real {
        tokens: u64,
        refills: u64,
        phase: u64,
    }

    impl Real {
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
            bucket.set_params(size(), begin);
            let mut real = Real { tokens: 10, refills: phase / 60, phase };
            let mut second = 0;
            for pause in pauses {
                second += pause;
                let wait = bucket.time_until_ready(begin + Duration::from_secs(second));
                second += wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                let number = bucket.take(begin + Duration::from_secs(second));
                proptest::prop_assert!(real.take(second), "refused at {second}");
                bucket.on_response(number, begin + Duration::from_secs(second), None, None);
            }
        }
    }
}
