//! The keys of an inventory by class, as the roll-ups count them.
//!
//! Each key is in the first class that applies: exempt, disabled, never used, used. Idle times are sorted by class, so that
//! a scrape counts with binary searches. An exemption can end between two polls: keys of a project with the same end of
//! exemption form a group, which counts as exempt until then, and by its other classes afterwards.

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::sync::Arc;

use super::{Inventory, KeyView, OrgDetails, ProjectKeys, unescape};
use crate::key_policy::{Exemption, KeyPolicy, ProjectRef};
use mongodb_atlas_client::ProjectId;

/// Statuses of keys that cannot be used. Atlas does not document the values, and an unknown status must not hide a key.
pub const DISABLED_STATUSES: [&str; 6] = [
    "INACTIVE",
    "DISABLED",
    "REVOKED",
    "SUSPENDED",
    "EXPIRED",
    DELETED_STATUS,
];
const DELETED_STATUS: &str = "DELETED";
/// The idle time of a key of unknown age, which counts in every threshold of its class.
const UNKNOWN_AGE: i64 = i64::MIN;

/// The class of a key without regard to exemptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyClass {
    /// Enabled, and used at least once.
    Used,
    /// Enabled, and never used.
    NeverUsed,
    /// Not enabled.
    Disabled,
    /// Not enabled, with the status `DELETED`; in no roll-up.
    Deleted,
}

impl KeyClass {
    const COUNT: usize = 4;

    /// Returns the class of a key.
    pub fn new(key: &KeyView<'_>) -> Self {
        let status = &key.attributes.status;
        let is = |disabled: &str| status.eq_ignore_ascii_case(disabled);
        if is(DELETED_STATUS) {
            Self::Deleted
        } else if DISABLED_STATUSES.into_iter().any(is) {
            Self::Disabled
        } else if key.was_used() == Some(false) {
            Self::NeverUsed
        } else {
            Self::Used
        }
    }
}

/// An inventory, and the classes of its keys.
#[derive(Debug, Clone)]
pub struct ClassifiedInventory {
    /// The inventory.
    pub inventory: Arc<Inventory>,
    /// The classes of its keys.
    pub classes: Arc<KeyClasses>,
}

impl ClassifiedInventory {
    /// Classifies the keys of an inventory. `details` has the names of its projects. Call this on a blocking thread: it
    /// takes about one microsecond per key.
    pub fn new(
        inventory: Arc<Inventory>,
        policy: &Arc<KeyPolicy>,
        details: Option<&Arc<OrgDetails>>,
    ) -> Self {
        let classes = Arc::new(KeyClasses::new(&inventory, policy, details));
        Self { inventory, classes }
    }
}

/// Classifies the keys without exemptions.
impl From<Arc<Inventory>> for ClassifiedInventory {
    fn from(inventory: Arc<Inventory>) -> Self {
        Self::new(inventory, &Arc::default(), None)
    }
}

impl Deref for ClassifiedInventory {
    type Target = Inventory;

    fn deref(&self) -> &Inventory {
        &self.inventory
    }
}

/// The classes of the keys of one inventory.
#[derive(Debug, Default)]
pub struct KeyClasses {
    policy: Arc<KeyPolicy>,
    /// The details with the project names that were used.
    details: Option<Arc<OrgDetails>>,
    projects: Box<[ProjectClasses]>,
    exempt_keys: Box<[ExemptKey]>,
    matched_exemptions: Box<[bool]>,
}

/// The idle times of the keys of one project, by class.
#[derive(Debug, Default)]
pub struct ProjectClasses {
    /// The project.
    pub project: ProjectId,
    not_exempt: IdleTimes,
    exempt: Box<[ExemptGroup]>,
}

/// Keys of one project with the same end of exemption.
#[derive(Debug)]
struct ExemptGroup {
    /// In microseconds since the Unix epoch.
    ends_at: i64,
    idle_times: IdleTimes,
}

/// A key with an exemption.
#[derive(Debug, Clone, Copy)]
struct ExemptKey {
    /// Index in the inventory.
    key: usize,
    /// Index of the exemption.
    exemption: usize,
    /// In microseconds since the Unix epoch.
    ends_at: i64,
}

/// For each class, the times since which its keys are idle, sorted.
#[derive(Debug, Default)]
struct IdleTimes([Box<[i64]>; KeyClass::COUNT]);

impl IdleTimes {
    fn count(&self, class: KeyClass, cutoff: i64) -> u64 {
        let since = self
            .0
            .get(class as usize)
            .map_or(&[] as &[i64], |since| since);
        since.partition_point(|since| *since <= cutoff) as u64
    }

    /// Counts keys of all classes. Keys of unknown age are not counted.
    fn count_all(&self, cutoff: i64) -> u64 {
        let of_class = |since: &[i64]| {
            let unknown = since.partition_point(|since| *since == UNKNOWN_AGE);
            (since.partition_point(|since| *since <= cutoff) - unknown) as u64
        };
        self.0.iter().map(|since| of_class(since)).sum()
    }

    fn len(&self) -> u64 {
        self.0.iter().map(|since| since.len() as u64).sum()
    }
}

/// Idle times during classification.
#[derive(Default)]
struct IdleTimesBuilder([Vec<i64>; KeyClass::COUNT]);

impl IdleTimesBuilder {
    fn push(&mut self, key: &KeyView<'_>) {
        if let Some(since) = self.0.get_mut(KeyClass::new(key) as usize) {
            since.push(key.idle_since().unwrap_or(UNKNOWN_AGE));
        }
    }

    fn build(self) -> IdleTimes {
        IdleTimes(self.0.map(|mut since| {
            since.sort_unstable();
            since.into()
        }))
    }
}

impl ProjectClasses {
    /// Counts the keys of a class that have been idle since `cutoff` or longer and are not exempt at `now`; both are in
    /// microseconds since the Unix epoch.
    pub fn count(&self, class: KeyClass, cutoff: i64, now: i64) -> u64 {
        let ended = self.exempt.iter().filter(|group| group.ends_at <= now);
        let ended: u64 = ended
            .map(|group| group.idle_times.count(class, cutoff))
            .sum();
        self.not_exempt.count(class, cutoff) + ended
    }

    /// Counts the keys that are exempt at `now`, in microseconds since the Unix epoch.
    pub fn count_exempt(&self, now: i64) -> u64 {
        let in_force = self.exempt.iter().filter(|group| group.ends_at > now);
        in_force.map(|group| group.idle_times.len()).sum()
    }

    fn count_idle_since(&self, cutoff: i64) -> u64 {
        let exempt = self.exempt.iter().map(|group| &group.idle_times);
        let all = exempt.chain([&self.not_exempt]);
        all.map(|idle_times| idle_times.count_all(cutoff)).sum()
    }
}

impl KeyClasses {
    fn new(
        inventory: &Inventory,
        policy: &Arc<KeyPolicy>,
        details: Option<&Arc<OrgDetails>>,
    ) -> Self {
        let projects = details.into_iter().flat_map(|details| &details.projects);
        let names: HashMap<_, _> = projects
            .map(|project| (&project.id, project.name.as_str()))
            .collect();
        let mut builder = ClassesBuilder {
            policy,
            matched_exemptions: vec![false; policy.exemptions.as_slice().len()],
            exempt_keys: Vec::new(),
            projects: BTreeMap::new(),
        };
        // The roll-ups of a project that has lost all its keys remain, at 0.
        for count in inventory.status_counts() {
            builder.projects.entry(&count.project).or_default();
        }
        for project in inventory.projects() {
            let name = names.get(&project.project).copied().unwrap_or_default();
            builder.add_project(inventory, project, name);
        }
        Self {
            policy: Arc::clone(policy),
            details: details.cloned(),
            projects: builder.projects.into_values().collect(),
            exempt_keys: builder.exempt_keys.into(),
            matched_exemptions: builder.matched_exemptions.into(),
        }
    }

    /// Returns the policy of the classification.
    pub fn policy(&self) -> &Arc<KeyPolicy> {
        &self.policy
    }

    /// Returns whether the keys were classified with this policy, and with the projects of these details.
    pub fn is_current(&self, policy: &Arc<KeyPolicy>, details: Option<&Arc<OrgDetails>>) -> bool {
        Arc::ptr_eq(&self.policy, policy)
            && match (&self.details, details) {
                (None, None) => true,
                (Some(used), Some(details)) => used.projects == details.projects,
                _ => false,
            }
    }

    /// Returns the classes of each project, sorted by project, including projects that have lost all their keys.
    pub fn projects(&self) -> &[ProjectClasses] {
        &self.projects
    }

    /// Returns the exemption of the key at an index that is active at `now`, in microseconds since the Unix epoch.
    pub fn exemption(&self, key: usize, now: i64) -> Option<&Exemption> {
        let index = self.exempt_keys.binary_search_by_key(&key, |it| it.key);
        let exempt = self.exempt_keys.get(index.ok()?)?;
        let exemptions = self.policy.exemptions.as_slice();
        exemptions
            .get(exempt.exemption)
            .filter(|_| exempt.ends_at > now)
    }

    /// Returns the keys with an exemption, starting with the `from`-th, in the order of the inventory: the index of each key
    /// and the end of its exemption in microseconds since the Unix epoch.
    pub fn exempt_keys(&self, from: usize) -> impl Iterator<Item = (usize, i64)> {
        let exempt_keys = self.exempt_keys.get(from..).unwrap_or_default();
        exempt_keys.iter().map(|it| (it.key, it.ends_at))
    }

    /// Returns, for each exemption of the configuration file, whether it selects a key of the inventory.
    pub fn matched_exemptions(&self) -> &[bool] {
        &self.matched_exemptions
    }

    /// Counts the keys of a class that have been idle since `cutoff` or longer and are not exempt at `now`; both are in
    /// microseconds since the Unix epoch.
    pub fn count(&self, class: KeyClass, cutoff: i64, now: i64) -> u64 {
        let projects = self.projects.iter();
        projects
            .map(|project| project.count(class, cutoff, now))
            .sum()
    }

    /// Counts the keys of all classes that have been idle since `cutoff`, in microseconds since the Unix epoch, or
    /// longer. Keys of unknown age are not counted.
    pub fn count_idle_since(&self, cutoff: i64) -> u64 {
        let projects = self.projects.iter();
        projects
            .map(|project| project.count_idle_since(cutoff))
            .sum()
    }
}

struct ClassesBuilder<'a> {
    policy: &'a KeyPolicy,
    matched_exemptions: Vec<bool>,
    exempt_keys: Vec<ExemptKey>,
    projects: BTreeMap<&'a ProjectId, ProjectClasses>,
}

impl<'a> ClassesBuilder<'a> {
    fn add_project(&mut self, inventory: &'a Inventory, project: &'a ProjectKeys, name: &str) {
        let id = &project.project;
        let exemptions = &self.policy.exemptions;
        let mut in_project = exemptions.in_project(ProjectRef { id, name });
        let mut not_exempt = IdleTimesBuilder::default();
        let mut exempt: BTreeMap<i64, IdleTimesBuilder> = BTreeMap::new();
        for (index, key) in (project.range.start..).zip(inventory.project_keys(project, 0)) {
            let mut longest: Option<ExemptKey> = None;
            if !exemptions.is_empty() {
                in_project.for_each_match(&unescape(key.id()), &unescape(key.name()), |matched| {
                    let Some(exemption) = exemptions.as_slice().get(matched) else {
                        return;
                    };
                    if let Some(is_matched) = self.matched_exemptions.get_mut(matched) {
                        *is_matched = true;
                    }
                    let ends_at = exemption.ends_at().as_microsecond();
                    if longest.is_none_or(|longest| longest.ends_at < ends_at) {
                        longest = Some(ExemptKey {
                            key: index,
                            exemption: matched,
                            ends_at,
                        });
                    }
                });
            }
            self.exempt_keys.extend(longest);
            match longest {
                Some(exemption) => exempt.entry(exemption.ends_at).or_default().push(&key),
                None => not_exempt.push(&key),
            }
        }
        let exempt = exempt.into_iter().map(|(ends_at, idle_times)| ExemptGroup {
            ends_at,
            idle_times: idle_times.build(),
        });
        let classes = ProjectClasses {
            project: id.clone(),
            not_exempt: not_exempt.build(),
            exempt: exempt.collect(),
        };
        self.projects.insert(id, classes);
    }
}

#[cfg(test)]
mod tests;
