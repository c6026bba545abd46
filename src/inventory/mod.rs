//! The keys of one organization as one complete walk saw them: an immutable value, swapped in whole.
//!
//! Everything a scrape needs that cannot change between two walks is worked out here, once: texts
//! escaped, in one arena; values that many keys share, once each; the counts by status; the idle
//! times of each project in order, so that a roll-up at the scrape is a binary search and not a
//! walk over the keys.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `builder` | keys as they come in, page by page |
//! | `build` | a draft becomes an inventory |
//! | `key` | one key, as it goes in and as it is looked at |
//! | `escape` | escaping |
//! | `details` | what is known of an organization beside its keys |
//! | `store` | where the inventories stand |

mod build;
mod builder;
mod details;
mod escape;
mod key;
mod store;

use std::collections::HashMap;
use std::fmt;
use std::mem::take;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

pub use builder::{Inserted, InventoryBuilder};
pub use details::{ModelRateLimit, OrgDetails, ProjectName};
pub use escape::{unescape, write_escaped, write_label};
pub use key::{KeyAttributes, KeyRecord, KeyView, Moment};
pub use store::{InventorySnapshot, InventoryStore};

use build::{collect_idle_times, count_by_status, escape_key, sorted_order};
use key::KeyEntry;
use mongodb_atlas_client::{OrgId, ProjectId};

/// How many keys of a project have a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusCount {
    /// The project.
    pub project: ProjectId,
    /// The status as Atlas writes it.
    pub status: String,
    /// Number of keys; 0 for a status that was seen before and is not now.
    pub keys: u64,
}

/// The idle times of one project's keys, in order.
#[derive(Debug)]
pub struct ProjectIdleTimes {
    /// The project.
    pub project: ProjectId,
    idle_since_sorted: Box<[i64]>,
}

impl ProjectIdleTimes {
    /// How many keys have been idle since `limit`, in microseconds since the Unix epoch, or longer.
    pub fn count_idle_since(&self, limit: i64) -> u64 {
        self.idle_since_sorted
            .partition_point(|since| *since <= limit) as u64
    }
}

/// The keys of one project, which follow each other.
#[derive(Debug, Clone)]
pub struct ProjectKeys {
    /// The project.
    pub project: ProjectId,
    /// The places of its keys.
    pub range: Range<usize>,
}

/// Bytes that somebody has made of an inventory, and how many they were before they were packed.
#[derive(Debug, Clone, Default)]
pub struct CachedSegment {
    /// The bytes.
    pub bytes: bytes::Bytes,
    /// Their number before.
    pub uncompressed_len: usize,
    /// Their CRC-32 before.
    pub crc32: u32,
}

/// The keys of one organization after one complete walk. Made by the poll room, held by the
/// [`InventoryStore`] behind an `Arc` until the next complete walk, read by every scrape in between.
pub struct Inventory {
    org: OrgId,
    started_at: Timestamp,
    completed_at: Timestamp,
    arena: Box<str>,
    keys: Box<[KeyEntry]>,
    projects: Box<[ProjectKeys]>,
    attributes: Box<[KeyAttributes]>,
    status_counts: Box<[StatusCount]>,
    idle_times: Box<[ProjectIdleTimes]>,
    invalid_keys: u64,
    names_truncated: u64,
    segments: Mutex<HashMap<u64, Arc<Mutex<Option<CachedSegment>>>>>,
}

/// From so many keys on, an inventory is not freed where it is let go of: a million take 4 to 7 ms,
/// and the last to let go may be a thread that serves scrapes.
const BACKGROUND_DROP_MIN_KEYS: usize = 200_000;

impl Drop for Inventory {
    fn drop(&mut self) {
        if self.keys.len() < BACKGROUND_DROP_MIN_KEYS {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (arena, keys) = (take(&mut self.arena), take(&mut self.keys));
            let large = (
                arena,
                keys,
                take(&mut self.idle_times),
                take(&mut self.segments),
            );
            runtime.spawn_blocking(move || drop(large));
        }
    }
}

impl Inventory {
    /// The inventory of `org` with these keys; see [`InventoryBuilder::build`].
    pub fn new(
        org: OrgId,
        times: (Timestamp, Timestamp),
        records: impl IntoIterator<Item = KeyRecord>,
        dropped: u64,
        known: &[StatusCount],
    ) -> Self {
        let mut draft = InventoryBuilder::default();
        for record in records {
            draft.insert(&record);
        }
        draft.build(org, times, dropped, known)
    }

    fn from_builder(
        org: OrgId,
        (begun_at, read_at): (Timestamp, Timestamp),
        draft: InventoryBuilder,
        dropped: u64,
        known: &[StatusCount],
    ) -> Self {
        let order = sorted_order(&draft);
        let mut arena = String::with_capacity(draft.arena.len());
        let mut keys = Vec::with_capacity(order.len());
        let mut projects: Vec<ProjectKeys> = Vec::new();
        for place in order {
            let Some((key, project)) = draft.keys.get(place as usize) else {
                continue;
            };
            let Some(key) = escape_key(*key, &draft.arena, &mut arena) else {
                continue;
            };
            let id = draft.projects.values.get(*project as usize);
            match projects.last_mut() {
                Some(last) if Some(&last.project) == id => last.range.end += 1,
                _ => projects.push(ProjectKeys {
                    project: id.cloned().unwrap_or_default(),
                    range: keys.len()..keys.len() + 1,
                }),
            }
            keys.push(key);
        }
        let counts = count_by_status(&projects, &keys, &draft.attributes.values, known);
        let idle = collect_idle_times(&projects, &keys, &counts);
        let names_truncated = keys.iter().filter(|key| key.name_truncated).count() as u64;
        Self {
            org,
            started_at: begun_at,
            completed_at: read_at,
            arena: arena.into(),
            keys: keys.into(),
            projects: projects.into(),
            attributes: draft.attributes.values.into(),
            status_counts: counts.into(),
            idle_times: idle.into(),
            invalid_keys: dropped,
            names_truncated,
            segments: Mutex::default(),
        }
    }

    /// The organization.
    pub fn org(&self) -> &OrgId {
        &self.org
    }

    /// When the walk that saw these keys began.
    pub fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// When the walk that saw these keys ended.
    pub fn completed_at(&self) -> Timestamp {
        self.completed_at
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether the organization has no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Keys that are missing from the per-key series, wholly or in part, because Atlas' answer
    /// had no id or no readable date for them.
    pub fn invalid_keys(&self) -> u64 {
        self.invalid_keys
    }

    /// Keys whose names were longer than Atlas allows, and cut off.
    pub fn names_truncated(&self) -> u64 {
        self.names_truncated
    }

    /// The projects that have keys, in order.
    pub fn projects(&self) -> &[ProjectKeys] {
        &self.projects
    }

    /// The kinds of keys, in the order of [`KeyView::attributes_index`].
    pub fn attributes(&self) -> &[KeyAttributes] {
        &self.attributes
    }

    /// Keys of one project, from the place `from` on.
    pub fn project_keys<'a>(
        &'a self,
        project: &'a ProjectKeys,
        from: usize,
    ) -> impl Iterator<Item = KeyView<'a>> {
        let range = project.range.start.max(from)..project.range.end;
        self.keys
            .get(range)
            .unwrap_or_default()
            .iter()
            .map(|key| KeyView {
                entry: key,
                arena: &self.arena,
                project: &project.project,
                attributes: self
                    .attributes
                    .get(key.attributes_index as usize)
                    .unwrap_or(&DEFAULT_ATTRIBUTES),
            })
    }

    /// Every key, in the order of project and id.
    pub fn keys(&self) -> impl Iterator<Item = KeyView<'_>> {
        self.projects
            .iter()
            .flat_map(|project| self.project_keys(project, 0))
    }

    /// The key at a place, in the order of project and id.
    pub fn key_at(&self, place: usize) -> Option<KeyView<'_>> {
        let next = self
            .projects
            .partition_point(|project| project.range.end <= place);
        self.project_keys(self.projects.get(next)?, place).next()
    }

    /// Numbers of keys by project and status, in that order.
    pub fn status_counts(&self) -> &[StatusCount] {
        &self.status_counts
    }

    /// The idle times of each project, in the order of projects; a project that lost all its keys
    /// stays, with none.
    pub fn idle_times(&self) -> &[ProjectIdleTimes] {
        &self.idle_times
    }

    /// How many keys have been idle since `limit`, in microseconds since the Unix epoch, or longer.
    pub fn count_idle_since(&self, limit: i64) -> u64 {
        self.idle_times
            .iter()
            .map(|project| project.count_idle_since(limit))
            .sum()
    }

    /// What `make` makes of this inventory under the name `name`: once, whoever asks. Those who
    /// ask meanwhile wait.
    pub fn segment_or_compute(
        &self,
        name: u64,
        make: impl FnOnce() -> CachedSegment,
    ) -> CachedSegment {
        let place = {
            let mut finished = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(finished.entry(name).or_default())
        };
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        place.get_or_insert_with(make).clone()
    }
}

static DEFAULT_ATTRIBUTES: std::sync::LazyLock<KeyAttributes> =
    std::sync::LazyLock::new(KeyAttributes::default);

impl fmt::Debug for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inventory")
            .field("org", &self.org)
            .field("read_at", &self.completed_at)
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb_atlas_client::KeyId;

    fn org() -> OrgId {
        OrgId::parse("32b6e34b3d91647abb20e7b8").expect("an id")
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn record(id: &str, project: &str, status: &str, last_used: Moment) -> KeyRecord {
        KeyRecord {
            id: KeyId::new(id),
            project: ProjectId::new(project),
            name: "a \"quoted\" \\ name\nof two lines".into(),
            attributes: KeyAttributes {
                status: status.into(),
                cloud: "ANY".into(),
                ..KeyAttributes::default()
            },
            created: Moment::Valid(Timestamp::UNIX_EPOCH),
            last_used,
            ..KeyRecord::default()
        }
    }

    fn inventory(records: Vec<KeyRecord>, known: &[StatusCount]) -> Inventory {
        Inventory::new(org(), (at(0), at(0)), records, 0, known)
    }

    #[test]
    fn keys_are_sorted_and_their_texts_escaped() {
        let records = ["c", "a", "b"].map(|id| record(id, "p", "ACTIVE", Moment::Missing));
        let mut records = records.to_vec();
        records.push(record("z", "o", "ACTIVE", Moment::Missing));
        let inventory = inventory(records, &[]);
        let ids: Vec<_> = inventory.keys().map(|key| key.id()).collect();
        assert_eq!(ids, ["z", "a", "b", "c"]);
        let key = inventory.keys().next().expect("a key");
        assert_eq!(key.name(), r#"a \"quoted\" \\ name\nof two lines"#);
        assert_eq!((key.was_used(), key.project().as_str()), (Some(false), "o"));
        assert_eq!(
            key.idle_since(),
            Some(0),
            "a key never used is idle since its creation"
        );
        assert_eq!(
            inventory.attributes().len(),
            1,
            "what is shared is kept once"
        );
    }

    #[test]
    fn record_round_trips_through_the_inventory() {
        let mut odd = record("k\"\n", "p\\", "", Moment::Invalid);
        odd.created = Moment::Missing;
        odd.masked_secret = "al-****odu2".into();
        odd.attributes.created_by = "Ada".into();
        let records = vec![odd, record("k", "q", "ACTIVE", Moment::Valid(at(7)))];
        let inventory = inventory(records.clone(), &[]);
        let out: Vec<_> = inventory.keys().map(|key| key.to_record()).collect();
        assert_eq!(out, records);
    }

    #[test]
    fn earlier_status_is_counted_as_zero() {
        let first = inventory(vec![record("k", "p", "INACTIVE", Moment::Missing)], &[]);
        let active = vec![record("k", "p", "ACTIVE", Moment::Missing)];
        let second = inventory(active, first.status_counts());
        let third = inventory(vec![], second.status_counts());
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
        assert_eq!(
            third.idle_times().len(),
            1,
            "the roll-up of a project without keys is 0, not gone"
        );
    }

    #[test]
    fn invalid_last_use_is_neither_used_nor_unused() {
        let inventory = inventory(vec![record("k", "p", "ACTIVE", Moment::Invalid)], &[]);
        let key = inventory.keys().next().expect("a key");
        assert_eq!(
            (key.was_used(), key.idle_since(), key.last_used()),
            (None, None, None)
        );
        assert_eq!(inventory.idle_times()[0].count_idle_since(1_000_000), 0);
    }

    #[test]
    fn idle_counts_include_the_cutoff() {
        let records =
            [10, 20, 30].map(|s| record(&format!("k{s}"), "p", "ACTIVE", Moment::Valid(at(s))));
        let inventory = inventory(records.to_vec(), &[]);
        let counts =
            [9, 10, 25, 30].map(|s| inventory.idle_times()[0].count_idle_since(s * 1_000_000));
        assert_eq!(counts, [0, 1, 2, 3]);
        assert_eq!(inventory.count_idle_since(20_000_000), 2);
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
        let here = std::thread::current().id();
        for (keys, elsewhere) in [(1, false), (BACKGROUND_DROP_MIN_KEYS, true)] {
            let records = (0..keys).map(|n| record(&n.to_string(), "p", "ACTIVE", Moment::Missing));
            let inventory = Inventory::new(org(), (at(0), at(0)), records, 0, &[]);
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
            assert_eq!(on != here, elsewhere, "{keys}");
        }
    }

    #[test]
    fn segment_is_computed_once() {
        let inventory = inventory(vec![], &[]);
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
