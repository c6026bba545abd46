//! Without a command: watch Atlas and serve the metrics.

use tracing::info;

use super::{Failure, merge, signals};
use crate::cli::Args;
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::credentials::Environment;
use crate::exporter::Exporter;

pub(super) async fn run(
    args: &Args,
    environment: &Environment,
    mistakes: Option<ConfigError>,
) -> Result<(), Failure> {
    let config = merge(Config::check(args, environment), mistakes)?;
    let shutdown = signals::shutdown()?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        revision = env!("BUILD_REVISION"),
        organizations = config.orgs.len(),
        credential = config.credential.kind(),
        atlas = %config.base_url,
        interval = %humantime::format_duration(config.poll_interval),
        "starting"
    );
    let exporter = Exporter::start(config, Clock::system()).await?;
    exporter.run(shutdown).await;
    Ok(())
}
