//! Bounded file reads that cannot hang the process.
//!
//! Every file an operator names (credentials, configuration, web configuration, certificates) and every state file is
//! opened here. A path can lead to a named pipe without a writer, to `/dev/zero`, or to a file system that does not
//! answer, so files are opened without blocking, must be regular files, and are read up to a fixed size. [`run_blocking`] moves the work off the threads that serve and gives it a deadline.
#![allow(
    clippy::disallowed_methods,
    reason = "this is the module that opens files"
)]

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Time that a file system gets to deliver a file.
pub const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// What a path may lead to, and how much of it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOptions {
    /// More bytes than this are an error.
    pub max_bytes: u64,
    /// Whether a symbolic link at the end of the path is followed. State files are never links.
    pub follow_links: bool,
}

impl ReadOptions {
    /// A regular file of at most `max_bytes`, also behind symbolic links.
    pub const fn regular(max_bytes: u64) -> Self {
        Self {
            max_bytes,
            follow_links: true,
        }
    }

    /// Refuses a symbolic link at the end of the path.
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
    /// Nothing has that name.
    #[error("file not found")]
    NotFound,
    /// An error of the operating system.
    #[error("{0}")]
    Io(String),
    /// The path leads to something other than a file with content.
    #[error("expected a regular file, got {0}")]
    NotRegular(&'static str),
    /// More content than the caller accepts.
    #[error("larger than {max_bytes} bytes")]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
    /// The file system did not deliver in time.
    #[error("no data within {} seconds", .0.as_secs())]
    TimedOut(Duration),
    /// A text was expected.
    #[error("expected UTF-8 text")]
    NotUtf8,
    /// A bug in this program.
    #[error("internal error: the task panicked")]
    Panicked,
}

impl FileError {
    /// The error in a sentence for a person, with what to check where that helps.
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

/// Returns what the file system says of the file that `path` leads to, without opening it.
///
/// # Errors
/// [`FileError`] when there is no such file, or it cannot be looked up.
pub fn metadata(path: &Path) -> Result<std::fs::Metadata, FileError> {
    Ok(std::fs::metadata(path)?)
}

/// Opens a regular file without blocking. Its metadata is that of the opened file, whatever the path leads to later.
///
/// # Errors
/// [`FileError`] when it cannot be opened, is no regular file or is too large. A link that `options` refuses is
/// [`FileError::NotRegular`].
pub fn open(path: &Path, options: ReadOptions) -> Result<File, FileError> {
    let file = open_nonblocking(path, options)?;
    check_length(&file, options)?;
    Ok(file)
}

/// The length of a file, which is within the limit as far as it says.
fn check_length(file: &File, options: ReadOptions) -> Result<u64, FileError> {
    let length = file.metadata()?.len();
    if length > options.max_bytes {
        return Err(FileError::TooLarge {
            max_bytes: options.max_bytes,
        });
    }
    Ok(length)
}

/// Reads a whole file. The buffer is allocated once, so that a secret leaves no copies behind, and is wiped on drop.
///
/// # Errors
/// [`FileError`] when it cannot be opened, is of the wrong type or is too large.
pub fn read(path: &Path, options: ReadOptions) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let file = open_nonblocking(path, options)?;
    let limit = options.max_bytes.saturating_add(1);
    let length = check_length(&file, options)?;
    // the files of /proc have no length to go by
    let capacity = length.saturating_add(1).max(MIN_BUFFER_BYTES).min(limit);
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(capacity).unwrap_or(0)));
    file.take(limit).read_to_end(&mut content)?;
    if content.len() as u64 > options.max_bytes {
        return Err(FileError::TooLarge {
            max_bytes: options.max_bytes,
        });
    }
    Ok(content)
}

/// Reads a whole file as text; otherwise as [`read`].
///
/// # Errors
/// As [`read`], and when the file is not UTF-8.
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

/// Size of the buffer for a file that does not say how long it is.
const MIN_BUFFER_BYTES: u64 = 16 << 10;

/// What a pipe is called in an error: process substitution makes one, and its content is gone after the first read.
const PIPE_DESCRIPTION: &str = "a pipe, which can be read only once";

#[cfg(unix)]
fn open_nonblocking(path: &Path, options: ReadOptions) -> Result<File, FileError> {
    use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};

    use rustix::fs::OFlags;

    // without a terminal: opening one would make it the controlling terminal of a daemon
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

/// Runs `work`, which reads or looks at `path`, on a thread that may block, and waits for it no longer than
/// [`READ_TIMEOUT`].
///
/// Only one piece of work for a path is under way at a time, and work that has timed out is left to itself: a file
/// system that does not answer costs a few threads for each path, however often the path is tried again.
///
/// # Errors
/// [`FileError::TimedOut`] when the file system does not answer in time; `work` itself may go on.
pub async fn run_blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, FileError> {
    run_blocking_within(path, 1, READ_TIMEOUT, work).await
}

/// As [`run_blocking`], with up to `concurrency` pieces of work for `path` at a time, and a timeout of its own that
/// includes the wait for the others.
///
/// # Errors
/// As [`run_blocking`].
pub async fn run_blocking_within<T: Send + 'static>(
    path: &Path,
    concurrency: usize,
    timeout: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, FileError> {
    let slots = path_slots(path, concurrency);
    let slot = Arc::new(WorkSlot {
        slots: Arc::clone(&slots),
        state: Mutex::new(SlotState::Waiting),
    });
    let run = async {
        if let Ok(permit) = slots.permits.acquire().await {
            permit.forget();
            slot.set_state(SlotState::Running);
        }
        let running = SlotGuard(Arc::clone(&slot));
        tokio::task::spawn_blocking(move || {
            let result = work();
            drop(running);
            result
        })
        .await
        .map_err(|_| FileError::Panicked)
    };
    tokio::time::timeout(timeout, run)
        .await
        .unwrap_or_else(|_| {
            slot.abandon();
            Err(FileError::TimedOut(timeout))
        })
}

/// Pieces of work for one path that are left to themselves. The path may lead elsewhere by now, to a file system that
/// answers: without a slot for the next try it would never be read again.
const MAX_ABANDONED: usize = 3;

/// What limits the work on one path.
struct PathSlots {
    permits: Semaphore,
    abandoned: Mutex<usize>,
}

/// The place of one piece of work.
struct WorkSlot {
    slots: Arc<PathSlots>,
    state: Mutex<SlotState>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SlotState {
    Waiting,
    Running,
    Abandoned,
    Finished,
}

impl WorkSlot {
    fn set_state(&self, new: SlotState) -> SlotState {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *state, new)
    }

    /// Lets others run although this piece of work has not ended.
    fn abandon(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let abandoned = self.slots.abandoned.lock();
        let mut abandoned = abandoned.unwrap_or_else(PoisonError::into_inner);
        if *state == SlotState::Running && *abandoned < MAX_ABANDONED {
            *state = SlotState::Abandoned;
            *abandoned += 1;
            self.slots.permits.add_permits(1);
        }
    }
}

/// Gives the slot back, also when the work panics.
struct SlotGuard(Arc<WorkSlot>);

impl Drop for SlotGuard {
    fn drop(&mut self) {
        let slots = &self.0.slots;
        match self.0.set_state(SlotState::Finished) {
            SlotState::Running => slots.permits.add_permits(1),
            SlotState::Abandoned => {
                let abandoned = slots.abandoned.lock();
                *abandoned.unwrap_or_else(PoisonError::into_inner) -= 1;
            }
            SlotState::Waiting | SlotState::Finished => {}
        }
    }
}

/// The slots of `path`. They exist for as long as somebody holds or awaits one.
fn path_slots(path: &Path, concurrency: usize) -> Arc<PathSlots> {
    static SLOTS: Mutex<Option<HashMap<PathBuf, Weak<PathSlots>>>> = Mutex::new(None);

    let mut all = SLOTS.lock().unwrap_or_else(PoisonError::into_inner);
    let all = all.get_or_insert_default();
    if let Some(slots) = all.get(path).and_then(Weak::upgrade) {
        return slots;
    }
    all.retain(|_, slots| slots.strong_count() > 0);
    let slots = Arc::new(PathSlots {
        permits: Semaphore::new(concurrency),
        abandoned: Mutex::new(0),
    });
    all.insert(path.to_owned(), Arc::downgrade(&slots));
    slots
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const OPTIONS: ReadOptions = ReadOptions::regular(100);

    fn make_fifo(path: &Path) {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .expect("a named pipe");
    }

    #[test]
    fn regular_files_are_read_within_the_limit() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        assert_eq!(read(&path, OPTIONS), Err(FileError::NotFound));
        std::fs::write(&path, [b'x'; 100]).expect("written");
        assert_eq!(read(&path, OPTIONS).expect("read").len(), 100);
        std::fs::write(&path, [b'x'; 101]).expect("written");
        let too_large = FileError::TooLarge { max_bytes: 100 };
        assert_eq!(read(&path, OPTIONS), Err(too_large.clone()));
        assert_eq!(
            read(Path::new("/dev/zero"), OPTIONS),
            Err(FileError::NotRegular("a device"))
        );
        assert_eq!(
            read(directory.path(), OPTIONS),
            Err(FileError::NotRegular("a directory"))
        );
        let link = directory.path().join("link");
        symlink("/proc/self/maps", &link).expect("a link");
        assert_eq!(read(&link, OPTIONS), Err(too_large), "without a length");
        assert_eq!(
            read(&link, OPTIONS.without_links()),
            Err(FileError::NotRegular("a symbolic link"))
        );
    }

    #[test]
    fn pipes_are_rejected_without_waiting_for_a_writer() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pipe");
        make_fifo(&path);
        assert_eq!(
            read(&path, OPTIONS),
            Err(FileError::NotRegular(PIPE_DESCRIPTION))
        );
    }

    #[tokio::test]
    async fn hanging_work_uses_few_threads_per_path() {
        use std::sync::atomic::{AtomicUsize, Ordering};

        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let path = Path::new("/a/path/that/hangs");
        let started = Arc::new(AtomicUsize::new(0));
        for attempt in 1..=8 {
            let (held, started) = (Arc::clone(&held), Arc::clone(&started));
            let hang = move || {
                started.fetch_add(1, Ordering::Relaxed);
                let held = held.lock().unwrap_or_else(PoisonError::into_inner);
                held.recv().is_err()
            };
            let timeout = Duration::from_millis(50);
            let result = run_blocking_within(path, 1, timeout, hang).await;
            assert_eq!(result, Err(FileError::TimedOut(timeout)), "{attempt}");
        }
        // a loaded machine may start the last of them late
        assert!(started.load(Ordering::Relaxed) <= 1 + MAX_ABANDONED);
        let other = run_blocking(Path::new("/another"), || 7).await;
        assert_eq!(other, Ok(7));
        drop(release);
        assert_eq!(run_blocking(path, || 8).await, Ok(8));
        assert_eq!(run_blocking(path, || 9).await, Ok(9));
    }

    #[tokio::test]
    async fn changed_path_is_read_while_earlier_work_hangs() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let path = Path::new("/a/path/that/leads/elsewhere");
        let hang = move || held.recv().is_err();
        let timeout = Duration::from_millis(50);
        let result = run_blocking_within(path, 1, timeout, hang).await;
        assert_eq!(result, Err(FileError::TimedOut(timeout)));
        assert_eq!(run_blocking(path, || 8).await, Ok(8));
        drop(release);
    }

    #[tokio::test]
    async fn panicking_work_fails_and_frees_the_path() {
        let path = Path::new("/a/path/that/panics");
        let result = run_blocking(path, || panic!("a bug")).await;
        assert_eq!(result, Err::<(), _>(FileError::Panicked));
        assert_eq!(run_blocking(path, || 8).await, Ok(8));
    }

    #[test]
    fn oversized_files_are_not_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("sparse");
        let file = File::create(&path).expect("created");
        file.set_len(1 << 40).expect("sparse");
        let huge = ReadOptions::regular(1 << 39);
        assert!(matches!(read(&path, huge), Err(FileError::TooLarge { .. })));
    }

    #[test]
    fn text_must_be_utf_8() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("text");
        std::fs::write(&path, b"\xff\xfea").expect("written");
        assert_eq!(read_text(&path, OPTIONS), Err(FileError::NotUtf8));
        std::fs::write(&path, "\u{feff}a").expect("written");
        assert_eq!(&**read_text(&path, OPTIONS).expect("read"), "\u{feff}a");
    }
}
