//! Where the inventories stand, and what else a scrape shows of an organization.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::{Details, Inventory};
use mongodb_atlas_client::OrgId;

/// Where the inventories stand: the poll room puts a new one in, a scrape takes those that stand
/// at that moment. The lock is held for a few pointer copies only, never across an `.await`.
#[derive(Debug, Default)]
pub struct Shelf {
    standing: RwLock<Standing>,
    generation: AtomicU64,
}

#[derive(Debug, Default)]
struct Standing {
    watched: Arc<[OrgId]>,
    searching: Arc<[Arc<str>]>,
    inventories: BTreeMap<OrgId, Placed>,
    details: BTreeMap<OrgId, Arc<Details>>,
}

/// An inventory, and how old it is by a clock that nobody can set.
#[derive(Debug, Clone)]
struct Placed {
    inventory: Arc<Inventory>,
    at: Instant,
    age_then: Duration,
}

/// What one scrape shows.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// The inventories that are young enough, in the order of their organizations.
    pub inventories: Vec<Arc<Inventory>>,
    /// Names and limits, in the order of their organizations.
    pub details: Vec<(OrgId, Arc<Details>)>,
}

impl Shelf {
    /// These organizations are watched, and no others; whatever stands of others goes. The
    /// credentials in `searching` have not yet found out which organizations they can see.
    pub fn watch(&self, orgs: Vec<OrgId>, searching: Vec<Arc<str>>) {
        let gone = self.change(|standing| {
            let of_others = |org: &OrgId| orgs.binary_search(org).is_err();
            let gone: Vec<_> = standing
                .inventories
                .extract_if(.., |org, _| of_others(org))
                .collect();
            standing.details.retain(|org, _| !of_others(org));
            standing.watched = orgs.into();
            standing.searching = searching.into();
            gone
        });
        // freed after the lock is gone: giving back a large inventory takes time
        drop(gone);
    }

    /// Puts the inventory of a watched organization in the place of the one before. `age` is how
    /// old it is by now: zero after a walk.
    pub fn put(&self, inventory: Arc<Inventory>, age: Duration) {
        let placed = Placed {
            at: Instant::now(),
            age_then: age,
            inventory,
        };
        let org = placed.inventory.org().clone();
        let old = self.change(|standing| standing.inventories.insert(org, placed));
        drop(old);
    }

    /// Puts what is known of a watched organization beside its keys in the place of what was.
    pub fn put_details(&self, org: &OrgId, details: Arc<Details>) {
        let old = self.change(|standing| standing.details.insert(org.clone(), details));
        drop(old);
    }

    /// A number that is another one after every change.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The inventory of `org`, if there is one.
    pub fn get(&self, org: &OrgId) -> Option<Arc<Inventory>> {
        self.look(|standing| {
            let placed = standing.inventories.get(org)?;
            Some(Arc::clone(&placed.inventory))
        })
    }

    /// What is known of `org` beside its keys.
    pub fn details(&self, org: &OrgId) -> Option<Arc<Details>> {
        self.look(|standing| standing.details.get(org).cloned())
    }

    /// The organizations that are watched, in order.
    pub fn watched(&self) -> Arc<[OrgId]> {
        self.look(|standing| Arc::clone(&standing.watched))
    }

    /// The credentials that have not yet found out which organizations they can see.
    pub fn searching(&self) -> Arc<[Arc<str>]> {
        self.look(|standing| Arc::clone(&standing.searching))
    }

    /// What is missing until every organization has an inventory to show: ids of organizations,
    /// and credentials that have not found theirs yet.
    pub fn missing(&self) -> Vec<String> {
        self.look(|standing| {
            let orgs = standing
                .watched
                .iter()
                .filter(|org| !standing.inventories.contains_key(*org))
                .map(ToString::to_string);
            let searching = standing
                .searching
                .iter()
                .map(|name| format!("the organizations of credential {name}"));
            orgs.chain(searching).collect()
        })
    }

    /// What a scrape shows: inventories that are older than `max_staleness` are left out, unless
    /// that is zero.
    pub fn shown(&self, max_staleness: Duration) -> Shown {
        let now = Instant::now();
        self.look(|standing| {
            let young = |placed: &&Placed| {
                let age = placed.age_then + now.saturating_duration_since(placed.at);
                max_staleness.is_zero() || age <= max_staleness
            };
            Shown {
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

    fn look<T>(&self, look: impl FnOnce(&Standing) -> T) -> T {
        look(&self.standing.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Standing) -> T) -> T {
        let mut standing = self
            .standing
            .write()
            .unwrap_or_else(PoisonError::into_inner);
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
    async fn what_is_too_old_is_not_shown() {
        let shelf = Shelf::default();
        shelf.watch(vec![org(1), org(2)], vec![]);
        let hour = Duration::from_hours(1);
        shelf.put(empty(1), Duration::ZERO);
        shelf.put(empty(2), hour);
        assert_eq!(shelf.shown(2 * hour).inventories.len(), 2);
        tokio::time::advance(hour + Duration::from_secs(1)).await;
        let shown = shelf.shown(2 * hour).inventories;
        assert_eq!(shown.iter().map(|i| i.org()).collect::<Vec<_>>(), [&org(1)]);
        assert_eq!(shelf.shown(Duration::ZERO).inventories.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_organization_that_is_no_longer_watched_goes_with_all_that_is_its() {
        let shelf = Shelf::default();
        shelf.watch(vec![org(1), org(2)], vec!["a".into()]);
        shelf.put(empty(1), Duration::ZERO);
        shelf.put_details(&org(1), Arc::default());
        assert_eq!(shelf.missing().len(), 2);
        shelf.watch(vec![org(2)], vec![]);
        assert!(shelf.get(&org(1)).is_none() && shelf.details(&org(1)).is_none());
        assert_eq!(shelf.missing(), [org(2).to_string()]);
    }
}
