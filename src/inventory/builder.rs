//! Collects keys, page by page, in the compact form of the inventory and without duplicates.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::LazyLock;

use hashbrown::HashTable;
use indexmap::IndexSet;

use super::key::{KeyEntry, KeyView, PackedTime};
use mongodb_atlas_client::{ApiKey, KeyAttributes, KeyId, ProjectId};

/// The keys of a walk in progress, identified by their id. A later version of a key replaces an earlier one.
#[derive(Debug, Default)]
pub struct InventoryBuilder {
    pub(super) arena: String,
    /// Each key with the index of its project.
    pub(super) keys: Vec<(KeyEntry, u32)>,
    pub(super) projects: IndexSet<ProjectId>,
    pub(super) attributes: IndexSet<KeyAttributes>,
    /// The indexes of the keys, by the hash of their ids.
    index: HashTable<u32>,
    hasher: RandomState,
    rejected: u64,
}

/// The result of [`InventoryBuilder::insert`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// The key is new.
    New,
    /// The key replaced an earlier version.
    Replaced,
    /// The key is too large: its texts exceed 64 KiB, or those of all keys 4 GiB.
    Rejected,
}

impl InventoryBuilder {
    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the number of rejected keys.
    pub fn rejected(&self) -> u64 {
        self.rejected
    }

    /// Returns whether there is a key with that id.
    pub fn contains(&self, id: &str) -> bool {
        self.find(id).is_some()
    }

    /// Inserts a key.
    pub fn insert(&mut self, record: &ApiKey) -> Inserted {
        self.try_insert(record).unwrap_or_else(|| {
            self.rejected += 1;
            Inserted::Rejected
        })
    }

    fn try_insert(&mut self, record: &ApiKey) -> Option<Inserted> {
        let known = self.find(record.id.as_str());
        let new_index = u32::try_from(self.keys.len()).ok()?;
        let entry = self.pack(record)?;
        if let Some(existing) = known.and_then(|index| self.keys.get_mut(index as usize)) {
            *existing = entry;
            return Some(Inserted::Replaced);
        }
        self.keys.push(entry);
        let (keys, arena, hasher) = (&self.keys, &self.arena, &self.hasher);
        let hash = hasher.hash_one(record.id.as_str());
        self.index.insert_unique(hash, new_index, |index| {
            hasher.hash_one(id_at(keys, arena, *index))
        });
        Some(Inserted::New)
    }

    /// Returns every key, in the order of insertion.
    pub fn records(&self) -> impl Iterator<Item = ApiKey> {
        static DEFAULTS: LazyLock<(ProjectId, KeyAttributes)> = LazyLock::new(Default::default);
        self.keys.iter().map(|(entry, project)| {
            let [id, name, masked_secret] = entry.texts(&self.arena);
            let project = self.projects.get_index(*project as usize);
            let attributes = self.attributes.get_index(entry.attributes_index as usize);
            let view = KeyView {
                entry,
                arena: "",
                project: project.unwrap_or(&DEFAULTS.0),
                attributes: attributes.unwrap_or(&DEFAULTS.1),
            };
            ApiKey {
                id: KeyId::new(id),
                name: name.to_owned(),
                masked_secret: masked_secret.to_owned(),
                ..view.to_api_key()
            }
        })
    }

    /// Inserts the keys of `other` that are missing here.
    pub fn merge_missing(&mut self, other: &Self) {
        for record in other.records() {
            if !self.contains(record.id.as_str()) {
                self.insert(&record);
            }
        }
    }

    fn find(&self, id: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(id);
        self.index
            .find(hash, |index| id_at(&self.keys, &self.arena, *index) == id)
            .copied()
    }

    fn pack(&mut self, record: &ApiKey) -> Option<(KeyEntry, u32)> {
        let texts = [record.id.as_str(), &record.name, &record.masked_secret];
        let [id, name, masked_secret] = texts.map(|text| u16::try_from(text.len()).ok());
        let entry = KeyEntry {
            text_start: u32::try_from(self.arena.len()).ok()?,
            id_len: id?,
            name_len: name?,
            masked_secret_len: masked_secret?,
            name_truncated: record.name_truncated,
            attributes_index: intern(&mut self.attributes, &record.attributes)?,
            created: PackedTime::new(record.created),
            last_used: PackedTime::new(record.last_used),
        };
        let project = intern(&mut self.projects, &record.project)?;
        for text in texts {
            self.arena.push_str(text);
        }
        Some((entry, project))
    }
}

/// Returns the index of a value, and inserts the value if it is new.
fn intern<T: Clone + Eq + Hash>(values: &mut IndexSet<T>, value: &T) -> Option<u32> {
    let index = match values.get_index_of(value) {
        Some(index) => index,
        None => values.insert_full(value.clone()).0,
    };
    u32::try_from(index).ok()
}

pub(super) fn id_at<'a>(keys: &[(KeyEntry, u32)], arena: &'a str, index: u32) -> &'a str {
    keys.get(index as usize)
        .map_or("", |(key, _)| key.texts(arena)[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::ApiTime;
    use jiff::Timestamp;

    fn record(id: &str, name: &str) -> ApiKey {
        ApiKey {
            id: KeyId::new(id),
            project: ProjectId::new("p"),
            name: name.into(),
            created: ApiTime::Valid(Timestamp::UNIX_EPOCH),
            ..ApiKey::default()
        }
    }

    #[test]
    fn later_version_replaces_a_duplicate_key() {
        let mut builder = InventoryBuilder::default();
        assert_eq!(builder.insert(&record("a", "old")), Inserted::New);
        assert_eq!(builder.insert(&record("b", "x")), Inserted::New);
        assert_eq!(
            builder.insert(&record("a", "new \"and\" longer")),
            Inserted::Replaced
        );
        let records: Vec<_> = builder.records().collect();
        assert_eq!(
            records,
            [record("a", "new \"and\" longer"), record("b", "x")]
        );
        assert!(builder.contains("b") && !builder.contains("c"));
    }

    #[test]
    fn merge_missing_adds_only_absent_keys() {
        let (mut one, mut two) = (InventoryBuilder::default(), InventoryBuilder::default());
        one.insert(&record("a", "one"));
        two.insert(&record("a", "two"));
        two.insert(&record("b", "two"));
        one.merge_missing(&two);
        let records: Vec<_> = one.records().collect();
        assert_eq!(records, [record("a", "one"), record("b", "two")]);
    }

    #[test]
    fn oversized_key_is_rejected_and_counted() {
        let mut builder = InventoryBuilder::default();
        assert_eq!(
            builder.insert(&record("a", &"x".repeat(70_000))),
            Inserted::Rejected
        );
        assert_eq!(
            builder.insert(&record("b", &"x".repeat(60_000))),
            Inserted::New
        );
        assert_eq!((builder.len(), builder.rejected()), (1, 1));
    }
}
