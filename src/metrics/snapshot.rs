//! What one scrape shows: the inventories that stand at its first moment, all of them at the same
//! `now`.

use std::sync::Arc;

use jiff::Timestamp;

use super::selection::{KeySeriesOptions, PerKeyMode};
use super::threshold::IdleThreshold;
use crate::inventory::{Inventory, InventorySnapshot, KeyView};
use mongodb_atlas_client::OrgId;

/// One moment of the inventories.
#[derive(Debug, Clone)]
pub struct ScrapeSnapshot {
    pub(super) visible: InventorySnapshot,
    pub(super) options: Arc<KeySeriesOptions>,
    /// In microseconds since the Unix epoch.
    pub(super) now_micros: i64,
    /// Only keys that have been idle since this moment or longer have series of their own.
    pub(super) idle_cutoff: Option<i64>,
    /// The part of that limit that more than the most keys make necessary.
    max_keys_cutoff: Option<i64>,
}

impl ScrapeSnapshot {
    /// What is `shown` at `now`.
    pub fn new(shown: InventorySnapshot, selection: Arc<KeySeriesOptions>, now: Timestamp) -> Self {
        let now = now.as_microsecond();
        let idle = match (selection.per_key, selection.thresholds.first()) {
            (PerKeyMode::Idle, Some(threshold)) => Some(idle_cutoff_at(now, threshold)),
            _ => None,
        };
        let keys: usize = shown
            .inventories
            .iter()
            .map(|inventory| inventory.len())
            .sum();
        let cut = (selection.per_key != PerKeyMode::None && keys > selection.max_keys)
            .then(|| cutoff_for_max_keys(&shown.inventories, selection.max_keys as u64, now));
        Self {
            visible: shown,
            options: selection,
            now_micros: now,
            idle_cutoff: [idle, cut].into_iter().flatten().min(),
            max_keys_cutoff: cut,
        }
    }

    /// The same with these organizations alone, which are in order. What was cut because there
    /// are too many keys stays cut.
    #[must_use]
    pub fn retain_orgs(mut self, orgs: &[OrgId]) -> Self {
        let chosen = |org: &OrgId| orgs.binary_search(org).is_ok();
        self.visible
            .inventories
            .retain(|inventory| chosen(inventory.org()));
        self.visible.details.retain(|(org, _)| chosen(org));
        self
    }

    /// Whether every key of every inventory has series of its own.
    pub(super) fn includes_all(&self) -> bool {
        self.idle_cutoff.is_none() && self.has_key_series()
    }

    /// Whether any key can have series of its own.
    pub(super) fn has_key_series(&self) -> bool {
        self.options.per_key != PerKeyMode::None
    }

    pub(super) fn includes(&self, key: &KeyView<'_>) -> bool {
        self.idle_cutoff
            .is_none_or(|limit| key.idle_since().is_some_and(|since| since <= limit))
    }

    /// Keys of `inventory` that were cut off, because there are more than the most.
    pub(super) fn dropped_by_max_keys(&self, inventory: &Inventory) -> u64 {
        self.max_keys_cutoff.map_or(0, |cut| {
            (inventory.len() as u64).saturating_sub(inventory.count_idle_since(cut))
        })
    }
}

/// The moment from which on a key has been idle for the threshold, at `now`.
pub(super) fn idle_cutoff_at(now: i64, threshold: &IdleThreshold) -> i64 {
    let length = i64::try_from(threshold.duration.as_micros()).unwrap_or(i64::MAX);
    now.saturating_sub(length)
}

/// The latest moment since which at most `most` keys have been idle: the most idle ones are kept,
/// whichever organization they are of, so that the same ones are kept from scrape to scrape.
fn cutoff_for_max_keys(inventories: &[Arc<Inventory>], most: u64, now: i64) -> i64 {
    let idle_since = |limit: i64| -> u64 {
        inventories
            .iter()
            .map(|inventory| inventory.count_idle_since(limit))
            .sum()
    };
    if idle_since(now) <= most {
        return now;
    }
    // at `fits` there are few enough, at `too_many` there are not
    let (mut fits, mut too_many) = (-now.abs(), now);
    if idle_since(fits) > most {
        return i64::MIN;
    }
    while too_many - fits > 1 {
        let middle = fits + (too_many - fits) / 2;
        if idle_since(middle) <= most {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    fits
}
