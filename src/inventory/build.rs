//! Converts a builder into an inventory: keys sorted, texts escaped, keys counted.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::builder::InventoryBuilder;
use super::escape::write_escaped;
use super::key::{KeyAttributes, KeyEntry};
use super::{Inventory, InventoryInfo, ProjectIdleTimes, ProjectKeys, StatusCount};
use mongodb_atlas_client::ProjectId;

impl InventoryBuilder {
    /// Builds the inventory of a poll. A status that `previous_counts` has for a project is counted as 0 if it is
    /// missing now. Keys that the builder has rejected are added to the invalid ones.
    pub fn build(self, info: InventoryInfo, previous_counts: &[StatusCount]) -> Inventory {
        let mut arena = String::with_capacity(self.arena.len());
        let mut keys = Vec::with_capacity(self.keys.len());
        let mut projects: Vec<ProjectKeys> = Vec::new();
        for index in self.sorted_order() {
            let Some((key, project_index)) = self.keys.get(index as usize) else {
                continue;
            };
            let Some(key) = escape_key(*key, &self.arena, &mut arena) else {
                continue;
            };
            let project = self.projects.get_index(*project_index as usize);
            match projects.last_mut() {
                Some(last) if Some(&last.project) == project => last.range.end += 1,
                _ => projects.push(ProjectKeys {
                    project: project.cloned().unwrap_or_default(),
                    range: keys.len()..keys.len() + 1,
                }),
            }
            keys.push(key);
        }
        let invalid_keys = info.invalid_keys + self.rejected();
        let attributes: Box<[KeyAttributes]> = self.attributes.into_iter().collect();
        let status_counts = count_by_status(&projects, &keys, &attributes, previous_counts);
        Inventory {
            info: InventoryInfo {
                invalid_keys,
                ..info
            },
            arena: arena.into(),
            idle_times: collect_idle_times(&projects, &keys, &status_counts),
            names_truncated: keys.iter().filter(|key| key.name_truncated).count() as u64,
            keys: keys.into(),
            projects: projects.into(),
            attributes,
            status_counts,
            segments: Mutex::default(),
        }
    }

    /// Returns the indexes of the keys, sorted by project and id.
    fn sorted_order(&self) -> Vec<u32> {
        let mut by_id: Vec<u32> = (0..).take(self.projects.len()).collect();
        by_id.sort_unstable_by_key(|project| self.projects.get_index(*project as usize));
        let mut ranks = vec![0_u32; by_id.len()];
        for (rank, project) in (0..).zip(by_id) {
            if let Some(slot) = ranks.get_mut(project as usize) {
                *slot = rank;
            }
        }
        let mut order: Vec<u32> = (0..).take(self.keys.len()).collect();
        order.sort_unstable_by_key(|index| {
            self.keys.get(*index as usize).map(|(key, project)| {
                let rank = ranks.get(*project as usize).copied();
                (rank, key.texts(&self.arena)[0])
            })
        });
        order
    }
}

/// Copies a key, with its texts escaped, into another arena; `None` if they do not fit.
fn escape_key(key: KeyEntry, from: &str, arena: &mut String) -> Option<KeyEntry> {
    let start = arena.len();
    let [id, name, masked_secret] = key.texts(from).map(|text| {
        let text_start = arena.len();
        write_escaped(arena, text);
        u16::try_from(arena.len() - text_start).ok()
    });
    let escaped = || {
        Some(KeyEntry {
            text_start: u32::try_from(start).ok()?,
            id_len: id?,
            name_len: name?,
            masked_secret_len: masked_secret?,
            ..key
        })
    };
    let escaped = escaped();
    if escaped.is_none() {
        arena.truncate(start);
    }
    escaped
}

/// Counts keys by project and status.
fn count_by_status(
    projects: &[ProjectKeys],
    keys: &[KeyEntry],
    attributes: &[KeyAttributes],
    previous_counts: &[StatusCount],
) -> Box<[StatusCount]> {
    let previous = previous_counts.iter();
    let mut counts: BTreeMap<(&ProjectId, &str), u64> = previous
        .map(|count| ((&count.project, count.status.as_str()), 0))
        .collect();
    for project in projects {
        for key in keys.get(project.range.clone()).unwrap_or_default() {
            let attributes = attributes.get(key.attributes_index as usize);
            let status = attributes.map_or("", |attributes| &attributes.status);
            *counts.entry((&project.project, status)).or_default() += 1;
        }
    }
    counts
        .into_iter()
        .map(|((project, status), keys)| StatusCount {
            project: project.clone(),
            status: status.to_owned(),
            keys,
        })
        .collect()
}

/// Returns the sorted idle times of each project that is counted.
fn collect_idle_times(
    projects: &[ProjectKeys],
    keys: &[KeyEntry],
    status_counts: &[StatusCount],
) -> Box<[ProjectIdleTimes]> {
    let counted = status_counts.iter();
    let mut idle_times: BTreeMap<&ProjectId, Vec<i64>> =
        counted.map(|count| (&count.project, Vec::new())).collect();
    for project in projects {
        let keys = keys.get(project.range.clone()).unwrap_or_default();
        let idle_since = idle_times.entry(&project.project).or_default();
        idle_since.extend(keys.iter().filter_map(KeyEntry::idle_since));
        idle_since.sort_unstable();
    }
    idle_times
        .into_iter()
        .map(|(project, idle_since)| ProjectIdleTimes {
            project: project.clone(),
            idle_since_sorted: idle_since.into(),
        })
        .collect()
}
