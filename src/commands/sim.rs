//! `sim`: the simulated Atlas alone.

use std::io::Write as _;

use super::{CommandError, signals};
use crate::app::StartError;
use crate::cli::Args;
use crate::config::{self, ConfigError};
use crate::credentials::Environment;
use mongodb_atlas_client::Clock;
use mongodb_atlas_sim::SimHandle;

pub(super) async fn run(args: &Args, environment: &Environment) -> Result<(), CommandError> {
    let (config, listen) = config::parse_sim_config(args, environment)?;
    let shutdown = signals::shutdown_token()?;
    let Some(address) = listen.first() else {
        return Err(ConfigError(vec!["--sim.listen-address is missing".to_owned()]).into());
    };
    let listener = exporter_toolkit::server::bind(address, "--sim.listen-address")
        .await
        .map_err(StartError::from)?;
    let clock = Clock::system();
    let sim = SimHandle::start(listener, &config, move || clock.now())
        .map_err(CommandError::io("cannot start the simulated Atlas"))?;
    let mut out = std::io::stdout().lock();
    let written = write!(out, "{}", sim.env_exports()).and_then(|()| out.flush());
    drop(out);
    written.map_err(CommandError::io("cannot write to standard output"))?;
    shutdown.cancelled().await;
    sim.stop().await;
    Ok(())
}
