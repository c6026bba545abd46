//! Organizations as the page shows them.

use std::time::Duration;

use jiff::Timestamp;

use super::humanize;
use super::key_table::{When, details, when};
use crate::inventory::{Inventory, Shown};
use crate::metrics::Threshold;
use crate::status::Card;
use mongodb_atlas_client::OrgId;

/// Organizations on one page.
pub(super) const PAGE: usize = 20;
/// Widths of the chart, in units of its own.
const LABEL: u64 = 118;
const BAR: u64 = 170;
const ROW: u64 = 24;

/// How an organization does. Those that need somebody come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
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

impl State {
    fn of(card: &Card, age: Option<Duration>) -> Self {
        let late = |age: Duration| !card.interval.is_zero() && age > card.interval * 2;
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
    fn words(self, card: &Card) -> Option<&'static str> {
        match self {
            Self::Failing => Some(humanize::of_reason(card.reason.unwrap_or_default())),
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
pub(super) struct Bar {
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
pub(super) struct Chart {
    pub(super) bars: Vec<Bar>,
    pub(super) height: u64,
    pub(super) width: u64,
    pub(super) left: u64,
}

/// One organization.
pub(super) struct Org {
    pub(super) id: String,
    pub(super) name: Option<String>,
    pub(super) state: State,
    pub(super) words: Option<&'static str>,
    pub(super) failed: Option<When>,
    /// When what is shown was read.
    pub(super) truth: Option<When>,
    /// Whether there is an inventory that is too old to be shown.
    pub(super) withdrawn: bool,
    pub(super) next: String,
    pub(super) budget: Option<String>,
    pub(super) keys: Option<String>,
    pub(super) never: String,
    pub(super) counts: Vec<(String, String)>,
    pub(super) chart: Option<Chart>,
}

/// Numbers of keys over all organizations.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) keys: u64,
    pub(super) never: u64,
    pub(super) idle: u64,
}

/// What all organizations are looked at by.
pub(super) struct Viewer<'a> {
    pub(super) shown: &'a Shown,
    pub(super) thresholds: &'a [Threshold],
    pub(super) now: Timestamp,
}

impl Viewer<'_> {
    fn inventory(&self, org: &OrgId) -> Option<&Inventory> {
        let place = self
            .shown
            .inventories
            .binary_search_by(|inventory| inventory.org().cmp(org));
        self.shown.inventories.get(place.ok()?).map(AsRef::as_ref)
    }

    /// How an organization does; `read_at` is when its inventory was read, shown or not.
    pub(super) fn state(&self, card: &Card, read_at: Option<Timestamp>) -> State {
        State::of(card, read_at.map(|at| humanize::between(at, self.now)))
    }

    /// Adds up the keys that are shown.
    pub(super) fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for inventory in &self.shown.inventories {
            sums.keys += inventory.len() as u64;
            sums.never += never_used(inventory);
            if let Some(threshold) = self.thresholds.last() {
                sums.idle += inventory.idle_since(self.limit(threshold));
            }
        }
        sums
    }

    pub(super) fn org(&self, org: &OrgId, card: &Card, read_at: Option<Timestamp>) -> Org {
        let state = self.state(card, read_at);
        let inventory = self.inventory(org);
        let name = inventory
            .and_then(|inventory| details(self.shown, inventory))
            .and_then(|details| details.name.clone());
        Org {
            id: org.to_string(),
            name,
            state,
            words: state.words(card),
            failed: card.failed_at.map(|at| when(at, self.now)),
            truth: read_at.map(|at| when(at, self.now)),
            withdrawn: read_at.is_some() && inventory.is_none(),
            next: self.next(card),
            budget: card
                .budget
                .filter(|(holds, _)| *holds > 0)
                .map(|(holds, left)| {
                    format!(
                        "{} of {} requests left",
                        humanize::number(left),
                        humanize::number(holds)
                    )
                }),
            keys: inventory.map(|inventory| humanize::number(inventory.len() as u64)),
            never: humanize::number(inventory.map_or(0, never_used)),
            counts: inventory.map(counts).unwrap_or_default(),
            chart: inventory.map(|inventory| self.chart(inventory)),
        }
    }

    fn next(&self, card: &Card) -> String {
        match card.due {
            _ if card.walking => "under way".to_owned(),
            Some(due) if due > self.now => {
                format!("in {}", humanize::length(humanize::between(self.now, due)))
            }
            Some(_) => "as soon as the request budget allows".to_owned(),
            None => "not planned yet".to_owned(),
        }
    }

    fn limit(&self, threshold: &Threshold) -> i64 {
        let length = i64::try_from(threshold.length.as_micros()).unwrap_or(i64::MAX);
        self.now.as_microsecond().saturating_sub(length)
    }

    fn chart(&self, inventory: &Inventory) -> Chart {
        // from the least idle to the most
        let past: Vec<u64> = self
            .thresholds
            .iter()
            .map(|threshold| inventory.idle_since(self.limit(threshold)))
            .collect();
        let known = inventory.idle_since(i64::MAX);
        let mut parts = Vec::new();
        let mut above = known;
        let mut from: Option<&Threshold> = None;
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
        let height = ROW * parts.len() as u64;
        let bars = (0..).zip(parts).map(|(row, (label, keys, class))| {
            let scaled = u128::from(keys) * u128::from(BAR) / u128::from(most);
            let width = u64::try_from(scaled)
                .unwrap_or(BAR)
                .max(u64::from(keys > 0) * 2);
            Bar {
                label,
                keys: humanize::number(keys),
                class,
                width,
                top: row * ROW + 4,
                base: row * ROW + 17,
                end: LABEL + width + 6,
            }
        });
        Chart {
            bars: bars.collect(),
            height,
            width: LABEL + BAR + 72,
            left: LABEL,
        }
    }
}

fn never_used(inventory: &Inventory) -> u64 {
    inventory
        .keys()
        .filter(|key| key.used() == Some(false))
        .count() as u64
}

/// Numbers of keys by status, over all projects.
fn counts(inventory: &Inventory) -> Vec<(String, String)> {
    let mut sums = std::collections::BTreeMap::<&str, u64>::new();
    for count in inventory.counts() {
        *sums.entry(&count.status).or_default() += count.keys;
    }
    sums.into_iter()
        .map(|(status, keys)| (status.to_owned(), humanize::number(keys)))
        .collect()
}
