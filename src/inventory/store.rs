//! The current inventories, names and model rate limits, and the snapshot of a scrape.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Inventory;
use mongodb_atlas_client::{ModelLimit, OrgId, Project};

/// Names and model rate limits of an organization, refreshed less often than its keys. Values that cannot be read keep
/// their last value; they are empty if they were never read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrgDetails {
    /// Name of the organization.
    pub name: Option<String>,
    /// Names of its projects.
    pub projects: Vec<Project>,
    /// Its model rate limits.
    pub limits: Vec<ModelLimit>,
    /// Time of the last refresh.
    #[serde(rename = "asked_at")]
    pub fetched_at: Option<Timestamp>,
}

/// The current inventories: a poll replaces one, a scrape takes a snapshot of all. The lock is held for a few pointer
/// copies only, never across an `.await`.
#[derive(Debug, Default)]
pub struct InventoryStore {
    state: RwLock<StoreState>,
    generation: AtomicU64,
}

#[derive(Debug, Default)]
struct StoreState {
    targets: Arc<[OrgId]>,
    pending_discovery: Arc<[Arc<str>]>,
    inventories: BTreeMap<OrgId, InventoryEntry>,
    details: BTreeMap<OrgId, Arc<OrgDetails>>,
}

/// An inventory, and its age by the monotonic clock.
#[derive(Debug)]
struct InventoryEntry {
    inventory: Arc<Inventory>,
    inserted_at: Instant,
    age_at_insert: Duration,
}

/// What one scrape exports.
#[derive(Debug, Clone, Default)]
pub struct InventorySnapshot {
    /// The inventories that are not stale, sorted by organization.
    pub inventories: Vec<Arc<Inventory>>,
    /// Names and model rate limits, sorted by organization.
    pub details: Vec<(OrgId, Arc<OrgDetails>)>,
}

impl InventorySnapshot {
    /// Returns the names and model rate limits of `org`, if they are known.
    pub fn org_details(&self, org: &OrgId) -> Option<&OrgDetails> {
        let index = self.details.binary_search_by(|(known, _)| known.cmp(org));
        let (_, details) = self.details.get(index.ok()?)?;
        Some(details)
    }
}

impl InventoryStore {
    /// Sets the organizations that are polled, sorted by id, and removes the data of all others. `pending_discovery`
    /// are the credentials that have not listed their organizations yet.
    pub fn set_targets(&self, orgs: Vec<OrgId>, pending_discovery: Vec<Arc<str>>) {
        let removed: Vec<_> = self.update(|state| {
            let is_removed = |org: &OrgId| orgs.binary_search(org).is_err();
            let removed = state.inventories.extract_if(.., |org, _| is_removed(org));
            let removed = removed.collect();
            state.details.retain(|org, _| !is_removed(org));
            state.targets = orgs.into();
            state.pending_discovery = pending_discovery.into();
            removed
        });
        // Freed without the lock: a large inventory takes time
        drop(removed);
    }

    /// Replaces the inventory of a polled organization. `age` is its age now: zero after a poll.
    pub fn insert(&self, inventory: Arc<Inventory>, age: Duration) {
        let org = inventory.org().clone();
        let entry = InventoryEntry {
            inserted_at: Instant::now(),
            age_at_insert: age,
            inventory,
        };
        let replaced = self.update(|state| state.inventories.insert(org, entry));
        drop(replaced);
    }

    /// Replaces the names and model rate limits of a polled organization.
    pub fn insert_details(&self, org: &OrgId, details: Arc<OrgDetails>) {
        let replaced = self.update(|state| state.details.insert(org.clone(), details));
        drop(replaced);
    }

    /// Returns a number that changes with every update.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Returns the inventory of `org`, if there is one.
    pub fn get(&self, org: &OrgId) -> Option<Arc<Inventory>> {
        self.read(|state| {
            let entry = state.inventories.get(org)?;
            Some(Arc::clone(&entry.inventory))
        })
    }

    /// Returns the names and model rate limits of `org`, if they are known.
    pub fn details(&self, org: &OrgId) -> Option<Arc<OrgDetails>> {
        self.read(|state| state.details.get(org).cloned())
    }

    /// Returns the organizations that are polled, sorted by id.
    pub fn targets(&self) -> Arc<[OrgId]> {
        self.read(|state| Arc::clone(&state.targets))
    }

    /// Returns the credentials that have not listed their organizations yet.
    pub fn pending_discovery(&self) -> Arc<[Arc<str>]> {
        self.read(|state| Arc::clone(&state.pending_discovery))
    }

    /// Describes what readiness waits for: organizations without an inventory, and credentials that have not listed
    /// their organizations yet.
    pub fn not_ready(&self) -> Vec<String> {
        self.read(|state| {
            let targets = state.targets.iter();
            let orgs = targets.filter(|org| !state.inventories.contains_key(*org));
            let credentials = state.pending_discovery.iter();
            let pending = credentials.map(|name| format!("the organizations of credential {name}"));
            orgs.map(ToString::to_string).chain(pending).collect()
        })
    }

    /// Returns what a scrape exports: inventories that are not older than `max_staleness`; all of them if that is zero.
    pub fn snapshot(&self, max_staleness: Duration) -> InventorySnapshot {
        let now = Instant::now();
        let is_fresh = |entry: &&InventoryEntry| {
            let age = entry.age_at_insert + now.saturating_duration_since(entry.inserted_at);
            max_staleness.is_zero() || age <= max_staleness
        };
        self.read(|state| {
            let fresh = state.inventories.values().filter(is_fresh);
            let details = state.details.iter();
            InventorySnapshot {
                inventories: fresh.map(|entry| Arc::clone(&entry.inventory)).collect(),
                details: details
                    .map(|(org, details)| (org.clone(), Arc::clone(details)))
                    .collect(),
            }
        })
    }

    fn read<T>(&self, read: impl FnOnce(&StoreState) -> T) -> T {
        read(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn update<T>(&self, update: impl FnOnce(&mut StoreState) -> T) -> T {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        update(&mut state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn org(n: u32) -> OrgId {
        OrgId::parse(&format!("{n:024x}")).expect("an id")
    }

    fn empty(n: u32) -> Arc<Inventory> {
        let at = Timestamp::UNIX_EPOCH;
        Arc::new(Inventory::from_records(org(n), at, vec![]))
    }

    #[tokio::test(start_paused = true)]
    async fn snapshot_omits_stale_inventories() {
        let store = InventoryStore::default();
        store.set_targets(vec![org(1), org(2)], vec![]);
        let hour = Duration::from_hours(1);
        store.insert(empty(1), Duration::ZERO);
        store.insert(empty(2), hour);
        assert_eq!(store.snapshot(2 * hour).inventories.len(), 2);
        tokio::time::advance(hour).await;
        assert_eq!(
            store.snapshot(2 * hour).inventories.len(),
            2,
            "at the limit"
        );
        tokio::time::advance(Duration::from_millis(1)).await;
        let snapshot = store.snapshot(2 * hour).inventories;
        assert_eq!(
            snapshot.iter().map(|i| i.org()).collect::<Vec<_>>(),
            [&org(1)]
        );
        assert_eq!(store.snapshot(Duration::ZERO).inventories.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn set_targets_removes_everything_of_other_orgs() {
        let store = InventoryStore::default();
        store.set_targets(vec![org(1), org(2)], vec!["a".into()]);
        store.insert(empty(1), Duration::ZERO);
        store.insert_details(&org(1), Arc::default());
        assert_eq!(store.not_ready().len(), 2);
        store.set_targets(vec![org(2)], vec![]);
        assert!(store.get(&org(1)).is_none() && store.details(&org(1)).is_none());
        assert_eq!(store.not_ready(), [org(2).to_string()]);
    }
}
