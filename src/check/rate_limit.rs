//! Requests of a poll, compared with the rate limit.

use std::collections::BTreeMap;
use std::time::Duration;

use mongodb_atlas_client::{BucketKey, BucketRate, OrgId};

use super::findings::{Component, Finding, Topic};
use crate::humanize::exact;

/// The load that one organization puts on its bucket.
pub(super) struct OrgLoad {
    pub(super) org: OrgId,
    /// Requests of a poll.
    pub(super) pages: u64,
    /// Requests a second that its bucket sustains.
    pub(super) rate: BucketRate,
}

/// The load on one bucket.
#[derive(Default)]
struct RequestDemand {
    orgs: Vec<OrgId>,
    pages: u64,
    refill_rate: Option<f64>,
}

/// Returns a finding for each bucket.
pub(super) fn check_loads(loads: Vec<OrgLoad>, interval: Duration) -> Vec<Finding> {
    let mut buckets: BTreeMap<BucketKey, RequestDemand> = BTreeMap::new();
    for load in loads {
        let bucket = buckets.entry(load.rate.key).or_default();
        bucket.orgs.push(load.org);
        bucket.pages += load.pages;
        bucket.refill_rate = load.rate.per_second.or(bucket.refill_rate);
    }
    let buckets = buckets.values();
    buckets.map(|bucket| bucket.finding(interval)).collect()
}

impl RequestDemand {
    fn finding(&self, interval: Duration) -> Finding {
        let subject = match self.orgs.as_slice() {
            [only] => only.to_string(),
            [first, others @ ..] => format!("{first} and {} more", others.len()),
            [] => String::new(),
        };
        let topic = Topic::new(Component::Budget, subject);
        let cost = format!(
            "organizations: {}; requests: {} each {}",
            self.orgs.len(),
            self.pages,
            exact(interval)
        );
        let Some(refill_rate) = self.refill_rate else {
            return topic.ok(format!(
                "{cost}; Atlas does not say how many it allows, which is learnt from its answers"
            ));
        };
        #[allow(clippy::cast_precision_loss, reason = "pages are few")]
        let needed = self.pages as f64;
        let allowed = refill_rate * interval.as_secs_f64();
        if needed <= allowed {
            return topic.ok(format!("{cost} of {allowed:.0} that Atlas allows"));
        }
        let sustainable = Duration::try_from_secs_f64((needed / refill_rate).ceil());
        let sustainable = exact(sustainable.unwrap_or(Duration::MAX));
        topic.warning(
            format!("{cost}, and Atlas allows {allowed:.0}: walks come each {sustainable} instead"),
            format!(
                "raise --atlas.poll-interval to {sustainable} or more, leave --atlas.page-size at 500, or ask MongoDB for a larger rate limit"
            ),
        )
    }
}
