//! What the scheduler knows of one organization.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::diff::{Change, Counts};
use super::schedule::{Backoff, Schedule};
use super::walk::Shortfall;
use crate::storage::Deferred;
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{Client, LaneId, Reason};

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
    /// What was last told of that.
    pub(super) told_due: Option<Instant>,
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
    /// Keys that the last complete poll missed.
    pub(super) shortfall: Option<Shortfall>,
    /// A walk has begun since the start.
    tried: bool,
    /// Outcome of the last poll since the start.
    pub(super) last_poll_succeeded: Option<bool>,
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
            told_due: None,
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
            shortfall: None,
            tried: false,
            last_poll_succeeded: None,
        }
    }

    /// Whether a walk has begun since the start.
    pub(super) fn was_tried(&self) -> bool {
        self.tried
    }

    /// An earlier process has left an inventory that was read at `read_at`: it is due when it
    /// would have been there.
    pub(super) fn restored(&mut self, read_at: Timestamp, now: Timestamp) {
        self.read_at = Some(read_at);
        let interval = self.schedule.interval();
        let regular = after(read_at, self.schedule.next_after(read_at));
        self.due = Instant::now() + until(regular, now, interval * 3 / 2);
    }

    /// Names and limits were last asked for at `asked_at`.
    pub(super) fn knows_details(&mut self, asked_at: Option<Timestamp>, now: Timestamp) {
        if let Some(asked_at) = asked_at {
            let every = self.details_every();
            self.details_due = Instant::now() + until(after(asked_at, every), now, every);
        }
    }

    /// The last walk of an earlier process failed.
    pub(super) fn defer(&mut self, deferred: Deferred, now: Timestamp) {
        self.backoff = deferred.backoff;
        let longest = Duration::from_hours(1).max(self.schedule.interval());
        self.due = Instant::now() + until(deferred.until, now, longest);
    }

    /// What is to be remembered in case the process is killed during the first walk after a start:
    /// a process that dies time and again must not ask as if nothing had happened. None for
    /// later walks.
    pub(super) fn first_try(&mut self, now: Timestamp) -> Option<Deferred> {
        if std::mem::replace(&mut self.tried, true) {
            return None;
        }
        let (mut backoff, schedule) = (self.backoff, &self.schedule);
        let wait = backoff.after_failure(Reason::Incomplete, schedule, schedule.interval());
        let until = after(now, wait);
        Some(Deferred { until, backoff })
    }

    /// How often names and limits are asked for.
    pub(super) fn details_every(&self) -> Duration {
        DETAILS_EVERY.max(self.schedule.interval() * WALKS_PER_DETAILS)
    }

    /// Whether the last walk was complete, as far as is known, and the next one is not overdue.
    pub(super) fn is_fresh(&self, now: Timestamp) -> bool {
        self.backoff.is_well()
            && self.read_at.is_some_and(|read_at| {
                let age = Duration::try_from(now.duration_since(read_at)).unwrap_or_default();
                age <= self.schedule.interval() * 3 / 2
            })
    }
}

fn after(then: Timestamp, wait: Duration) -> Timestamp {
    SignedDuration::try_from(wait)
        .ok()
        .and_then(|wait| then.saturating_add(wait).ok())
        .unwrap_or(then)
}

/// From `now` to `then`, at most `longest`: the clock may have been set in between.
fn until(then: Timestamp, now: Timestamp, longest: Duration) -> Duration {
    Duration::try_from(then.duration_since(now).max(SignedDuration::ZERO))
        .unwrap_or_default()
        .min(longest)
}
