//! The times at which an organization is due.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use mongodb_atlas_client::{ExponentialBackoff, FailureReason, OrgId};

/// The regular poll times of one organization: once per interval, with an offset that depends only on the id. The polls of
/// all organizations are spread over the interval, and a restart does not change their times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    interval: Duration,
    offset: Duration,
}

impl Schedule {
    /// Creates the schedule of `org`.
    pub fn new(org: &OrgId, interval: Duration) -> Self {
        let nanos = interval.as_nanos().max(1);
        let share = u128::from(org.stable_hash(0));
        Self {
            interval,
            offset: duration_from_nanos(share * nanos / (u128::from(u64::MAX) + 1)),
        }
    }

    /// Returns the time between two polls.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Returns the time from `now` to the next regular poll: more than half an interval and at most one and a half
    /// intervals, so that neither an irregular poll nor a clock change causes two polls in quick succession.
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

/// The backoff after consecutive failures.
///
/// A transient failure is retried with an exponential backoff, but not later than the next regular time. Three consecutive
/// rejections (401, 403, 404) count as permanent: the backoff then exceeds the interval, until a poll succeeds or the
/// credential changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollBackoff {
    failures: u32,
    refusals: u32,
}

/// A backoff and its end. Stored across restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackoffState {
    /// The time of the next attempt.
    pub until: Timestamp,
    /// The consecutive failures.
    pub backoff: PollBackoff,
}

/// The backoff of transient failures.
const BACKOFF: ExponentialBackoff = ExponentialBackoff {
    initial: Duration::from_secs(5),
    max: Duration::from_mins(10),
    jitter: 0.5..1.0,
};
/// Number of consecutive rejections that count as permanent.
const PERMANENT_AFTER: u32 = 3;
/// The maximum backoff of permanent failures, unless the interval is longer.
const MAX_REFUSED_INTERVAL: Duration = Duration::from_hours(1);

impl PollBackoff {
    /// Counts a failure, and returns the time to the next attempt. `regular` is the time to the next regular poll.
    pub fn on_failure(
        &mut self,
        reason: FailureReason,
        schedule: &Schedule,
        regular: Duration,
    ) -> Duration {
        let is_refusal = matches!(
            reason,
            FailureReason::Unauthorized | FailureReason::Forbidden | FailureReason::NotFound
        );
        self.failures = self.failures.saturating_add(1);
        self.refusals = if is_refusal {
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

    /// Returns whether there were enough consecutive rejections to count as permanent.
    pub fn is_permanent(&self) -> bool {
        self.refusals >= PERMANENT_AFTER
    }

    /// Returns whether the last attempt succeeded.
    pub fn is_healthy(&self) -> bool {
        self.failures == 0
    }

    /// Resets the backoff after a success or a change of the credential.
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
    fn repeated_rejections_are_retried_at_growing_intervals() {
        for reason in [
            FailureReason::Unauthorized,
            FailureReason::Forbidden,
            FailureReason::NotFound,
        ] {
            let waits = waits(reason, 9);
            assert!(waits[1] <= INTERVAL, "after two rejections: {waits:?}");
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
    fn other_failure_resets_consecutive_rejections() {
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
