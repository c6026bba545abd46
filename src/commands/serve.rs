//! Without a command: watch Atlas and serve the metrics.

use tracing::info;

use super::{Failure, loader, signals};
use crate::app::{Exporter, Surroundings};
use crate::cli::Args;
use crate::credentials::Environment;

pub(super) async fn run(args: Args, environment: &Environment) -> Result<(), Failure> {
    let load = loader(args, environment.clone());
    let config = load()?;
    let shutdown = signals::shutdown()?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        revision = env!("BUILD_REVISION"),
        credentials = config.accounts.len(),
        organizations = config.accounts.iter().map(|account| account.orgs.len()).sum::<usize>(),
        shard = %config.shard,
        atlas = %config.base_url,
        interval = %humantime::format_duration(config.poll_interval),
        "starting"
    );
    // a file system that hangs must not keep a signal waiting
    let exporter = tokio::select! {
        started = Exporter::start(config, Surroundings::real(load)) => started?,
        () = shutdown.cancelled() => return Ok(()),
    };
    signals::reload_on_hangup(exporter.control())?;
    exporter.run(shutdown).await;
    Ok(())
}
