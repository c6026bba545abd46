//! Shared parts of `once` and `keys`: one poll of every organization, and output that a signal can interrupt.

use tokio_util::sync::CancellationToken;

use super::{CommandError, config_loader};
use crate::app::{Dependencies, Exporter, OneShotResult, PollProgress};
use crate::cli::Args;
use crate::config::Config;
use crate::credentials::Environment;
use crate::shard::Shard;

/// Polls every organization once, without serving or storing anything.
pub(super) async fn poll_once(
    args: Args,
    environment: &Environment,
    shutdown: &CancellationToken,
    progress: impl FnMut(PollProgress),
) -> Result<(Config, OneShotResult), CommandError> {
    let load = config_loader(args, environment.clone());
    let config = load()?;
    let exporter = Exporter::start(
        config.clone().for_one_shot(),
        Dependencies::production(load),
    )
    .await?;
    let result = exporter.run_once(shutdown.clone(), progress).await;
    if shutdown.is_cancelled() {
        return Err(CommandError::Interrupted);
    }
    // One of several shards can be empty. Without shards, an empty result means that the credential lost its access.
    if result.is_empty() && config.shard == Shard::ALL {
        return Err(CommandError::NoOrganizations);
    }
    Ok((config, result))
}

/// Runs `write` on a blocking thread, so that a signal stops the process even if no process reads the pipe.
pub(super) async fn write_unless_stopped<T: Send + 'static>(
    shutdown: &CancellationToken,
    write: impl FnOnce() -> Result<T, CommandError> + Send + 'static,
) -> Result<T, CommandError> {
    let writing = tokio::task::spawn_blocking(write);
    let written = shutdown.run_until_cancelled(writing).await;
    let written = written.ok_or(CommandError::Interrupted)?;
    written.map_err(|error| CommandError::io("output: cannot be written")(error.into()))?
}
