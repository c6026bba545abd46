//! The keys of one organization, as of one successful poll: an immutable value that is replaced as a whole.
//!
//! Data for scrapes that changes only with a poll is computed once, when the inventory is built: texts are escaped and
//! stored in one arena, values that many keys share are interned, and keys are counted by status. Exemptions can change
//! between two polls, so the classes of the keys are stored separately from the inventory.
//!
//! | module | purpose |
//! | --- | --- |
//! | `builder` | collects keys, page by page |
//! | `build` | converts a builder into an inventory |
//! | `classes` | the keys by class, as roll-ups count them |
//! | `details` | names, owners and model rate limits of an organization |
//! | `key` | the compact entry and the view of a key, and its fields |
//! | `escape` | label escaping |
//! | `store` | the current inventories and details, and snapshots for scrapes |
//! | `query` | filters, sorts and lists the keys of a snapshot |

mod build;
mod builder;
mod classes;
mod details;
mod escape;
mod key;
mod query;
mod store;

use std::collections::HashMap;
use std::fmt;
use std::mem::take;
use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use jiff::Timestamp;

pub use builder::{Inserted, InventoryBuilder};
pub use classes::{ClassifiedInventory, DISABLED_STATUSES, KeyClass, KeyClasses, ProjectClasses};
pub use details::{DetailsWithOwners, OrgDetails};
pub use escape::{unescape, write_escaped, write_label};
pub use key::{KeyLabel, KeyView};
pub use mongodb_atlas_client::{ApiKey, ApiTime, KeyAttributes};
pub use query::{
    GroupBy, KeyCounts, KeyGroup, KeyQuery, KeyRow, KeySelection, SortColumn, matches_project,
    matches_status, project_url,
};
pub use store::{InventorySnapshot, InventoryStore};

use key::KeyEntry;
use mongodb_atlas_client::{OrgId, ProjectId};

/// Number of keys of a project with the same status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusCount {
    /// The project.
    pub project: ProjectId,
    /// `status`.
    pub status: String,
    /// Number of keys; 0 for a status that an earlier poll has seen.
    pub keys: u64,
}

/// The keys of one project, which are adjacent.
#[derive(Debug, Clone)]
pub struct ProjectKeys {
    /// The project.
    pub project: ProjectId,
    /// The indexes of its keys.
    pub range: Range<usize>,
}

/// A precomputed, compressed part of the exposition.
#[derive(Debug, Clone, Default)]
pub struct CachedSegment {
    /// The compressed bytes.
    pub bytes: bytes::Bytes,
    /// Length before compression.
    pub uncompressed_len: usize,
    /// CRC-32 before compression.
    pub crc32: u32,
}

/// The organization of an inventory, and the poll that it was built from.
#[derive(Debug, Clone)]
pub struct InventoryInfo {
    /// The organization.
    pub org: OrgId,
    /// Start of the poll.
    pub started_at: Timestamp,
    /// End of the poll.
    pub completed_at: Timestamp,
    /// Number of keys that lack some or all per-key series, because of an invalid id or timestamp.
    pub invalid_keys: u64,
}

/// The keys of one organization, as of one successful poll. The [`InventoryStore`] holds it behind an `Arc` until the
/// next successful poll.
pub struct Inventory {
    info: InventoryInfo,
    arena: Box<str>,
    keys: Box<[KeyEntry]>,
    projects: Box<[ProjectKeys]>,
    attributes: Box<[KeyAttributes]>,
    status_counts: Box<[StatusCount]>,
    names_truncated: u64,
    segments: Mutex<HashMap<u64, Arc<Mutex<Option<CachedSegment>>>>>,
}

/// Inventories with at least this many keys are dropped on a blocking thread: freeing one million keys takes 4 to 7 ms
/// and must not stall an async worker.
const BACKGROUND_DROP_MIN_KEYS: usize = 200_000;

impl Drop for Inventory {
    fn drop(&mut self) {
        if self.keys.len() < BACKGROUND_DROP_MIN_KEYS {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (arena, keys) = (take(&mut self.arena), take(&mut self.keys));
            let segments = take(&mut self.segments);
            runtime.spawn_blocking(move || drop((arena, keys, segments)));
        }
    }
}

static DEFAULT_ATTRIBUTES: LazyLock<KeyAttributes> = LazyLock::new(KeyAttributes::default);

impl Inventory {
    /// Builds the inventory of a poll with a duration of zero, without invalid keys and without a previous inventory.
    pub fn from_records(
        org: OrgId,
        polled_at: Timestamp,
        records: impl IntoIterator<Item = ApiKey>,
    ) -> Self {
        let mut builder = InventoryBuilder::default();
        for record in records {
            builder.insert(&record);
        }
        let info = InventoryInfo {
            org,
            started_at: polled_at,
            completed_at: polled_at,
            invalid_keys: 0,
        };
        builder.build(info, &[])
    }

    /// Returns the organization.
    pub fn org(&self) -> &OrgId {
        &self.info.org
    }

    /// Returns the start of the poll.
    pub fn started_at(&self) -> Timestamp {
        self.info.started_at
    }

    /// Returns the end of the poll.
    pub fn completed_at(&self) -> Timestamp {
        self.info.completed_at
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns whether the organization has no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the number of keys that lack some or all per-key series, because of an invalid id or timestamp.
    pub fn invalid_keys(&self) -> u64 {
        self.info.invalid_keys
    }

    /// Returns the number of keys with a truncated name.
    pub fn names_truncated(&self) -> u64 {
        self.names_truncated
    }

    /// Returns the projects with keys, sorted by id.
    pub fn projects(&self) -> &[ProjectKeys] {
        &self.projects
    }

    /// Returns the distinct attributes, in the order of [`KeyView::attributes_index`].
    pub fn attributes(&self) -> &[KeyAttributes] {
        &self.attributes
    }

    /// Returns the keys of one project, starting at the index `from`.
    pub fn project_keys<'a>(
        &'a self,
        project: &'a ProjectKeys,
        from: usize,
    ) -> impl Iterator<Item = KeyView<'a>> {
        let range = project.range.start.max(from)..project.range.end;
        let entries = self.keys.get(range).unwrap_or_default();
        entries.iter().map(|entry| KeyView {
            entry,
            arena: &self.arena,
            project: &project.project,
            attributes: self
                .attributes
                .get(entry.attributes_index as usize)
                .unwrap_or(&DEFAULT_ATTRIBUTES),
        })
    }

    /// Returns every key, sorted by project and id.
    pub fn keys(&self) -> impl Iterator<Item = KeyView<'_>> {
        self.projects
            .iter()
            .flat_map(|project| self.project_keys(project, 0))
    }

    /// Returns the key at an index, in the order of [`Inventory::keys`].
    pub fn key_at(&self, index: usize) -> Option<KeyView<'_>> {
        let project = self
            .projects
            .partition_point(|project| project.range.end <= index);
        self.project_keys(self.projects.get(project)?, index).next()
    }

    /// Returns the number of keys by project and status, in that order.
    pub fn status_counts(&self) -> &[StatusCount] {
        &self.status_counts
    }

    /// Returns the segment for `cache_key`, computed by `compute` on the first call. Concurrent callers wait for the result.
    pub fn segment_or_compute(
        &self,
        cache_key: u64,
        compute: impl FnOnce() -> CachedSegment,
    ) -> CachedSegment {
        let slot = {
            let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(segments.entry(cache_key).or_default())
        };
        let mut segment = slot.lock().unwrap_or_else(PoisonError::into_inner);
        segment.get_or_insert_with(compute).clone()
    }
}

impl fmt::Debug for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inventory")
            .field("info", &self.info)
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}
