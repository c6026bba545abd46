//! An exporter and a simulated Atlas in simulated time: a day passes as fast as its work is done.

use std::sync::Arc;
use std::time::Duration;

use atlas_ai_keys_exporter::app::{ConfigLoader, Dependencies, Exporter, Reloader};
use atlas_ai_keys_exporter::cli::Args;
use atlas_ai_keys_exporter::config::Config;
use atlas_ai_keys_exporter::credentials::Environment;
use atlas_ai_keys_exporter::metrics::Format;
use atlas_ai_keys_exporter::web::AppState;
use jiff::Timestamp;
use mongodb_atlas_client::{Clock, Transport};
use mongodb_atlas_sim::{LoggedRequest, SimConfig, SimEndpoint, SimHandle};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::sim_transport::SimTransport;
use super::{Scrape, sim_env};

/// Returns a simulated Atlas whose clock is that of the paused runtime.
pub fn in_process_sim(config: &SimConfig) -> Arc<SimHandle> {
    let clock = Clock::simulated("2026-03-01T00:00:00Z".parse::<Timestamp>().unwrap());
    Arc::new(sim_at(config, &clock))
}

/// Returns a simulated Atlas without a listener, with this clock.
pub fn sim_at(config: &SimConfig, clock: &Clock) -> SimHandle {
    let clock = clock.clone();
    SimHandle::in_process(config, move || clock.now())
}

/// Returns the clock of the simulated Atlas, for the exporter.
pub fn client_clock(sim: &Arc<SimHandle>) -> Clock {
    let sim = Arc::clone(sim);
    Clock::from_fn(move || sim.now())
}

/// An exporter in simulated time. Needs a runtime with paused time.
pub struct SimHarness {
    pub sim: Arc<SimHandle>,
    pub reloader: Arc<Reloader>,
    pub app: Arc<AppState>,
    shutdown: CancellationToken,
    run_task: JoinHandle<()>,
}

impl SimHarness {
    /// Starts an exporter that polls all organizations of `sim` with its service account.
    pub async fn start(sim: &Arc<SimHandle>, flags: &[&str]) -> Self {
        Self::start_with(sim, sim_env(sim), flags).await
    }

    /// Starts an exporter with these environment variables.
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
        let transport_sim = Arc::clone(sim);
        let dependencies = Dependencies {
            clock: client_clock(sim),
            transport_factory: Arc::new(move |_| {
                Ok(Arc::new(SimTransport(Arc::clone(&transport_sim))) as Arc<dyn Transport>)
            }),
            load_config: load,
        };
        let exporter = Exporter::start(config, dependencies).await.unwrap();
        let (app, reloader) = (exporter.state(), exporter.reloader());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(exporter.run(shutdown.clone()));
        Self {
            sim: Arc::clone(sim),
            reloader,
            app,
            shutdown,
            run_task: running,
        }
    }

    pub fn scrape(&self) -> Scrape {
        let (settings, own) = (self.app.options.get(), self.app.metrics.gather());
        let mut exposition = self.app.exposition(&settings, Format::Text, own);
        let chunks = std::iter::from_fn(|| exposition.next_chunk());
        Scrape::parse(&String::from_utf8(chunks.flatten().collect()).unwrap())
    }

    /// Returns status and text of `/-/ready`.
    pub fn readiness(&self) -> (u16, String) {
        let missing = self.app.store.not_ready();
        (
            if missing.is_empty() { 200 } else { 503 },
            missing.join(", "),
        )
    }

    /// Advances the time.
    pub async fn advance(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Advances the time second by second until `condition` holds.
    pub async fn wait_until(&self, what: &str, condition: impl Fn(&Scrape) -> bool) -> Scrape {
        for _ in 0..100_000 {
            let scrape = self.scrape();
            if condition(&scrape) {
                return scrape;
            }
            self.advance(Duration::from_secs(1)).await;
        }
        panic!("in vain: {what}");
    }

    /// Waits until this many organizations were polled successfully.
    pub async fn wait_polled(&self, orgs: usize) -> Scrape {
        self.wait_until("complete walks", |scrape| {
            let up = scrape.values("atlas_ai_keys_exporter_org_up");
            up.iter().filter(|up| **up > 0.0).count() == orgs
        })
        .await
    }

    /// Waits until every organization was polled successfully once more.
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

    /// Returns the number of responses with this status.
    pub fn count_responses(&self, status: u16) -> usize {
        self.sim
            .requests()
            .iter()
            .filter(|request| request.status == status)
            .count()
    }

    /// Shuts the exporter down.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.run_task.await.unwrap();
    }

    /// Aborts the exporter, as if its process were killed.
    pub async fn kill(self) {
        self.run_task.abort();
        let _ = self.run_task.await;
    }
}
