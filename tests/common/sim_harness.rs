//! An exporter and a simulated Atlas in simulated time, in which a day takes only the time of its work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use atlas_ai_keys_exporter::app::{ConfigLoader, Dependencies, Exporter, Reloader};
use atlas_ai_keys_exporter::cli::Args;
use atlas_ai_keys_exporter::config::Config;
use atlas_ai_keys_exporter::credentials::Environment;
use atlas_ai_keys_exporter::metrics::Format;
use atlas_ai_keys_exporter::web::{self, AppState};
use axum::body::{Body, to_bytes};
use axum::http::Request;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use mongodb_atlas_client::{Clock, Transport};
use mongodb_atlas_sim::{LoggedRequest, SimConfig, SimEndpoint, SimHandle};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::sim_transport::SimTransport;
use super::{Scrape, expected_keys, exposed_keys, sim_env, static_sim};

const UP: &str = "atlas_ai_keys_exporter_org_up";
const LAST_SUCCESS: &str = "atlas_ai_keys_exporter_org_last_success_timestamp_seconds";

/// Returns a configuration in which keys are used every few seconds, and created, renamed and deleted every half hour,
/// independent of their number. Tests of long periods need it: without events, an exporter that no longer polls cannot
/// be distinguished from one that does.
#[allow(clippy::cast_precision_loss, reason = "a number of keys")]
pub fn live_sim(orgs: usize, keys: usize) -> SimConfig {
    SimConfig {
        speed: 500.0 / keys as f64,
        ..static_sim(orgs, keys)
    }
}

/// Returns a simulated Atlas with the clock of the paused runtime.
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
        Self::start_with_clock(sim, variables, flags, client_clock(sim)).await
    }

    /// Starts an exporter with a separate clock.
    pub async fn start_with_clock(
        sim: &Arc<SimHandle>,
        variables: Vec<(String, String)>,
        flags: &[&str],
        clock: Clock,
    ) -> Self {
        let mut line = vec!["x", "--web.listen-address", "127.0.0.1:0"];
        line.extend(flags);
        let args = Args::parse(line).unwrap();
        let environment = Environment::from_vars(variables);
        let load: ConfigLoader = Arc::new(move || Config::load(&args, &environment));
        let config = load().unwrap();
        let transport_sim = Arc::clone(sim);
        let dependencies = Dependencies {
            clock,
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
        let settings = self.app.options.get();
        let own = self.app.gather_metrics(&settings);
        let mut exposition = self.app.exposition(&settings, Format::Text, own);
        let chunks: Vec<_> = std::iter::from_fn(|| exposition.next_chunk()).collect();
        Scrape::parse(&String::from_utf8(chunks.concat()).unwrap())
    }

    /// Returns status and text of `/-/ready`.
    pub fn readiness(&self) -> (u16, String) {
        let missing = self.app.store.not_ready();
        (
            if missing.is_empty() { 200 } else { 503 },
            missing.join(", "),
        )
    }

    /// Returns status and body of a page.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let router = TowerToHyperService::new(web::router(Arc::clone(&self.app)));
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.call(request).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.into()).unwrap())
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
        panic!("timeout: {what}");
    }

    /// Waits until this many organizations were polled successfully.
    pub async fn wait_polled(&self, orgs: usize) -> Scrape {
        self.wait_until("successful polls", |scrape| {
            let up = scrape.values(UP);
            up.iter().filter(|up| **up > 0.0).count() == orgs
        })
        .await
    }

    /// Waits until each organization was polled successfully again.
    pub async fn wait_polled_again(&self) -> Scrape {
        let before = self.scrape().values(LAST_SUCCESS);
        self.wait_until("another successful poll of each organization", |scrape| {
            let now = scrape.values(LAST_SUCCESS);
            now.len() == before.len() && now.iter().zip(&before).all(|(now, before)| now > before)
        })
        .await
    }

    /// Counts the polls from this time on, so that a test that advances the time can assert that polls happened.
    #[must_use]
    pub fn count_polls(&self) -> PollCount<'_> {
        PollCount {
            harness: self,
            requests_before: self.sim.requests().len(),
            success_before: values_by_org(&self.scrape(), LAST_SUCCESS),
        }
    }

    /// Renames a key of each polled organization, and asserts that the exported keys equal those of Atlas after `time`.
    /// Disables the events of the simulator.
    pub async fn assert_in_sync(&self, time: Duration) -> Scrape {
        let orgs = values_by_org(&self.scrape(), UP);
        assert!(!orgs.is_empty(), "no organization is polled");
        let name = format!("changed at {}", self.sim.now());
        self.sim.with_world(|world| {
            world.stop_events();
            for org in orgs.keys() {
                match world.keys(org).first().map(|key| key.id.clone()) {
                    Some(id) => assert!(world.rename_key(org, &id, &name)),
                    None => assert!(world.create_key(org, &name).is_some()),
                }
            }
        });
        self.advance(time).await;
        let scrape = self.scrape();
        let expected = self.sim.with_world(|world| {
            let keys = orgs.keys().flat_map(|org| world.keys(org));
            expected_keys(keys)
        });
        assert_eq!(exposed_keys(&scrape), expected, "{time:?} after a change");
        scrape
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

/// The polls since a point in time.
pub struct PollCount<'a> {
    harness: &'a SimHarness,
    requests_before: usize,
    success_before: BTreeMap<String, f64>,
}

impl PollCount<'_> {
    /// Returns the number of walks by organization, which is the number of successful requests for a first page.
    pub fn walks(&self) -> BTreeMap<String, usize> {
        let requests = self.harness.sim.requests();
        let mut walks = BTreeMap::new();
        for request in &requests[self.requests_before..] {
            if request.endpoint == SimEndpoint::AiModelApiKeys
                && request.page == Some(1)
                && request.status == 200
                && let Some(org) = &request.org
            {
                *walks.entry(org.clone()).or_default() += 1;
            }
        }
        walks
    }

    /// Asserts that each polled organization had at least this many walks and a successful poll since then.
    pub fn assert_polled(&self, polls: usize) {
        let (scrape, walks) = (self.harness.scrape(), self.walks());
        let success = values_by_org(&scrape, LAST_SUCCESS);
        let orgs = values_by_org(&scrape, UP);
        assert!(!orgs.is_empty(), "no organization is polled");
        for org in orgs.keys() {
            let walks = walks.get(org).copied().unwrap_or(0);
            assert!(walks >= polls, "{org}: {walks} polls, expected {polls}");
            let (before, after) = (self.success_before.get(org), success.get(org));
            assert!(
                after > before,
                "{org}: last success {after:?}, before {before:?}"
            );
        }
    }
}

/// Returns the values of a family by organization.
fn values_by_org(scrape: &Scrape, name: &str) -> BTreeMap<String, f64> {
    let series = scrape.with_name(name);
    series
        .map(|series| (series.labels["org_id"].clone(), series.value))
        .collect()
}
