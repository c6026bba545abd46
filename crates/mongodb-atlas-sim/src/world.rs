//! Organizations, projects and keys, and what can happen to a key. Every change is written to a
//! log, which is the truth that tests of the exporter are held against.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::events::EventGenerator;
use super::scenario::Scenario;
use super::{SimConfig, population};

/// One key of the simulated Atlas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SimKey {
    /// `apiKeyId`.
    pub id: String,
    /// `groupId`.
    pub project: String,
    /// `name`.
    pub name: String,
    /// `status`.
    pub status: String,
    /// `createdAt`.
    #[serde(serialize_with = "serialize_timestamp")]
    pub created: Timestamp,
    /// `lastUsedAt`; none until the key is first used.
    #[serde(serialize_with = "serialize_optional_timestamp")]
    pub last_used: Option<Timestamp>,
    /// `createdBy`.
    pub created_by: String,
    /// `cloud`.
    pub cloud: String,
    /// `geography`.
    pub geography: String,
    /// How often life uses it, relative to the others; 0 is never.
    #[serde(skip)]
    pub activity: u32,
}

/// `2026-01-15T16:47:49.855000+00:00`, the form that Atlas writes times in.
pub(crate) fn format_timestamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

pub(crate) fn serialize_timestamp<S: serde::Serializer>(
    at: &Timestamp,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_timestamp(*at))
}

#[expect(clippy::ref_option, reason = "the form that serde asks for")]
fn serialize_optional_timestamp<S: serde::Serializer>(
    at: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => serialize_timestamp(at, serializer),
        None => serializer.serialize_none(),
    }
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// The key is new.
    Created,
    /// The key is gone.
    Deleted,
    /// The key has another name.
    Renamed,
    /// The key has another status.
    StatusChanged,
    /// The key was used for the first time.
    FirstUsed,
    /// The key was used again after 90 days or more.
    Revived,
}

/// An entry of the log of changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoggedChange {
    /// When it happened.
    #[serde(serialize_with = "serialize_timestamp")]
    pub at: Timestamp,
    /// The organization.
    pub org: String,
    /// The key.
    pub key: String,
    /// What happened.
    pub change: ChangeKind,
}

/// A project of the simulated Atlas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SimProject {
    pub(crate) id: String,
    pub(crate) name: String,
}

/// An organization of the simulated Atlas.
#[derive(Debug, Clone)]
pub(crate) struct SimOrg {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) projects: Vec<SimProject>,
    /// Whether the credentials can see it.
    pub(crate) visible: bool,
    /// `isDeleted` in the list of organizations.
    pub(crate) deleted: bool,
    /// In the order of creation, which is the order of the pages.
    pub(crate) keys: Vec<SimKey>,
}

/// Everything there is, at one moment.
pub struct World {
    pub(crate) orgs: Vec<SimOrg>,
    changes: Vec<LoggedChange>,
    now: Timestamp,
    events: Option<EventGenerator>,
    rng: fastrand::Rng,
}

/// After how many seconds without use a key counts as revived when it is used again.
const REVIVED_AFTER_SECONDS: i64 = 90 * 86_400;

impl World {
    pub(crate) fn new(config: &SimConfig, now: Timestamp) -> Self {
        let mut rng = fastrand::Rng::with_seed(config.seed);
        Self {
            orgs: population::populate(&mut rng, config, now),
            changes: Vec::new(),
            now,
            events: (config.speed > 0.0).then(|| {
                EventGenerator::new(
                    config.speed * config.scenario.speed_factor(),
                    config.scenario == Scenario::Churn,
                    now,
                )
            }),
            rng,
        }
    }

    /// Lets happen whatever was due until `now`.
    pub(crate) fn advance(&mut self, now: Timestamp) {
        if let Some(mut life) = self.events.take() {
            life.advance(self, now);
            self.events = Some(life);
        }
        self.now = self.now.max(now);
    }

    /// Nothing happens by itself any more.
    pub fn stop_events(&mut self) {
        self.events = None;
    }

    /// The ids of the organizations.
    pub fn org_ids(&self) -> Vec<String> {
        self.orgs.iter().map(|org| org.id.clone()).collect()
    }

    /// The keys of `org` in the order of the pages; none when there is no such organization.
    pub fn keys(&self, org: &str) -> &[SimKey] {
        self.org(org).map_or(&[], |org| &org.keys)
    }

    /// Numbers of keys by status, over all organizations.
    pub fn count_by_status(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for key in self.orgs.iter().flat_map(|org| &org.keys) {
            *counts.entry(key.status.clone()).or_default() += 1;
        }
        counts
    }

    /// All that has happened so far.
    pub fn changes(&self) -> &[LoggedChange] {
        &self.changes
    }

    /// A generator of its own for whoever needs chance, fixed by the seed.
    pub(crate) fn fork_rng(&mut self) -> fastrand::Rng {
        self.rng.fork()
    }

    /// An organization that can be seen.
    pub(crate) fn org(&self, id: &str) -> Option<&SimOrg> {
        self.orgs.iter().find(|org| org.id == id && org.visible)
    }

    /// Founds an organization with `keys` keys and returns its id.
    pub fn add_org(&mut self, keys: usize) -> String {
        let mut rng = self.rng.fork();
        let org = population::random_org(&mut rng, self.orgs.len(), keys, Scenario::Calm, self.now);
        let id = org.id.clone();
        self.orgs.push(org);
        id
    }

    /// Lets the credentials see an organization, or not.
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

    fn org_mut(&mut self, id: &str) -> Option<&mut SimOrg> {
        self.orgs.iter_mut().find(|org| org.id == id)
    }

    fn key_mut(&mut self, org: &str, id: &str) -> Option<&mut SimKey> {
        self.org_mut(org)?.keys.iter_mut().find(|key| key.id == id)
    }

    pub(crate) fn log_change(&mut self, at: Timestamp, org: &str, key: &str, change: ChangeKind) {
        self.changes.push(LoggedChange {
            at,
            org: org.to_owned(),
            key: key.to_owned(),
            change,
        });
    }

    /// Creates a key at the end of the organization's list and returns its id.
    pub fn create_key(&mut self, org: &str, name: &str) -> Option<String> {
        let at = self.now;
        self.create_key_at(org, name, at)
    }

    pub(crate) fn create_key_at(&mut self, org: &str, name: &str, at: Timestamp) -> Option<String> {
        let mut rng = self.rng.fork();
        let owner = self.org_mut(org)?;
        let project = rng.choice(&owner.projects)?.id.clone();
        let key = population::new_key(&mut rng, project, name.to_owned(), at);
        let id = key.id.clone();
        owner.keys.push(key);
        self.log_change(at, org, &id, ChangeKind::Created);
        Some(id)
    }

    /// Deletes a key; says whether it was there.
    pub fn delete_key(&mut self, org: &str, id: &str) -> bool {
        let at = self.now;
        self.delete_key_at(org, id, at)
    }

    pub(crate) fn delete_key_at(&mut self, org: &str, id: &str, at: Timestamp) -> bool {
        let Some(owner) = self.org_mut(org) else {
            return false;
        };
        let Some(index) = owner.keys.iter().position(|key| key.id == id) else {
            return false;
        };
        owner.keys.remove(index);
        self.log_change(at, org, id, ChangeKind::Deleted);
        true
    }

    /// Gives a key another name; says whether it was there.
    pub fn rename_key(&mut self, org: &str, id: &str, name: &str) -> bool {
        let at = self.now;
        self.rename_key_at(org, id, name, at)
    }

    pub(crate) fn rename_key_at(&mut self, org: &str, id: &str, name: &str, at: Timestamp) -> bool {
        let Some(key) = self.key_mut(org, id) else {
            return false;
        };
        name.clone_into(&mut key.name);
        self.log_change(at, org, id, ChangeKind::Renamed);
        true
    }

    /// Gives a key another status; says whether it was there.
    pub fn set_key_status(&mut self, org: &str, id: &str, status: &str) -> bool {
        let at = self.now;
        self.set_key_status_at(org, id, status, at)
    }

    pub(crate) fn set_key_status_at(
        &mut self,
        org: &str,
        id: &str,
        status: &str,
        at: Timestamp,
    ) -> bool {
        let Some(key) = self.key_mut(org, id) else {
            return false;
        };
        status.clone_into(&mut key.status);
        self.log_change(at, org, id, ChangeKind::StatusChanged);
        true
    }

    /// Uses a key now; says whether it was there.
    pub fn mark_used(&mut self, org: &str, id: &str) -> bool {
        let at = self.now;
        self.mark_used_at(org, id, at)
    }

    pub(crate) fn mark_used_at(&mut self, org: &str, id: &str, at: Timestamp) -> bool {
        let Some(key) = self.key_mut(org, id) else {
            return false;
        };
        let before = key.last_used.replace(at);
        match before {
            None => self.log_change(at, org, id, ChangeKind::FirstUsed),
            Some(before) if at.as_second() - before.as_second() >= REVIVED_AFTER_SECONDS => {
                self.log_change(at, org, id, ChangeKind::Revived);
            }
            Some(_) => {}
        }
        true
    }

    /// Makes a key as it likes: for tests that need a certain one.
    pub fn insert_key(&mut self, org: &str, key: SimKey) {
        if let Some(owner) = self.org_mut(org) {
            owner.keys.push(key);
        }
    }
}
