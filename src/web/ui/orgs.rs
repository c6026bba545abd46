//! The organizations on the page.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::key_table::{TimeAgo, time_ago};
use crate::failure::Explanation;
use crate::humanize::{elapsed, format_count, format_duration};
use crate::inventory::{ClassifiedInventory, Inventory, InventorySnapshot, KeyClass};
use crate::metrics::{IdleThreshold, RateLimit};
use crate::status::OrgStatus;
use mongodb_atlas_client::{FailureReason, OrgId};

/// The number of organizations on one page.
pub(super) const PAGE_SIZE: usize = 20;
/// The dimensions of the chart, in SVG units.
const LABEL_WIDTH: u64 = 118;
const BAR_WIDTH: u64 = 170;
const ROW_HEIGHT: u64 = 24;

crate::closed_list::closed_list! {
    /// The health of an organization. States that need attention are first.
    pub(super) enum OrgHealth {
        /// The last poll failed.
        Failing = "Failing",
        /// No poll has succeeded for longer than two intervals.
        Stale = "Stale",
        /// No poll has finished yet.
        NotPolled = "No poll yet",
        /// A stored inventory is exported.
        Restored = "Restored",
        /// The last poll succeeded.
        Fresh = "Fresh",
    }
}

impl OrgHealth {
    pub(super) fn from_status(status: &OrgStatus, age: Option<Duration>) -> Self {
        let late =
            |age: Duration| !status.poll_interval.is_zero() && age > status.poll_interval * 2;
        match (status.up, age) {
            (Some(false), _) => Self::Failing,
            (_, None) => Self::NotPolled,
            (_, Some(_)) if status.restored => Self::Restored,
            (_, Some(age)) if late(age) => Self::Stale,
            _ => Self::Fresh,
        }
    }

    /// Returns the CSS class.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Failing => "error",
            Self::Stale | Self::NotPolled | Self::Restored => "warn",
            Self::Fresh => "ok",
        }
    }

    /// Explains a state that is not obvious.
    fn explain(self, status: &OrgStatus) -> Option<Notice> {
        let text = match (self, status.failure) {
            (Self::Failing, Some(failure)) => return Some(Notice::new(failure.reason)),
            (Self::Failing, None) => "See the exporter's log for the reason.",
            (Self::Stale, _) => {
                "Polls are late. The most frequent reason is the rate limit; see the exporter's log."
            }
            (Self::NotPolled, _) => "No poll of this organization has finished yet.",
            (Self::Restored, _) => {
                "The data was restored after a restart of the exporter. The next successful poll replaces it."
            }
            (Self::Fresh, _) => return None,
        };
        Some(Notice {
            text: text.to_owned(),
            runbook: None,
        })
    }
}

/// An explanation with the name of its runbook.
pub(super) struct Notice {
    pub(super) text: String,
    pub(super) runbook: Option<&'static str>,
}

impl Notice {
    /// Explains a failure.
    pub(super) fn new(reason: FailureReason) -> Self {
        let explanation = Explanation::for_reason(reason);
        Self {
            text: explanation.to_sentences(),
            runbook: Some(explanation.runbook),
        }
    }
}

/// One bar of the chart. Positions are in SVG units.
pub(super) struct IdleBar {
    pub(super) label: String,
    pub(super) keys: String,
    pub(super) class: &'static str,
    pub(super) width: u64,
    pub(super) y: u64,
    /// The baseline of the texts.
    pub(super) text_y: u64,
    /// The position of the number.
    pub(super) number_x: u64,
}

/// The number of keys by idle time.
pub(super) struct IdleChart {
    pub(super) bars: Vec<IdleBar>,
    pub(super) height: u64,
    pub(super) width: u64,
    pub(super) bar_x: u64,
}

/// An organization before it is presented.
pub(super) struct ListedOrg {
    pub(super) health: OrgHealth,
    pub(super) org: OrgId,
    pub(super) status: OrgStatus,
    pub(super) rate_limit: RateLimit,
    /// When the inventory was completed, even if it is not exported.
    pub(super) completed_at: Option<Timestamp>,
}

/// An organization as the page shows it.
pub(super) struct OrgView {
    pub(super) id: String,
    pub(super) name: Option<String>,
    pub(super) health: OrgHealth,
    pub(super) notice: Option<Notice>,
    /// When the first poll of the current series of failures failed.
    pub(super) failing_since: Option<TimeAgo>,
    /// When the last successful poll was completed.
    pub(super) data_age: Option<TimeAgo>,
    /// Whether the inventory is too old to be exported.
    pub(super) hidden_as_stale: bool,
    pub(super) next_poll: String,
    pub(super) rate_limit: Option<String>,
    pub(super) keys: Option<String>,
    pub(super) never_used: String,
    pub(super) disabled: String,
    pub(super) exempt: String,
    pub(super) status_counts: BTreeMap<String, String>,
    pub(super) chart: Option<IdleChart>,
}

/// The number of keys of all organizations, by class.
#[derive(Default)]
pub(super) struct Totals {
    pub(super) keys: u64,
    pub(super) never_used: u64,
    pub(super) idle: u64,
    pub(super) disabled: u64,
    pub(super) exempt: u64,
}

/// Presents organizations at one point in time.
pub(super) struct OrgPresenter<'a> {
    pub(super) snapshot: &'a InventorySnapshot,
    pub(super) thresholds: &'a [IdleThreshold],
    pub(super) now: Timestamp,
}

impl OrgPresenter<'_> {
    fn inventory(&self, org: &OrgId) -> Option<&ClassifiedInventory> {
        let inventories = &self.snapshot.inventories;
        let index = inventories.binary_search_by(|inventory| inventory.org().cmp(org));
        inventories.get(index.ok()?)
    }

    /// Adds up the exported keys.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for inventory in &self.snapshot.inventories {
            totals.keys += inventory.len() as u64;
            totals.never_used += self.count(inventory, KeyClass::NeverUsed);
            totals.disabled += self.count(inventory, KeyClass::Disabled);
            totals.exempt += self.count_exempt(inventory);
            if let Some(threshold) = self.thresholds.last() {
                let (cutoff, now) = (self.cutoff(threshold), self.now.as_microsecond());
                totals.idle += inventory.classes.count(KeyClass::Used, cutoff, now);
            }
        }
        totals
    }

    pub(super) fn present(&self, listed: &ListedOrg) -> OrgView {
        let ListedOrg { org, status, .. } = listed;
        let completed_at = listed.completed_at;
        let inventory = self.inventory(org);
        let details = inventory.and_then(|_| self.snapshot.org_details(org));
        let (remaining, capacity) = (listed.rate_limit.remaining, listed.rate_limit.capacity);
        OrgView {
            id: org.to_string(),
            name: details.and_then(|details| details.name.clone()),
            health: listed.health,
            notice: listed.health.explain(status),
            failing_since: status.failure.map(|it| time_ago(it.since, self.now)),
            data_age: completed_at.map(|at| time_ago(at, self.now)),
            hidden_as_stale: completed_at.is_some() && inventory.is_none(),
            next_poll: self.format_next_poll(status),
            rate_limit: (capacity > 0).then(|| {
                let (remaining, capacity) = (format_count(remaining), format_count(capacity));
                format!("{remaining} of {capacity} requests remaining")
            }),
            keys: inventory.map(|inventory| format_count(inventory.len() as u64)),
            never_used: format_count(inventory.map_or(0, |it| self.count(it, KeyClass::NeverUsed))),
            disabled: format_count(inventory.map_or(0, |it| self.count(it, KeyClass::Disabled))),
            exempt: format_count(inventory.map_or(0, |it| self.count_exempt(it))),
            status_counts: inventory.map(|it| status_counts(it)).unwrap_or_default(),
            chart: inventory.map(|inventory| self.idle_chart(inventory)),
        }
    }

    fn format_next_poll(&self, status: &OrgStatus) -> String {
        match status.next_poll_at {
            _ if status.poll_in_progress => "in progress".to_owned(),
            Some(at) if at > self.now => {
                format!("in {}", format_duration(elapsed(self.now, at)))
            }
            Some(_) => "waiting for the rate limit".to_owned(),
            None => "not scheduled yet".to_owned(),
        }
    }

    fn cutoff(&self, threshold: &IdleThreshold) -> i64 {
        threshold.cutoff(self.now.as_microsecond())
    }

    /// Counts the keys of a class, with any idle time.
    fn count(&self, inventory: &ClassifiedInventory, class: KeyClass) -> u64 {
        let now = self.now.as_microsecond();
        inventory.classes.count(class, i64::MAX, now)
    }

    fn count_exempt(&self, inventory: &ClassifiedInventory) -> u64 {
        let now = self.now.as_microsecond();
        let projects = inventory.classes.projects().iter();
        projects.map(|project| project.count_exempt(now)).sum()
    }

    fn idle_chart(&self, inventory: &ClassifiedInventory) -> IdleChart {
        let known = inventory.classes.count_idle_since(i64::MAX);
        let mut rows = Vec::new();
        // The number of keys that are idle for at least the previous threshold.
        let mut idle = known;
        let mut previous: Option<&IdleThreshold> = None;
        for threshold in self.thresholds {
            let label = match previous {
                None => format!("under {}", threshold.label),
                Some(previous) => format!("{} to {}", previous.label, threshold.label),
            };
            let longer = inventory.classes.count_idle_since(self.cutoff(threshold));
            rows.push((label, idle.saturating_sub(longer), "young"));
            (idle, previous) = (longer, Some(threshold));
        }
        let label = previous.map_or("any".to_owned(), |it| format!("{} or more", it.label));
        rows.push((label, idle, "old"));
        let unknown = (inventory.len() as u64).saturating_sub(known);
        if unknown > 0 {
            rows.push(("unknown".to_owned(), unknown, "young"));
        }
        let max = rows.iter().map(|(_, keys, _)| *keys).max();
        let max = u128::from(max.unwrap_or(0).max(1));
        let height = ROW_HEIGHT * rows.len() as u64;
        let bars = (0..).zip(rows).map(|(row, (label, keys, class))| {
            let scaled = u128::from(keys) * u128::from(BAR_WIDTH) / max;
            let width = u64::try_from(scaled)
                .unwrap_or(BAR_WIDTH)
                .max(u64::from(keys > 0) * 2);
            IdleBar {
                label,
                keys: format_count(keys),
                class,
                width,
                y: row * ROW_HEIGHT + 4,
                text_y: row * ROW_HEIGHT + 17,
                number_x: LABEL_WIDTH + width + 6,
            }
        });
        IdleChart {
            bars: bars.collect(),
            height,
            width: LABEL_WIDTH + BAR_WIDTH + 72,
            bar_x: LABEL_WIDTH,
        }
    }
}

/// Returns the number of keys of all projects, by status.
fn status_counts(inventory: &Inventory) -> BTreeMap<String, String> {
    let mut totals = BTreeMap::<&str, u64>::new();
    for count in inventory.status_counts() {
        *totals.entry(&count.status).or_default() += count.keys;
    }
    let totals = totals.into_iter();
    totals
        .map(|(status, keys)| (status.to_owned(), format_count(keys)))
        .collect()
}

#[cfg(test)]
mod tests;
