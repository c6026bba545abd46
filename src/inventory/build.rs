//! A draft becomes an inventory: keys in order, texts escaped, numbers counted.

use std::collections::BTreeMap;

use super::builder::InventoryBuilder;
use super::escape::write_escaped;
use super::key::{KeyAttributes, KeyEntry};
use super::{ProjectIdleTimes, ProjectKeys, StatusCount};
use mongodb_atlas_client::ProjectId;

/// The places of the draft's keys in the order of project and id.
pub(super) fn sorted_order(draft: &InventoryBuilder) -> Vec<u32> {
    let mut rank: Vec<u32> = (0..).take(draft.projects.values.len()).collect();
    rank.sort_unstable_by_key(|place| draft.projects.values.get(*place as usize));
    let mut ranks = vec![0_u32; rank.len()];
    for (number, place) in (0..).zip(rank) {
        if let Some(rank) = ranks.get_mut(place as usize) {
            *rank = number;
        }
    }
    let mut order: Vec<u32> = (0..).take(draft.keys.len()).collect();
    order.sort_unstable_by_key(|place| {
        draft.keys.get(*place as usize).map(|(key, project)| {
            (
                ranks.get(*project as usize).copied(),
                key.texts(&draft.arena)[0],
            )
        })
    });
    order
}

/// The same key with its texts escaped in another arena; none if they do not fit there.
pub(super) fn escape_key(key: KeyEntry, from: &str, arena: &mut String) -> Option<KeyEntry> {
    let start = arena.len();
    let [id, name, masked_secret] = key.texts(from).map(|text| {
        let before = arena.len();
        write_escaped(arena, text);
        u16::try_from(arena.len() - before).ok()
    });
    let settled = || {
        Some(KeyEntry {
            text_start: u32::try_from(start).ok()?,
            id_len: id?,
            name_len: name?,
            masked_secret_len: masked_secret?,
            ..key
        })
    };
    let settled = settled();
    if settled.is_none() {
        arena.truncate(start);
    }
    settled
}

/// Numbers of keys by project and status; 0 for a status that was `known` and is not there now.
pub(super) fn count_by_status(
    projects: &[ProjectKeys],
    keys: &[KeyEntry],
    kinds: &[KeyAttributes],
    known: &[StatusCount],
) -> Vec<StatusCount> {
    let mut counts: BTreeMap<(&ProjectId, &str), u64> = BTreeMap::new();
    for known in known {
        counts.insert((&known.project, &known.status), 0);
    }
    for project in projects {
        for key in keys.get(project.range.clone()).unwrap_or_default() {
            let status = kinds
                .get(key.attributes_index as usize)
                .map_or("", |kind| &kind.status);
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

/// The idle times of each project's keys, in order.
pub(super) fn collect_idle_times(
    projects: &[ProjectKeys],
    keys: &[KeyEntry],
    counts: &[StatusCount],
) -> Vec<ProjectIdleTimes> {
    let mut idle: BTreeMap<&ProjectId, Vec<i64>> = BTreeMap::new();
    for known in counts {
        idle.entry(&known.project).or_default();
    }
    for project in projects {
        let keys = keys.get(project.range.clone()).unwrap_or_default();
        let since = idle.entry(&project.project).or_default();
        since.extend(keys.iter().filter_map(KeyEntry::idle_since));
        since.sort_unstable();
    }
    idle.into_iter()
        .map(|(project, since)| ProjectIdleTimes {
            project: project.clone(),
            idle_since_sorted: since.into(),
        })
        .collect()
}
