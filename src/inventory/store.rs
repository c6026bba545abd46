//! The current inventories, names and model rate limits, and snapshots for scrapes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::{ClassifiedInventory, DetailsWithOwners, Inventory, KeyClasses, OrgDetails};
use crate::key_policy::KeyPolicy;
use mongodb_atlas_client::OrgId;

/// The current inventories. A poll replaces one inventory, a scrape takes a snapshot of all. The lock is held only for a few
/// pointer copies, never across an `.await`.
#[derive(Debug, Default)]
pub struct InventoryStore {
    state: RwLock<StoreState>,
    generation: AtomicU64,
    /// Locked while a policy or details are applied: a later change must see the result of an earlier one.
    labels_lock: Mutex<()>,
}

#[derive(Debug, Default)]
struct StoreState {
    targets: Arc<[OrgId]>,
    pending_discovery: Arc<[Arc<str>]>,
    inventories: BTreeMap<OrgId, InventoryEntry>,
    details: BTreeMap<OrgId, Arc<DetailsWithOwners>>,
    policy: Arc<KeyPolicy>,
    /// For each exemption of the policy, the number of inventories with a matching key.
    exemption_matches: Vec<usize>,
}

impl StoreState {
    /// Returns whether keys of `org` are classified with the active policy and the current project names.
    fn is_current(&self, org: &OrgId, classes: &KeyClasses) -> bool {
        let details = self.details.get(org).map(|details| details.details());
        classes.is_current(&self.policy, details)
    }

    /// Replaces or removes the inventory of an organization, and returns the previous one.
    fn replace_inventory(
        &mut self,
        org: &OrgId,
        entry: Option<InventoryEntry>,
    ) -> Option<InventoryEntry> {
        for matched in self.matched_exemptions(entry.as_ref()) {
            if let Some(orgs) = self.exemption_matches.get_mut(matched) {
                *orgs += 1;
            }
        }
        let previous = match entry {
            Some(entry) => self.inventories.insert(org.clone(), entry),
            None => self.inventories.remove(org),
        };
        for matched in self.matched_exemptions(previous.as_ref()) {
            if let Some(orgs) = self.exemption_matches.get_mut(matched) {
                *orgs = orgs.saturating_sub(1);
            }
        }
        previous
    }

    /// Returns the indexes of the exemptions that match a key of an inventory; none for an outdated policy.
    fn matched_exemptions(&self, entry: Option<&InventoryEntry>) -> Vec<usize> {
        let classes = entry.map(|entry| &entry.inventory.classes);
        let current = classes.filter(|it| Arc::ptr_eq(it.policy(), &self.policy));
        let matched = current.map_or(&[][..], |classes| classes.matched_exemptions());
        let matched = (0..).zip(matched).filter(|(_, is_matched)| **is_matched);
        matched.map(|(index, _)| index).collect()
    }
}

/// An inventory, and its age by the monotonic clock.
#[derive(Debug)]
struct InventoryEntry {
    inventory: ClassifiedInventory,
    inserted_at: Instant,
    age_at_insert: Duration,
}

/// The data of one scrape.
#[derive(Debug, Clone, Default)]
pub struct InventorySnapshot {
    /// The inventories that are not stale, sorted by organization.
    pub inventories: Vec<ClassifiedInventory>,
    /// Names, owners and model rate limits, sorted by organization.
    pub details: Vec<(OrgId, Arc<DetailsWithOwners>)>,
}

impl InventorySnapshot {
    /// Returns the names, owners and model rate limits of `org`, if they are known.
    pub fn org_details(&self, org: &OrgId) -> Option<&DetailsWithOwners> {
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
            let removed = state.inventories.keys().filter(|org| is_removed(org));
            let removed: Vec<_> = removed.cloned().collect();
            let removed = removed.iter().map(|org| state.replace_inventory(org, None));
            let removed = removed.collect();
            state.details.retain(|org, _| !is_removed(org));
            state.targets = orgs.into();
            state.pending_discovery = pending_discovery.into();
            removed
        });
        // Freed without the lock, because freeing a large inventory takes time.
        drop(removed);
    }

    /// Replaces the inventory of a polled organization. `age` is its current age: zero after a poll. Returns whether its keys
    /// are classified with the active policy and the current project names; if not, call [`InventoryStore::reclassify`].
    pub fn insert(&self, inventory: ClassifiedInventory, age: Duration) -> bool {
        let org = inventory.org().clone();
        let classes = Arc::clone(&inventory.classes);
        let entry = InventoryEntry {
            inserted_at: Instant::now(),
            age_at_insert: age,
            inventory,
        };
        let (replaced, is_current) = self.update(|state| {
            let is_current = state.is_current(&org, &classes);
            (state.replace_inventory(&org, Some(entry)), is_current)
        });
        drop(replaced);
        is_current
    }

    /// Returns the active policy.
    pub fn policy(&self) -> Arc<KeyPolicy> {
        self.read(|state| Arc::clone(&state.policy))
    }

    /// Classifies the keys of an inventory with the active policy. Call this on a blocking thread.
    pub fn classify(&self, inventory: Arc<Inventory>) -> ClassifiedInventory {
        let (policy, details) = self.read(|state| {
            let details = state.details.get(inventory.org()).cloned();
            (Arc::clone(&state.policy), details)
        });
        let details = details.as_ref().map(|it| it.details());
        ClassifiedInventory::new(inventory, &policy, details)
    }

    /// Replaces the policy, and applies it to all keys and projects. Call this on a blocking thread.
    pub fn set_policy(&self, policy: Arc<KeyPolicy>) {
        let _guard = self.lock_labels();
        self.update(|state| {
            state.exemption_matches = vec![0; policy.exemptions.as_slice().len()];
            state.policy = policy;
        });
        for org in self.targets().iter() {
            if let Some(details) = self.details(org) {
                self.replace_details(org, details);
            }
            self.reclassify_locked(org);
        }
    }

    /// Classifies the keys of `org` with the active policy and the current project names. Call this on a blocking thread.
    pub fn reclassify(&self, org: &OrgId) {
        let _guard = self.lock_labels();
        self.reclassify_locked(org);
    }

    /// Returns whether the keys of `org` are classified with the active policy and the current project names.
    pub fn is_classified(&self, org: &OrgId) -> bool {
        self.read(|state| {
            let entry = state.inventories.get(org);
            entry.is_some_and(|entry| state.is_current(org, &entry.inventory.classes))
        })
    }

    fn reclassify_locked(&self, org: &OrgId) {
        let Some(inventory) = self.get(org) else {
            return;
        };
        let classified = self.classify(Arc::clone(&inventory));
        let replaced = self.update(|state| {
            let current = state.inventories.get(org)?;
            // A poll may have replaced the inventory during the classification.
            let is_current = Arc::ptr_eq(&current.inventory.inventory, &inventory);
            let entry = InventoryEntry {
                inventory: classified,
                ..*current
            };
            is_current.then(|| state.replace_inventory(org, Some(entry)))
        });
        drop(replaced);
    }

    /// Replaces the names, tags and model rate limits of `org`, if it is polled, and applies the policy to its projects. Call
    /// this on a blocking thread.
    pub fn insert_details(&self, org: &OrgId, details: &Arc<OrgDetails>) {
        let _guard = self.lock_labels();
        let previous = self.replace_details(org, Arc::clone(details));
        if previous.is_none_or(|previous| previous.projects != details.projects) {
            self.reclassify_locked(org);
        }
    }

    fn replace_details(
        &self,
        org: &OrgId,
        details: Arc<OrgDetails>,
    ) -> Option<Arc<DetailsWithOwners>> {
        let details = Arc::new(DetailsWithOwners::new(details, &self.policy()));
        self.update(|state| {
            let is_polled = state.targets.binary_search(org).is_ok();
            is_polled.then(|| state.details.insert(org.clone(), details))?
        })
    }

    fn lock_labels(&self) -> MutexGuard<'_, ()> {
        self.labels_lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a number that changes with every update.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Returns the inventory of `org`, if there is one.
    pub fn get(&self, org: &OrgId) -> Option<Arc<Inventory>> {
        self.read(|state| {
            let entry = state.inventories.get(org)?;
            Some(Arc::clone(&entry.inventory.inventory))
        })
    }

    /// Returns the names and model rate limits of `org`, if they are known.
    pub fn details(&self, org: &OrgId) -> Option<Arc<OrgDetails>> {
        self.read(|state| Some(Arc::clone(state.details.get(org)?.details())))
    }

    /// Returns the names, owners and model rate limits of `org`, if they are known.
    pub fn org_details(&self, org: &OrgId) -> Option<Arc<DetailsWithOwners>> {
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

    /// Returns the names that readiness waits for: organizations without an inventory, and credentials that have not listed
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

    /// Returns the number of exemptions that match no key; `None` until every organization has an inventory that is
    /// classified with the active policy.
    pub fn unmatched_exemptions(&self) -> Option<usize> {
        self.read(|state| {
            let mut inventories = state.inventories.iter();
            let is_complete = state.inventories.len() == state.targets.len()
                && state.pending_discovery.is_empty()
                && inventories.all(|(org, it)| state.is_current(org, &it.inventory.classes));
            let unmatched = state.exemption_matches.iter().filter(|orgs| **orgs == 0);
            is_complete.then(|| unmatched.count())
        })
    }

    /// Returns the data of a scrape: inventories that are not older than `max_staleness`; all of them if that is zero.
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
                inventories: fresh.map(|entry| entry.inventory.clone()).collect(),
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
mod tests;
