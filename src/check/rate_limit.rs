//! What a round costs, against what Atlas allows.

use std::collections::BTreeMap;
use std::time::Duration;

use super::findings::{Component, Finding};
use mongodb_atlas_client::{BucketKey, BucketRate, OrgId};

/// Everything that draws on one bucket of requests.
#[derive(Default)]
struct BucketLoad {
    orgs: Vec<OrgId>,
    pages: u64,
    /// Requests a second that it can give for ever; none while that is not known.
    refill_rate: Option<f64>,
}

/// The draws on all buckets.
#[derive(Default)]
pub(super) struct BudgetCheck(BTreeMap<BucketKey, BucketLoad>);

impl BudgetCheck {
    /// A walk of `org` takes so many pages from a bucket.
    pub(super) fn add(&mut self, org: &OrgId, pages: u64, rate: BucketRate) {
        let draw = self.0.entry(rate.key).or_default();
        draw.orgs.push(org.clone());
        draw.pages += pages;
        draw.refill_rate = rate.per_second.or(draw.refill_rate);
    }

    /// A finding for each bucket.
    pub(super) fn findings(&self, interval: Duration) -> Vec<Finding> {
        self.0.values().map(|draw| draw.finding(interval)).collect()
    }
}

impl BucketLoad {
    fn finding(&self, interval: Duration) -> Finding {
        let area = Component::Budget;
        let subject = match self.orgs.as_slice() {
            [only] => only.to_string(),
            [first, others @ ..] => format!("{first} and {} more", others.len()),
            [] => String::new(),
        };
        let every = humantime::format_duration(interval);
        let cost = format!(
            "organizations: {}; requests: {} each {every}",
            self.orgs.len(),
            self.pages
        );
        let Some(supply) = self.refill_rate else {
            return Finding::ok(
                area,
                subject,
                format!(
                    "{cost}; Atlas does not say how many it allows, which is learnt from its answers"
                ),
            );
        };
        #[allow(clippy::cast_precision_loss, reason = "pages are few")]
        let needed = self.pages as f64;
        let allowed = supply * interval.as_secs_f64();
        if needed <= allowed {
            return Finding::ok(
                area,
                subject,
                format!("{cost} of {allowed:.0} that Atlas allows"),
            );
        }
        let longer = Duration::try_from_secs_f64((needed / supply).ceil());
        let enough = humantime::format_duration(longer.unwrap_or(Duration::MAX));
        Finding::warning(
            area,
            subject,
            format!("{cost}, and Atlas allows {allowed:.0}: walks come each {enough} instead"),
            format!(
                "raise --atlas.poll-interval to {enough} or more, leave --atlas.page-size at 500, or ask MongoDB for a larger rate limit"
            ),
        )
    }
}
