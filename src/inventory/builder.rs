//! Keys as they come in, page by page: compact from the first, and each once.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use jiff::Timestamp;

use super::key::{KeyAttributes, KeyEntry, KeyRecord, PackedTime};
use super::{Inventory, StatusCount};
use mongodb_atlas_client::{KeyId, OrgId, ProjectId};

/// The keys of a walk that is under way. They are told apart by their id alone; of a key that
/// comes twice the later version is kept.
#[derive(Debug, Default)]
pub struct InventoryBuilder {
    pub(super) arena: String,
    pub(super) keys: Vec<(KeyEntry, u32)>,
    pub(super) projects: Interner<ProjectId>,
    pub(super) attributes: Interner<KeyAttributes>,
    index: HashTable<u32>,
    hasher: RandomState,
    rejected: u64,
}

/// Values that come again and again, each kept once.
#[derive(Debug)]
pub(super) struct Interner<T> {
    pub(super) values: Vec<T>,
    index: HashTable<u32>,
    hasher: RandomState,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::new(),
        }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Interner<T> {
    fn intern(&mut self, value: &T) -> Option<u32> {
        let Self {
            values,
            index: places,
            hasher,
        } = self;
        let hash = hasher.hash_one(value);
        let known = places.find(hash, |place| values.get(*place as usize) == Some(value));
        if let Some(place) = known {
            return Some(*place);
        }
        let place = u32::try_from(values.len()).ok()?;
        values.push(value.clone());
        places.insert_unique(hash, place, |place| {
            let value = values.get(*place as usize);
            value.map_or(0, |value| hasher.hash_one(value))
        });
        Some(place)
    }
}

/// What became of a key that was put into a [`InventoryBuilder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It was not there yet.
    New,
    /// It replaced an earlier version.
    Replaced,
    /// It is too long to be a key: its texts have more than 64 KiB, or all together 4 GiB.
    Rejected,
}

impl InventoryBuilder {
    /// Number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Keys that were refused.
    pub fn rejected(&self) -> u64 {
        self.rejected
    }

    /// Whether a key of that id is there.
    pub fn contains(&self, id: &str) -> bool {
        self.find(id).is_some()
    }

    /// Puts a key in.
    pub fn insert(&mut self, record: &KeyRecord) -> Inserted {
        let known = self.find(record.id.as_str());
        let Some(entry) = self.encode(record) else {
            self.rejected += 1;
            return Inserted::Rejected;
        };
        if let Some(old) = known.and_then(|place| self.keys.get_mut(place as usize)) {
            *old = entry;
            return Inserted::Replaced;
        }
        let Ok(place) = u32::try_from(self.keys.len()) else {
            self.rejected += 1;
            return Inserted::Rejected;
        };
        self.keys.push(entry);
        let Self {
            index: places,
            hasher,
            keys,
            arena,
            ..
        } = self;
        let hash = hasher.hash_one(record.id.as_str());
        places.insert_unique(hash, place, |place| {
            hasher.hash_one(id_of(keys, arena, *place))
        });
        Inserted::New
    }

    /// Every key, in the order in which they came.
    pub fn records(&self) -> impl Iterator<Item = KeyRecord> {
        self.keys.iter().map(|(key, project)| {
            let [id, name, masked_secret] = key.texts(&self.arena);
            let view = super::KeyView {
                entry: key,
                arena: "",
                project: self
                    .projects
                    .values
                    .get(*project as usize)
                    .unwrap_or(&DEFAULTS.0),
                attributes: self
                    .attributes
                    .values
                    .get(key.attributes_index as usize)
                    .unwrap_or(&DEFAULTS.1),
            };
            KeyRecord {
                id: KeyId::new(id),
                name: name.to_owned(),
                masked_secret: masked_secret.to_owned(),
                ..view.to_record()
            }
        })
    }

    /// Puts in what `other` has and this one has not.
    pub fn merge_missing(&mut self, other: &Self) {
        for record in other.records() {
            if !self.contains(record.id.as_str()) {
                self.insert(&record);
            }
        }
    }

    /// The inventory of `org` with these keys, which a complete walk has seen that began and ended
    /// at `times`. `dropped` counts keys that the walk had to leave out or could not read wholly;
    /// `known` is what the inventory before has counted: a status that was seen for a project is
    /// counted as 0 instead of vanishing.
    pub fn build(
        self,
        org: OrgId,
        times: (Timestamp, Timestamp),
        dropped: u64,
        known: &[StatusCount],
    ) -> Inventory {
        let dropped = dropped + self.rejected;
        Inventory::from_builder(org, times, self, dropped, known)
    }

    fn find(&self, id: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(id);
        self.index
            .find(hash, |place| id_of(&self.keys, &self.arena, *place) == id)
            .copied()
    }

    fn encode(&mut self, record: &KeyRecord) -> Option<(KeyEntry, u32)> {
        let length = |text: &str| u16::try_from(text.len()).ok();
        let texts = [record.id.as_str(), &record.name, &record.masked_secret];
        let [id, name, masked_secret] = texts.map(length);
        let key = KeyEntry {
            text_start: u32::try_from(self.arena.len()).ok()?,
            id_len: id?,
            name_len: name?,
            masked_secret_len: masked_secret?,
            name_truncated: record.name_truncated,
            attributes_index: self.attributes.intern(&record.attributes)?,
            created: PackedTime::new(record.created),
            last_used: PackedTime::new(record.last_used),
        };
        let project = self.projects.intern(&record.project)?;
        for text in texts {
            self.arena.push_str(text);
        }
        Some((key, project))
    }
}

static DEFAULTS: std::sync::LazyLock<(ProjectId, KeyAttributes)> =
    std::sync::LazyLock::new(Default::default);

fn id_of<'a>(keys: &[(KeyEntry, u32)], arena: &'a str, place: u32) -> &'a str {
    keys.get(place as usize)
        .map_or("", |(key, _)| key.texts(arena)[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Moment;

    fn record(id: &str, name: &str) -> KeyRecord {
        KeyRecord {
            id: KeyId::new(id),
            project: ProjectId::new("p"),
            name: name.into(),
            created: Moment::Valid(Timestamp::UNIX_EPOCH),
            ..KeyRecord::default()
        }
    }

    #[test]
    fn later_version_replaces_a_duplicate_key() {
        let mut draft = InventoryBuilder::default();
        assert_eq!(draft.insert(&record("a", "old")), Inserted::New);
        assert_eq!(draft.insert(&record("b", "x")), Inserted::New);
        assert_eq!(
            draft.insert(&record("a", "new \"and\" longer")),
            Inserted::Replaced
        );
        let records: Vec<_> = draft.records().collect();
        assert_eq!(
            records,
            [record("a", "new \"and\" longer"), record("b", "x")]
        );
        assert!(draft.contains("b") && !draft.contains("c"));
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
        let mut draft = InventoryBuilder::default();
        assert_eq!(
            draft.insert(&record("a", &"x".repeat(70_000))),
            Inserted::Rejected
        );
        assert_eq!(
            draft.insert(&record("b", &"x".repeat(60_000))),
            Inserted::New
        );
        assert_eq!((draft.len(), draft.rejected()), (1, 1));
    }
}
