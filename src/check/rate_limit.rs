//! Requests of a poll, compared with the rate limit.

use std::collections::BTreeMap;
use std::time::Duration;

use mongodb_atlas_client::{BucketKey, BucketRate, OrgId};

use super::findings::{Component, Finding, Topic};
use crate::humanize::exact;

/// The load that one organization puts on its bucket.
pub(super) struct OrgLoad {
    pub(super) org: OrgId,
    /// Number of requests of a poll.
    pub(super) pages: u64,
    /// Requests per second that the bucket sustains.
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
        let topic = Topic::new(Component::RateLimit, subject);
        let cost = format!(
            "organizations: {}; requests per interval of {}: {}",
            self.orgs.len(),
            exact(interval),
            self.pages
        );
        let Some(refill_rate) = self.refill_rate else {
            return topic.ok(format!(
                "{cost}; rate limit unknown until the first responses"
            ));
        };
        #[allow(clippy::cast_precision_loss, reason = "pages are few")]
        let needed = self.pages as f64;
        let allowed = refill_rate * interval.as_secs_f64();
        if needed <= allowed {
            return topic.ok(format!("{cost}; rate limit allows {allowed:.0}"));
        }
        let sustainable = Duration::try_from_secs_f64((needed / refill_rate).ceil());
        let sustainable = exact(sustainable.unwrap_or(Duration::MAX));
        topic.warning(
            format!("{cost}; rate limit allows {allowed:.0}; effective poll interval: {sustainable}"),
            format!(
                "increase --atlas.poll-interval to at least {sustainable}, set --atlas.page-size to 500, or request a higher rate limit from MongoDB"
            ),
        )
    }
}
