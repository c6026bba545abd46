//! Puts the rooms together: configuration in, a running exporter out.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `reload` | what a configuration becomes, at the start and at each reload |
//! | `file_watcher` | noticing that a file has changed |
//! | `systemd` | what the service manager is told |
//! | `one_shot` | one round, and that is all |
//! | `telemetry` | who counts what the Atlas and poll rooms tell |

mod file_watcher;
mod one_shot;
mod reload;
mod systemd;
mod telemetry;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Config, ConfigError};
use crate::inventory::InventoryStore;
use crate::metrics::ExporterMetrics;
use crate::poll::{self, Scheduler};
use crate::status::OrgStatuses;
use crate::storage::StorageError;
use crate::web::{self, AppState, RenderLimiter, ScrapeState};
use exporter_toolkit::bounded_file::FileError;
use exporter_toolkit::liveness::LivenessMonitor;
use exporter_toolkit::server::{BindError, Server, ServerLimits};
use exporter_toolkit::web_config::WebConfigError;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::{self as atlas, TransportFactory};

pub use one_shot::{OneShotResult, PollProgress};
pub use reload::Reloader;
use systemd::ServiceNotifier;
use telemetry::Telemetry;

/// Why the exporter cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The web configuration is wrong.
    #[error(transparent)]
    WebConfig(#[from] WebConfigError),
    /// The HTTP client cannot be made.
    #[error("the client for Atlas cannot be set up: {0}")]
    Client(String),
    /// The metrics cannot be registered.
    #[error("the exporter's own metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The directory for state cannot be made.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The file system of the directory for state does not answer.
    #[error("the directory of --storage.path cannot be opened: {0}")]
    StorageUnavailable(FileError),
}

/// Makes a configuration anew.
pub type ConfigLoader = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// What the exporter is surrounded by, which a test can replace.
#[derive(Clone)]
pub struct Dependencies {
    /// The time of day.
    pub clock: Clock,
    /// The way to Atlas.
    pub transport_factory: TransportFactory,
    /// The configuration, as it is at a reload.
    pub load_config: ConfigLoader,
}

impl Dependencies {
    /// The machine's clock and network.
    pub fn production(load: ConfigLoader) -> Self {
        Self {
            clock: Clock::system(),
            transport_factory: Arc::new(atlas::new_http_transport),
            load_config: load,
        }
    }
}

/// How long the end may take, whatever hangs.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(4);

/// An exporter whose listeners are open; [`Exporter::run`] lets it work.
pub struct Exporter {
    listeners: Vec<TcpListener>,
    probe_listeners: Vec<TcpListener>,
    state: Arc<AppState>,
    scheduler: Scheduler,
    scheduler_rx: mpsc::Receiver<poll::SchedulerCommand>,
    reloader: Arc<Reloader>,
    notifier: ServiceNotifier,
    liveness: Arc<LivenessMonitor>,
}

impl Exporter {
    /// Opens the listeners, makes all parts, and takes up what an earlier process has left;
    /// nothing is asked of Atlas yet.
    ///
    /// # Errors
    /// [`StartError`] when an address is in use, TLS cannot be set up, or there can be no
    /// directory for state.
    pub async fn start(config: Config, surroundings: Dependencies) -> Result<Self, StartError> {
        if !config.systemd_socket && exporter_toolkit::server::has_systemd_sockets() {
            warn!(
                "systemd hands sockets over that nobody serves: switch --web.systemd-socket on, or stop the .socket unit"
            );
        }
        let mut listeners = Vec::new();
        for address in &config.listen_addresses {
            listeners.push(exporter_toolkit::server::bind(address, "--web.listen-address").await?);
        }
        if config.systemd_socket {
            listeners = exporter_toolkit::server::systemd_listeners()?;
        }
        let mut probes = Vec::new();
        if let Some(address) = &config.probe_address {
            probes.push(exporter_toolkit::server::bind(address, "--web.probe-address").await?);
        }
        let manager = ServiceNotifier::from_env();
        let own = Arc::new(ExporterMetrics::new()?);
        let board = Arc::new(OrgStatuses::default());
        let shelf = Arc::new(InventoryStore::default());
        let clock = surroundings.clock.clone();
        let teller = Telemetry::new(Arc::clone(&own), Arc::clone(&board), clock.clone());
        let teller = Arc::new(teller);
        // a reload is rare, and the next one waits for this one
        let (sender, commands) = mpsc::channel(8);
        let (control, plan) =
            Reloader::new(&config, surroundings, Arc::clone(&teller), sender, manager).await?;
        let scheduler = Scheduler::start(plan, Arc::clone(&shelf), teller, clock.clone()).await;
        let control = Arc::new(control);
        own.config_reloaded(true, clock.now());
        let app = Arc::new(AppState {
            metrics: own,
            store: shelf,
            status: board,
            options: control.handler_options(),
            web_config: control.web_config(),
            scrapes: ScrapeState::default(),
            renders: RenderLimiter::default(),
            reloader: Arc::clone(&control) as Arc<dyn web::Reload>,
            clock,
        });
        Ok(Self {
            listeners,
            probe_listeners: probes,
            state: app,
            scheduler,
            scheduler_rx: commands,
            reloader: control,
            notifier: manager,
            liveness: Arc::new(manager.liveness_monitor()),
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Where it serves health alone.
    pub fn probe_addresses(&self) -> Vec<SocketAddr> {
        self.probe_listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// What its routes answer from.
    pub fn state(&self) -> Arc<AppState> {
        Arc::clone(&self.state)
    }

    /// What a signal can ask of it.
    pub fn reloader(&self) -> Arc<Reloader> {
        Arc::clone(&self.reloader)
    }

    /// Polls and serves until `shutdown`, then lets scrapes that are under way end and gives back
    /// the access tokens: five seconds at most, whatever Atlas or a file system does.
    pub async fn run(self, shutdown: CancellationToken) {
        let beat = self.liveness.register("the scheduler");
        let polling = self
            .scheduler
            .run(self.scheduler_rx, beat, shutdown.clone());
        let telling = self.notifier.run(
            Arc::clone(&self.state),
            Arc::clone(&self.liveness),
            shutdown.clone(),
        );
        let limits = ServerLimits::from_rlimit();
        let doors = vec![
            Server {
                listeners: self.listeners,
                router: web::router(Arc::clone(&self.state)),
                limits,
                web_config: Some(Arc::clone(&self.state.web_config)),
                log_message: "listening",
            },
            Server {
                listeners: self.probe_listeners,
                router: web::probe_router(self.state),
                limits: limits.for_probes(),
                web_config: None,
                log_message: "listening for probes",
            },
        ];
        let serving = exporter_toolkit::server::serve(doors, self.liveness, shutdown.clone());
        let watching = file_watcher::watch(self.reloader, shutdown.clone());
        let deadline = async {
            shutdown.cancelled().await;
            tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
        };
        tokio::select! {
            _ = async { tokio::join!(polling, serving, watching, telling) } => info!("stopped"),
            () = deadline => warn!("stopped; something hangs, most likely a file system, and was not waited for"),
        }
    }
}
