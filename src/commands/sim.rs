//! `sim`: the simulated Atlas alone.

use std::io::Write as _;

use super::{Failure, signals};
use crate::cli::Args;
use crate::clock::Clock;
use crate::config::{self, ConfigError};
use crate::credentials::Environment;
use crate::exporter::StartError;
use crate::sim::SimHandle;
use crate::web;

pub(super) async fn run(args: &Args, environment: &Environment) -> Result<(), Failure> {
    let (config, listen) = config::check_sim(args, environment)?;
    let shutdown = signals::shutdown()?;
    let Some(address) = listen.first() else {
        return Err(ConfigError(vec!["--sim.listen-address is missing".to_owned()]).into());
    };
    let listener = web::bind(address, "--sim.listen-address")
        .await
        .map_err(StartError::from)?;
    let sim = SimHandle::start(listener, &config, Clock::system())
        .map_err(Failure::system("cannot start the simulated Atlas"))?;
    let mut out = std::io::stdout().lock();
    let written = write!(out, "{}", sim.banner()).and_then(|()| out.flush());
    drop(out);
    written.map_err(Failure::system("cannot write to standard output"))?;
    shutdown.cancelled().await;
    sim.stop().await;
    Ok(())
}
