//! Reads files with limits of size and time, so that no file can hang the process.
//!
//! This module opens every file that an operator configures (credentials, configuration, web configuration, certificates)
//! and every state file. A path can lead to a named pipe without a writer, to `/dev/zero`, or to a file system that does not
//! respond. Therefore files are opened without blocking, must be regular files, and are read up to a fixed size.
//! [`run_blocking`] moves the work off the async threads and limits its time.
#![allow(clippy::disallowed_methods, reason = "only this module opens files")]

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::sync::Mutex;

/// The timeout of [`run_blocking`].
pub const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// The limits of a read: the maximum size of the file, and whether symbolic links are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOptions {
    /// Maximum size of the file.
    pub max_bytes: u64,
    /// Whether the last component of the path may be a symbolic link.
    pub follow_links: bool,
}

impl ReadOptions {
    /// Accepts a regular file of at most `max_bytes`, and follows symbolic links.
    pub const fn regular(max_bytes: u64) -> Self {
        Self {
            max_bytes,
            follow_links: true,
        }
    }

    /// Rejects a symbolic link as the last component of the path.
    #[must_use]
    pub const fn without_links(self) -> Self {
        Self {
            follow_links: false,
            ..self
        }
    }
}

/// The reason why a file cannot be read. Contains nothing of its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The path does not exist.
    #[error("file not found")]
    NotFound,
    /// An error of the operating system.
    #[error("{0}")]
    Io(String),
    /// The path does not lead to a regular file.
    #[error("expected a regular file, got {0}")]
    NotRegular(&'static str),
    /// The file is larger than the caller accepts.
    #[error("file is larger than {max_bytes} bytes")]
    TooLarge {
        /// The maximum size.
        max_bytes: u64,
    },
    /// The file system did not respond in time.
    #[error("timeout: no data within {} seconds", .0.as_secs())]
    TimedOut(Duration),
    /// The file is not UTF-8 text.
    #[error("invalid encoding: expected UTF-8 text")]
    NotUtf8,
    /// A bug in this program.
    #[error("internal error: the task panicked")]
    Panicked,
}

impl FileError {
    /// Returns the message that follows the name of the file: `cannot be read: CAUSE`.
    pub fn explain(&self) -> String {
        format!("cannot be read: {self}")
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

/// The permission bits of a file. Displays them in the format of `chmod`, such as `0640`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(u32);

impl FileMode {
    /// Returns the mode of the file at `path`, without opening it.
    ///
    /// # Errors
    /// [`FileError`] when the metadata of the file cannot be read.
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

    // On systems without permission bits, the system's own access rights apply.
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

/// Returns the metadata of the file at `path`, without opening it.
///
/// # Errors
/// [`FileError`] when the metadata cannot be read.
pub fn metadata(path: &Path) -> Result<Metadata, FileError> {
    Ok(std::fs::metadata(path)?)
}

/// Opens a regular file without blocking. Checks the opened file, because the path may lead to another file later.
///
/// # Errors
/// [`FileError`] when the file cannot be opened, is not a regular file, or is too large. A symbolic link that `options`
/// rejects is [`FileError::NotRegular`].
pub fn open(path: &Path, options: ReadOptions) -> Result<File, FileError> {
    let file = open_nonblocking(path, options)?;
    let max_bytes = options.max_bytes;
    if file.metadata()?.len() > max_bytes {
        return Err(FileError::TooLarge { max_bytes });
    }
    Ok(file)
}

/// Reads a whole file. Allocates the buffer once, so that no copy of a secret remains in memory, and clears it on drop.
///
/// # Errors
/// As [`open`].
pub fn read(path: &Path, options: ReadOptions) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let file = open(path, options)?;
    let max_bytes = options.max_bytes;
    let limit = max_bytes.saturating_add(1);
    let length = file.metadata()?.len();
    // Files in /proc have a length of 0.
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

/// The minimum size of the buffer, for files with a length of 0 in /proc.
const MIN_BUFFER_BYTES: u64 = 16 << 10;

/// The description of a pipe in an error. Process substitution in a shell creates one; its content can be read only once.
const PIPE_DESCRIPTION: &str = "a pipe, which can be read only once";

#[cfg(unix)]
fn open_nonblocking(path: &Path, options: ReadOptions) -> Result<File, FileError> {
    use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};

    use rustix::fs::OFlags;

    // With NOCTTY, a terminal does not become the controlling terminal of the process.
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
        return Err(FileError::NotRegular("another file type"));
    }
    Ok(file)
}

/// Runs `work`, which accesses `path`, on a blocking thread, and waits at most [`READ_TIMEOUT`].
///
/// Only one task per path runs at a time. A task that times out is abandoned and not stopped, so a file system that does not
/// respond occupies only a few threads per path, however often the path is retried.
///
/// # Errors
/// [`FileError::TimedOut`] when the file system does not respond in time; `work` may still be running.
pub async fn run_blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, FileError> {
    run_blocking_within(path, 1, READ_TIMEOUT, work).await
}

/// Runs `work` as [`run_blocking`] does, with up to `concurrency` tasks for `path` at a time, and a timeout that includes
/// the wait for other tasks.
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
            // Dropped when the work has finished or panicked.
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
        // Frees the running permit for the next task.
        *permit.lock() = abandoned;
    }
    Err(FileError::TimedOut(timeout))
}

/// The maximum number of abandoned tasks for one path that do not count as running. The path may lead to another file system
/// by now, which responds: without a free permit it would never be read again.
const MAX_ABANDONED: usize = 3;

/// The permits of the tasks for one path.
struct PathPermits {
    running: Arc<Semaphore>,
    abandoned: Arc<Semaphore>,
}

/// Returns the permits of `path`. The entry exists while a permit is held or awaited.
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
