//! The effective poll intervals: the configured one, unless the rate limit requires a longer one.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use tracing::{info, warn};

use super::event::PollEvent;
use super::schedule::Schedule;
use super::scheduler::Scheduler;
use crate::humanize::exact;
use mongodb_atlas_client::BucketKey;

/// What polls of one organization take from their rate limit bucket.
#[derive(Debug, Clone, Copy)]
struct PollCost<'a, B> {
    bucket: &'a B,
    /// Number of requests per poll.
    requests: u32,
    /// Requests per second that the bucket sustains; `None` while that is unknown.
    sustained_rate: Option<f64>,
}

/// Returns the minimum interval for each bucket, with one poll of every organization that shares it.
fn min_intervals<'a, B: Eq + Hash>(
    costs: impl Iterator<Item = PollCost<'a, B>>,
) -> HashMap<&'a B, Duration> {
    let mut loads: HashMap<&B, BucketLoad> = HashMap::new();
    for cost in costs {
        if let Some(rate) = cost.sustained_rate.filter(|rate| *rate > 0.0) {
            let load = loads.entry(cost.bucket).or_insert(BucketLoad {
                requests: 0.0,
                rate,
            });
            load.requests += f64::from(cost.requests.max(1));
            load.rate = load.rate.min(rate);
        }
    }
    loads
        .into_iter()
        .map(|(bucket, load)| {
            // At most a day: an invalid rate limit must not stop the polls
            let seconds = (load.requests / load.rate).ceil().clamp(0.0, 86_400.0);
            (bucket, Duration::from_secs_f64(seconds))
        })
        .collect()
}

struct BucketLoad {
    requests: f64,
    rate: f64,
}

impl Scheduler {
    /// Computes the effective interval of each organization.
    pub(super) fn update_intervals(&mut self) {
        for (org, state) in &mut self.orgs {
            state.rate = state.client.sustained_rate(org);
        }
        let costs = self.orgs.values().map(|state| PollCost {
            bucket: &state.rate.key,
            requests: state.requests_per_poll,
            sustained_rate: state.rate.per_second,
        });
        let mut over_budget: HashMap<BucketKey, Duration> = HashMap::new();
        for (bucket, interval) in min_intervals(costs) {
            if interval > self.interval {
                over_budget.insert(bucket.clone(), interval);
            }
        }
        for (org, state) in &mut self.orgs {
            let slowed = over_budget.get(&state.rate.key).copied();
            let interval = slowed.unwrap_or(self.interval);
            if state.schedule.interval() != interval {
                state.schedule = Schedule::new(org, interval);
            }
            self.observer
                .on_event(PollEvent::IntervalChanged { org, interval });
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
        let configured = exact(self.interval);
        if self.over_budget.is_empty() && !over_budget.is_empty() {
            let slowed = self.orgs.values();
            let slowed = slowed.filter(|state| over_budget.contains(&state.rate.key));
            let intervals = slowed.map(|state| state.schedule.interval());
            warn!(
                organizations = intervals.clone().count(),
                asked = %configured,
                longest_in_force = %exact(intervals.max().unwrap_or_default()),
                "Atlas' request budget does not allow the interval that was asked for; walking less often"
            );
        }
        if !self.over_budget.is_empty() && over_budget.is_empty() {
            info!(interval = %configured, "Atlas' request budget allows the interval that was asked for");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_accounts_for_all_orgs_sharing_a_bucket() {
        let cost = |bucket, requests, sustained_rate| PollCost {
            bucket,
            requests,
            sustained_rate,
        };
        let least = min_intervals(
            [
                cost(&"shared", 1, Some(4.0 / 60.0)),
                cost(&"shared", 0, Some(4.0 / 60.0)),
                cost(&"shared", 2, Some(4.0 / 60.0)),
                cost(&"own", 200, Some(200.0 / 60.0)),
                cost(&"unknown", 1000, None),
            ]
            .into_iter(),
        );
        assert_eq!(least.get(&"shared"), Some(&Duration::from_mins(1)));
        assert_eq!(least.get(&"own"), Some(&Duration::from_mins(1)));
        assert_eq!(least.get(&"unknown"), None);
    }
}
