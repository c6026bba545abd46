//! An exporter and a simulated Atlas in simulated time: a day passes in the time that its work takes.

use std::sync::Arc;
use std::time::Duration;

use atlas_ai_keys_exporter::app::{Control, Exporter, Load, Surroundings};
use atlas_ai_keys_exporter::cli::Args;
use atlas_ai_keys_exporter::config::Config;
use atlas_ai_keys_exporter::credentials::Environment;
use atlas_ai_keys_exporter::metrics::Format;
use atlas_ai_keys_exporter::web::App;
use jiff::Timestamp;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::Transport;
use mongodb_atlas_sim::{Asked, SimConfig, SimEndpoint, SimHandle};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::sim_transport::Wire;
use super::{Scrape, sim_variables};

/// A simulated Atlas whose clock is that of the paused runtime.
pub fn simulated_atlas(config: &SimConfig) -> Arc<SimHandle> {
    let clock = Clock::virtual_from("2026-03-01T00:00:00Z".parse::<Timestamp>().unwrap());
    Arc::new(sim_at(config, &clock))
}

/// A simulated Atlas without a network, whose time is that of `clock`.
pub fn sim_at(config: &SimConfig, clock: &Clock) -> SimHandle {
    let clock = clock.clone();
    SimHandle::without_network(
        config,
        mongodb_atlas_sim::SimClock::new(move || clock.now()),
    )
}

/// The clock of the simulated Atlas, for the exporter.
pub fn client_clock(sim: &SimHandle) -> Clock {
    let clock = sim.clock();
    Clock::custom(move || clock.now())
}

/// An exporter in simulated time. Needs a runtime whose time is paused.
pub struct Simulated {
    pub sim: Arc<SimHandle>,
    pub control: Arc<Control>,
    pub app: Arc<App>,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

impl Simulated {
    /// An exporter that watches every organization of `sim` with its service account.
    pub async fn watching(sim: &Arc<SimHandle>, flags: &[&str]) -> Self {
        Self::told(sim, sim_variables(sim), flags).await
    }

    /// An exporter that is told these variables.
    pub async fn told(
        sim: &Arc<SimHandle>,
        variables: Vec<(String, String)>,
        flags: &[&str],
    ) -> Self {
        let mut line = vec!["x", "--web.listen-address", "127.0.0.1:0"];
        line.extend(flags);
        let args = Args::parse(line).unwrap();
        let environment = Environment::fixed(variables);
        let load: Load = Arc::new(move || Config::check(&args, &environment));
        let config = load().unwrap();
        let wire = Arc::clone(sim);
        let surroundings = Surroundings {
            clock: client_clock(sim),
            connect: Arc::new(move |_| Ok(Arc::new(Wire(Arc::clone(&wire))) as Arc<dyn Transport>)),
            load,
        };
        let exporter = Exporter::start(config, surroundings).await.unwrap();
        let (app, control) = (exporter.app(), exporter.control());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(exporter.run(shutdown.clone()));
        Self {
            sim: Arc::clone(sim),
            control,
            app,
            shutdown,
            running,
        }
    }

    pub fn scrape(&self) -> Scrape {
        let (settings, own) = (self.app.settings.get(), self.app.own.gather());
        let exposition = self.app.exposition(&settings, Format::Text, own);
        Scrape::parse(&String::from_utf8(exposition.whole()).unwrap())
    }

    /// What readiness answers, as `/-/ready` does.
    pub fn ready(&self) -> (u16, String) {
        let missing = self.app.shelf.missing();
        (
            if missing.is_empty() { 200 } else { 503 },
            missing.join(", "),
        )
    }

    /// Lets time pass.
    pub async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Lets time pass, a second at a time, until `good`.
    pub async fn until(&self, what: &str, good: impl Fn(&Scrape) -> bool) -> Scrape {
        for _ in 0..100_000 {
            let scrape = self.scrape();
            if good(&scrape) {
                return scrape;
            }
            self.pass(Duration::from_secs(1)).await;
        }
        panic!("in vain: {what}");
    }

    /// Waits until so many organizations have had a complete walk.
    pub async fn walked(&self, orgs: usize) -> Scrape {
        self.until("complete walks", |scrape| {
            let up = scrape.values("atlas_ai_keys_exporter_org_up");
            up.iter().filter(|up| **up > 0.0).count() == orgs
        })
        .await
    }

    /// Waits until every organization has had one complete walk more.
    pub async fn walked_again(&self) -> Scrape {
        let name = "atlas_ai_keys_exporter_org_last_success_timestamp_seconds";
        let before = self.scrape().values(name);
        self.until("another complete walk of each", |scrape| {
            let now = scrape.values(name);
            now.len() == before.len() && now.iter().zip(&before).all(|(now, before)| now > before)
        })
        .await
    }

    pub fn asked(&self, endpoint: SimEndpoint) -> Vec<Asked> {
        let mut requests = self.sim.requests();
        requests.retain(|request| request.endpoint == endpoint);
        requests
    }

    /// Requests that were answered with this status.
    pub fn answered(&self, status: u16) -> usize {
        self.sim
            .requests()
            .iter()
            .filter(|request| request.status == status)
            .count()
    }

    /// Stops in good order.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap();
    }

    /// Ends as a process does that is killed.
    pub async fn kill(self) {
        self.running.abort();
        let _ = self.running.await;
    }
}
