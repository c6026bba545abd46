//! Keys as they come in, page by page: compact from the first, and each once.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use jiff::Timestamp;

use super::key::{Key, KeyKind, KeyRecord, Packed};
use super::{Inventory, StatusCount};
use mongodb_atlas_client::{KeyId, OrgId, ProjectId};

/// The keys of a walk that is under way. They are told apart by their id alone; of a key that
/// comes twice the later version is kept.
#[derive(Debug, Default)]
pub struct Draft {
    pub(super) arena: String,
    pub(super) keys: Vec<(Key, u32)>,
    pub(super) projects: Interned<ProjectId>,
    pub(super) kinds: Interned<KeyKind>,
    places: HashTable<u32>,
    hasher: RandomState,
    refused: u64,
}

/// Values that come again and again, each kept once.
#[derive(Debug)]
pub(super) struct Interned<T> {
    pub(super) values: Vec<T>,
    places: HashTable<u32>,
    hasher: RandomState,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            places: HashTable::new(),
            hasher: RandomState::new(),
        }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Interned<T> {
    fn place(&mut self, value: &T) -> Option<u32> {
        let Self {
            values,
            places,
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

/// What became of a key that was put into a [`Draft`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was not there yet.
    New,
    /// It replaced an earlier version.
    Again,
    /// It is too long to be a key: its texts have more than 64 KiB, or all together 4 GiB.
    Refused,
}

impl Draft {
    /// Number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Keys that were refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether a key of that id is there.
    pub fn contains(&self, id: &str) -> bool {
        self.find(id).is_some()
    }

    /// Puts a key in.
    pub fn put(&mut self, record: &KeyRecord) -> Put {
        let known = self.find(record.id.as_str());
        let Some(entry) = self.pack(record) else {
            self.refused += 1;
            return Put::Refused;
        };
        if let Some(old) = known.and_then(|place| self.keys.get_mut(place as usize)) {
            *old = entry;
            return Put::Again;
        }
        let Ok(place) = u32::try_from(self.keys.len()) else {
            self.refused += 1;
            return Put::Refused;
        };
        self.keys.push(entry);
        let Self {
            places,
            hasher,
            keys,
            arena,
            ..
        } = self;
        let hash = hasher.hash_one(record.id.as_str());
        places.insert_unique(hash, place, |place| {
            hasher.hash_one(text_of(keys, arena, *place))
        });
        Put::New
    }

    /// Every key, in the order in which they came.
    pub fn records(&self) -> impl Iterator<Item = KeyRecord> {
        self.keys.iter().map(|(key, project)| {
            let [id, name, masked_secret] = key.texts(&self.arena);
            let view = super::KeyView {
                key,
                arena: "",
                project: self
                    .projects
                    .values
                    .get(*project as usize)
                    .unwrap_or(&EMPTY.0),
                kind: self.kinds.values.get(key.kind as usize).unwrap_or(&EMPTY.1),
            };
            KeyRecord {
                id: KeyId::new(id),
                name: name.to_owned(),
                masked_secret: masked_secret.to_owned(),
                ..view.record()
            }
        })
    }

    /// Puts in what `other` has and this one has not.
    pub fn complete_with(&mut self, other: &Self) {
        for record in other.records() {
            if !self.contains(record.id.as_str()) {
                self.put(&record);
            }
        }
    }

    /// The inventory of `org` with these keys, which a complete walk has seen that began and ended
    /// at `times`. `dropped` counts keys that the walk had to leave out or could not read wholly;
    /// `known` is what the inventory before has counted: a status that was seen for a project is
    /// counted as 0 instead of vanishing.
    pub fn finish(
        self,
        org: OrgId,
        times: (Timestamp, Timestamp),
        dropped: u64,
        known: &[StatusCount],
    ) -> Inventory {
        let dropped = dropped + self.refused;
        Inventory::of_draft(org, times, self, dropped, known)
    }

    fn find(&self, id: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(id);
        self.places
            .find(hash, |place| text_of(&self.keys, &self.arena, *place) == id)
            .copied()
    }

    fn pack(&mut self, record: &KeyRecord) -> Option<(Key, u32)> {
        let length = |text: &str| u16::try_from(text.len()).ok();
        let texts = [record.id.as_str(), &record.name, &record.masked_secret];
        let [id, name, masked_secret] = texts.map(length);
        let key = Key {
            start: u32::try_from(self.arena.len()).ok()?,
            id: id?,
            name: name?,
            masked_secret: masked_secret?,
            name_truncated: record.name_truncated,
            kind: self.kinds.place(&record.kind)?,
            created: Packed::new(record.created),
            last_used: Packed::new(record.last_used),
        };
        let project = self.projects.place(&record.project)?;
        for text in texts {
            self.arena.push_str(text);
        }
        Some((key, project))
    }
}

static EMPTY: std::sync::LazyLock<(ProjectId, KeyKind)> =
    std::sync::LazyLock::new(Default::default);

fn text_of<'a>(keys: &[(Key, u32)], arena: &'a str, place: u32) -> &'a str {
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
            created: Moment::At(Timestamp::UNIX_EPOCH),
            ..KeyRecord::default()
        }
    }

    #[test]
    fn of_a_key_that_comes_twice_the_later_version_is_kept() {
        let mut draft = Draft::default();
        assert_eq!(draft.put(&record("a", "old")), Put::New);
        assert_eq!(draft.put(&record("b", "x")), Put::New);
        assert_eq!(draft.put(&record("a", "new \"and\" longer")), Put::Again);
        let records: Vec<_> = draft.records().collect();
        assert_eq!(
            records,
            [record("a", "new \"and\" longer"), record("b", "x")]
        );
        assert!(draft.contains("b") && !draft.contains("c"));
    }

    #[test]
    fn two_drafts_complete_each_other() {
        let (mut one, mut two) = (Draft::default(), Draft::default());
        one.put(&record("a", "one"));
        two.put(&record("a", "two"));
        two.put(&record("b", "two"));
        one.complete_with(&two);
        let records: Vec<_> = one.records().collect();
        assert_eq!(records, [record("a", "one"), record("b", "two")]);
    }

    #[test]
    fn what_is_too_long_is_refused_and_counted() {
        let mut draft = Draft::default();
        assert_eq!(draft.put(&record("a", &"x".repeat(70_000))), Put::Refused);
        assert_eq!(draft.put(&record("b", &"x".repeat(60_000))), Put::New);
        assert_eq!((draft.len(), draft.refused()), (1, 1));
    }
}
