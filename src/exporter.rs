//! Puts the rooms together: configuration in, a running exporter out. Here, and only here, is
//! known who counts what the Atlas and poll rooms tell.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::atlas::{
    Client, ClientConfig, Endpoint, Observer, Outcome, Reason, Retry, TokenOutcome,
};
use crate::clock::Clock;
use crate::config::Config;
use crate::credentials::Credential;
use crate::ids::OrgId;
use crate::inventory::Shelf;
use crate::metrics::Own;
use crate::poll::{Org, Scheduler, WalkError, Watcher};
use crate::web::{self, App, BindError};

/// How long giving back the access token may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// What the one credential is called that flags and environment can give.
const CREDENTIAL: &str = "default";

/// Why the exporter cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The HTTP client cannot be made.
    #[error("the client for Atlas cannot be set up: {0}")]
    Client(String),
    /// The metrics cannot be registered.
    #[error("the exporter's own metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// An exporter whose listeners are open; [`Exporter::run`] lets it work.
pub struct Exporter {
    listeners: Vec<TcpListener>,
    app: Arc<App>,
    scheduler: Scheduler,
    client: Arc<Client>,
}

impl Exporter {
    /// Opens the listeners and makes all parts; nothing is asked of Atlas yet.
    ///
    /// # Errors
    /// [`StartError`] when an address is in use or TLS cannot be set up.
    pub async fn start(config: Config, clock: Clock) -> Result<Self, StartError> {
        let mut listeners = Vec::new();
        for address in &config.listen {
            listeners.push(web::bind(address).await?);
        }
        let own = Arc::new(Own::new()?);
        let shelf = Arc::new(Shelf::default());
        announce(&own, &config);
        let teller = Arc::new(Teller(Arc::clone(&own)));
        let observer: Arc<dyn Observer> = teller.clone();
        let client_config = ClientConfig {
            name: CREDENTIAL.to_owned(),
            credential: config.credential,
            base_url: config.base_url,
            version: config.version,
            timeout: config.timeout,
        };
        let client = Arc::new(
            Client::new(client_config, observer, clock.clone()).map_err(StartError::Client)?,
        );
        let orgs = config.orgs.iter().map(|id| Org {
            id: id.clone(),
            client: Arc::clone(&client),
        });
        let scheduler = Scheduler::new(
            orgs.collect(),
            config.poll_interval,
            config.page_size,
            Arc::clone(&shelf),
            teller,
            clock.clone(),
        );
        let app = Arc::new(App {
            own,
            shelf,
            orgs: config.orgs,
            thresholds: config.idle_thresholds.into(),
            telemetry_path: config.telemetry_path,
            clock,
        });
        Ok(Self {
            listeners,
            app,
            scheduler,
            client,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Polls and serves until `shutdown`, then lets scrapes that are under way end and gives back
    /// the access token: five seconds at most, whatever Atlas does.
    pub async fn run(self, shutdown: CancellationToken) {
        let polling = async {
            self.scheduler.run(shutdown.clone()).await;
            // what it leaves undone ends by itself within the hour
            let _ = tokio::time::timeout(CLOSE_WITHIN, self.client.close()).await;
        };
        let serving = web::serve(self.listeners, web::router(self.app), shutdown.clone());
        tokio::join!(polling, serving);
        info!("stopped");
    }
}

/// Lets every counter begin at 0, so that the first event is a rise and not a new series.
fn announce(own: &Own, config: &Config) {
    let retries = || Retry::ALL.map(Retry::as_str);
    for org in &config.orgs {
        own.watch_org(
            org.as_str(),
            config.poll_interval,
            Reason::ALL.map(Reason::as_str),
        );
        own.watch_endpoint(
            Endpoint::AiModelApiKeys.as_str(),
            Some(org.as_str()),
            retries(),
        );
    }
    if matches!(config.credential, Credential::ServiceAccount { .. }) {
        own.watch_credential(CREDENTIAL, TokenOutcome::ALL.map(TokenOutcome::as_str));
        own.watch_endpoint(Endpoint::Token.as_str(), None, []);
    }
}

/// Tells the exporter's own metrics what happens.
struct Teller(Arc<Own>);

impl Observer for Teller {
    fn request(&self, endpoint: Endpoint, outcome: Outcome, elapsed: Duration) {
        let code = match outcome {
            Outcome::Status(status) => status.to_string(),
            Outcome::Failed(reason) => reason.as_str().to_owned(),
        };
        self.0.request(endpoint.as_str(), &code, elapsed);
    }

    fn retry(&self, endpoint: Endpoint, why: Retry) {
        self.0.retry(endpoint.as_str(), why.as_str());
    }

    fn rate_limit(
        &self,
        endpoint: Endpoint,
        org: &OrgId,
        capacity: Option<u64>,
        remaining: Option<u64>,
    ) {
        self.0
            .rate_limit(endpoint.as_str(), org.as_str(), capacity, remaining);
    }

    fn token(&self, credential: &str, outcome: TokenOutcome) {
        self.0.token(credential, outcome.as_str());
    }

    fn token_ends(&self, credential: &str, at: Timestamp) {
        self.0.token_ends(credential, at);
    }
}

impl Watcher for Teller {
    fn begun(&self, org: &OrgId, at: Timestamp) {
        self.0.walk_begun(org.as_str(), at);
    }

    fn succeeded(&self, org: &OrgId, at: Timestamp, pages: u32, took: Duration, dropped: u64) {
        self.0
            .walk_succeeded(org.as_str(), at, pages, took, dropped);
    }

    fn failed(&self, org: &OrgId, error: &WalkError, took: Duration) {
        let problem = &error.error.problem;
        self.0
            .walk_failed(org.as_str(), problem.reason().as_str(), took);
        if let Some(wait) = problem.retry_after() {
            self.0
                .throttled(Endpoint::AiModelApiKeys.as_str(), org.as_str(), wait);
        }
    }
}
