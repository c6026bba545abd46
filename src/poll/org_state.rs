//! What the scheduler knows of one organization.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::diff::{Change, ChangeCounts};
use super::schedule::{PollBackoff, Schedule};
use super::walk::Shortfall;
use crate::storage::BackoffState;
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{BucketKey, Client, FailureReason};

/// Names and limits are asked for this often at most.
const DETAILS_INTERVAL: Duration = Duration::from_hours(1);
/// And not more often than every so many walks, should those be far apart for want of budget.
const POLLS_PER_DETAILS: u32 = 10;

/// One organization that is watched.
pub(super) struct OrgState {
    pub(super) client: Arc<Client>,
    pub(super) schedule: Schedule,
    pub(super) backoff: PollBackoff,
    /// When it is walked next.
    pub(super) due_at: Instant,
    /// What was last told of that.
    pub(super) reported_due_at: Option<Instant>,
    /// When its names and limits are asked for next.
    pub(super) details_due_at: Instant,
    /// When its inventory was read; none without one.
    pub(super) completed_at: Option<Timestamp>,
    /// Requests of the last complete round.
    pub(super) requests_per_poll: u32,
    /// The bucket that pays for them, and what it can give, as it was when the paces were set.
    pub(super) bucket: BucketKey,
    pub(super) sustained_rate: Option<f64>,
    pub(super) change_counts: ChangeCounts,
    /// A walk is under way, or its result is being kept.
    pub(super) in_progress: bool,
    /// Names and limits are being asked for.
    pub(super) fetching_details: bool,
    /// Keys that the last complete poll missed.
    pub(super) shortfall: Option<Shortfall>,
    /// A walk has begun since the start.
    attempted: bool,
    /// Outcome of the last poll since the start.
    pub(super) last_poll_succeeded: Option<bool>,
}

impl OrgState {
    pub(super) fn new(org: &OrgId, client: Arc<Client>, interval: Duration) -> Self {
        let now = Instant::now();
        let rate = client.sustained_rate(org);
        Self {
            client,
            schedule: Schedule::new(org, interval),
            backoff: PollBackoff::default(),
            due_at: now,
            reported_due_at: None,
            details_due_at: now,
            completed_at: None,
            requests_per_poll: 1,
            bucket: rate.key,
            sustained_rate: rate.per_second,
            change_counts: Change::ALL
                .map(|change| (change.as_str().to_owned(), 0))
                .into(),
            in_progress: false,
            fetching_details: false,
            shortfall: None,
            attempted: false,
            last_poll_succeeded: None,
        }
    }

    /// Whether a walk has begun since the start.
    pub(super) fn was_attempted(&self) -> bool {
        self.attempted
    }

    /// An earlier process has left an inventory that was read at `read_at`: it is due when it
    /// would have been there.
    pub(super) fn restore_inventory(&mut self, read_at: Timestamp, now: Timestamp) {
        self.completed_at = Some(read_at);
        let interval = self.schedule.interval();
        let regular = add_saturating(read_at, self.schedule.time_until_next(read_at));
        self.due_at = Instant::now() + time_until(regular, now, interval * 3 / 2);
    }

    /// Names and limits were last asked for at `asked_at`.
    pub(super) fn restore_details(&mut self, asked_at: Option<Timestamp>, now: Timestamp) {
        if let Some(asked_at) = asked_at {
            let every = self.details_interval();
            self.details_due_at =
                Instant::now() + time_until(add_saturating(asked_at, every), now, every);
        }
    }

    /// The last walk of an earlier process failed.
    pub(super) fn restore_backoff(&mut self, deferred: BackoffState, now: Timestamp) {
        self.backoff = deferred.backoff;
        let longest = Duration::from_hours(1).max(self.schedule.interval());
        self.due_at = Instant::now() + time_until(deferred.until, now, longest);
    }

    /// What is to be remembered in case the process is killed during the first walk after a start:
    /// a process that dies time and again must not ask as if nothing had happened. None for
    /// later walks.
    pub(super) fn initial_backoff(&mut self, now: Timestamp) -> Option<BackoffState> {
        if std::mem::replace(&mut self.attempted, true) {
            return None;
        }
        let (mut backoff, schedule) = (self.backoff, &self.schedule);
        let wait = backoff.on_failure(FailureReason::Incomplete, schedule, schedule.interval());
        let until = add_saturating(now, wait);
        Some(BackoffState { until, backoff })
    }

    /// How often names and limits are asked for.
    pub(super) fn details_interval(&self) -> Duration {
        DETAILS_INTERVAL.max(self.schedule.interval() * POLLS_PER_DETAILS)
    }

    /// Whether the last walk was complete, as far as is known, and the next one is not overdue.
    pub(super) fn is_fresh(&self, now: Timestamp) -> bool {
        self.backoff.is_healthy()
            && self.completed_at.is_some_and(|read_at| {
                let age = Duration::try_from(now.duration_since(read_at)).unwrap_or_default();
                age <= self.schedule.interval() * 3 / 2
            })
    }
}

fn add_saturating(then: Timestamp, wait: Duration) -> Timestamp {
    SignedDuration::try_from(wait)
        .ok()
        .and_then(|wait| then.saturating_add(wait).ok())
        .unwrap_or(then)
}

/// From `now` to `then`, at most `longest`: the clock may have been set in between.
fn time_until(then: Timestamp, now: Timestamp, longest: Duration) -> Duration {
    Duration::try_from(then.duration_since(now).max(SignedDuration::ZERO))
        .unwrap_or_default()
        .min(longest)
}
