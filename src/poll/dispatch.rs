//! What is due begins, if it may.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::collect::walk_timeout;
use super::scheduler::Scheduler;
use super::tasks;
use mongodb_atlas_client::LaneId;
use mongodb_atlas_client::OrgId;

/// Organizations of one credential that are walked at the same time; the others wait for their turn.
const WALKS_AT_ONCE: usize = 16;
/// Organizations of one credential whose names and limits are asked for at the same time.
const DETAILS_AT_ONCE: usize = 2;

impl Scheduler {
    /// Begins all that is due and may begin; says when to look again.
    pub(super) fn begin_what_is_due(&mut self) -> Instant {
        let now = Instant::now();
        let mut wake = now + Duration::from_hours(1);
        self.begin_lists(now, &mut wake);
        self.begin_walks(now, &mut wake);
        self.begin_details(now, &mut wake);
        self.tell_what_is_due(now);
        wake
    }

    /// Says of each organization when its next walk is due, where that has changed.
    fn tell_what_is_due(&mut self, now: Instant) {
        for (org, watch) in &mut self.orgs {
            if watch.busy || watch.told_due == Some(watch.due) {
                continue;
            }
            watch.told_due = Some(watch.due);
            let wait = watch.due.saturating_duration_since(now);
            let at = self.clock.now().checked_add(wait);
            self.watcher.due(org, at.unwrap_or(Timestamp::MAX));
        }
    }

    pub(super) fn begin_lists(&mut self, now: Instant, wake: &mut Instant) {
        let first_orgs: HashMap<Arc<str>, OrgId> = self
            .orgs
            .iter()
            .rev()
            .map(|(org, watch)| (Arc::clone(watch.client.name()), org.clone()))
            .collect();
        for scout in &mut self.fleet.members {
            let client = &scout.member.client;
            if scout.member.discover && !scout.listing {
                if scout.list_due <= now {
                    scout.listing = true;
                    self.jobs.spawn(tasks::list(Arc::clone(client)));
                } else {
                    *wake = scout.list_due.min(*wake);
                }
            }
            if let Some(org) = first_orgs.get(client.name())
                && !scout.limiting
            {
                if scout.limits_due <= now {
                    scout.limiting = true;
                    self.jobs
                        .spawn(tasks::limits(Arc::clone(client), org.clone()));
                } else {
                    *wake = scout.limits_due.min(*wake);
                }
            }
        }
    }

    /// Walks begin by the age of the inventory, the oldest first, so that none starves. Until it
    /// is clear whether Atlas tells the rate limits there is one walk at a time: many at once
    /// could be more than the bucket holds.
    pub(super) fn begin_walks(&mut self, now: Instant, wake: &mut Instant) {
        let mut walking: HashMap<Arc<str>, usize> = HashMap::new();
        let mut drawing: HashSet<LaneId> = HashSet::new();
        let mut due: Vec<(Option<Timestamp>, Instant, OrgId)> = Vec::new();
        for (org, watch) in &self.orgs {
            if watch.busy {
                *walking.entry(Arc::clone(watch.client.name())).or_default() += 1;
                drawing.insert(watch.lane.clone());
            } else if self.one_shot && watch.was_tried() {
                // each organization is polled once
            } else if watch.due <= now {
                due.push((watch.read_at, watch.due, org.clone()));
            } else {
                *wake = watch.due.min(*wake);
            }
        }
        due.sort_unstable();
        for (_, _, org) in due {
            let Some(watch) = self.orgs.get_mut(&org) else {
                continue;
            };
            let name = watch.client.name();
            let walks = walking.entry(Arc::clone(name)).or_default();
            let most = if self.fleet.knows_limits(name) {
                WALKS_AT_ONCE
            } else {
                1
            };
            // where the budget is short, one after the other keeps them in the order of age
            let waits_for_others =
                self.stretched.contains(&watch.lane) && drawing.contains(&watch.lane);
            if *walks >= most || waits_for_others {
                continue;
            }
            let delay = watch.client.delay(&org);
            if !delay.is_zero() {
                *wake = (now + delay).min(*wake);
                continue;
            }
            *walks += 1;
            drawing.insert(watch.lane.clone());
            watch.busy = true;
            let at = self.clock.now();
            self.watcher.begun(&org, at);
            let (client, mut manner) = (Arc::clone(&watch.client), self.manner.clone());
            manner.walk_timeout = walk_timeout(watch.schedule.interval());
            let previous = self.shelf.get(&org);
            let if_killed = self.storage.clone().zip(watch.first_try(at));
            self.jobs
                .spawn(tasks::walk(client, org, manner, previous, if_killed));
        }
    }

    /// Names and limits come after the keys: only for organizations that have an inventory.
    pub(super) fn begin_details(&mut self, now: Instant, wake: &mut Instant) {
        let mut asking: HashMap<Arc<str>, usize> = HashMap::new();
        for watch in self.orgs.values().filter(|watch| watch.asking) {
            *asking.entry(Arc::clone(watch.client.name())).or_default() += 1;
        }
        for (org, watch) in &mut self.orgs {
            if watch.asking || watch.read_at.is_none() {
                continue;
            }
            if watch.details_due > now {
                *wake = watch.details_due.min(*wake);
                continue;
            }
            let asked = asking.entry(Arc::clone(watch.client.name())).or_default();
            if *asked >= DETAILS_AT_ONCE {
                continue;
            }
            *asked += 1;
            watch.asking = true;
            watch.details_due = now + watch.details_every();
            let name = self.fleet.name_of(org).map(str::to_owned);
            let (client, before) = (Arc::clone(&watch.client), self.shelf.details(org));
            let details = tasks::details(client, org.clone(), name, before, self.clock.now());
            self.jobs.spawn(details);
        }
    }
}
