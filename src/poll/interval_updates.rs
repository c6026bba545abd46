//! Which interval each organization can have.

use std::collections::HashSet;
use std::time::Duration;

use tracing::{info, warn};

use super::intervals::{self, Cost};
use super::schedule::Schedule;
use super::scheduler::Scheduler;
use mongodb_atlas_client::LaneId;

impl Scheduler {
    /// Works out which interval each organization can have.
    pub(super) fn set_paces(&mut self) {
        for (org, watch) in &mut self.orgs {
            (watch.lane, watch.supply) = watch.client.supply(org);
        }
        let least = intervals::least_intervals(self.orgs.values().map(|watch| Cost {
            bucket: &watch.lane,
            requests: watch.requests,
            supply: watch.supply,
        }));
        let stretched: HashSet<LaneId> = least
            .iter()
            .filter(|(_, least)| **least > self.interval)
            .map(|(lane, _)| (*lane).clone())
            .collect();
        let in_force: Vec<Duration> = self
            .orgs
            .values()
            .map(|watch| {
                let least = least.get(&watch.lane).copied().unwrap_or_default();
                least.max(self.interval)
            })
            .collect();
        for ((org, watch), interval) in self.orgs.iter_mut().zip(in_force) {
            if watch.schedule.interval() != interval {
                watch.schedule = Schedule::new(org, interval);
            }
            self.watcher.interval(org, interval);
        }
        self.tell_of_stretched(&stretched);
        self.stretched = stretched;
    }

    /// Once when it begins, and once when it is over.
    pub(super) fn tell_of_stretched(&self, now: &HashSet<LaneId>) {
        if self.one_shot {
            return;
        }
        if self.stretched.is_empty() && !now.is_empty() {
            let longest = self
                .orgs
                .values()
                .filter(|watch| now.contains(&watch.lane))
                .map(|watch| watch.schedule.interval());
            warn!(
                organizations = longest.clone().count(),
                asked = %humantime::format_duration(self.interval),
                longest_in_force = %humantime::format_duration(longest.max().unwrap_or_default()),
                "Atlas' request budget does not allow the interval that was asked for; walking less often"
            );
        }
        if !self.stretched.is_empty() && now.is_empty() {
            info!(interval = %humantime::format_duration(self.interval), "Atlas' request budget allows the interval that was asked for");
        }
    }
}
