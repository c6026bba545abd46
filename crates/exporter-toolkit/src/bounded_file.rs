//! Bounded file reads that cannot hang the process.
//!
//! Every file an operator names (credentials, configuration, web configuration, certificates) and every state file is
//! opened here. A path can lead to a named pipe without a writer, to `/dev/zero`, or to a file system that does not
//! respond, so files are opened without blocking, must be regular files, and are read up to a fixed size.
//! [`run_blocking`] moves the work off the async threads and limits its time.
#![allow(
    clippy::disallowed_methods,
    reason = "this is the module that opens files"
)]

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// Time limit of [`run_blocking`].
pub const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// What a path may lead to, and how much of it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOptions {
    /// Maximum size of the file.
    pub max_bytes: u64,
    /// Whether a symbolic link at the end of the path is followed.
    pub follow_links: bool,
}

impl ReadOptions {
    /// Accepts a regular file of at most `max_bytes`, also behind symbolic links.
    pub const fn regular(max_bytes: u64) -> Self {
        Self {
            max_bytes,
            follow_links: true,
        }
    }

    /// Rejects a symbolic link at the end of the path.
    #[must_use]
    pub const fn without_links(self) -> Self {
        Self {
            follow_links: false,
            ..self
        }
    }
}

/// Reason why a file cannot be read. Holds nothing of its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The path does not exist.
    #[error("file not found")]
    NotFound,
    /// An error of the operating system.
    #[error("{0}")]
    Io(String),
    /// The path leads to something other than a regular file.
    #[error("expected a regular file, got {0}")]
    NotRegular(&'static str),
    /// The file is larger than the caller accepts.
    #[error("larger than {max_bytes} bytes")]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
    /// The file system did not respond in time.
    #[error("no data within {} seconds", .0.as_secs())]
    TimedOut(Duration),
    /// The file is not UTF-8.
    #[error("expected UTF-8 text")]
    NotUtf8,
    /// A bug in this program.
    #[error("internal error: the task panicked")]
    Panicked,
}

impl FileError {
    /// Returns the error as a sentence, with what to check where that helps.
    pub fn explain(&self) -> String {
        let check = match self {
            Self::NotFound | Self::Io(_) => {
                "; check that it exists and that the exporter's user may read it"
            }
            _ => "",
        };
        format!("cannot be read: {self}{check}")
    }
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            _ => Self::Io(error.to_string()),
        }
    }
}

/// Permission bits of a file. Displays as `chmod` takes them, such as `0640`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(u32);

impl FileMode {
    /// Returns the mode of the file that `path` leads to, without opening it.
    ///
    /// # Errors
    /// [`FileError`] when the file cannot be looked up.
    pub fn from_path(path: &Path) -> Result<Self, FileError> {
        metadata(path).map(|metadata| Self::from(&metadata))
    }

    /// Returns whether every user of the machine can read the file.
    pub const fn is_world_readable(self) -> bool {
        self.0 & 0o004 != 0
    }

    /// Returns whether every user of the machine can write to the file.
    pub const fn is_world_writable(self) -> bool {
        self.0 & 0o002 != 0
    }

    /// Returns whether neither the group nor others have any access to the file.
    pub const fn is_owner_only(self) -> bool {
        const GROUP_AND_OTHERS: u32 = 0o077;
        self.0 & GROUP_AND_OTHERS == 0
    }
}

impl From<&Metadata> for FileMode {
    #[cfg(unix)]
    fn from(metadata: &Metadata) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        Self(metadata.permissions().mode() & 0o7777)
    }

    /// Without permission bits, the system's own access rights apply.
    #[cfg(not(unix))]
    fn from(_: &Metadata) -> Self {
        Self(0o600)
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// Returns the metadata of the file that `path` leads to, without opening it.
///
/// # Errors
/// [`FileError`] when the file cannot be looked up.
pub fn metadata(path: &Path) -> Result<Metadata, FileError> {
    Ok(std::fs::metadata(path)?)
}

/// Opens a regular file without blocking. The checks are made on the opened file, whatever the path leads to later.
///
/// # Errors
/// [`FileError`] when the file cannot be opened, is not regular or is too large. A link that `options` rejects is
/// [`FileError::NotRegular`].
pub fn open(path: &Path, options: ReadOptions) -> Result<File, FileError> {
    let file = open_nonblocking(path, options)?;
    let max_bytes = options.max_bytes;
    if file.metadata()?.len() > max_bytes {
        return Err(FileError::TooLarge { max_bytes });
    }
    Ok(file)
}

/// Reads a whole file. The buffer is allocated once, so that a secret leaves no copies behind, and is wiped on drop.
///
/// # Errors
/// As [`open`].
pub fn read(path: &Path, options: ReadOptions) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let file = open(path, options)?;
    let max_bytes = options.max_bytes;
    let limit = max_bytes.saturating_add(1);
    let length = file.metadata()?.len();
    // Files in /proc report no length.
    let capacity = length.saturating_add(1).max(MIN_BUFFER_BYTES).min(limit);
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(capacity).unwrap_or(0)));
    file.take(limit).read_to_end(&mut content)?;
    if content.len() as u64 > max_bytes {
        return Err(FileError::TooLarge { max_bytes });
    }
    Ok(content)
}

/// Reads a whole file as text.
///
/// # Errors
/// As [`open`], and when the file is not UTF-8.
pub fn read_text(path: &Path, options: ReadOptions) -> Result<Zeroizing<String>, FileError> {
    let mut content = read(path, options)?;
    match String::from_utf8(std::mem::take(&mut *content)) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            Err(FileError::NotUtf8)
        }
    }
}

/// Buffer size for a file that reports no length.
const MIN_BUFFER_BYTES: u64 = 16 << 10;

/// Description of a pipe in an error: process substitution creates one, and its content is gone after the first read.
const PIPE_DESCRIPTION: &str = "a pipe, which can be read only once";

#[cfg(unix)]
fn open_nonblocking(path: &Path, options: ReadOptions) -> Result<File, FileError> {
    use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};

    use rustix::fs::OFlags;

    // NOCTTY: a terminal must not become the controlling terminal of a daemon.
    let mut flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    if !options.follow_links {
        flags |= OFlags::NOFOLLOW;
    }
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => {
                FileError::NotRegular("a symbolic link")
            }
            Some(code) if code == rustix::io::Errno::NXIO.raw_os_error() => {
                FileError::NotRegular("a socket or a device")
            }
            _ => error.into(),
        })?;
    let file_type = file.metadata()?.file_type();
    if file_type.is_file() {
        return Ok(file);
    }
    Err(FileError::NotRegular(if file_type.is_fifo() {
        PIPE_DESCRIPTION
    } else if file_type.is_dir() {
        "a directory"
    } else if file_type.is_socket() {
        "a socket"
    } else {
        "a device"
    }))
}

#[cfg(not(unix))]
fn open_nonblocking(path: &Path, options: ReadOptions) -> Result<File, FileError> {
    if !options.follow_links && std::fs::symlink_metadata(path)?.is_symlink() {
        return Err(FileError::NotRegular("a symbolic link"));
    }
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(FileError::NotRegular("something else"));
    }
    Ok(file)
}

/// Runs `work`, which accesses `path`, on a thread that may block, and waits at most [`READ_TIMEOUT`].
///
/// Only one piece of work per path runs at a time, and work that times out is abandoned, not stopped: a file system
/// that does not respond uses a few threads per path, however often the path is retried.
///
/// # Errors
/// [`FileError::TimedOut`] when the file system does not respond in time; `work` itself may still be running.
pub async fn run_blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, FileError> {
    run_blocking_within(path, 1, READ_TIMEOUT, work).await
}

/// As [`run_blocking`], with up to `concurrency` pieces of work for `path` at a time, and a timeout that includes the
/// wait for the others.
///
/// # Errors
/// As [`run_blocking`].
pub async fn run_blocking_within<T: Send + 'static>(
    path: &Path,
    concurrency: usize,
    timeout: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, FileError> {
    let deadline = Instant::now() + timeout;
    let permits = path_permits(path, concurrency);
    let acquire = Arc::clone(&permits.running).acquire_owned();
    let Ok(Ok(permit)) = tokio::time::timeout_at(deadline, acquire).await else {
        return Err(FileError::TimedOut(timeout));
    };
    let held = Arc::new(Mutex::new(permit));
    let permit = Arc::downgrade(&held);
    let task = tokio::task::spawn_blocking({
        let permits = Arc::clone(&permits);
        move || {
            // Dropped when the work has ended or panicked.
            let _held = (held, permits);
            work()
        }
    });
    if let Ok(result) = tokio::time::timeout_at(deadline, task).await {
        return result.map_err(|_| FileError::Panicked);
    }
    if let Some(permit) = permit.upgrade()
        && let Ok(abandoned) = Arc::clone(&permits.abandoned).try_acquire_owned()
    {
        // Frees the running permit for the next piece of work.
        *permit.lock() = abandoned;
    }
    Err(FileError::TimedOut(timeout))
}

/// Maximum number of abandoned pieces of work for one path that do not count as running. The path may lead elsewhere by
/// now, to a file system that responds: without a free permit it would never be read again.
const MAX_ABANDONED: usize = 3;

/// Limits the work on one path.
struct PathPermits {
    running: Arc<Semaphore>,
    abandoned: Arc<Semaphore>,
}

/// Returns the permits of `path`. They exist while one is held or awaited.
fn path_permits(path: &Path, concurrency: usize) -> Arc<PathPermits> {
    static PERMITS: Mutex<Option<HashMap<PathBuf, Weak<PathPermits>>>> = Mutex::new(None);

    let mut all = PERMITS.lock();
    let all = all.get_or_insert_default();
    if let Some(permits) = all.get(path).and_then(Weak::upgrade) {
        return permits;
    }
    all.retain(|_, permits| permits.strong_count() > 0);
    let permits = Arc::new(PathPermits {
        running: Arc::new(Semaphore::new(concurrency)),
        abandoned: Arc::new(Semaphore::new(MAX_ABANDONED)),
    });
    all.insert(path.to_owned(), Arc::downgrade(&permits));
    permits
}

#[cfg(unix)]
#[cfg(test)]
mod tests;
