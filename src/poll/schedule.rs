//! When an organization is due.

use std::time::Duration;

use jiff::Timestamp;

use crate::ids::OrgId;

/// The regular times of one organization: every interval, at an offset that only its id decides,
/// so that organizations do not all come at once, and a restart does not change their times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    interval: Duration,
    offset: Duration,
}

impl Schedule {
    /// The schedules of `orgs`; no two of them fall into the same instant.
    pub fn spread<'a>(orgs: impl IntoIterator<Item = &'a OrgId>, interval: Duration) -> Vec<Self> {
        let nanos = interval.as_nanos().max(1);
        let mut taken = std::collections::BTreeSet::new();
        orgs.into_iter()
            .map(|org| {
                let mut offset = u128::from(stable_hash(org)) * nanos / (u128::from(u64::MAX) + 1);
                // two ids with one offset are next to impossible, but not impossible
                while !taken.insert(offset) && taken.len() < 1_000_000 {
                    offset = (offset + 1) % nanos;
                }
                Self {
                    interval,
                    offset: nanoseconds(offset),
                }
            })
            .collect()
    }

    /// How long after `now` the next regular time is: more than half an interval and at most one
    /// and a half, so that neither a walk that came out of turn nor a clock that was set makes
    /// two walks follow each other closely.
    pub fn next_after(&self, now: Timestamp) -> Duration {
        let nanos = self.interval.as_nanos().max(1);
        let since_epoch = u128::try_from(now.as_nanosecond()).unwrap_or(0);
        let half = nanos / 2;
        let earliest = since_epoch + half + 1;
        let phase = (earliest % nanos + nanos - self.offset.as_nanos() % nanos) % nanos;
        nanoseconds(half + 1 + (nanos - phase) % nanos)
    }
}

fn nanoseconds(nanos: u128) -> Duration {
    u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
}

/// FNV-1a with a final mix. Written out, since the standard library's hashers promise nothing
/// from one release to the next, and this one must give the same on every machine for ever.
fn stable_hash(org: &OrgId) -> u64 {
    let mut hash = org
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

/// How long to wait after failures that follow each other: twice as long each time, with jitter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

/// The wait after the first failure.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

impl Backoff {
    /// One more failure: how long to wait until the next try. Never past `regular`, the next
    /// regular time, unless Atlas itself asked to wait longer with `retry_after`.
    pub fn after_failure(&mut self, regular: Duration, retry_after: Option<Duration>) -> Duration {
        let doubled = FIRST_WAIT
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST_WAIT);
        self.failures = self.failures.saturating_add(1);
        let jittered = doubled.mul_f64(0.5 + fastrand::f64() / 2.0);
        match retry_after {
            // a moment later than asked for, and not everyone at the same moment
            Some(wait) => jittered
                .min(regular)
                .max(wait + Duration::from_millis(fastrand::u64(1..1000))),
            None => jittered.min(regular),
        }
    }

    /// All is well again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orgs(count: u32) -> Vec<OrgId> {
        (0..count)
            .map(|n| OrgId::parse(&format!("{n:024x}")).expect("an id"))
            .collect()
    }

    #[test]
    fn offsets_are_stable_distinct_and_spread() {
        let orgs = orgs(500);
        let interval = Duration::from_secs(300);
        let spread = Schedule::spread(&orgs, interval);
        assert_eq!(
            spread,
            Schedule::spread(&orgs, interval),
            "the same on every start"
        );
        let mut offsets: Vec<_> = spread.iter().map(|schedule| schedule.offset).collect();
        offsets.sort();
        offsets.dedup();
        assert_eq!(offsets.len(), 500);
        let first_half = offsets
            .iter()
            .filter(|offset| **offset < interval / 2)
            .count();
        assert!(
            (200..300).contains(&first_half),
            "{first_half} of 500 in the first half"
        );
    }

    #[test]
    fn the_next_time_is_at_the_offset_and_not_soon() {
        let interval = Duration::from_secs(300);
        for schedule in Schedule::spread(&orgs(50), interval) {
            for second in [0, 1, 149, 151, 299, 1_000_000_007] {
                let now = Timestamp::from_second(second).expect("a time");
                let wait = schedule.next_after(now);
                assert!(
                    wait > interval / 2 && wait <= interval * 3 / 2 + Duration::from_nanos(1),
                    "{wait:?}"
                );
                let due =
                    u128::try_from(now.as_nanosecond()).expect("after 1970") + wait.as_nanos();
                assert_eq!(due % interval.as_nanos(), schedule.offset.as_nanos());
            }
        }
    }

    #[test]
    fn from_one_regular_time_to_the_next_is_one_interval() {
        let interval = Duration::from_secs(300);
        let schedule = Schedule::spread(&orgs(1), interval)[0];
        let first = Timestamp::UNIX_EPOCH
            + jiff::SignedDuration::try_from(schedule.next_after(Timestamp::UNIX_EPOCH))
                .expect("short");
        assert_eq!(schedule.next_after(first), interval);
    }

    #[test]
    fn backoff_doubles_and_respects_retry_after() {
        let mut backoff = Backoff::default();
        let regular = Duration::from_secs(300);
        let waits: Vec<_> = (0..8)
            .map(|_| backoff.after_failure(regular, None))
            .collect();
        assert!(
            waits[0] >= FIRST_WAIT / 2 && waits[0] <= FIRST_WAIT,
            "{waits:?}"
        );
        assert!(
            waits[3] >= FIRST_WAIT * 4 && waits[3] <= FIRST_WAIT * 8,
            "{waits:?}"
        );
        assert!(
            waits.iter().all(|wait| *wait <= regular),
            "never later than the next regular time"
        );
        let asked = Duration::from_secs(400);
        assert!(
            backoff.after_failure(regular, Some(asked)) > asked,
            "unless Atlas asks for it"
        );
        backoff.reset();
        assert!(backoff.after_failure(regular, None) <= FIRST_WAIT);
    }
}
