//! An exporter and a simulated Atlas in simulated time: a day passes in the time that its work takes.

use std::sync::Arc;
use std::time::Duration;

use atlas_ai_keys_exporter::app::{ConfigLoader, Dependencies, Exporter, Reloader};
use atlas_ai_keys_exporter::cli::Args;
use atlas_ai_keys_exporter::config::Config;
use atlas_ai_keys_exporter::credentials::Environment;
use atlas_ai_keys_exporter::metrics::Format;
use atlas_ai_keys_exporter::web::AppState;
use jiff::Timestamp;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::Transport;
use mongodb_atlas_sim::{LoggedRequest, SimConfig, SimEndpoint, SimHandle};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::sim_transport::SimTransport;
use super::{Scrape, sim_env};

/// A simulated Atlas whose clock is that of the paused runtime.
pub fn in_process_sim(config: &SimConfig) -> Arc<SimHandle> {
    let clock = Clock::simulated("2026-03-01T00:00:00Z".parse::<Timestamp>().unwrap());
    Arc::new(sim_at(config, &clock))
}

/// A simulated Atlas without a network, whose time is that of `clock`.
pub fn sim_at(config: &SimConfig, clock: &Clock) -> SimHandle {
    let clock = clock.clone();
    SimHandle::in_process(config, move || clock.now())
}

/// The clock of the simulated Atlas, for the exporter.
pub fn client_clock(sim: &Arc<SimHandle>) -> Clock {
    let sim = Arc::clone(sim);
    Clock::from_fn(move || sim.now())
}

/// An exporter in simulated time. Needs a runtime whose time is paused.
pub struct SimHarness {
    pub sim: Arc<SimHandle>,
    pub control: Arc<Reloader>,
    pub app: Arc<AppState>,
    shutdown: CancellationToken,
    run_task: JoinHandle<()>,
}

impl SimHarness {
    /// An exporter that watches every organization of `sim` with its service account.
    pub async fn start(sim: &Arc<SimHandle>, flags: &[&str]) -> Self {
        Self::start_with(sim, sim_env(sim), flags).await
    }

    /// An exporter that is told these variables.
    pub async fn start_with(
        sim: &Arc<SimHandle>,
        variables: Vec<(String, String)>,
        flags: &[&str],
    ) -> Self {
        let mut line = vec!["x", "--web.listen-address", "127.0.0.1:0"];
        line.extend(flags);
        let args = Args::parse(line).unwrap();
        let environment = Environment::from_vars(variables);
        let load: ConfigLoader = Arc::new(move || Config::load(&args, &environment));
        let config = load().unwrap();
        let wire = Arc::clone(sim);
        let surroundings = Dependencies {
            clock: client_clock(sim),
            transport_factory: Arc::new(move |_| {
                Ok(Arc::new(SimTransport(Arc::clone(&wire))) as Arc<dyn Transport>)
            }),
            load_config: load,
        };
        let exporter = Exporter::start(config, surroundings).await.unwrap();
        let (app, control) = (exporter.state(), exporter.reloader());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(exporter.run(shutdown.clone()));
        Self {
            sim: Arc::clone(sim),
            control,
            app,
            shutdown,
            run_task: running,
        }
    }

    pub fn scrape(&self) -> Scrape {
        let (settings, own) = (self.app.options.get(), self.app.metrics.gather());
        let exposition = self.app.exposition(&settings, Format::Text, own);
        Scrape::parse(&String::from_utf8(exposition.into_bytes()).unwrap())
    }

    /// What readiness answers, as `/-/ready` does.
    pub fn readiness(&self) -> (u16, String) {
        let missing = self.app.store.not_ready();
        (
            if missing.is_empty() { 200 } else { 503 },
            missing.join(", "),
        )
    }

    /// Lets time pass.
    pub async fn advance(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Lets time pass, a second at a time, until `good`.
    pub async fn wait_until(&self, what: &str, good: impl Fn(&Scrape) -> bool) -> Scrape {
        for _ in 0..100_000 {
            let scrape = self.scrape();
            if good(&scrape) {
                return scrape;
            }
            self.advance(Duration::from_secs(1)).await;
        }
        panic!("in vain: {what}");
    }

    /// Waits until so many organizations have had a complete walk.
    pub async fn wait_polled(&self, orgs: usize) -> Scrape {
        self.wait_until("complete walks", |scrape| {
            let up = scrape.values("atlas_ai_keys_exporter_org_up");
            up.iter().filter(|up| **up > 0.0).count() == orgs
        })
        .await
    }

    /// Waits until every organization has had one complete walk more.
    pub async fn wait_polled_again(&self) -> Scrape {
        let name = "atlas_ai_keys_exporter_org_last_success_timestamp_seconds";
        let before = self.scrape().values(name);
        self.wait_until("another complete walk of each", |scrape| {
            let now = scrape.values(name);
            now.len() == before.len() && now.iter().zip(&before).all(|(now, before)| now > before)
        })
        .await
    }

    pub fn requests_to(&self, endpoint: SimEndpoint) -> Vec<LoggedRequest> {
        let mut requests = self.sim.requests();
        requests.retain(|request| request.endpoint == endpoint);
        requests
    }

    /// Requests that were answered with this status.
    pub fn count_responses(&self, status: u16) -> usize {
        self.sim
            .requests()
            .iter()
            .filter(|request| request.status == status)
            .count()
    }

    /// Stops in good order.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.run_task.await.unwrap();
    }

    /// Ends as a process does that is killed.
    pub async fn kill(self) {
        self.run_task.abort();
        let _ = self.run_task.await;
    }
}
