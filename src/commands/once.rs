//! `once`: one round, and its exposition on standard output or in a file: for cron, and for
//! `node_exporter`'s textfile collector.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::{Failure, loader, signals};
use crate::cli::{Args, ONCE_FLAGS};
use crate::credentials::Environment;
use crate::exporter::{Exporter, Round, Surroundings};

pub(super) async fn run(args: Args, environment: &Environment) -> Result<(), Failure> {
    let output = ONCE_FLAGS
        .first()
        .and_then(|flag| args.given(flag, environment))
        .and_then(|(values, _)| values.into_iter().next())
        .map(PathBuf::from);
    let load = loader(args, environment.clone());
    // nobody is served, and nothing is kept: this is the whole life of the process
    let config = load()?.alone();
    let shutdown = signals::shutdown()?;
    let exporter = Exporter::start(config, Surroundings::real(load)).await?;
    let round = exporter.once(shutdown.clone(), |_| {}).await;
    if shutdown.is_cancelled() {
        return Err(Failure::Interrupted);
    }
    match &output {
        None => write(&round, io::stdout().lock())
            .map_err(Failure::system("cannot write to standard output"))?,
        Some(path) => write_file(&round, path)
            .map_err(Failure::system("cannot write the file of --output"))?,
    }
    if round.failed.is_empty() {
        Ok(())
    } else {
        Err(Failure::Incomplete(round.failed))
    }
}

fn write(round: &Round, mut to: impl Write) -> io::Result<()> {
    let mut exposition = round.exposition();
    while let Some(piece) = exposition.next_piece() {
        to.write_all(&piece)?;
    }
    to.flush()
}

/// Puts the file into its place in one step, readable for everybody: a collector sees the one before
/// or this one.
fn write_file(round: &Round, path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = NamedTempFile::new_in(folder)?;
    write(round, io::BufWriter::new(&mut file))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let readable = std::fs::Permissions::from_mode(0o644);
        file.as_file().set_permissions(readable)?;
    }
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
