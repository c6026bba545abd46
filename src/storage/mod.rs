//! What survives a restart: the last complete walk of each organization with its counters, when it
//! is due, what a credential can see, and its live access token.
//!
//! Everything here is a convenience: whatever fails is told and the exporter goes on without it.
//! A file is replaced whole or not at all, and one that is not as it was written is set aside.
//! Every method blocks; callers are on a thread for that.
//!
//! | file | holds |
//! | --- | --- |
//! | `ORG.inventory` | the last complete walk, and the change counters |
//! | `ORG.details` | names and limits |
//! | `ORG.deferred` | when to try again, while walks fail |
//! | `credential-HASH.json` | the organizations that the credential can see, its rate limits |
//! | `token-HASH.json` | the live access token |

mod atomic_file;
mod credential_file;
mod inventory_file;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::warn;

pub use atomic_file::StorageError;
pub use credential_file::CredentialSnapshot;
pub use inventory_file::StoredInventory;

use crate::inventory::OrgDetails;
use crate::poll::PollBackoff;
use exporter_toolkit::bounded_file::{self, READ_TIMEOUT};
use inventory_file::{InventoryRef, MAX_FILE_BYTES, read_inventory, write_inventory};
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::OrgId;

/// A directory of state. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Storage {
    dir: PathBuf,
}

/// What is remembered of an organization whose last walk failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackoffState {
    /// It is not to be walked before.
    pub until: Timestamp,
    /// How often it has failed.
    pub backoff: PollBackoff,
}

/// Something that is kept in a file of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum StateFile {
    /// The last complete walk of an organization.
    Inventory(OrgId),
    /// Until when an organization is left alone.
    Backoff(OrgId),
    /// Its names and limits.
    Details(OrgId),
    /// What a credential can see.
    Credential(Arc<str>),
}

/// Temporary files that are older than this were left behind by a process that was killed.
const STALE_TEMP_AGE: Duration = Duration::from_mins(10);
/// Time to read the files of one organization: a million keys take a second or two.
pub(super) const LOAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Time to write a file, with those that are written before it.
pub(super) const SAVE_TIMEOUT: Duration = Duration::from_secs(30);
/// Files that are read or written at a time.
const MAX_CONCURRENT: usize = 8;

impl Storage {
    /// Uses `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made. A directory that cannot be written to is no error here: what is in
    /// it can be read.
    pub fn open(dir: &Path) -> Result<Self, StorageError> {
        let storage = Self::open_read_only(dir);
        atomic_file::create_directory(dir)?;
        if storage.is_world_writable() {
            warn!(path = %dir.display(), "state directory is world-writable");
        }
        atomic_file::remove_stale_temp_files(dir, Clock::system().now(), STALE_TEMP_AGE);
        Ok(storage)
    }

    /// Returns when the file system of the directory answers.
    ///
    /// # Errors
    /// When it does not in time.
    pub(super) async fn await_response(&self) -> Result<(), StorageError> {
        self.run_blocking(READ_TIMEOUT, |storage| {
            // a missing directory is an answer as well
            let _ = bounded_file::metadata(&storage.dir.join("."));
        })
        .await
    }

    /// Whether every user of the machine may replace what is kept.
    pub fn is_world_writable(&self) -> bool {
        atomic_file::is_world_writable(&self.dir)
    }

    /// Runs `work` on a thread that may block, and waits for it no longer than `timeout`. A file system that does not
    /// answer costs a few threads, however often it is tried again.
    ///
    /// # Errors
    /// When it does not answer in time, or `work` panics.
    pub(crate) async fn run_blocking<T: Send + 'static>(
        &self,
        timeout: Duration,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, StorageError> {
        let storage = self.clone();
        bounded_file::run_blocking_within(&self.dir, MAX_CONCURRENT, timeout, move || {
            work(&storage)
        })
        .await
        .map_err(|error| StorageError::from_file_error(&self.dir, &error))
    }

    /// Looks at `dir` as it is.
    pub fn open_read_only(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// The organizations of which a complete walk is kept, in order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list_orgs(&self) -> Result<Vec<OrgId>, StorageError> {
        let names = atomic_file::file_names(&self.dir)?;
        let mut orgs: Vec<OrgId> = names
            .iter()
            .filter_map(|name| OrgId::parse(name.strip_suffix(".inventory")?).ok())
            .collect();
        orgs.sort();
        Ok(orgs)
    }

    /// The last complete walk of `org`; an unfit file stays where it is.
    ///
    /// # Errors
    /// What is wrong with the file, in words that repeat nothing of it.
    pub fn read_inventory(&self, org: &OrgId) -> Result<StoredInventory, String> {
        atomic_file::read_file(&self.inventory_path(org), MAX_FILE_BYTES, |input| {
            read_inventory(input, org)
        })
        .map_err(|error| error.to_string())
    }

    /// Names and limits of `org`, if they are kept and can be read; nothing is changed.
    pub fn read_details(&self, org: &OrgId) -> Option<OrgDetails> {
        atomic_file::read_file(
            &self.details_path(org),
            atomic_file::MAX_JSON_BYTES,
            atomic_file::read_json,
        )
        .ok()
    }

    /// Tries whether something could be kept in `dir`, and leaves nothing behind: a directory that was made
    /// for it would belong to whoever tried, not to the exporter.
    ///
    /// # Errors
    /// As [`Storage::open`] and [`Storage::save_inventory`].
    pub fn probe_writable(dir: &Path) -> Result<(), StorageError> {
        let missing: Vec<&Path> = dir
            .ancestors()
            .take_while(|dir| bounded_file::metadata(dir).is_err())
            .collect();
        let tried =
            atomic_file::create_directory(dir).and_then(|()| atomic_file::probe_writable(dir));
        for made in missing {
            // one that could not be made is not there
            let _ = std::fs::remove_dir(made);
        }
        tried
    }

    /// The last complete walk of `org`, if there is one to be had. A file that is cut off, foreign
    /// or newer is set aside with a warning.
    pub fn load_inventory(&self, org: &OrgId) -> Option<StoredInventory> {
        atomic_file::load_or_quarantine(&self.inventory_path(org), MAX_FILE_BYTES, |input| {
            read_inventory(input, org)
        })
    }

    /// Keeps a complete walk in the place of the one before, which ends a deferral.
    ///
    /// # Errors
    /// When the disk is full or read-only; what was there is still there.
    pub fn save_inventory(&self, saved: &InventoryRef<'_>) -> Result<(), StorageError> {
        let org = saved.inventory.org();
        atomic_file::write_atomically(&self.inventory_path(org), |output| {
            write_inventory(output, saved)
        })?;
        atomic_file::remove_if_exists(&self.backoff_path(org))
    }

    /// Remembers that the last walk of `org` failed.
    ///
    /// # Errors
    /// As [`Storage::save_inventory`].
    pub fn save_backoff(&self, org: &OrgId, deferred: BackoffState) -> Result<(), StorageError> {
        atomic_file::save_json(&self.backoff_path(org), &deferred)
    }

    /// What is remembered of the last walk of `org`, if it failed.
    pub fn load_backoff(&self, org: &OrgId) -> Option<BackoffState> {
        atomic_file::load_json(&self.backoff_path(org))
    }

    /// Keeps names and limits of `org`.
    ///
    /// # Errors
    /// As [`Storage::save_inventory`].
    pub fn save_details(&self, org: &OrgId, details: &OrgDetails) -> Result<(), StorageError> {
        atomic_file::save_json(&self.details_path(org), details)
    }

    /// Names and limits of `org`, if they were kept.
    pub fn load_details(&self, org: &OrgId) -> Option<OrgDetails> {
        atomic_file::load_json(&self.details_path(org))
    }

    /// Forgets `org`, which is watched no more.
    pub fn remove_org(&self, org: &OrgId) {
        for path in [
            self.inventory_path(org),
            self.details_path(org),
            self.backoff_path(org),
        ] {
            if let Err(error) = atomic_file::remove_if_exists(&path) {
                warn!(%error, "what was kept of an organization cannot be removed");
            }
        }
    }

    fn inventory_path(&self, org: &OrgId) -> PathBuf {
        self.dir.join(format!("{org}.inventory"))
    }

    fn details_path(&self, org: &OrgId) -> PathBuf {
        self.dir.join(format!("{org}.details"))
    }

    fn backoff_path(&self, org: &OrgId) -> PathBuf {
        self.dir.join(format!("{org}.deferred"))
    }
}

pub use inventory_file::InventoryRef as Saved;
