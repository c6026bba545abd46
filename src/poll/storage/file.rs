//! Files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;
use zeroize::Zeroizing;

/// Why something cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {why}; check that --storage.path is a directory the exporter may write to, with room left", path.display())]
pub struct StorageError {
    what: &'static str,
    path: PathBuf,
    why: io::Error,
}

fn failed<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> StorageError + use<'a> {
    move |why| StorageError {
        what,
        path: path.to_owned(),
        why,
    }
}

/// Why a file is not what it should be, in words that do not repeat what is in it.
pub(super) type Unfit = String;

pub(super) fn make_directory(dir: &Path) -> Result<(), StorageError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(failed("cannot make", dir))
}

/// The names of the files in a directory.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, StorageError> {
    let entries = fs::read_dir(dir).map_err(failed("cannot read", dir))?;
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names.filter_map(|name| name.into_string().ok()).collect())
}

/// What `read` makes of `path`, which is left as it is.
pub(super) fn look<T>(
    path: &Path,
    read: impl FnOnce(BufReader<File>) -> Result<T, Unfit>,
) -> Result<T, Unfit> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    read(BufReader::with_capacity(64 << 10, file))
}

/// Removes temporary files that nobody will ever rename.
pub(super) fn sweep(dir: &Path, older_than: Duration) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let temporary = entry.path().extension().is_some_and(|end| end == "tmp");
        let old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > older_than));
        if temporary && old {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Puts what `write` writes in the place of `path`: into a temporary file beside it, which is
/// renamed once the disk has all of it. Only the owner may read it.
pub(super) fn replace(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), StorageError> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("{}-{number}.tmp", std::process::id()));
    let written = write_whole(&temporary, write).and_then(|()| fs::rename(&temporary, path));
    if let Err(why) = written {
        let _ = fs::remove_file(&temporary);
        return Err(failed("cannot write", path)(why));
    }
    // until the directory is on the disk as well, a crash of the machine could bring the old file back
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(failed("cannot write", dir))
}

fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = BufWriter::with_capacity(64 << 10, options.open(path)?);
    write(&mut file)?;
    file.into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()
}

/// Removes `path`, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), StorageError> {
    match fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => {
            Err(failed("cannot remove", path)(why))
        }
        _ => Ok(()),
    }
}

/// What `read` makes of `path`; none when it is not there, cannot be read, or is unfit, which is
/// told. An unfit file is set aside, so that it is not in the way and can be looked at.
pub(super) fn load<T>(
    path: &Path,
    read: impl FnOnce(BufReader<File>) -> Result<T, Unfit>,
) -> Option<T> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return None,
        Err(why) => {
            let error = failed("cannot read", path)(why);
            warn!(%error, "what was kept is not used");
            return None;
        }
    };
    match read(BufReader::with_capacity(64 << 10, file)) {
        Ok(value) => Some(value),
        Err(why) => {
            set_aside(path, &why);
            None
        }
    }
}

fn set_aside(path: &Path, why: &str) {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".refused");
    let moved = fs::rename(path, &aside);
    warn!(
        file = %path.display(),
        why,
        set_aside_as = %aside.display(),
        moved = moved.is_ok(),
        "what was kept is not used"
    );
}

/// A small file with one value.
pub(super) fn save_json(path: &Path, value: &impl Serialize) -> Result<(), StorageError> {
    replace(path, |output| {
        // one buffer that is wiped: it may hold an access token
        let mut text = Zeroizing::new(Vec::with_capacity(64 << 10));
        serde_json::to_writer(&mut *text, value)?;
        output.write_all(&text)
    })
}

/// Most bytes of a small file that are read.
const MAX_SMALL: u64 = 64 << 20;

pub(super) fn load_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    load(path, read_json)
}

/// The value of a small file.
pub(super) fn read_json<T: DeserializeOwned>(input: BufReader<File>) -> Result<T, Unfit> {
    let mut text = Zeroizing::new(Vec::with_capacity(64 << 10));
    input
        .take(MAX_SMALL)
        .read_to_end(&mut text)
        .map_err(|error| error.to_string())?;
    serde_json::from_slice(&text)
        // serde's own words could repeat a part of it
        .map_err(|_| "it is cut off, or was written by another version".to_owned())
}
