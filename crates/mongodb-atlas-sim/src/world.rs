//! The organizations with their keys, and the changes applied to them. All changes are logged, so that tests can
//! compare an exporter's counters with the log.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::config::SimConfig;
use crate::events::{EventGenerator, KeyEvent};
use crate::model::{ChangeKind, LoggedChange, SimKey, SimOrg, SimProject};
use crate::population;
use crate::scenario::Scenario;

/// Seconds without use after which the next use is logged as [`ChangeKind::Revived`].
const REVIVED_AFTER_SECONDS: i64 = 90 * 86_400;

/// All organizations and keys at one point in time.
pub struct World {
    pub(crate) orgs: Vec<SimOrg>,
    /// Number of possible changes of `orgs` so far: pages serialized at an earlier revision are outdated.
    revision: u64,
    changes: Vec<LoggedChange>,
    now: Timestamp,
    events: Option<EventGenerator>,
    rng: fastrand::Rng,
}

impl World {
    pub(crate) fn new(config: &SimConfig, now: Timestamp) -> Self {
        let mut rng = fastrand::Rng::with_seed(config.seed);
        let speed = config.speed * config.scenario.speed_factor();
        let revivals = config.scenario == Scenario::Churn;
        Self {
            orgs: population::populate(&mut rng, config, now),
            revision: 0,
            changes: Vec::new(),
            now,
            events: (speed > 0.0).then(|| EventGenerator::new(speed, revivals, now)),
            rng,
        }
    }

    /// Applies all events that are due by `now`.
    pub(crate) fn advance(&mut self, now: Timestamp) {
        if let Some(mut events) = self.events.take() {
            let mut rng = self.rng.fork();
            while let Some((due_at, event)) = events.take_due(&mut rng, self.key_count(), now) {
                self.now = due_at;
                self.apply_event(&mut rng, event);
            }
            self.events = Some(events);
        }
        self.now = self.now.max(now);
    }

    /// Disables all events.
    pub fn stop_events(&mut self) {
        self.events = None;
    }

    fn apply_event(&mut self, rng: &mut fastrand::Rng, event: KeyEvent) {
        let Some((org, index)) = self.pick_random_key(rng) else {
            return;
        };
        if event == KeyEvent::Create {
            self.create_key(&org, &population::random_name(rng));
            return;
        }
        let Some(key) = self.keys(&org).get(index).cloned() else {
            return;
        };
        match event {
            KeyEvent::Rename => {
                self.rename_key(&org, &key.id, &population::random_name(rng));
            }
            KeyEvent::Toggle => {
                let status = if key.is_active() {
                    "INACTIVE"
                } else {
                    "ACTIVE"
                };
                self.set_key_status(&org, &key.id, status);
            }
            KeyEvent::Delete => {
                self.delete_key(&org, &key.id);
            }
            _ if is_used_by(&key, event, rng) => {
                self.mark_used(&org, &key.id);
            }
            _ => {}
        }
    }

    /// Returns the organization and index of a uniformly chosen key, or index 0 of the first organization without keys.
    fn pick_random_key(&self, rng: &mut fastrand::Rng) -> Option<(String, usize)> {
        let count = self.key_count();
        let mut index = if count == 0 { 0 } else { rng.usize(0..count) };
        for org in &self.orgs {
            if count == 0 || index < org.keys.len() {
                return Some((org.id.clone(), index));
            }
            index -= org.keys.len();
        }
        None
    }

    fn key_count(&self) -> usize {
        self.orgs.iter().map(|org| org.keys.len()).sum()
    }

    /// Returns the ids of all organizations.
    pub fn org_ids(&self) -> Vec<String> {
        self.orgs.iter().map(|org| org.id.clone()).collect()
    }

    /// Returns the keys of `org` in page order; empty for an unknown organization.
    pub fn keys(&self, org: &str) -> &[SimKey] {
        self.org(org).map_or(&[], |org| &org.keys)
    }

    /// Returns the number of keys by status.
    pub fn count_by_status(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for key in self.orgs.iter().flat_map(|org| &org.keys) {
            *counts.entry(key.status.clone()).or_default() += 1;
        }
        counts
    }

    /// Returns all changes so far.
    pub fn changes(&self) -> &[LoggedChange] {
        &self.changes
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Returns an organization, if the credentials can access it.
    pub(crate) fn org(&self, id: &str) -> Option<&SimOrg> {
        self.orgs.iter().find(|org| org.id == id && org.visible)
    }

    /// Adds an organization with `keys` keys and returns its id.
    pub fn add_org(&mut self, keys: usize) -> String {
        let mut rng = self.rng.fork();
        let org = population::random_org(&mut rng, self.orgs.len(), keys, Scenario::Calm, self.now);
        let id = org.id.clone();
        self.orgs.push(org);
        self.revision += 1;
        id
    }

    /// Sets whether the credentials can access an organization.
    pub fn set_org_visible(&mut self, id: &str, visible: bool) {
        if let Some(org) = self.org_mut(id) {
            org.visible = visible;
        }
    }

    /// Marks an organization as deleted.
    pub fn mark_org_deleted(&mut self, id: &str) {
        if let Some(org) = self.org_mut(id) {
            org.deleted = true;
        }
    }

    /// Appends a new key to an organization and returns its id.
    pub fn create_key(&mut self, org: &str, name: &str) -> Option<String> {
        let now = self.now;
        let mut rng = self.rng.fork();
        let owner = self.org_mut(org)?;
        let project = rng.choice(&owner.projects)?.id.clone();
        let key = population::new_key(&mut rng, project, name.to_owned(), now);
        let id = key.id.clone();
        owner.keys.push(key);
        self.log_change(org, &id, ChangeKind::Created);
        Some(id)
    }

    /// Deletes a key. Returns whether it existed.
    pub fn delete_key(&mut self, org: &str, id: &str) -> bool {
        let Some(owner) = self.org_mut(org) else {
            return false;
        };
        let Some(index) = owner.keys.iter().position(|key| key.id == id) else {
            return false;
        };
        owner.keys.remove(index);
        self.log_change(org, id, ChangeKind::Deleted);
        true
    }

    /// Renames a key. Returns whether it exists.
    pub fn rename_key(&mut self, org: &str, id: &str, name: &str) -> bool {
        self.update_key(org, id, |key| {
            name.clone_into(&mut key.name);
            Some(ChangeKind::Renamed)
        })
    }

    /// Sets the status of a key. Returns whether it exists.
    pub fn set_key_status(&mut self, org: &str, id: &str, status: &str) -> bool {
        self.update_key(org, id, |key| {
            status.clone_into(&mut key.status);
            Some(ChangeKind::StatusChanged)
        })
    }

    /// Uses a key. Returns whether it exists.
    pub fn mark_used(&mut self, org: &str, id: &str) -> bool {
        let now = self.now;
        self.update_key(org, id, |key| match key.last_used.replace(now) {
            None => Some(ChangeKind::FirstUsed),
            Some(before) if now.as_second() - before.as_second() >= REVIVED_AFTER_SECONDS => {
                Some(ChangeKind::Revived)
            }
            Some(_) => None,
        })
    }

    /// Returns the projects of `org` in page order; empty for an unknown organization.
    pub fn projects(&self, org: &str) -> &[SimProject] {
        self.org(org).map_or(&[], |org| &org.projects)
    }

    /// Changes a project, its name or tags for example. Returns whether it exists.
    pub fn update_project(
        &mut self,
        org: &str,
        id: &str,
        update: impl FnOnce(&mut SimProject),
    ) -> bool {
        let projects = self.org_mut(org).map(|org| &mut org.projects);
        let project = projects.and_then(|all| all.iter_mut().find(|project| project.id == id));
        project.map(update).is_some()
    }

    /// Appends a key that the caller built.
    pub fn insert_key(&mut self, org: &str, key: SimKey) {
        if let Some(owner) = self.org_mut(org) {
            owner.keys.push(key);
        }
    }

    fn org_mut(&mut self, id: &str) -> Option<&mut SimOrg> {
        self.revision += 1;
        self.orgs.iter_mut().find(|org| org.id == id)
    }

    /// Applies `update` to a key and logs the change that it returns. Returns whether the key exists.
    fn update_key(
        &mut self,
        org: &str,
        id: &str,
        update: impl FnOnce(&mut SimKey) -> Option<ChangeKind>,
    ) -> bool {
        let keys = self.org_mut(org).map(|org| &mut org.keys);
        let Some(key) = keys.and_then(|keys| keys.iter_mut().find(|key| key.id == id)) else {
            return false;
        };
        if let Some(change) = update(key) {
            self.log_change(org, id, change);
        }
        true
    }

    fn log_change(&mut self, org: &str, key: &str, change: ChangeKind) {
        self.changes.push(LoggedChange {
            at: self.now,
            org: org.to_owned(),
            key: key.to_owned(),
            change,
        });
    }
}

/// Returns whether a use event applies to a key, by its activity.
fn is_used_by(key: &SimKey, event: KeyEvent, rng: &mut fastrand::Rng) -> bool {
    let used = key.last_used.is_some();
    key.is_active()
        && match event {
            KeyEvent::Use => used && rng.u32(0..20) < key.activity,
            KeyEvent::Revive => used && key.activity == 0,
            KeyEvent::FirstUse => !used && key.activity > 0,
            _ => false,
        }
}
