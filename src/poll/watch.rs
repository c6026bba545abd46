//! What the scheduler knows of one organization.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::changes::{Change, Counts};
use super::schedule::{Backoff, Schedule};
use crate::atlas::{Client, LaneId};
use crate::ids::OrgId;

/// Names and limits are asked for this often at most.
const DETAILS_EVERY: Duration = Duration::from_hours(1);
/// And not more often than every so many walks, should those be far apart for want of budget.
const WALKS_PER_DETAILS: u32 = 10;

/// One organization that is watched.
pub(super) struct Watch {
    pub(super) client: Arc<Client>,
    pub(super) schedule: Schedule,
    pub(super) backoff: Backoff,
    /// When it is walked next.
    pub(super) due: Instant,
    /// When its names and limits are asked for next.
    pub(super) details_due: Instant,
    /// When its inventory was read; none without one.
    pub(super) read_at: Option<Timestamp>,
    /// Requests of the last complete round.
    pub(super) requests: u32,
    /// The bucket that pays for them, and what it can give, as it was when the paces were set.
    pub(super) lane: LaneId,
    pub(super) supply: Option<f64>,
    pub(super) counts: Counts,
    /// A walk is under way, or its result is being kept.
    pub(super) busy: bool,
    /// Names and limits are being asked for.
    pub(super) asking: bool,
}

impl Watch {
    pub(super) fn new(org: &OrgId, client: Arc<Client>, interval: Duration) -> Self {
        let now = Instant::now();
        let (lane, supply) = client.supply(org);
        Self {
            client,
            schedule: Schedule::new(org, interval),
            backoff: Backoff::default(),
            due: now,
            details_due: now,
            read_at: None,
            requests: 1,
            lane,
            supply,
            counts: Change::ALL
                .map(|change| (change.as_str().to_owned(), 0))
                .into(),
            busy: false,
            asking: false,
        }
    }

    /// Sets when it is due from what an earlier process has left: its inventory, read at
    /// `read_at`, and until when it did not want to try again, if it had failed.
    pub(super) fn restored(
        &mut self,
        read_at: Timestamp,
        asked_at: Option<Timestamp>,
        deferred: Option<Timestamp>,
        now: Timestamp,
    ) {
        self.read_at = Some(read_at);
        let regular = read_at
            .saturating_add(
                SignedDuration::try_from(self.schedule.next_after(read_at)).unwrap_or_default(),
            )
            .unwrap_or(now);
        self.due = Instant::now() + until(regular, now, self.schedule.interval() * 3 / 2);
        self.defer(deferred, now);
        if let Some(asked_at) = asked_at {
            let every = self.details_every();
            let due = asked_at
                .saturating_add(SignedDuration::try_from(every).unwrap_or_default())
                .unwrap_or(now);
            self.details_due = Instant::now() + until(due, now, every);
        }
    }

    /// An earlier process did not want to try again before `deferred`.
    pub(super) fn defer(&mut self, deferred: Option<Timestamp>, now: Timestamp) {
        if let Some(deferred) = deferred {
            let longest = Duration::from_hours(1).max(self.schedule.interval());
            self.due = Instant::now() + until(deferred, now, longest);
        }
    }

    /// How often names and limits are asked for.
    pub(super) fn details_every(&self) -> Duration {
        DETAILS_EVERY.max(self.schedule.interval() * WALKS_PER_DETAILS)
    }

    /// Whether the inventory is younger than the interval in force.
    pub(super) fn is_fresh(&self, now: Timestamp) -> bool {
        self.read_at.is_some_and(|read_at| {
            let age = Duration::try_from(now.duration_since(read_at)).unwrap_or_default();
            age <= self.schedule.interval() * 3 / 2
        })
    }
}

/// From `now` to `then`, at most `longest`: the clock may have been set in between.
fn until(then: Timestamp, now: Timestamp, longest: Duration) -> Duration {
    Duration::try_from(then.duration_since(now).max(SignedDuration::ZERO))
        .unwrap_or_default()
        .min(longest)
}
