//! Which interval each organization can have.

use std::collections::HashSet;
use std::time::Duration;

use tracing::{info, warn};

use super::intervals::{self, PollCost};
use super::schedule::Schedule;
use super::scheduler::Scheduler;
use mongodb_atlas_client::BucketKey;

impl Scheduler {
    /// Works out which interval each organization can have.
    pub(super) fn update_intervals(&mut self) {
        for (org, watch) in &mut self.orgs {
            let rate = watch.client.sustained_rate(org);
            (watch.bucket, watch.sustained_rate) = (rate.key, rate.per_second);
        }
        let least = intervals::min_intervals(self.orgs.values().map(|watch| PollCost {
            bucket: &watch.bucket,
            requests: watch.requests_per_poll,
            sustained_rate: watch.sustained_rate,
        }));
        let stretched: HashSet<BucketKey> = least
            .iter()
            .filter(|(_, least)| **least > self.interval)
            .map(|(lane, _)| (*lane).clone())
            .collect();
        let in_force: Vec<Duration> = self
            .orgs
            .values()
            .map(|watch| {
                let least = least.get(&watch.bucket).copied().unwrap_or_default();
                least.max(self.interval)
            })
            .collect();
        for ((org, watch), interval) in self.orgs.iter_mut().zip(in_force) {
            if watch.schedule.interval() != interval {
                watch.schedule = Schedule::new(org, interval);
            }
            self.observer.interval_changed(org, interval);
        }
        self.log_budget_state(&stretched);
        self.over_budget = stretched;
    }

    /// Once when it begins, and once when it is over.
    pub(super) fn log_budget_state(&self, now: &HashSet<BucketKey>) {
        if self.one_shot {
            return;
        }
        if self.over_budget.is_empty() && !now.is_empty() {
            let longest = self
                .orgs
                .values()
                .filter(|watch| now.contains(&watch.bucket))
                .map(|watch| watch.schedule.interval());
            warn!(
                organizations = longest.clone().count(),
                asked = %humantime::format_duration(self.interval),
                longest_in_force = %humantime::format_duration(longest.max().unwrap_or_default()),
                "Atlas' request budget does not allow the interval that was asked for; walking less often"
            );
        }
        if !self.over_budget.is_empty() && now.is_empty() {
            info!(interval = %humantime::format_duration(self.interval), "Atlas' request budget allows the interval that was asked for");
        }
    }
}
