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

mod account;
mod file;
mod org;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::warn;

pub use account::Account;
pub use file::StorageError;
pub use org::Stored;

use super::schedule::Backoff;
use crate::ids::OrgId;
use crate::inventory::Details;
use org::{SavedOrg, read, write};

/// A directory of state. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Storage {
    dir: PathBuf,
}

/// What is remembered of an organization whose last walk failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deferred {
    /// It is not to be walked before.
    pub until: Timestamp,
    /// How often it has failed.
    pub backoff: Backoff,
}

/// Something that is kept in a file of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Paper {
    /// The last complete walk of an organization.
    Walk(OrgId),
    /// Until when an organization is left alone.
    Deferral(OrgId),
    /// Its names and limits.
    Details(OrgId),
    /// What a credential can see.
    Account(Arc<str>),
}

/// Temporary files that are older than this were left behind by a process that was killed.
const LEFT_BEHIND_AFTER: Duration = Duration::from_mins(10);

impl Storage {
    /// Uses `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made. A directory that cannot be written to is no error here: what is in
    /// it can be read.
    pub fn open(dir: &Path) -> Result<Self, StorageError> {
        file::make_directory(dir)?;
        file::sweep(dir, LEFT_BEHIND_AFTER);
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// Looks at `dir` as it is.
    pub fn of(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// The organizations of which a complete walk is kept, in order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn orgs(&self) -> Result<Vec<OrgId>, StorageError> {
        let names = file::names(&self.dir)?;
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
    pub fn look(&self, org: &OrgId) -> Result<Stored, String> {
        file::look(&self.inventory(org), |input| read(input, org))
    }

    /// Names and limits of `org`, if they are kept and can be read; nothing is changed.
    pub fn look_details(&self, org: &OrgId) -> Option<Details> {
        file::look(&self.details(org), file::read_json).ok()
    }

    /// Tries whether something could be kept in `dir`, and leaves nothing behind: a directory that was made
    /// for it would belong to whoever tried, not to the exporter.
    ///
    /// # Errors
    /// As [`Storage::open`] and [`Storage::save`].
    pub fn try_out(dir: &Path) -> Result<(), StorageError> {
        let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.exists()).collect();
        let path = dir.join("probe");
        let tried = file::make_directory(dir)
            .and_then(|()| file::replace(&path, |output| output.write_all(b"probe\n")))
            .and_then(|()| file::remove(&path));
        for made in missing {
            // one that could not be made is not there
            let _ = std::fs::remove_dir(made);
        }
        tried
    }

    /// The last complete walk of `org`, if there is one to be had. A file that is cut off, foreign
    /// or newer is set aside with a warning.
    pub fn load(&self, org: &OrgId) -> Option<Stored> {
        file::load(&self.inventory(org), |input| read(input, org))
    }

    /// Keeps a complete walk in the place of the one before, which ends a deferral.
    ///
    /// # Errors
    /// When the disk is full or read-only; what was there is still there.
    pub fn save(&self, saved: &SavedOrg<'_>) -> Result<(), StorageError> {
        let org = saved.inventory.org();
        file::replace(&self.inventory(org), |output| write(output, saved))?;
        file::remove(&self.deferred(org))
    }

    /// Remembers that the last walk of `org` failed.
    ///
    /// # Errors
    /// As [`Storage::save`].
    pub fn defer(&self, org: &OrgId, deferred: Deferred) -> Result<(), StorageError> {
        file::save_json(&self.deferred(org), &deferred)
    }

    /// What is remembered of the last walk of `org`, if it failed.
    pub fn load_deferred(&self, org: &OrgId) -> Option<Deferred> {
        file::load_json(&self.deferred(org))
    }

    /// Keeps names and limits of `org`.
    ///
    /// # Errors
    /// As [`Storage::save`].
    pub fn save_details(&self, org: &OrgId, details: &Details) -> Result<(), StorageError> {
        file::save_json(&self.details(org), details)
    }

    /// Names and limits of `org`, if they were kept.
    pub fn load_details(&self, org: &OrgId) -> Option<Details> {
        file::load_json(&self.details(org))
    }

    /// Forgets `org`, which is watched no more.
    pub fn forget(&self, org: &OrgId) {
        for path in [self.inventory(org), self.details(org), self.deferred(org)] {
            if let Err(error) = file::remove(&path) {
                warn!(%error, "what was kept of an organization cannot be removed");
            }
        }
    }

    fn inventory(&self, org: &OrgId) -> PathBuf {
        self.dir.join(format!("{org}.inventory"))
    }

    fn details(&self, org: &OrgId) -> PathBuf {
        self.dir.join(format!("{org}.details"))
    }

    fn deferred(&self, org: &OrgId) -> PathBuf {
        self.dir.join(format!("{org}.deferred"))
    }
}

pub use org::SavedOrg as Saved;
