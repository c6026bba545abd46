//! Test harness: a simulated Atlas and an exporter in this process, the exporter's binary as a child process, and a parser
//! of the text format that is independent of the encoder.

pub mod documents;
pub mod http2;
pub mod log_capture;
pub mod pki;
mod process;
pub mod prometheus;
mod scrape;
pub mod scripted;
pub mod sim_harness;
pub mod sim_transport;
pub mod systemd;
mod wait;

use std::collections::BTreeMap;
use std::sync::{Arc, Once, OnceLock};

use atlas_ai_keys_exporter::app::{ConfigLoader, Dependencies, Exporter};
use atlas_ai_keys_exporter::cli::Args;
use atlas_ai_keys_exporter::config::Config;
use atlas_ai_keys_exporter::credentials::Environment;
use atlas_ai_keys_exporter::web::AppState;
use exporter_toolkit::web_config::WebConfig;
use mongodb_atlas_client::Clock;
use mongodb_atlas_sim::{BucketConfig, Effect, Fault, SimConfig, SimEndpoint, SimHandle, SimKey};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use pki::TestPki;
#[allow(unused_imports, reason = "each test binary uses a part")]
pub use process::{
    ChildProcess, free_port, make_fifo, process_status, raise_open_files_limit, run_command,
    run_exporter,
};
#[allow(unused_imports, reason = "each test binary uses a part")]
pub use scrape::{Scrape, Series};
#[allow(unused_imports, reason = "each test binary uses a part")]
pub use wait::{
    eventually, eventually_blocking, try_eventually, try_eventually_blocking, wait_timeout,
};

/// Starts a simulated Atlas on a free port.
pub async fn start_sim(config: SimConfig) -> SimHandle {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    SimHandle::start(listener, &config, jiff::Timestamp::now).unwrap()
}

/// Returns a configuration without events.
pub fn static_sim(orgs: usize, keys: usize) -> SimConfig {
    SimConfig {
        orgs,
        keys,
        speed: 0.0,
        ..SimConfig::default()
    }
}

/// Returns a configuration without events and without effective rate limits.
pub fn unlimited_sim(orgs: usize, keys: usize) -> SimConfig {
    SimConfig {
        org_bucket: BucketConfig::new(5000, 5000),
        ..static_sim(orgs, keys)
    }
}

/// Returns the environment of an exporter that polls `sim` with its service account.
pub fn sim_env(sim: &SimHandle) -> Vec<(String, String)> {
    let account = sim.credentials();
    [
        ("MONGODB_ATLAS_BASE_URL", sim.base_url()),
        ("MONGODB_ATLAS_ORG_ID", sim.org_ids().join(",")),
        ("MONGODB_ATLAS_CLIENT_ID", account.client_id),
        ("MONGODB_ATLAS_CLIENT_SECRET", account.client_secret),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// An exporter and a simulated Atlas in this process.
pub struct TestExporter {
    pub sim: SimHandle,
    pub base_url: String,
    pub app: Arc<AppState>,
    shutdown: CancellationToken,
    run_task: tokio::task::JoinHandle<()>,
}

impl TestExporter {
    /// Starts an exporter with these flags and the environment for the simulated Atlas.
    pub async fn start(sim_config: SimConfig, flags: &[&str]) -> Self {
        let sim = start_sim(sim_config).await;
        let variables = sim_env(&sim);
        Self::start_with(sim, variables, flags).await
    }

    /// Starts an exporter with these environment variables.
    pub async fn start_with(
        sim: SimHandle,
        variables: Vec<(String, String)>,
        flags: &[&str],
    ) -> Self {
        Self::start_with_clock(sim, variables, flags, Clock::system()).await
    }

    /// Starts an exporter with the given clock.
    pub async fn start_with_clock(
        sim: SimHandle,
        variables: Vec<(String, String)>,
        flags: &[&str],
        clock: Clock,
    ) -> Self {
        let mut line = vec!["x", "--web.listen-address", "127.0.0.1:0"];
        line.extend(flags);
        let environment = Environment::from_vars(variables);
        let args = Args::parse(line).unwrap();
        let load: ConfigLoader = Arc::new(move || Config::load(&args, &environment));
        let config = load().unwrap();
        let dependencies = Dependencies {
            clock,
            ..Dependencies::production(load)
        };
        let exporter = Exporter::start(config, dependencies).await.unwrap();
        let base = format!("http://{}", exporter.addresses()[0]);
        let app = exporter.state();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(exporter.run(shutdown.clone()));
        Self {
            sim,
            base_url: base,
            app,
            shutdown,
            run_task: running,
        }
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        get(&format!("{}{path}", self.base_url)).await
    }

    pub async fn scrape(&self) -> Scrape {
        let (status, text) = self.get("/metrics").await;
        assert_eq!(status, 200, "/metrics is always 200");
        Scrape::parse(&text)
    }

    /// Scrapes until `condition` holds, and returns that scrape.
    pub async fn wait_until(&self, what: &str, condition: impl Fn(&Scrape) -> bool) -> Scrape {
        eventually(what, async || {
            let scrape = self.scrape().await;
            if condition(&scrape) {
                return Ok(scrape);
            }
            Err(scrape.text)
        })
        .await
    }

    /// Waits until every organization was polled successfully.
    pub async fn wait_polled(&self) -> Scrape {
        let orgs = self.sim.org_ids().len();
        self.wait_until("a successful poll of each organization", |scrape| {
            scrape
                .values("atlas_ai_keys_exporter_org_up")
                .iter()
                .filter(|up| **up > 0.0)
                .count()
                == orgs
        })
        .await
    }

    /// Waits until names and limits are polled as well, which follow the keys.
    pub async fn wait_polled_with_names(&self) -> Scrape {
        self.wait_polled().await;
        let orgs = self.sim.org_ids().len();
        self.wait_until("the names of each organization", |scrape| {
            scrape.with_name("mongodbatlas_organization_info").count() == orgs
        })
        .await
    }

    /// Replaces the active web configuration.
    pub fn set_web_config(&self, pki: &TestPki, text: &str) {
        let config = WebConfig::load(&pki.write("web.yml", text)).config;
        self.app.web_config.set(config.unwrap());
    }

    /// Shuts the exporter down and returns the simulated Atlas.
    pub async fn stop(self) -> SimHandle {
        self.shutdown.cancel();
        self.run_task.await.unwrap();
        self.sim
    }
}

/// Installs the crypto provider, because reqwest is built without one.
pub fn install_crypto_provider() {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// Returns a client that all tests share, because loading the system's certificates takes longer than most requests.
/// Connections are not pooled, because each runtime closes the connections that it opened.
fn shared_client() -> &'static reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        install_crypto_provider();
        let builder = reqwest::Client::builder().no_proxy();
        builder.pool_max_idle_per_host(0).build().unwrap()
    })
}

pub async fn get(url: &str) -> (u16, String) {
    let response = shared_client().get(url).send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.text().await.unwrap())
}

/// Returns the status of a response, if there is one.
pub async fn try_get_status(url: &str) -> Option<u16> {
    let response = shared_client().get(url).send().await.ok()?;
    Some(response.status().as_u16())
}

/// Returns name, status and last use of each key in a scrape, by key id.
pub fn exposed_keys(scrape: &Scrape) -> BTreeMap<String, (String, String, Option<String>)> {
    let used: BTreeMap<_, _> = scrape
        .with_name("mongodbatlas_ai_model_api_key_last_used_timestamp_seconds")
        .map(|series| {
            (
                series.labels["api_key_id"].clone(),
                format!("{:.6}", series.value),
            )
        })
        .collect();
    scrape
        .with_name("mongodbatlas_ai_model_api_key_info")
        .map(|series| {
            let id = series.labels["api_key_id"].clone();
            let last_used = used.get(&id).cloned();
            (
                id,
                (
                    series.labels["name"].clone(),
                    series.labels["status"].clone(),
                    last_used,
                ),
            )
        })
        .collect()
}

/// Returns name, status and last use of keys of the simulated Atlas, by key id.
#[allow(
    clippy::cast_precision_loss,
    reason = "microseconds of this era fit 53 bits"
)]
pub fn expected_keys<'a>(
    keys: impl IntoIterator<Item = &'a SimKey>,
) -> BTreeMap<String, (String, String, Option<String>)> {
    keys.into_iter()
        .map(|key| {
            let last_used = key
                .last_used
                .map(|at| format!("{:.6}", at.as_microsecond() as f64 / 1e6));
            (
                key.id.clone(),
                (key.name.clone(), key.status.clone(), last_used),
            )
        })
        .collect()
}

/// Returns name, status and last use of all keys of the simulated Atlas, by key id.
pub fn expected_sim_keys(sim: &SimHandle) -> BTreeMap<String, (String, String, Option<String>)> {
    sim.with_world(|world| {
        let orgs = world.org_ids();
        expected_keys(orgs.iter().flat_map(|org| world.keys(org)))
    })
}

/// Returns a fault with an error status for one organization or all.
pub fn error_fault(endpoint: SimEndpoint, org: Option<&str>, status: u16) -> Fault {
    Fault {
        org: org.map(str::to_owned),
        ..Fault::new(endpoint, Effect::error_status(status))
    }
}
