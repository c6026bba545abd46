//! Where the inventories stand, and what else a scrape shows of an organization.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::{Inventory, OrgDetails};
use mongodb_atlas_client::OrgId;

/// Where the inventories stand: the poll room puts a new one in, a scrape takes those that stand
/// at that moment. The lock is held for a few pointer copies only, never across an `.await`.
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

/// An inventory, and how old it is by a clock that nobody can set.
#[derive(Debug, Clone)]
struct InventoryEntry {
    inventory: Arc<Inventory>,
    inserted_at: Instant,
    age_at_insert: Duration,
}

/// What one scrape shows.
#[derive(Debug, Clone, Default)]
pub struct InventorySnapshot {
    /// The inventories that are young enough, in the order of their organizations.
    pub inventories: Vec<Arc<Inventory>>,
    /// Names and limits, in the order of their organizations.
    pub details: Vec<(OrgId, Arc<OrgDetails>)>,
}

impl InventoryStore {
    /// These organizations are watched, and no others; whatever stands of others goes. The
    /// credentials in `pending_discovery` have not yet found out which organizations they can see.
    pub fn set_targets(&self, orgs: Vec<OrgId>, searching: Vec<Arc<str>>) {
        let gone = self.update(|standing| {
            let of_others = |org: &OrgId| orgs.binary_search(org).is_err();
            let gone: Vec<_> = standing
                .inventories
                .extract_if(.., |org, _| of_others(org))
                .collect();
            standing.details.retain(|org, _| !of_others(org));
            standing.targets = orgs.into();
            standing.pending_discovery = searching.into();
            gone
        });
        // freed after the lock is gone: giving back a large inventory takes time
        drop(gone);
    }

    /// Puts the inventory of a watched organization in the place of the one before. `age` is how
    /// old it is by now: zero after a walk.
    pub fn insert(&self, inventory: Arc<Inventory>, age: Duration) {
        let placed = InventoryEntry {
            inserted_at: Instant::now(),
            age_at_insert: age,
            inventory,
        };
        let org = placed.inventory.org().clone();
        let old = self.update(|standing| standing.inventories.insert(org, placed));
        drop(old);
    }

    /// Puts what is known of a watched organization beside its keys in the place of what was.
    pub fn insert_details(&self, org: &OrgId, details: Arc<OrgDetails>) {
        let old = self.update(|standing| standing.details.insert(org.clone(), details));
        drop(old);
    }

    /// A number that is another one after every change.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The inventory of `org`, if there is one.
    pub fn get(&self, org: &OrgId) -> Option<Arc<Inventory>> {
        self.read(|standing| {
            let placed = standing.inventories.get(org)?;
            Some(Arc::clone(&placed.inventory))
        })
    }

    /// What is known of `org` beside its keys.
    pub fn details(&self, org: &OrgId) -> Option<Arc<OrgDetails>> {
        self.read(|standing| standing.details.get(org).cloned())
    }

    /// The organizations that are watched, in order.
    pub fn targets(&self) -> Arc<[OrgId]> {
        self.read(|standing| Arc::clone(&standing.targets))
    }

    /// The credentials that have not yet found out which organizations they can see.
    pub fn pending_discovery(&self) -> Arc<[Arc<str>]> {
        self.read(|standing| Arc::clone(&standing.pending_discovery))
    }

    /// What is missing until every organization has an inventory to show: ids of organizations,
    /// and credentials that have not found theirs yet.
    pub fn not_ready(&self) -> Vec<String> {
        self.read(|standing| {
            let orgs = standing
                .targets
                .iter()
                .filter(|org| !standing.inventories.contains_key(*org))
                .map(ToString::to_string);
            let searching = standing
                .pending_discovery
                .iter()
                .map(|name| format!("the organizations of credential {name}"));
            orgs.chain(searching).collect()
        })
    }

    /// What a scrape shows: inventories that are older than `max_staleness` are left out, unless
    /// that is zero.
    pub fn snapshot(&self, max_staleness: Duration) -> InventorySnapshot {
        let now = Instant::now();
        self.read(|standing| {
            let young = |placed: &&InventoryEntry| {
                let age = placed.age_at_insert + now.saturating_duration_since(placed.inserted_at);
                max_staleness.is_zero() || age <= max_staleness
            };
            InventorySnapshot {
                inventories: standing
                    .inventories
                    .values()
                    .filter(young)
                    .map(|placed| Arc::clone(&placed.inventory))
                    .collect(),
                details: standing
                    .details
                    .iter()
                    .map(|(org, details)| (org.clone(), Arc::clone(details)))
                    .collect(),
            }
        })
    }

    fn read<T>(&self, look: impl FnOnce(&StoreState) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn update<T>(&self, change: impl FnOnce(&mut StoreState) -> T) -> T {
        let mut standing = self.state.write().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        change(&mut standing)
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
        Arc::new(Inventory::new(org(n), (at, at), vec![], 0, &[]))
    }

    #[tokio::test(start_paused = true)]
    async fn snapshot_omits_stale_inventories() {
        let shelf = InventoryStore::default();
        shelf.set_targets(vec![org(1), org(2)], vec![]);
        let hour = Duration::from_hours(1);
        shelf.insert(empty(1), Duration::ZERO);
        shelf.insert(empty(2), hour);
        assert_eq!(shelf.snapshot(2 * hour).inventories.len(), 2);
        tokio::time::advance(hour + Duration::from_secs(1)).await;
        let shown = shelf.snapshot(2 * hour).inventories;
        assert_eq!(shown.iter().map(|i| i.org()).collect::<Vec<_>>(), [&org(1)]);
        assert_eq!(shelf.snapshot(Duration::ZERO).inventories.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn set_targets_removes_everything_of_other_orgs() {
        let shelf = InventoryStore::default();
        shelf.set_targets(vec![org(1), org(2)], vec!["a".into()]);
        shelf.insert(empty(1), Duration::ZERO);
        shelf.insert_details(&org(1), Arc::default());
        assert_eq!(shelf.not_ready().len(), 2);
        shelf.set_targets(vec![org(2)], vec![]);
        assert!(shelf.get(&org(1)).is_none() && shelf.details(&org(1)).is_none());
        assert_eq!(shelf.not_ready(), [org(2).to_string()]);
    }
}
