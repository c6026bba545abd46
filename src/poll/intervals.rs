//! The effective poll intervals: the configured one, unless the rate limit requires a longer one.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use tracing::{info, warn};

use super::event::PollEvent;
use super::schedule::Schedule;
use super::scheduler::Scheduler;
use crate::humanize::exact;
use mongodb_atlas_client::{BucketKey, BucketRate};

/// Returns the minimum interval of each bucket: the time for one poll of every organization that shares the bucket. A cost
/// is the bucket of an organization, its requests per poll, and the requests per second that the bucket sustains, if known.
fn min_intervals<B: Eq + Hash>(
    costs: impl Iterator<Item = (B, u32, Option<f64>)>,
) -> HashMap<B, Duration> {
    let mut loads: HashMap<B, BucketLoad> = HashMap::new();
    for (bucket, requests, rate) in costs {
        if let Some(rate) = rate.filter(|rate| *rate > 0.0) {
            let load = loads.entry(bucket);
            let load = load.or_insert(BucketLoad {
                requests: 0.0,
                rate,
            });
            load.requests += f64::from(requests.max(1));
            load.rate = load.rate.min(rate);
        }
    }
    let loads = loads.into_iter();
    loads
        .map(|(bucket, load)| (bucket, load.min_interval()))
        .collect()
}

struct BucketLoad {
    requests: f64,
    rate: f64,
}

impl BucketLoad {
    /// Returns at most one day: an invalid rate limit must not stop the polls.
    fn min_interval(&self) -> Duration {
        let seconds = (self.requests / self.rate).ceil();
        Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0))
    }
}

impl Scheduler {
    /// Computes the effective interval of each organization.
    pub(super) fn update_intervals(&mut self) {
        let costs = self.orgs.iter_mut().map(|(org, state)| {
            state.rate = state.client.sustained_rate(org);
            let BucketRate { key, per_second } = &state.rate;
            (key.clone(), state.requests_per_poll, *per_second)
        });
        let mut over_budget = min_intervals(costs);
        over_budget.retain(|_, interval| *interval > self.plan.interval);
        for (org, state) in &mut self.orgs {
            let slowed = over_budget.get(&state.rate.key).copied();
            let interval = slowed.unwrap_or(self.plan.interval);
            if state.schedule.interval() != interval {
                state.schedule = Schedule::new(org, interval);
            }
            self.observer.on_event(PollEvent::IntervalChanged {
                org,
                interval,
                configured: self.plan.interval,
            });
        }
        let over_budget = over_budget.into_keys().collect();
        self.log_budget_state(&over_budget);
        self.over_budget = over_budget;
    }

    /// Logs once when the rate limit becomes too low, and once when it is sufficient again.
    fn log_budget_state(&self, over_budget: &HashSet<BucketKey>) {
        if self.one_shot {
            return;
        }
        let configured = exact(self.plan.interval);
        if self.over_budget.is_empty() && !over_budget.is_empty() {
            let slowed = self.orgs.values();
            let slowed = slowed.filter(|state| over_budget.contains(&state.rate.key));
            let intervals = slowed.map(|state| state.schedule.interval());
            warn!(
                organizations = intervals.clone().count(),
                configured = %configured,
                effective = %exact(intervals.max().unwrap_or_default()),
                "rate limit too low; using longer poll interval"
            );
        }
        if !self.over_budget.is_empty() && over_budget.is_empty() {
            info!(interval = %configured, "rate limit allows the configured poll interval");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_accounts_for_all_orgs_sharing_a_bucket() {
        let least = min_intervals(
            [
                ("shared", 1, Some(4.0 / 60.0)),
                ("shared", 0, Some(4.0 / 60.0)),
                ("shared", 2, Some(4.0 / 60.0)),
                ("own", 200, Some(200.0 / 60.0)),
                ("unknown", 1000, None),
            ]
            .into_iter(),
        );
        assert_eq!(least.get("shared"), Some(&Duration::from_mins(1)));
        assert_eq!(least.get("own"), Some(&Duration::from_mins(1)));
        assert_eq!(least.get("unknown"), None);
    }
}
