//! What interval the request budget allows.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// What walks of one organization cost, and which bucket pays.
#[derive(Debug, Clone, Copy)]
pub(super) struct PollCost<'a, B> {
    /// The bucket.
    pub(super) bucket: &'a B,
    /// Requests a round.
    pub(super) requests: u32,
    /// Requests a second that the bucket can give for ever; none while that is not known.
    pub(super) sustained_rate: Option<f64>,
}

/// The least interval that each bucket allows, if all who draw on it are walked once in it.
pub(super) fn min_intervals<'a, B: Eq + Hash>(
    costs: impl Iterator<Item = PollCost<'a, B>>,
) -> HashMap<&'a B, Duration> {
    let mut drawn: HashMap<&B, (f64, f64)> = HashMap::new();
    for cost in costs {
        if let Some(supply) = cost.sustained_rate.filter(|supply| *supply > 0.0) {
            let (requests, least) = drawn.entry(cost.bucket).or_insert((0.0, supply));
            *requests += f64::from(cost.requests.max(1));
            *least = least.min(supply);
        }
    }
    drawn
        .into_iter()
        .map(|(bucket, (requests, supply))| {
            // a day at most: a wrong rate limit must not stop the polls
            let seconds = (requests / supply).ceil().clamp(0.0, 86_400.0);
            (bucket, Duration::from_secs_f64(seconds))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_accounts_for_all_orgs_sharing_a_bucket() {
        let cost = |bucket, requests, supply| PollCost {
            bucket,
            requests,
            sustained_rate: supply,
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
