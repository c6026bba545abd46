//! `demo`: a simulated Atlas and the exporter that watches it, in one process.

use std::io::Write as _;

use tokio::net::TcpListener;

use super::{CommandError, config_loader, signals};
use crate::app::{Dependencies, Exporter};
use crate::cli::{Args, FLAGS};
use crate::config;
use crate::credentials::Environment;
use mongodb_atlas_client::Clock;
use mongodb_atlas_sim::SimHandle;

pub(super) async fn run(args: Args, environment: &Environment) -> Result<(), CommandError> {
    let (sim_config, _) = config::parse_sim_config(&args, environment)?;
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .map_err(CommandError::io(
            "cannot open a port for the simulated Atlas",
        ))?;
    let scenario = sim_config.scenario;
    let clock = Clock::system();
    let sim = SimHandle::start(listener, &sim_config, move || clock.now())
        .map_err(CommandError::io("cannot start the simulated Atlas"))?;
    let load = config_loader(args, sim_environment(&sim, environment));
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
        "A simulated Atlas with {orgs} organizations and {keys} keys ({scenario}), watched by the exporter:\n\n\
         \x20 metrics          {base}{path}\n\
         \x20 page             {base}/\n\
         \x20 readiness        {base}/-/ready\n\
         \x20 simulated Atlas  {}\n\n\
         Prometheus and all alerts beside it, on http://127.0.0.1:19090/alerts, from the source tree:\n\n\
         \x20 make prometheus\n\n\
         Ctrl-C ends it.\n",
        sim.base_url()
    );
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    drop(out);
    written.map_err(CommandError::io("cannot write to standard output"))?;
    exporter.run(shutdown).await;
    sim.stop().await;
    Ok(())
}

/// What the exporter of the demo is told: the simulated Atlas and its throw-away service account,
/// and what the real environment says of the rest.
fn sim_environment(sim: &SimHandle, environment: &Environment) -> Environment {
    let account = sim.credentials();
    let defaults = [
        (
            "ATLAS_AI_KEYS_EXPORTER_WEB_LISTEN_ADDRESS",
            "127.0.0.1:10064",
        ),
        // no web page from elsewhere reads the demo by a name that leads here
        ("ATLAS_AI_KEYS_EXPORTER_WEB_ALLOWED_HOSTS", "localhost"),
        // short, since the simulated Atlas has no quota to spare and people want to see life
        ("ATLAS_AI_KEYS_EXPORTER_ATLAS_POLL_INTERVAL", "15s"),
    ];
    let fixed = [
        ("MONGODB_ATLAS_BASE_URL", sim.base_url()),
        ("MONGODB_ATLAS_ORG_ID", sim.org_ids().join(",")),
        ("MONGODB_ATLAS_CLIENT_ID", account.client_id),
        ("MONGODB_ATLAS_CLIENT_SECRET", account.client_secret),
    ];
    let given = FLAGS
        .iter()
        .filter_map(|flag| Some((flag.env, environment.get(flag.env)?)));
    Environment::from_vars(
        defaults
            .map(|(name, value)| (name, value.to_owned()))
            .into_iter()
            .chain(given)
            .chain(fixed),
    )
}
