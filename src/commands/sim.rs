//! `sim`: runs the simulated Atlas alone.

use super::terminal::write_banner;
use super::{CommandError, signals};
use crate::app::StartError;
use crate::cli::Args;
use crate::config::{self, ConfigError, Diagnostic};
use crate::credentials::Environment;
use mongodb_atlas_client::Clock;
use mongodb_atlas_sim::SimHandle;

pub(super) async fn run(args: &Args, environment: &Environment) -> Result<(), CommandError> {
    let (config, listen) = config::parse_sim_config(args, environment)?;
    let shutdown = signals::shutdown_token()?;
    let Some(address) = listen.first() else {
        let error = Diagnostic::new("", "--sim.listen-address is missing");
        return Err(ConfigError::from(error).into());
    };
    let listener = exporter_toolkit::server::bind(address, "--sim.listen-address")
        .await
        .map_err(StartError::from)?;
    let clock = Clock::system();
    let sim = SimHandle::start(listener, &config, move || clock.now())
        .map_err(CommandError::io("cannot start the simulated Atlas"))?;
    write_banner(&sim.env_exports())?;
    shutdown.cancelled().await;
    sim.stop().await;
    Ok(())
}
