//! Atomic writes, bounded reads and quarantine of state files. The content of the directory is not trusted: a file is
//! opened without blocking and without following links, must be a regular file, and is read up to a limit.
#![allow(
    clippy::disallowed_methods,
    reason = "called on blocking threads only, and reads through `bounded_file`"
)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Take, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::OFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;
use tracing::warn;
use zeroize::Zeroizing;

use exporter_toolkit::bounded_file::{self, FileError, ReadOptions};
use mongodb_atlas_client::OrgId;

/// A failed operation on the state directory.
#[derive(Debug, thiserror::Error)]
#[error("{}: {failure}: {cause}", path.display())]
pub struct StorageError {
    failure: &'static str,
    path: PathBuf,
    cause: io::Error,
}

impl StorageError {
    /// Converts the error of an operation in `dir` that timed out or panicked.
    pub(super) fn from_file_error(dir: &Path, error: &FileError) -> Self {
        let kind = match error {
            FileError::TimedOut(_) => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        io_error("cannot be used", dir)(io::Error::new(kind, error.to_string()))
    }

    /// Returns whether the file system did not respond in time.
    pub(crate) fn is_timeout(&self) -> bool {
        self.cause.kind() == io::ErrorKind::TimedOut
    }
}

fn io_error<'a>(
    failure: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> StorageError + use<'a> {
    move |cause| StorageError {
        failure,
        path: path.to_owned(),
        cause,
    }
}

/// The reason why a state file cannot be used, without any of its content.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// The file cannot be read at the moment, or by this process. The file is left in place.
    #[error("{0}")]
    Unreadable(String),
    /// The file has invalid content. The file is quarantined.
    #[error("{0}")]
    Invalid(String),
}

impl LoadError {
    pub(super) fn invalid(reason: &str) -> Self {
        Self::Invalid(reason.to_owned())
    }
}

impl From<io::Error> for LoadError {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error.to_string())
    }
}

impl From<FileError> for LoadError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::NotRegular(_) | FileError::TooLarge { .. } | FileError::NotUtf8 => {
                Self::Invalid(error.to_string())
            }
            _ => Self::Unreadable(error.to_string()),
        }
    }
}

pub(super) fn create_directory(dir: &Path) -> Result<(), StorageError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(dir)
        .map_err(io_error("cannot be created", dir))
}

/// Returns the names of the files in a directory.
pub(super) fn file_names(dir: &Path) -> Result<Vec<String>, StorageError> {
    let entries = fs::read_dir(dir).map_err(io_error("cannot be read", dir))?;
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names.filter_map(|name| name.into_string().ok()).collect())
}

/// A state file, limited in size.
pub(super) type BoundedReader = BufReader<Take<File>>;

/// Parses `path` with `parse`, and leaves the file in place.
pub(super) fn read_file<T>(
    path: &Path,
    max_bytes: u64,
    parse: impl FnOnce(BoundedReader) -> Result<T, LoadError>,
) -> Result<T, LoadError> {
    parse(open_bounded(path, max_bytes)?)
}

fn open_bounded(path: &Path, max_bytes: u64) -> Result<BoundedReader, FileError> {
    let file = bounded_file::open(path, ReadOptions::regular(max_bytes).without_links())?;
    Ok(BufReader::with_capacity(64 << 10, file.take(max_bytes)))
}

/// Removes temporary files of processes that were killed.
pub(super) fn remove_stale_temp_files(dir: &Path, now: Timestamp, older_than: Duration) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let is_temp_file = entry.file_name().to_str().is_some_and(is_temp_file_name);
        // A time in the future is the result of an incorrect clock.
        let is_stale = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|at| Timestamp::try_from(at).ok())
            .is_some_and(|at| now.duration_since(at).unsigned_abs() > older_than);
        if is_temp_file && is_stale {
            let _ = fs::remove_file(entry.path());
        }
    }
}

const TEMP_SUFFIX: &str = ".tmp";
/// Length of the random part of a temporary file's name. A process id would not be unique: after a restart in a container,
/// a process has the same id.
const TEMP_RANDOM_LEN: usize = 16;
/// Stem of the file that [`probe_writable`] writes.
const PROBE_STEM: &str = "probe";

/// Returns whether [`write_temp_file`] creates files with that name: other programs may use the directory as well.
fn is_temp_file_name(name: &str) -> bool {
    let Some((stem, random)) = name
        .strip_suffix(TEMP_SUFFIX)
        .and_then(|name| name.rsplit_once('.'))
    else {
        return false;
    };
    let is_state_file = OrgId::parse(stem).is_ok()
        || ["credential-", "token-", PROBE_STEM]
            .iter()
            .any(|kind| stem.starts_with(kind));
    is_state_file
        && random.len() == TEMP_RANDOM_LEN
        && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Writes a file into `dir` and removes it.
pub(super) fn probe_writable(dir: &Path) -> Result<(), StorageError> {
    let path = dir.join(PROBE_STEM);
    let written = write_temp_file(&path, |output| output.write_all(b"probe\n"));
    let removed = written.and_then(NamedTempFile::close);
    removed.map_err(io_error("cannot be written", &path))
}

/// Replaces `path` with the output of `write`: a temporary file in the same directory, renamed after its content is
/// synced. The file is readable by its owner only.
pub(super) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), StorageError> {
    write_temp_file(path, write)
        .and_then(|file| Ok(file.persist(path)?))
        .map_err(io_error("cannot be written", path))?;
    // Until the directory is synced, a crash of the machine could restore the old file.
    let dir = parent(path);
    open_directory(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error("cannot be written", dir))
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

fn open_directory(dir: &Path) -> io::Result<File> {
    // A pipe with that name must not block.
    let flags = OFlags::DIRECTORY | OFlags::NONBLOCK;
    OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(dir)
}

/// Writes and syncs a temporary file in the directory of `path`.
fn write_temp_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<NamedTempFile> {
    let mut options = OpenOptions::new();
    // `create_new` opens neither an existing file nor the target of a link.
    options.write(true).create_new(true).mode(0o600);
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let file = tempfile::Builder::new()
        .prefix(&format!("{stem}."))
        .suffix(TEMP_SUFFIX)
        .rand_bytes(TEMP_RANDOM_LEN)
        // `tempfile_in` would add the random name to every error.
        .make_in(parent(path), |path| options.open(path))?;
    let mut output = BufWriter::with_capacity(64 << 10, file);
    write(&mut output)?;
    let file = output
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Removes `path`, if it exists.
pub(super) fn remove_if_exists(path: &Path) -> Result<(), StorageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("cannot be removed", path)(error))
        }
        _ => Ok(()),
    }
}

/// Parses `path` with `parse`. Returns `None` if the file does not exist, or logs a warning and returns `None` if the file
/// cannot be used. An invalid file is quarantined.
pub(super) fn load_or_quarantine<T>(
    path: &Path,
    max_bytes: u64,
    parse: impl FnOnce(BoundedReader) -> Result<T, LoadError>,
) -> Option<T> {
    let result = match open_bounded(path, max_bytes) {
        Err(FileError::NotFound) => return None,
        Err(error) => Err(error.into()),
        Ok(input) => parse(input),
    };
    match result {
        Ok(value) => Some(value),
        Err(LoadError::Unreadable(error)) => {
            warn!(path = %path.display(), error, "ignoring unreadable state file");
            None
        }
        Err(LoadError::Invalid(error)) => {
            let quarantined_as = quarantine(path).unwrap_or_default();
            warn!(path = %path.display(), error, quarantined_as = %quarantined_as.display(), "ignoring invalid state file");
            None
        }
    }
}

/// Renames `path`. A file of an earlier quarantine is replaced, unless that is impossible, for example for a directory.
fn quarantine(path: &Path) -> Option<PathBuf> {
    [".refused", ".refused-2"].into_iter().find_map(|suffix| {
        let mut quarantined = path.as_os_str().to_owned();
        quarantined.push(suffix);
        fs::rename(path, &quarantined)
            .is_ok()
            .then(|| quarantined.into())
    })
}

/// Maximum size of a JSON file.
pub(super) const MAX_JSON_BYTES: u64 = 8 << 20;

/// Replaces `path` with a JSON value.
pub(super) fn save_json(path: &Path, value: &impl Serialize) -> Result<(), StorageError> {
    write_atomically(path, |output| {
        // The buffer is cleared after use: the value may be an access token.
        let mut text = Zeroizing::new(Vec::with_capacity(64 << 10));
        serde_json::to_writer(&mut *text, value)?;
        output.write_all(&text)
    })
}

/// Parses a JSON value.
pub(super) fn read_json<T: DeserializeOwned>(mut input: BoundedReader) -> Result<T, LoadError> {
    let length = input.get_ref().get_ref().metadata()?.len();
    // Allocated once: a growing buffer would leave copies of a token in memory.
    let capacity = usize::try_from(length.min(MAX_JSON_BYTES)).unwrap_or(0) + 1;
    let mut text = Zeroizing::new(Vec::with_capacity(capacity));
    input.read_to_end(&mut text)?;
    serde_json::from_slice(&text)
        // An error message of serde could contain a part of the content.
        .map_err(|_| LoadError::invalid("truncated, or written by another version"))
}
