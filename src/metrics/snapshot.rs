//! The data of one scrape: the inventories that are in the store at its start, all of them at one `now`.

use std::sync::Arc;

use jiff::Timestamp;

use super::selection::{KeySeriesOptions, PerKeyMode};
use crate::inventory::{ClassifiedInventory, InventorySnapshot, KeyView};
use mongodb_atlas_client::OrgId;

/// The inventories at one moment.
#[derive(Debug, Clone)]
pub struct ScrapeSnapshot {
    pub(super) visible: InventorySnapshot,
    pub(super) options: Arc<KeySeriesOptions>,
    /// In microseconds since the Unix epoch.
    pub(super) now_micros: i64,
    /// Only keys that have been idle since this moment or longer have per-key series.
    idle_cutoff: Option<i64>,
    /// The cutoff that keeps the number of keys at or below the maximum, if there are more.
    max_keys_cutoff: Option<i64>,
}

impl ScrapeSnapshot {
    /// Creates a snapshot of `visible` at `now`.
    pub fn new(visible: InventorySnapshot, options: Arc<KeySeriesOptions>, now: Timestamp) -> Self {
        let now_micros = now.as_microsecond();
        let threshold_cutoff = match (options.per_key, options.thresholds.first()) {
            (PerKeyMode::Idle, Some(threshold)) => Some(threshold.cutoff(now_micros)),
            _ => None,
        };
        let inventories = &visible.inventories;
        let keys: usize = inventories.iter().map(|inventory| inventory.len()).sum();
        let max_keys_cutoff = (options.per_key != PerKeyMode::None && keys > options.max_keys)
            .then(|| cutoff_for_max_keys(inventories, options.max_keys as u64, now_micros));
        Self {
            visible,
            options,
            now_micros,
            idle_cutoff: [threshold_cutoff, max_keys_cutoff]
                .into_iter()
                .flatten()
                .min(),
            max_keys_cutoff,
        }
    }

    /// Removes all organizations except `orgs`, which are sorted. Keys over the maximum number of keys remain dropped.
    #[must_use]
    pub fn retain_orgs(mut self, orgs: &[OrgId]) -> Self {
        let is_selected = |org: &OrgId| orgs.binary_search(org).is_ok();
        let visible = &mut self.visible;
        visible.inventories.retain(|it| is_selected(it.org()));
        visible.details.retain(|(org, _)| is_selected(org));
        self
    }

    /// Returns whether every key of every inventory has per-key series.
    pub(super) fn includes_all(&self) -> bool {
        self.idle_cutoff.is_none() && self.has_key_series()
    }

    /// Returns whether any key has an active exemption.
    pub(super) fn has_exempt_keys(&self) -> bool {
        let inventories = self.visible.inventories.iter();
        let mut ends = inventories.flat_map(|inventory| inventory.classes.exempt_keys(0));
        ends.any(|(_, ends_at)| ends_at > self.now_micros)
    }

    /// Returns whether any key can have per-key series.
    pub(super) fn has_key_series(&self) -> bool {
        self.options.per_key != PerKeyMode::None
    }

    pub(super) fn includes(&self, key: &KeyView<'_>) -> bool {
        self.idle_cutoff
            .is_none_or(|cutoff| key.idle_since().is_some_and(|since| since <= cutoff))
    }

    /// Returns how many keys of `inventory` are over the maximum number of keys.
    pub(super) fn dropped_by_max_keys(&self, inventory: &ClassifiedInventory) -> u64 {
        self.max_keys_cutoff.map_or(0, |cutoff| {
            (inventory.len() as u64).saturating_sub(inventory.classes.count_idle_since(cutoff))
        })
    }
}

/// Returns the latest time since which at most `max_keys` keys have been idle. The longest-idle keys of all organizations
/// are exported, so that successive scrapes export the same keys.
fn cutoff_for_max_keys(inventories: &[ClassifiedInventory], max_keys: u64, now_micros: i64) -> i64 {
    let fits = |cutoff: i64| {
        let idle = inventories
            .iter()
            .map(|it| it.classes.count_idle_since(cutoff));
        idle.sum::<u64>() <= max_keys
    };
    if fits(now_micros) {
        return now_micros;
    }
    let (mut fitting, mut too_late) = (-now_micros.abs(), now_micros);
    if !fits(fitting) {
        return i64::MIN;
    }
    while too_late - fitting > 1 {
        let middle = fitting + (too_late - fitting) / 2;
        if fits(middle) {
            fitting = middle;
        } else {
            too_late = middle;
        }
    }
    fitting
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{ApiKey, ApiTime, Inventory};
    use mongodb_atlas_client::{KeyId, ProjectId};

    /// Returns an inventory with a key for each last use.
    fn inventory(org: u32, used: &[i64]) -> ClassifiedInventory {
        let records = used.iter().map(|second| ApiKey {
            id: KeyId::new(second.to_string()),
            project: ProjectId::new("p"),
            last_used: ApiTime::Valid(Timestamp::from_second(*second).expect("a time")),
            ..ApiKey::default()
        });
        let org = OrgId::parse(&format!("{org:024x}")).expect("an id");
        Arc::new(Inventory::from_records(org, Timestamp::UNIX_EPOCH, records)).into()
    }

    #[test]
    fn longest_idle_keys_of_all_organizations_are_included_up_to_the_maximum() {
        // One use is in the future, one before the Unix epoch.
        let inventories = [
            inventory(1, &[10, 30, 50, 70, 2000]),
            inventory(2, &[-20, 20, 40, 60, 80]),
        ];
        let in_order = [-20, 10, 20, 30, 40, 50, 60, 70, 80, 2000];
        for max_keys in 0..=11 {
            let options = KeySeriesOptions {
                per_key: PerKeyMode::All,
                labels: [].into(),
                max_keys,
                thresholds: [].into(),
            };
            let visible = InventorySnapshot {
                inventories: inventories.to_vec(),
                details: Vec::new(),
            };
            let now = Timestamp::from_second(1000).expect("a time");
            let snapshot = ScrapeSnapshot::new(visible, Arc::new(options), now);
            let mut included: Vec<i64> = inventories
                .iter()
                .flat_map(|inventory| inventory.keys().filter(|key| snapshot.includes(key)))
                .map(|key| key.id().parse().expect("a number"))
                .collect();
            included.sort_unstable();
            let expected = &in_order[..max_keys.min(10)];
            assert_eq!(included, expected, "at most {max_keys}");
            let dropped = inventories
                .iter()
                .map(|it| snapshot.dropped_by_max_keys(it));
            assert_eq!(dropped.sum::<u64>(), 10 - included.len() as u64);
            assert_eq!(snapshot.includes_all(), max_keys >= 10);
        }
    }
}
