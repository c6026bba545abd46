//! The state of one organization.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::diff::Change;
use super::schedule::{BackoffState, PollBackoff, Schedule};
use super::walk::Shortfall;
use crate::humanize::elapsed;
use crate::storage::ChangeCounts;
use mongodb_atlas_client::{BucketRate, Client, FailureReason, OrgId};

/// The minimum interval between two refreshes of names and model rate limits.
const DETAILS_INTERVAL: Duration = Duration::from_hours(1);
/// The minimum number of polls between them, for polls that the rate limit slows down.
const POLLS_PER_DETAILS: u32 = 10;

/// A polled organization.
pub(super) struct OrgState {
    pub(super) client: Arc<Client>,
    pub(super) schedule: Schedule,
    pub(super) backoff: PollBackoff,
    /// Time of the next poll.
    pub(super) due_at: Instant,
    /// The time that was last reported.
    pub(super) reported_due_at: Option<Instant>,
    /// Time of the next refresh of names and model rate limits.
    pub(super) details_due_at: Instant,
    /// Time of the inventory, if there is one.
    pub(super) completed_at: Option<Timestamp>,
    /// Number of requests of the last successful poll.
    pub(super) requests_per_poll: u32,
    /// The rate limit bucket and its sustained rate, as of the last update of the intervals.
    pub(super) rate: BucketRate,
    pub(super) change_counts: ChangeCounts,
    /// Whether a poll is in progress or its result is being stored.
    pub(super) in_progress: bool,
    pub(super) fetching_details: bool,
    /// Keys that the last successful poll missed.
    pub(super) shortfall: Option<Shortfall>,
    /// Whether a poll was started since the start of the process.
    pub(super) attempted: bool,
    /// Outcome of the last poll since the start of the process.
    pub(super) last_poll_succeeded: Option<bool>,
}

impl OrgState {
    pub(super) fn new(org: &OrgId, client: Arc<Client>, interval: Duration) -> Self {
        let now = Instant::now();
        let changes = Change::ALL.map(|change| (change.as_str().to_owned(), 0));
        Self {
            rate: client.sustained_rate(org),
            client,
            schedule: Schedule::new(org, interval),
            backoff: PollBackoff::default(),
            due_at: now,
            reported_due_at: None,
            details_due_at: now,
            completed_at: None,
            requests_per_poll: 1,
            change_counts: changes.into(),
            in_progress: false,
            fetching_details: false,
            shortfall: None,
            attempted: false,
            last_poll_succeeded: None,
        }
    }

    pub(super) fn has_inventory(&self) -> bool {
        self.completed_at.is_some()
    }

    /// Restores the due time from the inventory of an earlier process.
    pub(super) fn restore_inventory(&mut self, completed_at: Timestamp, now: Timestamp) {
        self.completed_at = Some(completed_at);
        let wait = self.schedule.time_until_next(completed_at);
        let max = self.schedule.interval() * 3 / 2;
        self.due_at = instant_at(add_saturating(completed_at, wait), now, max);
    }

    /// Restores the due time after a refresh of names and model rate limits.
    pub(super) fn restore_details(&mut self, fetched_at: Timestamp, now: Timestamp) {
        let interval = self.details_interval();
        self.details_due_at = instant_at(add_saturating(fetched_at, interval), now, interval);
    }

    /// Restores the backoff of an earlier process.
    pub(super) fn restore_backoff(&mut self, state: BackoffState, now: Timestamp) {
        self.backoff = state.backoff;
        let max = Duration::from_hours(1).max(self.schedule.interval());
        self.due_at = instant_at(state.until, now, max);
    }

    /// Retries immediately if the last attempt failed.
    pub(super) fn reset_backoff(&mut self) {
        if !self.backoff.is_healthy() {
            self.backoff.reset();
            self.due_at = Instant::now();
        }
    }

    /// Returns the backoff to store before the first poll of the process, so that a process in a crash loop does not poll
    /// without a backoff. Returns `None` for later polls.
    pub(super) fn crash_backoff(&mut self, now: Timestamp) -> Option<BackoffState> {
        if std::mem::replace(&mut self.attempted, true) {
            return None;
        }
        let (mut backoff, schedule) = (self.backoff, &self.schedule);
        let wait = backoff.on_failure(FailureReason::Incomplete, schedule, schedule.interval());
        let until = add_saturating(now, wait);
        Some(BackoffState { until, backoff })
    }

    /// Returns the interval between two refreshes of names and model rate limits.
    pub(super) fn details_interval(&self) -> Duration {
        DETAILS_INTERVAL.max(self.schedule.interval() * POLLS_PER_DETAILS)
    }

    /// Returns whether the last known poll succeeded and the next one is not overdue.
    pub(super) fn is_fresh(&self, now: Timestamp) -> bool {
        self.backoff.is_healthy()
            && self.completed_at.is_some_and(|completed_at| {
                elapsed(completed_at, now) <= self.schedule.interval() * 3 / 2
            })
    }
}

/// Returns `time` plus `wait`, at most the latest possible time.
pub(super) fn add_saturating(time: Timestamp, wait: Duration) -> Timestamp {
    time.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// Returns the instant of `time`, at most `max` from now: the clock may have been set since `time` was stored.
fn instant_at(time: Timestamp, now: Timestamp, max: Duration) -> Instant {
    Instant::now() + elapsed(now, time).min(max)
}
