//! What `once` and `keys` have in common: one poll of every organization, and output that a signal can interrupt.

use tokio_util::sync::CancellationToken;

use super::{Failure, loader};
use crate::app::{Exporter, Progress, Round, Surroundings};
use crate::cli::Args;
use crate::config::Config;
use crate::credentials::Environment;
use crate::shard::Shard;

/// Polls every organization once. Nobody is served and nothing is stored: this is the whole life of the process.
pub(super) async fn poll_once(
    args: Args,
    environment: &Environment,
    shutdown: &CancellationToken,
    progress: impl FnMut(Progress),
) -> Result<(Config, Round), Failure> {
    let load = loader(args, environment.clone());
    let config = load()?;
    let exporter = Exporter::start(config.clone().alone(), Surroundings::real(load)).await?;
    let round = exporter.once(shutdown.clone(), progress).await;
    if shutdown.is_cancelled() {
        return Err(Failure::Interrupted);
    }
    // one share of many can be empty; nothing at all means that the credential has lost its access
    if round.is_empty() && config.shard == Shard::WHOLE {
        return Err(Failure::NoOrganizations);
    }
    Ok((config, round))
}

/// Runs `write` on a thread that may block: a pipe that nobody reads must not keep a signal from ending the process.
pub(super) async fn write_unless_stopped(
    shutdown: &CancellationToken,
    write: impl FnOnce() -> Result<(), Failure> + Send + 'static,
) -> Result<(), Failure> {
    tokio::select! {
        written = tokio::task::spawn_blocking(write) => {
            written.map_err(|error| Failure::system("cannot write")(error.into()))?
        }
        () = shutdown.cancelled() => Err(Failure::Interrupted),
    }
}
