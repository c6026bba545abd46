//! Without a command: polls Atlas and serves the metrics.

use tracing::info;

use super::{CommandError, config_loader, signals};
use crate::app::{Dependencies, Exporter};
use crate::cli::Args;
use crate::credentials::Environment;
use crate::humanize::exact;

pub(super) async fn run(args: Args, environment: &Environment) -> Result<(), CommandError> {
    let load = config_loader(args, environment.clone());
    let config = load()?;
    let shutdown = signals::shutdown_token()?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        revision = env!("BUILD_REVISION"),
        credentials = config.credentials.len(),
        organizations = config.credentials.iter().map(|it| it.org_ids.len()).sum::<usize>(),
        shard = %config.shard,
        atlas = %config.base_url,
        interval = %exact(config.poll_interval),
        "starting"
    );
    // A signal must stop the process even while a file system hangs.
    let exporter = tokio::select! {
        started = Exporter::start(config, Dependencies::production(load)) => started?,
        () = shutdown.cancelled() => return Ok(()),
    };
    signals::spawn_sighup_reload(exporter.reloader())?;
    exporter.run(shutdown).await;
    Ok(())
}
