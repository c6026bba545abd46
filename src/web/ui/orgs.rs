//! Organizations as the page shows them.

use std::time::Duration;

use jiff::Timestamp;

use super::humanize;
use super::key_table::{TimeAgo, time_ago};
use crate::inventory::{Inventory, InventorySnapshot};
use crate::metrics::IdleThreshold;
use crate::status::OrgStatus;
use mongodb_atlas_client::OrgId;

/// Organizations on one page.
pub(super) const PAGE_SIZE: usize = 20;
/// Widths of the chart, in units of its own.
const LABEL_WIDTH: u64 = 118;
const BAR_WIDTH: u64 = 170;
const ROW_HEIGHT: u64 = 24;

/// How an organization does. Those that need somebody come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum OrgHealth {
    /// The last walk failed.
    Failing,
    /// No walk was complete for longer than two intervals.
    Stale,
    /// There was no walk yet.
    Waiting,
    /// What an earlier process has left is shown.
    Restored,
    /// The last walk was complete.
    Fresh,
}

impl OrgHealth {
    fn from_status(card: &OrgStatus, age: Option<Duration>) -> Self {
        let late = |age: Duration| !card.poll_interval.is_zero() && age > card.poll_interval * 2;
        match (card.up, age) {
            (Some(false), _) => Self::Failing,
            (_, None) => Self::Waiting,
            (_, Some(_)) if card.restored => Self::Restored,
            (_, Some(age)) if late(age) => Self::Stale,
            _ => Self::Fresh,
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Failing => "Failing",
            Self::Stale => "Stale",
            Self::Waiting => "Waiting",
            Self::Restored => "Restored",
            Self::Fresh => "Fresh",
        }
    }

    /// The name of its style.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Failing => "bad",
            Self::Stale | Self::Waiting | Self::Restored => "so-so",
            Self::Fresh => "good",
        }
    }

    /// What it means, where that is not plain.
    fn explanation(self, card: &OrgStatus) -> Option<&'static str> {
        match self {
            Self::Failing => Some(humanize::describe_failure(
                card.failure_reason.unwrap_or_default(),
            )),
            Self::Stale => Some(
                "The walks are late. The exporter's log says what they wait for; most often it is the request budget.",
            ),
            Self::Waiting => Some(
                "No walk of this organization was complete yet, so nothing is known of its keys.",
            ),
            Self::Restored => Some(
                "This is what was known before the exporter was restarted; the first walk since then brings it up to date.",
            ),
            Self::Fresh => None,
        }
    }
}

/// One bar of the chart.
pub(super) struct IdleBar {
    pub(super) label: String,
    pub(super) keys: String,
    pub(super) class: &'static str,
    pub(super) width: u64,
    /// Where it is drawn, and its text's baseline.
    pub(super) top: u64,
    pub(super) base: u64,
    /// Where its number is written.
    pub(super) end: u64,
}

/// Numbers of keys by how long nobody has used them.
pub(super) struct IdleChart {
    pub(super) bars: Vec<IdleBar>,
    pub(super) height: u64,
    pub(super) width: u64,
    pub(super) left: u64,
}

/// One organization.
pub(super) struct OrgView {
    pub(super) id: String,
    pub(super) name: Option<String>,
    pub(super) state: OrgHealth,
    pub(super) words: Option<&'static str>,
    pub(super) failed: Option<TimeAgo>,
    /// When what is shown was read.
    pub(super) truth: Option<TimeAgo>,
    /// Whether there is an inventory that is too old to be shown.
    pub(super) withdrawn: bool,
    pub(super) next: String,
    pub(super) budget: Option<String>,
    pub(super) keys: Option<String>,
    pub(super) never: String,
    pub(super) counts: Vec<(String, String)>,
    pub(super) chart: Option<IdleChart>,
}

/// Numbers of keys over all organizations.
#[derive(Default)]
pub(super) struct Totals {
    pub(super) keys: u64,
    pub(super) never: u64,
    pub(super) idle: u64,
}

/// What all organizations are looked at by.
pub(super) struct OrgPresenter<'a> {
    pub(super) snapshot: &'a InventorySnapshot,
    pub(super) thresholds: &'a [IdleThreshold],
    pub(super) now: Timestamp,
}

impl OrgPresenter<'_> {
    fn inventory(&self, org: &OrgId) -> Option<&Inventory> {
        let place = self
            .snapshot
            .inventories
            .binary_search_by(|inventory| inventory.org().cmp(org));
        self.snapshot
            .inventories
            .get(place.ok()?)
            .map(AsRef::as_ref)
    }

    /// How an organization does; `read_at` is when its inventory was read, shown or not.
    pub(super) fn health(&self, card: &OrgStatus, read_at: Option<Timestamp>) -> OrgHealth {
        OrgHealth::from_status(card, read_at.map(|at| humanize::elapsed(at, self.now)))
    }

    /// Adds up the keys that are shown.
    pub(super) fn totals(&self) -> Totals {
        let mut sums = Totals::default();
        for inventory in &self.snapshot.inventories {
            sums.keys += inventory.len() as u64;
            sums.never += never_used(inventory);
            if let Some(threshold) = self.thresholds.last() {
                sums.idle += inventory.count_idle_since(self.limit(threshold));
            }
        }
        sums
    }

    pub(super) fn present(
        &self,
        org: &OrgId,
        card: &OrgStatus,
        read_at: Option<Timestamp>,
    ) -> OrgView {
        let state = self.health(card, read_at);
        let inventory = self.inventory(org);
        let name = inventory
            .and_then(|inventory| self.snapshot.org_details(inventory.org()))
            .and_then(|details| details.name.clone());
        OrgView {
            id: org.to_string(),
            name,
            state,
            words: state.explanation(card),
            failed: card.failed_at.map(|at| time_ago(at, self.now)),
            truth: read_at.map(|at| time_ago(at, self.now)),
            withdrawn: read_at.is_some() && inventory.is_none(),
            next: self.format_next_poll(card),
            budget: card
                .rate_limit
                .filter(|(holds, _)| *holds > 0)
                .map(|(holds, left)| {
                    format!(
                        "{} of {} requests left",
                        humanize::format_count(left),
                        humanize::format_count(holds)
                    )
                }),
            keys: inventory.map(|inventory| humanize::format_count(inventory.len() as u64)),
            never: humanize::format_count(inventory.map_or(0, never_used)),
            counts: inventory.map(status_counts).unwrap_or_default(),
            chart: inventory.map(|inventory| self.idle_chart(inventory)),
        }
    }

    fn format_next_poll(&self, card: &OrgStatus) -> String {
        match card.next_poll_at {
            _ if card.poll_in_progress => "under way".to_owned(),
            Some(due) if due > self.now => {
                format!(
                    "in {}",
                    humanize::format_duration(humanize::elapsed(self.now, due))
                )
            }
            Some(_) => "as soon as the request budget allows".to_owned(),
            None => "not planned yet".to_owned(),
        }
    }

    fn limit(&self, threshold: &IdleThreshold) -> i64 {
        let length = i64::try_from(threshold.duration.as_micros()).unwrap_or(i64::MAX);
        self.now.as_microsecond().saturating_sub(length)
    }

    fn idle_chart(&self, inventory: &Inventory) -> IdleChart {
        // from the least idle to the most
        let past: Vec<u64> = self
            .thresholds
            .iter()
            .map(|threshold| inventory.count_idle_since(self.limit(threshold)))
            .collect();
        let known = inventory.count_idle_since(i64::MAX);
        let mut parts = Vec::new();
        let mut above = known;
        let mut from: Option<&IdleThreshold> = None;
        for (threshold, keys) in self.thresholds.iter().zip(past) {
            let label = match from {
                None => format!("under {}", threshold.label),
                Some(from) => format!("{} to {}", from.label, threshold.label),
            };
            parts.push((label, above.saturating_sub(keys), "young"));
            (above, from) = (keys, Some(threshold));
        }
        let label = from.map_or("any".to_owned(), |from| format!("{} and more", from.label));
        parts.push((label, above, "old"));
        let unknown = (inventory.len() as u64).saturating_sub(known);
        if unknown > 0 {
            parts.push(("not known".to_owned(), unknown, "young"));
        }
        let most = parts
            .iter()
            .map(|(_, keys, _)| *keys)
            .max()
            .unwrap_or(0)
            .max(1);
        let height = ROW_HEIGHT * parts.len() as u64;
        let bars = (0..).zip(parts).map(|(row, (label, keys, class))| {
            let scaled = u128::from(keys) * u128::from(BAR_WIDTH) / u128::from(most);
            let width = u64::try_from(scaled)
                .unwrap_or(BAR_WIDTH)
                .max(u64::from(keys > 0) * 2);
            IdleBar {
                label,
                keys: humanize::format_count(keys),
                class,
                width,
                top: row * ROW_HEIGHT + 4,
                base: row * ROW_HEIGHT + 17,
                end: LABEL_WIDTH + width + 6,
            }
        });
        IdleChart {
            bars: bars.collect(),
            height,
            width: LABEL_WIDTH + BAR_WIDTH + 72,
            left: LABEL_WIDTH,
        }
    }
}

fn never_used(inventory: &Inventory) -> u64 {
    inventory
        .keys()
        .filter(|key| key.was_used() == Some(false))
        .count() as u64
}

/// Numbers of keys by status, over all projects.
fn status_counts(inventory: &Inventory) -> Vec<(String, String)> {
    let mut sums = std::collections::BTreeMap::<&str, u64>::new();
    for count in inventory.status_counts() {
        *sums.entry(&count.status).or_default() += count.keys;
    }
    sums.into_iter()
        .map(|(status, keys)| (status.to_owned(), humanize::format_count(keys)))
        .collect()
}
