//! `once`: polls every organization once, and writes the metrics to standard output or to a file, for cron and for the
//! textfile collector of `node_exporter`.
//!
//! A series that is missing from the file would look like a deleted key. Therefore nothing is written if an organization has
//! no data: the file of the previous run remains, and its age is visible.
#![allow(clippy::disallowed_methods, reason = "this command serves no requests")]

use std::fs::{File, Metadata, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{
    FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, fcntl_setfl};
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;

use super::one_shot::{poll_once, write_unless_stopped};
use super::{CommandError, signals};
use crate::app::OneShotResult;
use crate::cli::Args;
use crate::config;
use crate::credentials::Environment;

pub(super) async fn run(args: Args, environment: &Environment) -> Result<(), CommandError> {
    let output = config::parse_once_output(&args, environment)?;
    let shutdown = signals::shutdown_token()?;
    if let Some(path) = output.clone() {
        // An unusable output is reported before all organizations are polled.
        let check = move || check_output(&path).map_err(output_error(&path));
        write_unless_stopped(&shutdown, check).await?;
    }
    let (config, result) = poll_once(args, environment, &shutdown, |_| {}).await?;
    if let Some(dir) = &config.storage_path {
        result.add_stored_inventories(dir).await;
    }
    let missing = result.orgs_without_data();
    if !missing.is_empty() {
        let target = match &output {
            None => "nothing was written".to_owned(),
            Some(path) => format!("{} was not changed", path.display()),
        };
        return Err(CommandError::NotWritten { missing, target });
    }
    let failed = result.failed_targets.clone();
    let stop = shutdown.clone();
    write_unless_stopped(&shutdown, move || match output {
        None => {
            write_exposition(&result, io::stdout().lock(), &stop).map_err(CommandError::stdout())
        }
        Some(path) => write_file(&result, &path, &stop).map_err(output_error(&path)),
    })
    .await?;
    if failed.is_empty() {
        Ok(())
    } else {
        Err(CommandError::Stale(failed))
    }
}

fn output_error(path: &Path) -> impl FnOnce(io::Error) -> CommandError + use<> {
    CommandError::io(format!("{} (--output): cannot be written", path.display()))
}

fn write_exposition(
    result: &OneShotResult,
    mut to: impl Write,
    stop: &CancellationToken,
) -> io::Result<()> {
    let mut exposition = result.exposition();
    while let Some(chunk) = exposition.next_chunk() {
        if stop.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        to.write_all(&chunk)?;
    }
    to.flush()
}

/// The file to which the metrics are written.
enum Target {
    /// A regular file, which is replaced; `existing` is the previous one.
    Regular {
        path: PathBuf,
        existing: Option<Metadata>,
    },
    /// A pipe or a character device.
    Special,
}

impl Target {
    fn find(path: &Path) -> io::Result<Self> {
        let existing = match path.metadata() {
            Ok(existing) if existing.is_file() => Some(existing),
            Ok(existing) => return check_special(&existing).map(|()| Self::Special),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let path = follow_links(path)?;
        if path.as_os_str().as_bytes().ends_with(b"/") {
            return Err(rustix::io::Errno::NOTDIR.into());
        }
        Ok(Self::Regular { path, existing })
    }
}

/// Checks that the output can be written. Does not open a pipe, because its reader would see the end of the file.
fn check_output(path: &Path) -> io::Result<()> {
    match Target::find(path)? {
        Target::Regular { path, .. } => create_temp_file(&path).map(drop),
        Target::Special => Ok(()),
    }
}

/// Replaces a regular file atomically. Writes to special files, such as a pipe or a device, in place.
fn write_file(result: &OneShotResult, path: &Path, stop: &CancellationToken) -> io::Result<()> {
    match Target::find(path)? {
        Target::Regular { path, existing } => {
            write_file_atomically(result, &path, existing.as_ref(), stop)
        }
        Target::Special => write_exposition(result, open_special(path)?, stop),
    }
}

/// Replaces `path` by a new file; a collector reads either the previous or the new file. Mode and owner are those of the
/// `existing` file; a new file is world-readable.
fn write_file_atomically(
    result: &OneShotResult,
    path: &Path,
    existing: Option<&Metadata>,
    stop: &CancellationToken,
) -> io::Result<()> {
    let file = create_temp_file(path)?;
    // `NamedTempFile` adds the random name to every error of a write, its file does not.
    write_exposition(result, io::BufWriter::new(file.as_file()), stop)?;
    set_owner_and_mode(file.as_file(), existing)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Creates a temporary file in the directory of `path`.
fn create_temp_file(path: &Path) -> io::Result<NamedTempFile> {
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    // `tempfile_in` adds the random name to the error.
    tempfile::Builder::new().make_in(directory, |path| options.open(path))
}

fn set_owner_and_mode(file: &File, existing: Option<&Metadata>) -> io::Result<()> {
    let mode = existing.map_or(0o644, |existing| existing.mode() & 0o777);
    if let Some(existing) = existing {
        // Only root can change the owner. Otherwise the current user owns the new file, and can set its group to any group
        // of this user.
        let gid = Some(existing.gid());
        let _ = fchown(file, Some(existing.uid()), gid).or_else(|_| fchown(file, None, gid));
    }
    file.set_permissions(Permissions::from_mode(mode))
}

/// Maximum number of consecutive symbolic links, the same as on Linux.
const MAX_LINKS: u32 = 40;

/// Resolves symbolic links at the end of `path`, including dangling links, so that the link itself is not replaced.
fn follow_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(target) = path.read_link() else {
            return Ok(path);
        };
        path = match path.parent() {
            Some(directory) => directory.join(target),
            None => target,
        };
    }
    Err(io::Error::other("too many levels of symbolic links"))
}

/// Checks that a file that is not regular is a pipe or a character device.
fn check_special(existing: &Metadata) -> io::Result<()> {
    let kind = existing.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !kind.is_fifo() && !kind.is_char_device() {
        return Err(io::Error::other(
            "expected a file, a pipe or a character device",
        ));
    }
    Ok(())
}

/// Opens a pipe or a character device. Fails if a pipe has no reader.
fn open_special(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options()
        .write(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(code) if code == rustix::io::Errno::NXIO.raw_os_error() => {
                io::Error::other("no process reads the pipe")
            }
            _ => error,
        })?;
    fcntl_setfl(&file, OFlags::empty())?;
    Ok(file)
}
