//! State that survives a restart: the last inventory of each organization with its change counters, the backoff of failed
//! polls, the organizations and rate limits of a credential, and its access token.
//!
//! Storage is optional: a failure is logged, and the exporter continues without it. Files are written atomically, and
//! an invalid one is quarantined. Every method blocks; `Storage::run_blocking` moves the work off the async threads.
//!
//! | file | content |
//! | --- | --- |
//! | `ORG.inventory` | the last inventory, and the change counters |
//! | `ORG.details` | names and model rate limits |
//! | `ORG.deferred` | the time of the next attempt, while polls fail |
//! | `credential-HASH.json` | the organizations that the credential can access, its rate limits, the expiry of its client secrets |
//! | `token-HASH.json` | the access token |
//!
//! | module | purpose |
//! | --- | --- |
//! | `atomic_file` | atomic writes, bounded reads, quarantine |
//! | `inventory_file` | the format of an inventory file |
//! | `credential_file` | the files of a credential |

mod atomic_file;
mod credential_file;
mod inventory_file;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

pub use atomic_file::StorageError;
pub use credential_file::{ClientSecretsSnapshot, CredentialSnapshot};
pub use inventory_file::{ChangeCounts, StoredInventory};

use atomic_file::{MAX_JSON_BYTES, read_json};
use exporter_toolkit::bounded_file::{self, FileMode, READ_TIMEOUT};
use inventory_file::{MAX_FILE_BYTES, read_inventory, write_inventory};
use mongodb_atlas_client::{Clock, OrgId, stable_hash};

/// A directory of state files. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    dir: PathBuf,
}

/// A file in the state directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StateFile {
    /// The last inventory of an organization.
    Inventory(OrgId),
    /// The time of the next attempt to poll an organization.
    Backoff(OrgId),
    /// Names and model rate limits of an organization.
    Details(OrgId),
    /// The organizations and rate limits of the credential of that name.
    Credential(Arc<str>),
    /// The access token of the credential of that name.
    Token(Arc<str>),
}

/// Minimum age of temporary files that are removed, because the process that created them was killed.
const STALE_TEMP_AGE: Duration = Duration::from_mins(10);
/// Timeout for reading the files of one organization: a million keys take one or two seconds.
pub(crate) const LOAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Timeout for writing a file, including the wait for earlier writes.
pub(crate) const SAVE_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum number of concurrent reads and writes.
const MAX_CONCURRENT: usize = 8;

impl Storage {
    /// Opens `dir`, and creates it if it does not exist.
    ///
    /// # Errors
    /// [`StorageError`] when the directory cannot be created. A read-only directory is no error: its files can be
    /// loaded.
    pub fn open(dir: &Path) -> Result<Self, StorageError> {
        let storage = Self::open_read_only(dir);
        atomic_file::create_directory(dir)?;
        if storage.is_world_writable() {
            warn!(path = %dir.display(), "state directory is world-writable");
        }
        atomic_file::remove_stale_temp_files(dir, Clock::system().now(), STALE_TEMP_AGE);
        Ok(storage)
    }

    /// Opens `dir` without changing it.
    pub fn open_read_only(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// Waits until the file system of the directory responds.
    ///
    /// # Errors
    /// [`StorageError`] when it does not respond in time.
    pub(crate) async fn await_response(&self) -> Result<(), StorageError> {
        self.run_blocking(READ_TIMEOUT, |storage| {
            // An error for a missing directory is a response as well.
            let _ = bounded_file::metadata(&storage.dir.join("."));
        })
        .await
    }

    /// Returns whether every user of the machine can replace the state files.
    pub fn is_world_writable(&self) -> bool {
        FileMode::from_path(&self.dir).is_ok_and(FileMode::is_world_writable)
    }

    /// Runs `work` on a blocking thread, and waits for at most `timeout`. A file system that does not respond blocks only a
    /// few threads, regardless of the number of attempts.
    ///
    /// # Errors
    /// [`StorageError`] when the file system does not respond in time, or `work` panics.
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

    /// Returns the organizations with a stored inventory, sorted by id.
    ///
    /// # Errors
    /// [`StorageError`] when the directory cannot be read.
    pub fn list_orgs(&self) -> Result<Vec<OrgId>, StorageError> {
        let names = atomic_file::file_names(&self.dir)?;
        let mut orgs: Vec<OrgId> = names
            .iter()
            .filter_map(|name| OrgId::parse(name.strip_suffix(".inventory")?).ok())
            .collect();
        orgs.sort();
        Ok(orgs)
    }

    /// Checks whether `dir` is writable, and changes nothing: a directory that is created for the check is removed, because
    /// it would belong to the user who runs the check and not to the exporter.
    ///
    /// # Errors
    /// As [`Storage::open`] and [`Storage::save`].
    pub fn probe_writable(dir: &Path) -> Result<(), StorageError> {
        let missing: Vec<&Path> = dir
            .ancestors()
            .take_while(|dir| bounded_file::metadata(dir).is_err())
            .collect();
        let probed =
            atomic_file::create_directory(dir).and_then(|()| atomic_file::probe_writable(dir));
        for created in missing {
            // A directory that could not be created does not exist.
            let _ = std::fs::remove_dir(created);
        }
        probed
    }

    /// Reads the inventory of `org`; an invalid file is left in place.
    ///
    /// # Errors
    /// The reason why the file cannot be used, without the file's content.
    pub fn read_inventory(&self, org: &OrgId) -> Result<StoredInventory, String> {
        let path = self.path(&StateFile::Inventory(org.clone()));
        atomic_file::read_file(&path, MAX_FILE_BYTES, |input| read_inventory(input, org))
            .map_err(|error| error.to_string())
    }

    /// Loads the inventory of `org`, if there is one. A truncated, foreign or newer file is quarantined with a warning.
    pub fn load_inventory(&self, org: &OrgId) -> Option<StoredInventory> {
        let path = self.path(&StateFile::Inventory(org.clone()));
        atomic_file::load_or_quarantine(&path, MAX_FILE_BYTES, |input| read_inventory(input, org))
    }

    /// Replaces the stored inventory of an organization, and removes its backoff.
    ///
    /// # Errors
    /// [`StorageError`] when the disk is full or read-only; the previous file is unchanged.
    pub fn save_inventory(&self, stored: &StoredInventory) -> Result<(), StorageError> {
        let org = stored.inventory.org();
        let path = self.path(&StateFile::Inventory(org.clone()));
        atomic_file::write_atomically(&path, |output| write_inventory(output, stored))?;
        atomic_file::remove_if_exists(&self.path(&StateFile::Backoff(org.clone())))
    }

    /// Reads the JSON value of `file`, if the file exists and is valid; it is left in place.
    pub fn read<T: DeserializeOwned>(&self, file: &StateFile) -> Option<T> {
        atomic_file::read_file(&self.path(file), MAX_JSON_BYTES, read_json).ok()
    }

    /// Loads the JSON value of `file`, if the file exists; an invalid one is quarantined with a warning.
    pub fn load<T: DeserializeOwned>(&self, file: &StateFile) -> Option<T> {
        atomic_file::load_or_quarantine(&self.path(file), MAX_JSON_BYTES, read_json)
    }

    /// Replaces the JSON value of `file`.
    ///
    /// # Errors
    /// As [`Storage::save_inventory`].
    pub fn save(&self, file: &StateFile, value: &impl Serialize) -> Result<(), StorageError> {
        atomic_file::save_json(&self.path(file), value)
    }

    /// Removes the files of `org`; a failure is logged.
    pub fn remove_org(&self, org: &OrgId) {
        for file in [StateFile::Inventory, StateFile::Details, StateFile::Backoff] {
            if let Err(error) = atomic_file::remove_if_exists(&self.path(&file(org.clone()))) {
                warn!(%error, "failed to remove state of organization");
            }
        }
    }

    /// Returns the path of `file`.
    pub fn path(&self, file: &StateFile) -> PathBuf {
        // The name of a credential is free text, and may not be a valid file name.
        let hashed = |kind, credential: &str| {
            format!("{kind}-{:016x}.json", stable_hash(credential.as_bytes(), 0))
        };
        self.dir.join(match file {
            StateFile::Inventory(org) => format!("{org}.inventory"),
            StateFile::Details(org) => format!("{org}.details"),
            StateFile::Backoff(org) => format!("{org}.deferred"),
            StateFile::Credential(credential) => hashed("credential", credential),
            StateFile::Token(credential) => hashed("token", credential),
        })
    }
}
