//! Files that are there whole or not at all. What stands in the place of one is never trusted: it is opened without
//! blocking and without following links, must be a regular file, and is read up to a bound.
#![allow(
    clippy::disallowed_methods,
    reason = "called off the serving threads alone, and reads through `bounded_file`"
)]

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Take, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;
use zeroize::Zeroizing;

use exporter_toolkit::bounded_file::{self, FileError, FileMode, ReadOptions};
use mongodb_atlas_client::OrgId;

/// Why something cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {why}; check that --storage.path is a directory the exporter may write to, with room left", path.display())]
pub struct StorageError {
    what: &'static str,
    path: PathBuf,
    why: io::Error,
}

impl StorageError {
    /// Work in `dir` that did not end in time, or panicked.
    pub(super) fn from_file_error(dir: &Path, error: &FileError) -> Self {
        let kind = match error {
            FileError::TimedOut(_) => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        Self {
            what: "cannot use",
            path: dir.to_owned(),
            why: io::Error::new(kind, error.to_string()),
        }
    }

    /// Whether the file system did not answer in time.
    pub(crate) fn is_timeout(&self) -> bool {
        self.why.kind() == io::ErrorKind::TimedOut
    }
}

fn io_error<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> StorageError + use<'a> {
    move |why| StorageError {
        what,
        path: path.to_owned(),
        why,
    }
}

/// Why a state file is not used, in words that do not repeat what is in it.
#[derive(Debug)]
pub(super) enum LoadError {
    /// It cannot be read now, or not by this process. It stays where it is.
    Unreadable(String),
    /// It is not what this program writes. It is moved out of the way.
    Invalid(String),
}

impl LoadError {
    pub(super) fn invalid(why: &str) -> Self {
        Self::Invalid(why.to_owned())
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

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) | Self::Invalid(why) => f.write_str(why),
        }
    }
}

pub(super) fn create_directory(dir: &Path) -> Result<(), StorageError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(io_error("cannot make", dir))
}

/// Whether every user of the machine may replace what is in `dir`.
pub(super) fn is_world_writable(dir: &Path) -> bool {
    FileMode::from_path(dir).is_ok_and(FileMode::is_world_writable)
}

/// The names of the files in a directory.
pub(super) fn file_names(dir: &Path) -> Result<Vec<String>, StorageError> {
    let entries = fs::read_dir(dir).map_err(io_error("cannot read", dir))?;
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names.filter_map(|name| name.into_string().ok()).collect())
}

/// A state file, up to its bound.
pub(super) type BoundedReader = BufReader<Take<File>>;

/// What `read` makes of `path`, which is left as it is.
pub(super) fn read_file<T>(
    path: &Path,
    max_bytes: u64,
    read: impl FnOnce(BoundedReader) -> Result<T, LoadError>,
) -> Result<T, LoadError> {
    read(open_bounded(path, max_bytes)?)
}

fn open_bounded(path: &Path, max_bytes: u64) -> Result<BoundedReader, FileError> {
    let file = bounded_file::open(path, ReadOptions::regular(max_bytes).without_links())?;
    Ok(BufReader::with_capacity(64 << 10, file.take(max_bytes)))
}

/// Removes temporary files that nobody will ever rename.
pub(super) fn remove_stale_temp_files(dir: &Path, now: Timestamp, older_than: Duration) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let temporary = entry.file_name().to_str().is_some_and(is_temp_file_name);
        // a time to come is one of a clock that was wrong
        let old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|at| Timestamp::try_from(at).ok())
            .is_some_and(|at| now.duration_since(at).unsigned_abs() > older_than);
        if temporary && old {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether [`write_atomically`] makes files of that name: the directory may hold other people's.
fn is_temp_file_name(name: &str) -> bool {
    let Some((stem, number)) = name
        .strip_suffix(".tmp")
        .and_then(|name| name.rsplit_once('.'))
    else {
        return false;
    };
    let of_a_state_file = OrgId::parse(stem).is_ok()
        || ["credential-", "token-", PROBE_STEM]
            .iter()
            .any(|kind| stem.starts_with(kind));
    of_a_state_file && number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The name of a file that is written to see whether files can be.
const PROBE_STEM: &str = "probe";

/// Writes a file into `dir` and removes it.
pub(super) fn probe_writable(dir: &Path) -> Result<(), StorageError> {
    let path = dir.join(PROBE_STEM);
    let written = write_temp_file(&path, |output| output.write_all(b"probe\n"));
    let temporary = written.map_err(io_error("cannot write", &path))?;
    remove_if_exists(&temporary)
}

/// Puts what `write` writes in the place of `path`: into a temporary file beside it, which is
/// renamed once the disk has all of it. Only the owner may read it.
pub(super) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), StorageError> {
    let temporary = write_temp_file(path, write).map_err(io_error("cannot write", path))?;
    if let Err(why) = fs::rename(&temporary, path) {
        let _ = fs::remove_file(&temporary);
        return Err(io_error("cannot write", path)(why));
    }
    // until the directory is on the disk as well, a crash of the machine could bring the old file back
    let dir = path.parent().unwrap_or(Path::new("."));
    open_directory(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error("cannot write", dir))
}

#[cfg(unix)]
fn open_directory(dir: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;

    use rustix::fs::OFlags;

    // a pipe in its place must not block
    let flags = OFlags::DIRECTORY | OFlags::NONBLOCK;
    OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(dir)
}

#[cfg(not(unix))]
fn open_directory(dir: &Path) -> io::Result<File> {
    File::open(dir)
}

/// Times that another name is tried when a file of that name is there.
const MAX_NAME_ATTEMPTS: u32 = 8;

/// Writes all of a file beside `path` and hands out its name.
fn write_temp_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<PathBuf> {
    let mut options = OpenOptions::new();
    // never one that is there, nor what a link leads to
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut names = 0;
    let (temporary, file) = loop {
        // a number of the process would be the same again after a restart in a container
        let temporary = path.with_extension(format!("{:016x}.tmp", fastrand::u64(..)));
        names += 1;
        match options.open(&temporary) {
            Ok(file) => break (temporary, file),
            Err(error)
                if error.kind() == io::ErrorKind::AlreadyExists && names < MAX_NAME_ATTEMPTS => {}
            Err(error) => return Err(error),
        }
    };
    let mut file = BufWriter::with_capacity(64 << 10, file);
    let written = write(&mut file)
        .and_then(|()| file.into_inner().map_err(io::IntoInnerError::into_error))
        .and_then(|file| file.sync_all());
    match written {
        Ok(()) => Ok(temporary),
        Err(error) => {
            let _ = fs::remove_file(&temporary);
            Err(error)
        }
    }
}

/// Removes `path`, if it is there.
pub(super) fn remove_if_exists(path: &Path) -> Result<(), StorageError> {
    match fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => {
            Err(io_error("cannot remove", path)(why))
        }
        _ => Ok(()),
    }
}

/// What `read` makes of `path`; none when it is not there, cannot be read, or is unfit, which is
/// logged. An unfit file is set aside, so that it is not in the way and can be looked at.
pub(super) fn load_or_quarantine<T>(
    path: &Path,
    max_bytes: u64,
    read: impl FnOnce(BoundedReader) -> Result<T, LoadError>,
) -> Option<T> {
    let result = match open_bounded(path, max_bytes) {
        Err(FileError::NotFound) => return None,
        Err(error) => Err(error.into()),
        Ok(input) => read(input),
    };
    match result {
        Ok(value) => Some(value),
        Err(LoadError::Unreadable(error)) => {
            warn!(path = %path.display(), error, "ignoring unreadable state file");
            None
        }
        Err(LoadError::Invalid(error)) => {
            let quarantined_as = quarantine(path);
            let quarantined_as = quarantined_as.as_deref().unwrap_or(Path::new("")).display();
            warn!(path = %path.display(), error, %quarantined_as, "ignoring invalid state file");
            None
        }
    }
}

/// Moves `path` aside: over what was set aside before, unless that cannot be replaced, such as a directory.
fn quarantine(path: &Path) -> Option<PathBuf> {
    [".refused", ".refused-2"].into_iter().find_map(|suffix| {
        let mut aside = path.as_os_str().to_owned();
        aside.push(suffix);
        fs::rename(path, &aside).is_ok().then(|| aside.into())
    })
}

/// A small file with one value.
pub(super) fn save_json(path: &Path, value: &impl Serialize) -> Result<(), StorageError> {
    write_atomically(path, |output| {
        // one buffer that is wiped: it may hold an access token
        let mut text = Zeroizing::new(Vec::with_capacity(64 << 10));
        serde_json::to_writer(&mut *text, value)?;
        output.write_all(&text)
    })
}

/// Most bytes of a small file.
pub(super) const MAX_JSON_BYTES: u64 = 8 << 20;

pub(super) fn load_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    load_or_quarantine(path, MAX_JSON_BYTES, read_json)
}

/// The value of a small file.
pub(super) fn read_json<T: DeserializeOwned>(mut input: BoundedReader) -> Result<T, LoadError> {
    let length = input.get_ref().get_ref().metadata()?.len();
    // room for all of it at once: a buffer that grows leaves copies of a token behind
    let capacity = usize::try_from(length.min(MAX_JSON_BYTES)).unwrap_or(0) + 1;
    let mut text = Zeroizing::new(Vec::with_capacity(capacity));
    input.read_to_end(&mut text)?;
    serde_json::from_slice(&text)
        // serde's own words could repeat a part of it
        .map_err(|_| LoadError::invalid("truncated, or written by another version"))
}
