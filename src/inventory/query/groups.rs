//! Keys by owner, project or organization, and their number by class.

use std::collections::BTreeMap;

use super::{KeyRef, KeyRow, KeySelection};
use crate::inventory::{KeyClass, KeyView};

crate::closed_list::closed_list! {
    /// The common property of the keys of a group.
    pub enum GroupBy {
        /// The owner of the project.
        Owner = "owner",
        /// The project.
        Project = "project",
        /// The organization.
        Org = "org",
    }
}

impl GroupBy {
    /// Returns the common fields of the keys of a group, named as in [`KeyRow`].
    pub fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Owner => &["owner"],
            Self::Project => &["org_id", "org_name", "project_id", "project_name", "owner"],
            Self::Org => &["org_id", "org_name"],
        }
    }
}

/// Numbers of keys. Each key is in the first class that applies: exempt, disabled, never used, used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// Keys that match.
    pub keys: u64,
    /// Enabled keys that were never used.
    pub never_used: u64,
    /// Enabled keys that were used, and are idle since the cutoff or longer.
    pub idle: u64,
    /// Keys that are not enabled, except deleted ones.
    pub disabled: u64,
    /// Keys with an active exemption, including those that are excluded from `keys`.
    pub exempt: u64,
}

impl KeyCounts {
    /// The names of the numbers, in the order of [`KeyCounts::to_array`].
    pub const FIELDS: [&str; 5] = ["keys", "never_used", "idle", "disabled", "exempt"];

    /// Returns the numbers in the order of [`KeyCounts::FIELDS`].
    pub fn to_array(self) -> [u64; 5] {
        let Self {
            keys,
            never_used,
            idle,
            disabled,
            exempt,
        } = self;
        [keys, never_used, idle, disabled, exempt]
    }

    fn add_classified(&mut self, key: &KeyView<'_>, idle_cutoff: i64) {
        let is_idle = || key.idle_since().is_none_or(|since| since <= idle_cutoff);
        match KeyClass::new(key) {
            KeyClass::NeverUsed => self.never_used += 1,
            KeyClass::Disabled => self.disabled += 1,
            KeyClass::Used if is_idle() => self.idle += 1,
            KeyClass::Used | KeyClass::Deleted => {}
        }
    }
}

/// Keys of one owner, project or organization, in the order of the selection.
#[derive(Debug)]
pub struct KeyGroup {
    /// The [`GroupBy::fields`], and their values.
    pub fields: Vec<(&'static str, String)>,
    /// The number of keys by class.
    pub counts: KeyCounts,
    keys: Vec<KeyRef>,
}

impl KeyGroup {
    /// Returns the value of a field; empty if the field is not common to the keys.
    pub fn field(&self, name: &str) -> &str {
        let mut fields = self.fields.iter();
        let field = fields.find(|(known, _)| *known == name);
        field.map_or("", |(_, value)| value)
    }
}

/// Identifies a group, and sorts groups by name. Groups without a name are last.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct GroupId<'a> {
    is_unnamed: bool,
    folded_name: String,
    name: &'a str,
    /// Distinguishes groups with the same name.
    id: (&'a str, &'a str),
}

impl KeySelection<'_> {
    /// Counts the matching keys by class. `idle_cutoff`, in microseconds since the Unix epoch: used keys idle since after
    /// this time do not count as idle.
    pub fn counts(&self, idle_cutoff: i64) -> KeyCounts {
        let mut counts = KeyCounts::default();
        for key in &self.matches {
            self.count(&mut counts, *key, idle_cutoff);
        }
        counts.exempt += self.left_out.len() as u64;
        counts
    }

    /// Groups the matching keys. If all keys of a group are excluded, the group is listed without keys. The selection must
    /// list all keys: keys that are not listed are not sorted.
    pub fn groups(&self, by: GroupBy, idle_cutoff: i64) -> Vec<KeyGroup> {
        let mut groups: BTreeMap<GroupId<'_>, KeyGroup> = BTreeMap::new();
        for key in &self.matches {
            if let Some(group) = self.find_group(&mut groups, by, *key) {
                self.count(&mut group.counts, *key, idle_cutoff);
                group.keys.push(*key);
            }
        }
        for key in &self.left_out {
            if let Some(group) = self.find_group(&mut groups, by, *key) {
                group.counts.exempt += 1;
            }
        }
        groups.into_values().collect()
    }

    /// Returns the keys of a group.
    pub fn group_rows(&self, group: &KeyGroup) -> impl Iterator<Item = KeyRow> {
        group.keys.iter().filter_map(|key| self.row(*key))
    }

    fn count(&self, counts: &mut KeyCounts, key: KeyRef, idle_cutoff: i64) {
        counts.keys += 1;
        if self.is_exempt(key) {
            counts.exempt += 1;
        } else if let Some((_, view)) = self.view(&key) {
            counts.add_classified(&view, idle_cutoff);
        }
    }

    fn find_group<'s, 'g>(
        &'s self,
        groups: &'g mut BTreeMap<GroupId<'s>, KeyGroup>,
        by: GroupBy,
        key: KeyRef,
    ) -> Option<&'g mut KeyGroup> {
        let (inventory, view) = self.view(&key)?;
        let org = inventory.org().as_str();
        let org_name = self.names.get(key.org as usize)?.org;
        let project = view.project.as_str();
        let labels = self.project_labels(key.org, view.project);
        let (name, id) = match by {
            GroupBy::Owner => (labels.owner, ("", "")),
            GroupBy::Project if labels.name.is_empty() => (project, (org, project)),
            GroupBy::Project => (labels.name, (org, project)),
            GroupBy::Org if org_name.is_empty() => (org, (org, "")),
            GroupBy::Org => (org_name, (org, "")),
        };
        let group_id = GroupId {
            is_unnamed: name.is_empty(),
            folded_name: name.to_lowercase(),
            name,
            id,
        };
        let field = |name: &&'static str| {
            let value = match *name {
                "org_id" => org,
                "org_name" => org_name,
                "project_id" => project,
                "project_name" => labels.name,
                _ => labels.owner,
            };
            (*name, value.to_owned())
        };
        Some(groups.entry(group_id).or_insert_with(|| KeyGroup {
            fields: by.fields().iter().map(field).collect(),
            counts: KeyCounts::default(),
            keys: Vec::new(),
        }))
    }
}
