//! When an organization is due.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use mongodb_atlas_client::{ExponentialBackoff, FailureReason, OrgId};

/// The regular times of one organization: every interval, at an offset that only its id decides,
/// so that organizations do not all come at once, and a restart does not change their times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    interval: Duration,
    offset: Duration,
}

impl Schedule {
    /// The schedule of `org`.
    pub fn new(org: &OrgId, interval: Duration) -> Self {
        let nanos = interval.as_nanos().max(1);
        let share = u128::from(org.stable_hash(0));
        Self {
            interval,
            offset: duration_from_nanos(share * nanos / (u128::from(u64::MAX) + 1)),
        }
    }

    /// The time between two walks.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// How long after `now` the next regular time is: more than half an interval and at most one
    /// and a half, so that neither a walk that came out of turn nor a clock that was set makes
    /// two walks follow each other closely.
    pub fn time_until_next(&self, now: Timestamp) -> Duration {
        let nanos = self.interval.as_nanos().max(1);
        let since_epoch = u128::try_from(now.as_nanosecond()).unwrap_or(0);
        let half = nanos / 2;
        let earliest = since_epoch + half + 1;
        let phase = (earliest % nanos + nanos - self.offset.as_nanos() % nanos) % nanos;
        duration_from_nanos(half + 1 + (nanos - phase) % nanos)
    }
}

fn duration_from_nanos(nanos: u128) -> Duration {
    u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
}

/// How long to wait after failures that follow each other.
///
/// A failure that may pass is tried again soon, twice as late each time, and never later than the
/// next regular time. A refusal that has come three times in a row (401, 403, 404) will not pass
/// by itself: it is tried again at a slower pace, until it is over or somebody changes the
/// credential.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollBackoff {
    failures: u32,
    refusals: u32,
}

/// Wait after failures that may pass.
const BACKOFF: ExponentialBackoff = ExponentialBackoff {
    initial: Duration::from_secs(5),
    max: Duration::from_mins(10),
    jitter: 0.5..1.0,
};
/// Refusals in a row from which on the pace is slower.
const PERMANENT_AFTER: u32 = 3;
/// The slowest pace, unless the interval itself is slower.
const MAX_REFUSED_INTERVAL: Duration = Duration::from_hours(1);

impl PollBackoff {
    /// One more failure: how long to wait until the next try. `schedule` and `regular`, the time to
    /// the next regular walk, are the organization's.
    pub fn on_failure(
        &mut self,
        reason: FailureReason,
        schedule: &Schedule,
        regular: Duration,
    ) -> Duration {
        let lasting = matches!(
            reason,
            FailureReason::Unauthorized | FailureReason::Forbidden | FailureReason::NotFound
        );
        self.failures = self.failures.saturating_add(1);
        self.refusals = if lasting {
            self.refusals.saturating_add(1)
        } else {
            0
        };
        if self.is_permanent() {
            let backoff = ExponentialBackoff {
                initial: schedule.interval.saturating_mul(2),
                max: schedule.interval.max(MAX_REFUSED_INTERVAL),
                ..BACKOFF
            };
            return backoff.jittered(backoff.delay(self.refusals - PERMANENT_AFTER + 1));
        }
        BACKOFF.jittered(BACKOFF.delay(self.failures)).min(regular)
    }

    /// Whether refusals have come so often in a row that the pace is slower.
    pub fn is_permanent(&self) -> bool {
        self.refusals >= PERMANENT_AFTER
    }

    /// Whether the last try was good.
    pub fn is_healthy(&self) -> bool {
        self.failures == 0
    }

    /// All is well again, or somebody has changed what was wrong.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_mins(5);

    fn orgs(count: u32) -> Vec<OrgId> {
        (0..count)
            .map(|n| OrgId::parse(&format!("{n:024x}")).expect("an id"))
            .collect()
    }

    #[test]
    fn offsets_are_stable_distinct_and_spread() {
        let orgs = orgs(500);
        let mut offsets: Vec<_> = orgs
            .iter()
            .map(|org| Schedule::new(org, INTERVAL).offset)
            .collect();
        assert_eq!(offsets[7], Schedule::new(&orgs[7], INTERVAL).offset);
        offsets.sort();
        offsets.dedup();
        assert_eq!(offsets.len(), 500);
        let first_half = offsets
            .iter()
            .filter(|offset| **offset < INTERVAL / 2)
            .count();
        assert!(
            (200..300).contains(&first_half),
            "{first_half} of 500 in the first half"
        );
    }

    #[test]
    fn next_time_is_at_the_offset_and_half_an_interval_away() {
        for org in orgs(50) {
            let schedule = Schedule::new(&org, INTERVAL);
            for second in [0, 1, 149, 151, 299, 1_000_000_007] {
                let now = Timestamp::from_second(second).expect("a time");
                let wait = schedule.time_until_next(now);
                assert!(
                    wait > INTERVAL / 2 && wait <= INTERVAL * 3 / 2 + Duration::from_nanos(1),
                    "{wait:?}"
                );
                let due =
                    u128::try_from(now.as_nanosecond()).expect("after 1970") + wait.as_nanos();
                assert_eq!(due % INTERVAL.as_nanos(), schedule.offset.as_nanos());
            }
        }
    }

    #[test]
    fn regular_times_are_one_interval_apart() {
        let schedule = Schedule::new(&orgs(1)[0], INTERVAL);
        let first = Timestamp::UNIX_EPOCH
            + jiff::SignedDuration::try_from(schedule.time_until_next(Timestamp::UNIX_EPOCH))
                .expect("short");
        assert_eq!(schedule.time_until_next(first), INTERVAL);
    }

    fn waits(reason: FailureReason, count: usize) -> Vec<Duration> {
        let schedule = Schedule::new(&orgs(1)[0], INTERVAL);
        let mut backoff = PollBackoff::default();
        (0..count)
            .map(|_| backoff.on_failure(reason, &schedule, INTERVAL))
            .collect()
    }

    #[test]
    fn transient_failures_are_retried_before_the_next_regular_time() {
        let waits = waits(FailureReason::ServerError, 8);
        assert!(
            waits[0] >= BACKOFF.initial / 2 && waits[0] <= BACKOFF.initial,
            "{waits:?}"
        );
        assert!(
            waits[3] >= BACKOFF.initial * 4 && waits[3] <= BACKOFF.initial * 8,
            "{waits:?}"
        );
        assert!(waits.iter().all(|wait| *wait <= INTERVAL));
    }

    #[test]
    fn repeated_refusals_are_retried_at_growing_intervals() {
        for reason in [
            FailureReason::Unauthorized,
            FailureReason::Forbidden,
            FailureReason::NotFound,
        ] {
            let waits = waits(reason, 9);
            assert!(waits[1] <= INTERVAL, "two may pass: {waits:?}");
            assert!(
                waits[2] >= INTERVAL && waits[2] <= INTERVAL * 2,
                "{waits:?}"
            );
            assert!(
                waits[3] >= INTERVAL * 2 && waits[3] <= INTERVAL * 4,
                "{waits:?}"
            );
            assert!(
                waits[8] >= MAX_REFUSED_INTERVAL / 2 && waits[8] <= MAX_REFUSED_INTERVAL,
                "{waits:?}"
            );
        }
    }

    #[test]
    fn other_failure_resets_consecutive_refusals() {
        let schedule = Schedule::new(&orgs(1)[0], INTERVAL);
        let mut backoff = PollBackoff::default();
        for reason in [
            FailureReason::Forbidden,
            FailureReason::Forbidden,
            FailureReason::Timeout,
        ] {
            backoff.on_failure(reason, &schedule, INTERVAL);
        }
        backoff.on_failure(FailureReason::Forbidden, &schedule, INTERVAL);
        assert!(!backoff.is_permanent() && !backoff.is_healthy());
        backoff.reset();
        assert!(backoff.is_healthy());
    }
}
