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
pub struct BucketSize {
    /// Most tokens that it holds.
    pub capacity: u64,
    /// Tokens that come every `every`.
    pub refill: u64,
    /// The time between two refills.
    pub every: Duration,
}

impl BucketSize {
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
            && self.every >= MIN_PERIOD
            && refills.is_ok_and(|refills| self.every.saturating_mul(refills) <= MAX_WAIT)
    }
}

/// The longest wait, whatever a response asks for.
pub(crate) const MAX_WAIT: Duration = Duration::from_hours(24);
/// The shortest time between two refills.
const MIN_PERIOD: Duration = Duration::from_secs(1);
/// Percent of a bucket that is left to the account's other tools.
const LEFT_TO_OTHERS: u64 = 20;
/// The pause after a first refusal that does not say how long; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause that is not asked for by Atlas itself.
const LONGEST_PAUSE: Duration = Duration::from_mins(10);
/// The period that is assumed of a bucket whose capacity alone is known.
const ASSUMED_PERIOD: Duration = Duration::from_mins(1);

/// One bucket. Held by its lane, which lets requests through one after the other.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    capacity: Option<u64>,
    refill: Option<(u64, Duration)>,
    level: Option<Level>,
    /// Requests so far; each is known by its number.
    sent: u64,
    in_flight: u64,
    /// The latest request whose answer told a level.
    told_by: u64,
    blocked_until: Option<Instant>,
    /// When something was last learnt or sent: no wait is longer than [`MAX_WAIT`] from then on.
    updated_at: Option<Instant>,
    refusals: u32,
    /// Requests sent up to the last refusal: a refusal of one of them is the same refusal.
    refused_up_to: u64,
}

#[derive(Debug, Clone, Copy)]
struct Level {
    tokens: u64,
    at: Instant,
}

impl Bucket {
    /// How long to wait until a request may be sent; zero for now.
    pub(super) fn delay(&self, now: Instant) -> Duration {
        let blocked = self
            .blocked_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let longest = self.updated_at.map_or(MAX_WAIT, |at| {
            add(at, MAX_WAIT).saturating_duration_since(now)
        });
        blocked.max(self.until_filled(now)).min(longest)
    }

    fn until_filled(&self, now: Instant) -> Duration {
        let (Some(level), Some(capacity)) = (self.level, self.capacity) else {
            return Duration::ZERO;
        };
        let kept = reserved_tokens(capacity);
        let tokens = self.tokens(now).unwrap_or(capacity);
        if tokens > kept {
            return Duration::ZERO;
        }
        let (refill, every) = self.refill_or_guess(capacity);
        let refilled_at = add(level.at, multiply(every, periods(level.at, now, every)));
        let missing = (kept - tokens).saturating_add(1).div_ceil(refill);
        let due = add(refilled_at, multiply(every, missing).min(MAX_WAIT));
        due.saturating_duration_since(now)
    }

    /// Tokens that are in it for sure; none when nothing is known.
    pub(super) fn tokens(&self, now: Instant) -> Option<u64> {
        let (level, capacity) = (self.level?, self.capacity?);
        let (refill, every) = self.refill_or_guess(capacity);
        let refilled = refill.saturating_mul(periods(level.at, now, every));
        Some(level.tokens.saturating_add(refilled).min(capacity))
    }

    fn refill_or_guess(&self, capacity: u64) -> (u64, Duration) {
        // Atlas' own buckets get a third to a half of their capacity back each minute
        self.refill
            .unwrap_or(((capacity / 10).max(1), ASSUMED_PERIOD))
    }

    /// The size, when all of it is known.
    pub(super) fn size(&self) -> Option<BucketSize> {
        let (refill, every) = self.refill?;
        Some(BucketSize {
            capacity: self.capacity?,
            refill,
            every,
        })
    }

    /// Requests a second that can go on for ever, the others' share left out; none when the
    /// refill is not known.
    pub(super) fn supply(&self) -> Option<f64> {
        let size = self.size()?;
        #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
        let (refill, percent) = (size.refill as f64, (100 - LEFT_TO_OTHERS) as f64);
        Some(refill * percent / 100.0 / size.every.as_secs_f64())
    }

    /// A request is sent; its number.
    pub(super) fn spend(&mut self, now: Instant) -> u64 {
        self.updated_at = Some(now);
        if let (Some(capacity), Some(tokens)) = (self.capacity, self.tokens(now)) {
            let (refill, every) = self.refill_or_guess(capacity);
            if let Some(level) = &mut self.level {
                let passed = periods(level.at, now, every);
                level.at = add(level.at, multiply(every, passed));
                level.tokens = tokens.saturating_sub(1);
                // Atlas' own refill may have come already, into a bucket that had no room for all
                // of it: the one that is due here cannot be counted on any more
                if tokens.saturating_add(refill) > capacity {
                    level.at = now;
                }
            }
        }
        self.sent = self.sent.saturating_add(1);
        self.in_flight = self.in_flight.saturating_add(1);
        self.sent
    }

    /// A request ended without an answer that tells anything.
    pub(super) fn lost(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Request `number` was answered, with what the headers `RateLimit-Limit` and
    /// `RateLimit-Remaining` say. A limit of 0, or nothing left without a limit, is what a server
    /// says that fills in nothing: it teaches nothing.
    pub(super) fn answered(
        &mut self,
        number: u64,
        now: Instant,
        limit: Option<u64>,
        remaining: Option<u64>,
    ) {
        self.lost();
        self.updated_at = Some(now);
        self.refusals = 0;
        let Some(capacity) = limit.or(self.capacity).filter(|limit| *limit > 0) else {
            return;
        };
        if limit == Some(0) {
            return;
        }
        self.capacity = Some(capacity);
        // A refill that was learnt before may not fit to another capacity.
        self.refill = self
            .size()
            .filter(|size| size.is_plausible())
            .and(self.refill);
        let told = remaining.unwrap_or_else(|| match self.level {
            Some(_) => u64::MAX,
            None => capacity.saturating_sub(1),
        });
        let told = told.min(capacity).saturating_sub(self.in_flight);
        let latest = remaining.is_some() && number > self.told_by;
        let known = self.tokens(now).unwrap_or(u64::MAX);
        // an answer that was overtaken may only lower the level
        if latest || told < known {
            self.level = Some(Level {
                tokens: told,
                at: now,
            });
            self.told_by = self.told_by.max(number);
        }
    }

    /// Request `number` was refused: how long nobody may send anything. `asked` is `Retry-After`;
    /// `empty` says that it was for want of tokens (429), `size` what the refusal tells of them.
    pub(super) fn refused(
        &mut self,
        number: u64,
        now: Instant,
        asked: Option<Duration>,
        empty: bool,
        size: Option<BucketSize>,
    ) -> Duration {
        self.lost();
        self.updated_at = Some(now);
        // requests that were under way together are refused together, once
        if number > self.refused_up_to {
            self.refusals = self.refusals.saturating_add(1);
            self.refused_up_to = self.sent;
        }
        let doubled = FIRST_PAUSE
            .saturating_mul(1 << (self.refusals.saturating_sub(1)).min(10))
            .min(LONGEST_PAUSE);
        let pause = asked.unwrap_or_default().max(doubled).min(MAX_WAIT);
        let pause = (pause + pause.mul_f64(fastrand::f64() / 4.0)).min(MAX_WAIT);
        let until = add(now, pause);
        let until = self.blocked_until.map_or(until, |before| before.max(until));
        self.blocked_until = Some(until);
        if let Some(size) = size {
            self.learn(size, now);
        }
        if empty && let Some(capacity) = self.capacity {
            // what Atlas asks to wait for is the next refill
            let (_, every) = self.refill_or_guess(capacity);
            self.level = Some(Level {
                tokens: 0,
                at: until.checked_sub(every).unwrap_or(now),
            });
            self.told_by = self.sent;
        }
        until.saturating_duration_since(now)
    }

    /// The size is known now, from Atlas itself. One that makes no sense is ignored.
    pub(super) fn learn(&mut self, size: BucketSize, now: Instant) {
        if !size.is_plausible() {
            return;
        }
        self.updated_at = Some(now);
        self.capacity = Some(size.capacity);
        self.refill = Some((size.refill, size.every));
        if self.level.is_none() {
            self.level = Some(Level {
                tokens: size.capacity.saturating_sub(self.in_flight),
                at: now,
            });
        }
    }

    /// This bucket turned out to be `other` as well: the worse of both is believed.
    pub(super) fn merge(&mut self, other: &Self, now: Instant) {
        self.updated_at = Some(now);
        if let Some(size) = other.size().filter(|_| self.size().is_none()) {
            self.learn(size, now);
        }
        self.capacity = self.capacity.or(other.capacity);
        if let Some(tokens) = other.tokens(now)
            && self.tokens(now).is_none_or(|own| tokens < own)
        {
            self.level = Some(Level { tokens, at: now });
        }
        self.blocked_until = self.blocked_until.max(other.blocked_until);
        self.refusals = self.refusals.max(other.refusals);
    }
}

/// Tokens of a bucket that are left to the account's other tools.
fn reserved_tokens(capacity: u64) -> u64 {
    // In this order no product overflows.
    capacity / 100 * LEFT_TO_OTHERS + capacity % 100 * LEFT_TO_OTHERS / 100
}

/// `duration` several times, without an overflow.
fn multiply(duration: Duration, factor: u64) -> Duration {
    duration.saturating_mul(u32::try_from(factor).unwrap_or(u32::MAX))
}

/// `at` moved by `duration`; as it is where the clock does not reach that far.
fn add(at: Instant, duration: Duration) -> Instant {
    at.checked_add(duration).unwrap_or(at)
}

/// Whole periods from `from` to `now`.
fn periods(from: Instant, now: Instant, every: Duration) -> u64 {
    let passed = now.saturating_duration_since(from).as_nanos();
    u64::try_from(passed / every.as_nanos().max(1)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn size() -> BucketSize {
        BucketSize::new(10, 5, 60).expect("the smallest that is known")
    }

    #[test]
    fn nothing_known_means_no_waiting() {
        let (mut bucket, now) = (Bucket::default(), Instant::now());
        for _ in 0..1000 {
            assert_eq!(bucket.delay(now), Duration::ZERO);
            let number = bucket.spend(now);
            bucket.answered(number, now, None, None);
        }
    }

    #[test]
    fn a_limit_of_zero_teaches_nothing() {
        let (mut bucket, now) = (Bucket::default(), Instant::now());
        for (limit, remaining) in [(Some(0), Some(0)), (None, Some(0)), (Some(0), None)] {
            let number = bucket.spend(now);
            bucket.answered(number, now, limit, remaining);
            assert_eq!(
                (bucket.tokens(now), bucket.delay(now)),
                (None, Duration::ZERO)
            );
        }
    }

    #[test]
    fn a_share_is_left_to_others_and_the_refill_is_waited_for() {
        let (mut bucket, now) = (Bucket::default(), Instant::now());
        bucket.learn(size(), now);
        let mut sent = 0;
        while bucket.delay(now).is_zero() {
            let number = bucket.spend(now);
            sent += 1;
            bucket.answered(number, now, Some(10), Some(10 - sent));
        }
        assert_eq!(sent, 8, "two of ten are left to others");
        assert_eq!(bucket.delay(now), 60 * SECOND);
        let later = now + 61 * SECOND;
        assert_eq!(
            (bucket.delay(later), bucket.tokens(later)),
            (Duration::ZERO, Some(7))
        );
        assert_eq!(
            bucket.tokens(now + 3600 * SECOND),
            Some(10),
            "never more than it holds"
        );
    }

    #[test]
    fn what_others_take_is_seen() {
        let (mut bucket, now) = (Bucket::default(), Instant::now());
        let number = bucket.spend(now);
        bucket.answered(number, now, Some(10), Some(3));
        assert_eq!(bucket.tokens(now), Some(3));
        let number = bucket.spend(now);
        bucket.answered(number, now, Some(10), Some(0));
        assert!(bucket.delay(now) > Duration::ZERO);
    }

    #[test]
    fn requests_under_way_count_as_not_yet_counted() {
        let (mut bucket, now) = (Bucket::default(), Instant::now());
        let first = bucket.spend(now);
        let second = bucket.spend(now);
        let third = bucket.spend(now);
        bucket.answered(second, now, Some(10), Some(8));
        assert_eq!(bucket.tokens(now), Some(6));
        bucket.answered(first, now, Some(10), Some(9));
        assert_eq!(
            bucket.tokens(now),
            Some(6),
            "an overtaken answer raises nothing"
        );
        bucket.answered(third, now, Some(10), Some(7));
        assert_eq!(bucket.tokens(now), Some(7));
    }

    #[test]
    fn refusals_pause_longer_each_time_and_at_least_as_long_as_asked() {
        let (mut bucket, mut now) = (Bucket::default(), Instant::now());
        for least in [10, 20, 40, 80, 160, 320, 600, 600] {
            let number = bucket.spend(now);
            let pause = bucket.refused(number, now, None, true, None);
            assert!(
                pause >= least * SECOND && pause <= least * SECOND * 5 / 4,
                "{pause:?} after {least}"
            );
            assert_eq!(bucket.delay(now), pause);
            now += pause;
            assert_eq!(bucket.delay(now), Duration::ZERO);
        }
        let number = bucket.spend(now);
        bucket.answered(number, now, None, None);
        let number = bucket.spend(now);
        let pause = bucket.refused(number, now, Some(55 * SECOND), true, None);
        assert!(pause >= 55 * SECOND && pause <= 69 * SECOND, "{pause:?}");
    }

    #[test]
    fn requests_refused_together_are_one_refusal() {
        let (mut bucket, now) = (Bucket::default(), Instant::now());
        let numbers = [0; 4].map(|_| bucket.spend(now));
        for number in numbers {
            let pause = bucket.refused(number, now, None, true, None);
            assert!(pause <= Duration::from_millis(12_500), "{pause:?}");
        }
    }

    #[test]
    fn a_refusal_teaches_the_size() {
        let (mut bucket, now) = (Bucket::default(), Instant::now());
        let number = bucket.spend(now);
        let pause = bucket.refused(number, now, Some(55 * SECOND), true, Some(size()));
        assert_eq!(bucket.size(), Some(size()));
        let then = now + pause;
        assert_eq!(
            bucket.tokens(then),
            Some(5),
            "the refill that was waited for"
        );
        assert_eq!(bucket.delay(then), Duration::ZERO);
        for _ in 0..3 {
            bucket.spend(then);
        }
        assert_eq!(bucket.delay(then), 60 * SECOND);
    }

    #[test]
    fn a_capacity_without_a_refill_is_gone_through_slowly() {
        let (mut bucket, now) = (Bucket::default(), Instant::now());
        let number = bucket.spend(now);
        bucket.answered(number, now, Some(500), Some(100));
        assert_eq!(bucket.supply(), None);
        assert_eq!(
            bucket.delay(now),
            60 * SECOND,
            "a tenth a minute is assumed"
        );
        assert_eq!(bucket.tokens(now + 60 * SECOND), Some(150));
    }

    #[test]
    fn a_size_that_takes_longer_than_a_day_to_fill_is_no_size() {
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
            assert_eq!(BucketSize::new(capacity, refill, seconds), None);
            let (mut bucket, now) = (Bucket::default(), Instant::now());
            let every = Duration::from_secs(seconds);
            bucket.learn(
                BucketSize {
                    capacity,
                    refill,
                    every,
                },
                now,
            );
            assert_eq!(bucket.size(), None, "{capacity} {refill} {seconds}");
        }
        for (capacity, refill, seconds) in
            [(1, 1, 86_400), (1440, 1, 60), (u64::MAX, u64::MAX, 86_400)]
        {
            assert!(BucketSize::new(capacity, refill, seconds).is_some());
        }
    }

    #[test]
    fn a_refusal_with_an_absurd_size_is_a_refusal_without_one() {
        let (mut bucket, now) = (Bucket::default(), Instant::now());
        let number = bucket.spend(now);
        let absurd = BucketSize {
            capacity: 1_000_000_000_000,
            refill: 1,
            every: MAX_WAIT,
        };
        bucket.refused(number, now, None, true, Some(absurd));
        assert!(bucket.delay(now) <= 13 * SECOND, "{:?}", bucket.delay(now));
        // And a limit that does not fit to the refill that is known drops the refill.
        let (mut bucket, now) = (Bucket::default(), Instant::now());
        bucket.learn(size(), now);
        let number = bucket.spend(now);
        bucket.answered(number, now, Some(1_000_000_000_000), Some(0));
        assert!(
            bucket.delay(now) <= 10 * 60 * SECOND,
            "{:?}",
            bucket.delay(now)
        );
    }

    #[derive(Debug, Clone)]
    enum Event {
        Spend,
        Answered(u64, Option<u64>, Option<u64>),
        Refused(u64, Option<u64>, bool, Option<BucketSize>),
        Learn(BucketSize),
        Merge(BucketSize, Option<u64>),
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

    fn any_size() -> impl proptest::strategy::Strategy<Value = BucketSize> {
        use proptest::prelude::*;
        (number(), number(), number(), 0..1_000_000_000_u32).prop_map(
            |(capacity, refill, seconds, nanos)| BucketSize {
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
        fn no_numbers_lead_to_a_panic_or_to_a_wait_of_more_than_a_day(
            events in proptest::collection::vec(event(), 1..40),
        ) {
            let (mut bucket, mut now) = (Bucket::default(), Instant::now());
            for event in events {
                match event.clone() {
                    Event::Spend => { bucket.spend(now); }
                    Event::Answered(n, limit, left) => bucket.answered(n, now, limit, left),
                    Event::Refused(n, asked, empty, size) => {
                        let asked = asked.map(Duration::from_secs);
                        let pause = bucket.refused(n, now, asked, empty, size);
                        proptest::prop_assert!(pause <= MAX_WAIT, "{pause:?} after {event:?}");
                    }
                    Event::Learn(size) => bucket.learn(size, now),
                    Event::Merge(size, left) => {
                        let mut other = Bucket::default();
                        other.learn(size, now);
                        other.answered(1, now, None, left);
                        bucket.merge(&other, now);
                    }
                    Event::Lost => bucket.lost(),
                    Event::Pass(seconds) => now += Duration::from_secs(seconds),
                }
                let delay = bucket.delay(now);
                proptest::prop_assert!(delay <= MAX_WAIT, "{delay:?} after {event:?}");
                proptest::prop_assert_eq!(bucket.delay(now + MAX_WAIT), Duration::ZERO, "{:?}", event);
                let supply = bucket.supply();
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
        fn whenever_refills_come_no_token_is_taken_that_is_not_there(
            phase in 0_u64..60,
            pauses in proptest::collection::vec(
                proptest::prop_oneof![6 => proptest::prelude::Just(0_u64), 1 => 0_u64..200],
                1..300,
            ),
        ) {
            let begin = Instant::now();
            let mut bucket = Bucket::default();
            bucket.learn(size(), begin);
            let mut real = Real { tokens: 10, refills: phase / 60, phase };
            let mut second = 0;
            for pause in pauses {
                second += pause;
                let wait = bucket.delay(begin + Duration::from_secs(second));
                second += wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                let number = bucket.spend(begin + Duration::from_secs(second));
                proptest::prop_assert!(real.take(second), "refused at {second}");
                bucket.answered(number, begin + Duration::from_secs(second), None, None);
            }
        }
    }
}
