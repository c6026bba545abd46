//! `demo` and `sim`: the simulated Atlas, with an exporter in the same process or without one.

use std::io::{self, Write as _};
use std::sync::Arc;

use jiff::ToSpan as _;
use jiff::tz::TimeZone;
use tokio::net::TcpListener;

use super::{CommandError, config_loader, signals};
use crate::app::{ConfigLoader, Dependencies, Exporter, StartError};
use crate::cli::{Args, DEMO_DEFAULTS, FLAGS};
use crate::config::{self, ConfigError, Diagnostic};
use crate::credentials::Environment;
use crate::key_policy::{Exemption, Exemptions, KeyPolicy, KeySelector};
use mongodb_atlas_client::Clock;
use mongodb_atlas_sim::{SimConfig, SimHandle};

/// Runs a simulated Atlas and an exporter that polls it.
pub(super) async fn run_demo(args: Args, environment: &Environment) -> Result<(), CommandError> {
    let (sim_config, _) = config::parse_sim_config(&args, environment)?;
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .map_err(CommandError::io(
            "port of the simulated Atlas: cannot be opened",
        ))?;
    let scenario = sim_config.scenario;
    let sim = start_sim(listener, &sim_config)?;
    let load = with_demo_exemptions(config_loader(args, sim_environment(&sim, environment)));
    let config = load()?;
    let (path, orgs) = (config.telemetry_path.clone(), sim.org_ids().len());
    let shutdown = signals::shutdown_token()?;
    let exporter = Exporter::start(config, Dependencies::production(load)).await?;
    signals::spawn_sighup_reload(exporter.reloader())?;
    let base = exporter
        .addresses()
        .first()
        .map_or_else(String::new, |address| format!("http://{address}"));
    let keys: u64 = sim.with_world(|world| world.count_by_status().values().sum());
    let text = format!(
        "Simulated Atlas with {orgs} organizations and {keys} keys (scenario: {scenario}), polled by the exporter:\n\n\
         \x20 metrics          {base}{path}\n\
         \x20 page             {base}/\n\
         \x20 readiness        {base}/-/ready\n\
         \x20 simulated Atlas  {}\n\n\
         To run Prometheus with all alerts on http://127.0.0.1:19090/alerts, in the source tree:\n\n\
         \x20 make prometheus\n\n\
         Press Ctrl-C to stop.\n",
        sim.base_url()
    );
    write_banner(&text)?;
    exporter.run(shutdown).await;
    sim.stop().await;
    Ok(())
}

/// Adds exemptions for some simulated keys; one of the exemptions ends soon. A configuration file replaces them.
fn with_demo_exemptions(load: ConfigLoader) -> ConfigLoader {
    let exemption = |name: &str, reason: &str, days: i32| {
        let today = TimeZone::UTC.to_datetime(Clock::system().now()).date();
        Some(Exemption {
            selector: KeySelector::parse_name(name, None).ok()?,
            reason: reason.to_owned(),
            until: today.saturating_add(days.days()),
        })
    };
    let exemptions = [
        exemption(
            "*-backfill-[1-4]*",
            "disaster recovery, tested each quarter",
            200,
        ),
        exemption("*-notebook-9*", "workshop material", 10),
    ];
    let exemptions = Exemptions::new(exemptions.into_iter().flatten().collect());
    let policy = Arc::new(KeyPolicy {
        exemptions: exemptions.unwrap_or_default(),
        ..KeyPolicy::default()
    });
    Arc::new(move || {
        let mut config = load()?;
        if config.config_file.is_none() {
            config.key_policy = Arc::clone(&policy);
        }
        Ok(config)
    })
}

/// Creates the environment of the exporter. The address and the service account of the simulated Atlas take precedence
/// over the variables of the process, and these over the defaults of `demo`.
fn sim_environment(sim: &SimHandle, environment: &Environment) -> Environment {
    let credentials = sim.credentials();
    let defaults = DEMO_DEFAULTS.iter().filter_map(|(name, value)| {
        let flag = FLAGS.iter().find(|flag| flag.name == *name)?;
        Some((flag.env, (*value).to_owned()))
    });
    let overrides = [
        ("MONGODB_ATLAS_BASE_URL", sim.base_url()),
        ("MONGODB_ATLAS_ORG_ID", sim.org_ids().join(",")),
        ("MONGODB_ATLAS_CLIENT_ID", credentials.client_id),
        ("MONGODB_ATLAS_CLIENT_SECRET", credentials.client_secret),
    ];
    let inherited = FLAGS
        .iter()
        .filter_map(|flag| Some((flag.env, environment.get(flag.env)?)));
    Environment::from_vars(defaults.chain(inherited).chain(overrides))
}

/// Runs the simulated Atlas alone.
pub(super) async fn run_sim(args: &Args, environment: &Environment) -> Result<(), CommandError> {
    let (config, listen) = config::parse_sim_config(args, environment)?;
    let shutdown = signals::shutdown_token()?;
    let Some(address) = listen.first() else {
        let error = Diagnostic::new("--sim.listen-address", "missing value");
        return Err(ConfigError(vec![error]).into());
    };
    let listener = exporter_toolkit::server::bind(address, "--sim.listen-address")
        .await
        .map_err(StartError::from)?;
    let sim = start_sim(listener, &config)?;
    write_banner(&sim.env_exports())?;
    shutdown.cancelled().await;
    sim.stop().await;
    Ok(())
}

fn start_sim(listener: TcpListener, config: &SimConfig) -> Result<SimHandle, CommandError> {
    let clock = Clock::system();
    SimHandle::start(listener, config, move || clock.now())
        .map_err(CommandError::io("cannot start the simulated Atlas"))
}

/// Writes to standard output. An error ends the command, because nothing else reports the addresses.
fn write_banner(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(CommandError::stdout())
}
