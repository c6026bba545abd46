//! Who is let in: `--web.config.file`, in the format of Prometheus' exporter-toolkit.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `file` | the file, read strictly |
//! | `reader` | where a member is, and the mistakes that are found |
//! | `tls` | certificates, versions, cipher suites, curves |
//! | `clients` | client certificates |
//! | `users` | passwords |
//! | `rate` | requests a second |
//! | `guard` | what happens to each request |

mod clients;
mod file;
mod guard;
mod rate;
mod reader;
mod tls;
mod users;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::HeaderMap;

pub(super) use guard::guard;
use rate::Rate;
pub(super) use tls::Tls;
use users::Users;

/// Everything that is wrong with a web configuration, a sentence each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the web configuration {} is wrong in {} place{}:\n{}", file.display(), mistakes.len(), if mistakes.len() == 1 { "" } else { "s" }, mistakes.iter().map(|m| format!("  - {m}")).collect::<Vec<_>>().join("\n"))]
pub struct AccessError {
    file: PathBuf,
    /// What is wrong; repeats no secret.
    pub mistakes: Vec<String>,
}

/// Who is let in, and how. By default everybody, in the clear.
#[derive(Default)]
pub struct Access {
    tls: Option<Tls>,
    users: Option<Users>,
    headers: HeaderMap,
    rate: Option<Rate>,
    /// What is allowed, and may still not be what was meant.
    pub warnings: Vec<String>,
}

/// What became of a file, and which files its content depends on.
pub struct Loaded {
    /// The file, and those that it names: when one of them changes, it is to be read again.
    pub files: Vec<PathBuf>,
    /// What it says.
    pub access: Result<Access, AccessError>,
}

impl Access {
    /// Reads a web configuration and all files that it names. Blocks on the file system.
    pub fn load(path: &Path) -> Loaded {
        file::load(path)
    }

    /// How connections are encrypted; none when they are not.
    pub(super) fn tls(&self) -> Option<Tls> {
        self.tls.clone()
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("tls", &self.tls.is_some())
            .field("users", &self.users.is_some())
            .finish_non_exhaustive()
    }
}

/// The access in force. The lock is held for a pointer copy only.
#[derive(Debug, Default)]
pub struct SharedAccess {
    access: RwLock<Arc<Access>>,
    gate: users::Gate,
}

impl SharedAccess {
    /// Begins with `access`.
    pub fn new(access: Access) -> Self {
        Self {
            access: RwLock::new(Arc::new(access)),
            gate: users::Gate::default(),
        }
    }

    /// That in force.
    pub fn get(&self) -> Arc<Access> {
        Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another in force, for new connections and for the next request of each open one.
    pub fn set(&self, access: Access) {
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
    }
}
