//! Converts a builder into an inventory: keys sorted, texts escaped, keys counted.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::builder::{InventoryBuilder, id_at};
use super::escape::write_escaped;
use super::key::KeyEntry;
use super::{Inventory, InventoryInfo, ProjectKeys, StatusCount};
use mongodb_atlas_client::{KeyAttributes, ProjectId};

impl InventoryBuilder {
    /// Builds the inventory of a poll. A status of a project in `previous_counts` that is now missing is counted as 0. Keys
    /// that are too large are counted as invalid.
    pub fn build(self, info: InventoryInfo, previous_counts: &[StatusCount]) -> Inventory {
        let mut arena = String::with_capacity(self.arena.len());
        let mut keys = Vec::with_capacity(self.keys.len());
        let mut projects: Vec<ProjectKeys> = Vec::new();
        let mut invalid_keys = info.invalid_keys + self.rejected();
        for index in self.sorted_order() {
            let Some((key, project_index)) = self.keys.get(index as usize) else {
                continue;
            };
            let Some(key) = escape_key(*key, &self.arena, &mut arena) else {
                invalid_keys += 1;
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
        let attributes: Box<[KeyAttributes]> = self.attributes.into_iter().collect();
        let status_counts = count_by_status(&projects, &keys, &attributes, previous_counts);
        Inventory {
            info: InventoryInfo {
                invalid_keys,
                ..info
            },
            arena: arena.into(),
            names_truncated: keys.iter().filter(|key| key.name_truncated).count() as u64,
            keys: keys.into(),
            projects: projects.into(),
            attributes,
            status_counts,
            segments: Mutex::default(),
        }
    }

    /// Returns the indexes of the keys, sorted by project and id.
    fn sorted_order(&self) -> impl Iterator<Item = u32> {
        let mut by_id: Vec<u32> = (0..).take(self.projects.len()).collect();
        by_id.sort_unstable_by_key(|project| self.projects.get_index(*project as usize));
        let mut ranks = vec![0_u32; by_id.len()];
        for (rank, project) in (0..).zip(by_id) {
            if let Some(slot) = ranks.get_mut(project as usize) {
                *slot = rank;
            }
        }
        let mut order: Vec<SortEntry> = Vec::with_capacity(self.keys.len());
        for (index, (key, project)) in (0..).zip(&self.keys) {
            order.push(SortEntry {
                project_rank: ranks.get(*project as usize).copied().unwrap_or_default(),
                id_prefix: prefix(key.texts(&self.arena)[0]),
                index,
            });
        }
        let id = |entry: &SortEntry| id_at(&self.keys, &self.arena, entry.index);
        order.sort_unstable_by(|a, b| {
            (a.project_rank, a.id_prefix)
                .cmp(&(b.project_rank, b.id_prefix))
                .then_with(|| id(a).cmp(id(b)))
        });
        order.into_iter().map(|entry| entry.index)
    }
}

/// A key to sort. Most comparisons need no access to the key and its texts, which are far apart in memory.
struct SortEntry {
    project_rank: u32,
    id_prefix: u64,
    /// The index of the key.
    index: u32,
}

/// Returns the first bytes of an id. If two prefixes differ, they have the same order as the ids.
fn prefix(id: &str) -> u64 {
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(id.bytes()) {
        *to = from;
    }
    u64::from_be_bytes(bytes)
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
        let mut by_status: BTreeMap<&str, u64> = BTreeMap::new();
        for key in keys.get(project.range.clone()).unwrap_or_default() {
            let attributes = attributes.get(key.attributes_index as usize);
            let status = attributes.map_or("", |attributes| &attributes.status);
            *by_status.entry(status).or_default() += 1;
        }
        let by_status = by_status.into_iter();
        counts.extend(by_status.map(|(status, keys)| ((&project.project, status), keys)));
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

#[cfg(test)]
mod tests {
    use super::super::BACKGROUND_DROP_MIN_KEYS;
    use crate::inventory::*;
    use mongodb_atlas_client::KeyId;

    fn org() -> OrgId {
        OrgId::parse("32b6e34b3d91647abb20e7b8").expect("an id")
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn record(id: &str, project: &str, status: &str, last_used: ApiTime) -> ApiKey {
        ApiKey {
            id: KeyId::new(id),
            project: ProjectId::new(project),
            name: "a \"quoted\" \\ name\nof two lines".into(),
            attributes: KeyAttributes {
                status: status.into(),
                cloud: "ANY".into(),
                ..KeyAttributes::default()
            },
            created: ApiTime::Valid(Timestamp::UNIX_EPOCH),
            last_used,
            ..ApiKey::default()
        }
    }

    fn inventory(records: &[ApiKey], known: &[StatusCount]) -> Inventory {
        let mut builder = InventoryBuilder::default();
        for record in records {
            builder.insert(record);
        }
        let info = InventoryInfo {
            org: org(),
            started_at: at(0),
            completed_at: at(0),
            invalid_keys: 0,
        };
        builder.build(info, known)
    }

    #[test]
    fn keys_are_sorted_and_their_texts_escaped() {
        let sorted = ["a", "a\0", "abcdefgh", "abcdefgh1", "abcdefgh2", "b", "é"];
        let records = sorted.map(|id| record(id, "p", "ACTIVE", ApiTime::Missing));
        let mut records: Vec<_> = records.into_iter().rev().collect();
        records.push(record("z", "o", "ACTIVE", ApiTime::Missing));
        let inventory = inventory(&records, &[]);
        let ids: Vec<_> = inventory.keys().map(|key| key.id()).collect();
        assert_eq!(ids, [&["z"], &sorted[..]].concat());
        let key = inventory.keys().next().expect("a key");
        assert_eq!(key.name(), r#"a \"quoted\" \\ name\nof two lines"#);
        assert_eq!((key.was_used(), key.project.as_str()), (Some(false), "o"));
        assert_eq!(
            key.idle_since(),
            Some(0),
            "a key never used is idle since its creation"
        );
        assert_eq!(
            inventory.attributes().len(),
            1,
            "shared values are stored once"
        );
    }

    #[test]
    fn record_round_trips_through_the_inventory() {
        let mut special = record("k\"\n", "p\\", "", ApiTime::Invalid);
        special.created = ApiTime::Missing;
        special.masked_secret = "al-****odu2".into();
        special.attributes.created_by = "Ada".into();
        let records = vec![special, record("k", "q", "ACTIVE", ApiTime::Valid(at(7)))];
        let inventory = inventory(&records, &[]);
        let out: Vec<_> = inventory.keys().map(|key| key.to_api_key()).collect();
        assert_eq!(out, records);
    }

    #[test]
    fn earlier_status_is_counted_as_zero() {
        let first = inventory(&[record("k", "p", "INACTIVE", ApiTime::Missing)], &[]);
        let active = vec![record("k", "p", "ACTIVE", ApiTime::Missing)];
        let second = inventory(&active, first.status_counts());
        let third = inventory(&[], second.status_counts());
        let counts = |i: &Inventory| {
            i.status_counts()
                .iter()
                .map(|c| (c.status.clone(), c.keys))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            counts(&second),
            [("ACTIVE".to_owned(), 1), ("INACTIVE".to_owned(), 0)]
        );
        assert_eq!(
            counts(&third),
            [("ACTIVE".to_owned(), 0), ("INACTIVE".to_owned(), 0)]
        );
    }

    #[test]
    fn invalid_last_use_is_neither_used_nor_unused() {
        let inventory = inventory(&[record("k", "p", "ACTIVE", ApiTime::Invalid)], &[]);
        let key = inventory.keys().next().expect("a key");
        assert_eq!(
            (key.was_used(), key.idle_since(), key.last_used()),
            (None, None, None)
        );
    }

    #[tokio::test]
    async fn large_inventory_is_freed_on_another_thread() {
        struct Owner(std::sync::mpsc::Sender<std::thread::ThreadId>);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                b""
            }
        }
        impl Drop for Owner {
            fn drop(&mut self) {
                let _ = self.0.send(std::thread::current().id());
            }
        }
        let current = std::thread::current().id();
        for (keys, is_background) in [(1, false), (BACKGROUND_DROP_MIN_KEYS, true)] {
            let records =
                (0..keys).map(|n| record(&n.to_string(), "p", "ACTIVE", ApiTime::Missing));
            let inventory = Inventory::from_records(org(), at(0), records);
            let (sender, receiver) = std::sync::mpsc::channel();
            inventory.segment_or_compute(1, || CachedSegment {
                bytes: bytes::Bytes::from_owner(Owner(sender)),
                ..CachedSegment::default()
            });
            assert_eq!(inventory.len(), keys);
            drop(inventory);
            let on = receiver
                .recv_timeout(std::time::Duration::from_mins(1))
                .expect("freed");
            assert_eq!(on != current, is_background, "{keys}");
        }
    }

    #[test]
    fn segment_is_computed_once() {
        let inventory = inventory(&[], &[]);
        let make = |text: &'static str| {
            move || CachedSegment {
                bytes: bytes::Bytes::from_static(text.as_bytes()),
                ..CachedSegment::default()
            }
        };
        assert_eq!(inventory.segment_or_compute(1, make("one")).bytes, "one");
        assert_eq!(inventory.segment_or_compute(1, make("again")).bytes, "one");
        assert_eq!(inventory.segment_or_compute(2, make("two")).bytes, "two");
    }
}
