//! What is due begins, if it may.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::collect::walk_timeout;
use super::scheduler::Scheduler;
use super::tasks;
use mongodb_atlas_client::BucketKey;
use mongodb_atlas_client::OrgId;

/// Organizations of one credential that are walked at the same time; the others wait for their turn.
const MAX_CONCURRENT_POLLS: usize = 16;
/// Organizations of one credential whose names and limits are asked for at the same time.
const MAX_CONCURRENT_DETAILS: usize = 2;

impl Scheduler {
    /// Begins all that is due and may begin; says when to look again.
    pub(super) fn dispatch_due(&mut self) -> Instant {
        let now = Instant::now();
        let mut wake = now + Duration::from_hours(1);
        self.start_discovery(now, &mut wake);
        self.start_polls(now, &mut wake);
        self.start_details(now, &mut wake);
        self.report_due_times(now);
        wake
    }

    /// Says of each organization when its next walk is due, where that has changed.
    fn report_due_times(&mut self, now: Instant) {
        for (org, watch) in &mut self.orgs {
            if watch.in_progress || watch.reported_due_at == Some(watch.due_at) {
                continue;
            }
            watch.reported_due_at = Some(watch.due_at);
            let wait = watch.due_at.saturating_duration_since(now);
            let at = self.clock.now().checked_add(wait);
            self.observer.due_changed(org, at.unwrap_or(Timestamp::MAX));
        }
    }

    pub(super) fn start_discovery(&mut self, now: Instant, wake: &mut Instant) {
        let first_orgs: HashMap<Arc<str>, OrgId> = self
            .orgs
            .iter()
            .rev()
            .map(|(org, watch)| (Arc::clone(watch.client.credential_name()), org.clone()))
            .collect();
        for scout in &mut self.targets.credentials {
            let client = &scout.target.client;
            if scout.target.discover && !scout.is_listing {
                if scout.list_due_at <= now {
                    scout.is_listing = true;
                    self.tasks.spawn(tasks::list_orgs(Arc::clone(client)));
                } else {
                    *wake = scout.list_due_at.min(*wake);
                }
            }
            if let Some(org) = first_orgs.get(client.credential_name())
                && !scout.is_fetching_limits
            {
                if scout.rate_limits_due_at <= now {
                    scout.is_fetching_limits = true;
                    self.tasks
                        .spawn(tasks::fetch_rate_limits(Arc::clone(client), org.clone()));
                } else {
                    *wake = scout.rate_limits_due_at.min(*wake);
                }
            }
        }
    }

    /// Walks begin by the age of the inventory, the oldest first, so that none starves. Until it
    /// is clear whether Atlas tells the rate limits there is one walk at a time: many at once
    /// could be more than the bucket holds.
    pub(super) fn start_polls(&mut self, now: Instant, wake: &mut Instant) {
        let mut walking: HashMap<Arc<str>, usize> = HashMap::new();
        let mut drawing: HashSet<BucketKey> = HashSet::new();
        let mut due: Vec<(Option<Timestamp>, Instant, OrgId)> = Vec::new();
        for (org, watch) in &self.orgs {
            if watch.in_progress {
                *walking
                    .entry(Arc::clone(watch.client.credential_name()))
                    .or_default() += 1;
                drawing.insert(watch.bucket.clone());
            } else if self.one_shot && watch.was_attempted() {
                // each organization is polled once
            } else if watch.due_at <= now {
                due.push((watch.completed_at, watch.due_at, org.clone()));
            } else {
                *wake = watch.due_at.min(*wake);
            }
        }
        due.sort_unstable();
        for (_, _, org) in due {
            let Some(watch) = self.orgs.get_mut(&org) else {
                continue;
            };
            let name = watch.client.credential_name();
            let walks = walking.entry(Arc::clone(name)).or_default();
            let most = if self.targets.knows_rate_limits(name) {
                MAX_CONCURRENT_POLLS
            } else {
                1
            };
            // where the budget is short, one after the other keeps them in the order of age
            let waits_for_others =
                self.over_budget.contains(&watch.bucket) && drawing.contains(&watch.bucket);
            if *walks >= most || waits_for_others {
                continue;
            }
            let delay = watch.client.next_delay(&org);
            if !delay.is_zero() {
                *wake = (now + delay).min(*wake);
                continue;
            }
            *walks += 1;
            drawing.insert(watch.bucket.clone());
            watch.in_progress = true;
            let at = self.clock.now();
            self.observer.poll_started(&org, at);
            let (client, mut manner) = (Arc::clone(&watch.client), self.options.clone());
            manner.walk_timeout = walk_timeout(watch.schedule.interval());
            let previous = self.store.get(&org);
            let if_killed = self.storage.clone().zip(watch.initial_backoff(at));
            self.tasks
                .spawn(tasks::run_poll(client, org, manner, previous, if_killed));
        }
    }

    /// Names and limits come after the keys: only for organizations that have an inventory.
    pub(super) fn start_details(&mut self, now: Instant, wake: &mut Instant) {
        let mut asking: HashMap<Arc<str>, usize> = HashMap::new();
        for watch in self.orgs.values().filter(|watch| watch.fetching_details) {
            *asking
                .entry(Arc::clone(watch.client.credential_name()))
                .or_default() += 1;
        }
        for (org, watch) in &mut self.orgs {
            if watch.fetching_details || watch.completed_at.is_none() {
                continue;
            }
            if watch.details_due_at > now {
                *wake = watch.details_due_at.min(*wake);
                continue;
            }
            let asked = asking
                .entry(Arc::clone(watch.client.credential_name()))
                .or_default();
            if *asked >= MAX_CONCURRENT_DETAILS {
                continue;
            }
            *asked += 1;
            watch.fetching_details = true;
            watch.details_due_at = now + watch.details_interval();
            let name = self.targets.org_name(org).map(str::to_owned);
            let (client, before) = (Arc::clone(&watch.client), self.store.details(org));
            let details = tasks::fetch_details(client, org.clone(), name, before, self.clock.now());
            self.tasks.spawn(details);
        }
    }
}
