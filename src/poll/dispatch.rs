//! Starts the tasks that are due.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::collect::walk_timeout;
use super::event::PollEvent;
use super::scheduler::Scheduler;
use super::tasks;
use mongodb_atlas_client::{BucketKey, OrgId};

/// Maximum number of concurrent polls per credential.
const MAX_CONCURRENT_POLLS: usize = 16;
/// Maximum number of organizations per credential with concurrent requests for names and model rate limits.
const MAX_CONCURRENT_DETAILS: usize = 2;

/// Returns whether a task is due. If not, the scheduler wakes up when the task is due.
pub(super) fn is_due(due_at: Instant, now: Instant, wake_at: &mut Instant) -> bool {
    if due_at > now {
        *wake_at = due_at.min(*wake_at);
    }
    due_at <= now
}

impl Scheduler {
    /// Starts the tasks that are due, and returns the time of the next ones.
    pub(super) fn dispatch_due(&mut self) -> Instant {
        let now = Instant::now();
        let mut wake_at = now + Duration::from_hours(1);
        self.start_discovery(now, &mut wake_at);
        self.start_polls(now, &mut wake_at);
        self.start_details(now, &mut wake_at);
        self.start_client_secrets(now, &mut wake_at);
        self.report_due_times(now);
        wake_at
    }

    /// Reports the next poll of each organization, if the time has changed.
    fn report_due_times(&mut self, now: Instant) {
        for (org, state) in &mut self.orgs {
            if state.in_progress || state.reported_due_at == Some(state.due_at) {
                continue;
            }
            state.reported_due_at = Some(state.due_at);
            let wait = state.due_at.saturating_duration_since(now);
            let due_at = self.clock.now().checked_add(wait).unwrap_or(Timestamp::MAX);
            self.observer
                .on_event(PollEvent::DueChanged { org, due_at });
        }
    }

    /// Lists organizations, and fetches the rate limits of the first organization of each credential.
    fn start_discovery(&mut self, now: Instant, wake_at: &mut Instant) {
        let first_orgs: HashMap<&str, &OrgId> = self
            .orgs
            .iter()
            .rev()
            .map(|(org, state)| (&**state.client.credential_name(), org))
            .collect();
        for state in &mut self.targets.credentials {
            let client = &state.target.client;
            if state.target.discover && !state.is_listing && is_due(state.list_due_at, now, wake_at)
            {
                state.is_listing = true;
                self.tasks.spawn(tasks::list_orgs(Arc::clone(client)));
            }
            if let Some(org) = first_orgs.get(&**client.credential_name())
                && !state.is_fetching_limits
                && is_due(state.rate_limits_due_at, now, wake_at)
            {
                state.is_fetching_limits = true;
                let (client, org) = (Arc::clone(client), (*org).clone());
                self.tasks.spawn(tasks::fetch_rate_limits(client, org));
            }
        }
    }

    /// Starts polls, oldest inventory first, so that no organization starves. Until the rate limits of a credential are
    /// known, only one poll runs at a time: concurrent polls could exceed the bucket.
    fn start_polls(&mut self, now: Instant, wake_at: &mut Instant) {
        let mut polls: HashMap<Arc<str>, usize> = HashMap::new();
        let mut active_buckets: HashSet<BucketKey> = HashSet::new();
        let mut due: Vec<(Option<Timestamp>, Instant, OrgId)> = Vec::new();
        for (org, state) in &self.orgs {
            if state.in_progress {
                let credential = Arc::clone(state.client.credential_name());
                *polls.entry(credential).or_default() += 1;
                active_buckets.insert(state.rate.key.clone());
            } else if self.one_shot && state.attempted {
                // Each organization is polled once.
            } else if is_due(state.due_at, now, wake_at) {
                due.push((state.completed_at, state.due_at, org.clone()));
            }
        }
        due.sort_unstable();
        for (_, _, org) in due {
            let Some(state) = self.orgs.get(&org) else {
                continue;
            };
            let credential = state.client.credential_name();
            let polls = polls.entry(Arc::clone(credential)).or_default();
            let max_polls = if self.targets.knows_rate_limits(credential) {
                MAX_CONCURRENT_POLLS
            } else {
                1
            };
            // With a low rate limit, sequential polls preserve the order of age.
            let must_wait = self.over_budget.contains(&state.rate.key)
                && active_buckets.contains(&state.rate.key);
            if *polls >= max_polls || must_wait {
                continue;
            }
            let delay = state.client.next_delay(&org);
            if !delay.is_zero() {
                *wake_at = (now + delay).min(*wake_at);
                continue;
            }
            *polls += 1;
            active_buckets.insert(state.rate.key.clone());
            self.start_poll(org);
        }
    }

    fn start_poll(&mut self, org: OrgId) {
        let Some(state) = self.orgs.get_mut(&org) else {
            return;
        };
        state.in_progress = true;
        let started_at = self.clock.now();
        self.observer.on_event(PollEvent::PollStarted {
            org: &org,
            started_at,
        });
        let (client, mut options) = (Arc::clone(&state.client), self.plan.options.clone());
        options.walk_timeout = walk_timeout(state.schedule.interval());
        let previous = self.store.get(&org);
        let crash_backoff = state.crash_backoff(started_at);
        let crash_backoff = self.plan.storage.clone().zip(crash_backoff);
        self.tasks.spawn(tasks::run_poll(
            client,
            org,
            options,
            previous,
            crash_backoff,
        ));
    }

    /// Fetches names and model rate limits of organizations that have an inventory: keys take precedence.
    fn start_details(&mut self, now: Instant, wake_at: &mut Instant) {
        let mut fetching: HashMap<Arc<str>, usize> = HashMap::new();
        for state in self.orgs.values().filter(|state| state.fetching_details) {
            let credential = Arc::clone(state.client.credential_name());
            *fetching.entry(credential).or_default() += 1;
        }
        for (org, state) in &mut self.orgs {
            if state.fetching_details
                || !state.has_inventory()
                || !is_due(state.details_due_at, now, wake_at)
            {
                continue;
            }
            let credential = Arc::clone(state.client.credential_name());
            let fetching = fetching.entry(credential).or_default();
            if *fetching >= MAX_CONCURRENT_DETAILS {
                continue;
            }
            *fetching += 1;
            state.fetching_details = true;
            state.details_due_at = now + state.details_interval();
            let name = self.targets.org_name(org).map(str::to_owned);
            let (client, store) = (Arc::clone(&state.client), Arc::clone(&self.store));
            let (owner_tag, now) = (self.plan.owner_tag.clone(), self.clock.now());
            let task = tasks::fetch_details(client, org.clone(), name, owner_tag, store, now);
            self.tasks.spawn(task);
        }
    }
}
