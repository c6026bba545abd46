//! Wires the modules into a running exporter.
//!
//! | module | purpose |
//! | --- | --- |
//! | `reload` | applies the configuration, at the start and at each reload |
//! | `active_config` | the active configuration, and the result of reloads |
//! | `client_factory` | creates clients and polling plans from a configuration |
//! | `file_watcher` | detects changes of files |
//! | `systemd` | notifications for systemd |
//! | `one_shot` | polls every organization once |

mod active_config;
mod client_factory;
mod file_watcher;
mod one_shot;
mod reload;
mod systemd;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use exporter_toolkit::bounded_file::FileError;
use exporter_toolkit::liveness::LivenessMonitor;
use exporter_toolkit::server::{self, BindError, Server, ServerLimits};
use exporter_toolkit::web_config::WebConfigError;
use mongodb_atlas_client::{Clock, TransportFactory, new_http_transport};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Config, ConfigError};
use crate::inventory::InventoryStore;
use crate::metrics::ExporterMetrics;
use crate::poll::{PollEvent, PollObserver, Scheduler, SchedulerCommand};
use crate::status::OrgStatuses;
use crate::storage::StorageError;
use crate::web::{self, AppState, RenderLimiter, ScrapeState};
pub use one_shot::{OneShotResult, PollProgress};
pub use reload::Reloader;
use systemd::ServiceNotifier;

/// The error of a start that failed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listen address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The web configuration is invalid.
    #[error(transparent)]
    WebConfig(#[from] WebConfigError),
    /// The HTTP client cannot be created.
    #[error("creating the Atlas client failed: {0}")]
    Client(String),
    /// The metrics cannot be registered.
    #[error("registering the exporter's own metrics failed: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The state directory cannot be created.
    #[error(
        "{0}\n    help: check that the exporter can write to --storage.path, and that its disk has free space"
    )]
    Storage(#[from] StorageError),
    /// The file system of the state directory hangs.
    #[error("opening the state directory (--storage.path) failed: {0}")]
    StorageUnavailable(FileError),
}

/// Loads the configuration.
pub type ConfigLoader = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// The dependencies of the exporter, which tests can replace.
#[derive(Clone)]
pub struct Dependencies {
    /// The clock.
    pub clock: Clock,
    /// Creates the transports to Atlas.
    pub transport_factory: TransportFactory,
    /// Loads the configuration at a reload.
    pub load_config: ConfigLoader,
}

impl Dependencies {
    /// Returns the clock and the network of the machine.
    pub fn production(load_config: ConfigLoader) -> Self {
        Self {
            clock: Clock::system(),
            transport_factory: Arc::new(new_http_transport),
            load_config,
        }
    }
}

/// The exporter's own metrics, and the status of each organization. Both handle the events of the scheduler.
struct Telemetry {
    metrics: Arc<ExporterMetrics>,
    statuses: Arc<OrgStatuses>,
}

impl PollObserver for Telemetry {
    fn on_event(&self, event: PollEvent<'_>) {
        self.metrics.on_event(event);
        self.statuses.on_event(event);
    }
}

/// Maximum duration of a shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(4);
/// Capacity of the channel to the scheduler. Reloads are rare, and each waits for the previous one.
const COMMAND_CAPACITY: usize = 8;

/// An exporter with open listeners. [`Exporter::run`] polls and serves.
pub struct Exporter {
    listeners: Listeners,
    state: Arc<AppState>,
    scheduler: Scheduler,
    scheduler_rx: mpsc::Receiver<SchedulerCommand>,
    reloader: Arc<Reloader>,
    notifier: ServiceNotifier,
    liveness: Arc<LivenessMonitor>,
}

/// The listeners of both servers.
struct Listeners {
    main: Vec<TcpListener>,
    /// Listeners for health and readiness only.
    probe: Vec<TcpListener>,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, BindError> {
        if !config.systemd_socket && server::has_systemd_sockets() {
            warn!(
                hint = "set --web.systemd-socket, or disable the .socket unit",
                "ignoring sockets passed by systemd"
            );
        }
        let mut main = Vec::new();
        for address in &config.listen_addresses {
            main.push(server::bind(address, "--web.listen-address").await?);
        }
        if config.systemd_socket {
            main = server::systemd_listeners()?;
        }
        let mut probe = Vec::new();
        if let Some(address) = &config.probe_address {
            probe.push(server::bind(address, "--web.probe-address").await?);
        }
        Ok(Self { main, probe })
    }
}

fn local_addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    let addresses = listeners.iter().map(TcpListener::local_addr);
    addresses.filter_map(Result::ok).collect()
}

impl Exporter {
    /// Opens the listeners, creates all parts and restores stored state. Sends no request to Atlas.
    ///
    /// # Errors
    /// [`StartError`] when an address is in use, TLS cannot be set up, or the state directory cannot be created.
    pub async fn start(config: Config, dependencies: Dependencies) -> Result<Self, StartError> {
        let listeners = Listeners::bind(&config).await?;
        let notifier = ServiceNotifier::from_env();
        let metrics = Arc::new(ExporterMetrics::new()?);
        let status = Arc::new(OrgStatuses::default());
        let store = Arc::new(InventoryStore::default());
        store.set_policy(Arc::clone(&config.key_policy));
        let clock = dependencies.clock.clone();
        let telemetry = Arc::new(Telemetry {
            metrics: Arc::clone(&metrics),
            statuses: Arc::clone(&status),
        });
        let (scheduler_tx, scheduler_rx) = mpsc::channel(COMMAND_CAPACITY);
        let observer = Arc::clone(&telemetry);
        let (reloader, plan) = Reloader::new(
            &config,
            dependencies,
            &store,
            telemetry,
            scheduler_tx,
            notifier,
        )
        .await?;
        let scheduler = Scheduler::start(plan, Arc::clone(&store), observer, clock.clone()).await;
        let reloader = Arc::new(reloader);
        metrics.config_reloaded(true, clock.now());
        let state = Arc::new(AppState {
            metrics,
            store,
            status,
            options: Arc::clone(&reloader.client_factory.handler_options),
            web_config: Arc::clone(&reloader.web_config),
            scrapes: ScrapeState::default(),
            renders: RenderLimiter::default(),
            reloader: Arc::clone(&reloader) as Arc<dyn web::Reload>,
            clock,
        });
        Ok(Self {
            listeners,
            state,
            scheduler,
            scheduler_rx,
            reloader,
            notifier,
            liveness: Arc::new(notifier.liveness_monitor()),
        })
    }

    /// Returns the listen addresses.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        local_addresses(&self.listeners.main)
    }

    /// Returns the listen addresses for health and readiness only.
    pub fn probe_addresses(&self) -> Vec<SocketAddr> {
        local_addresses(&self.listeners.probe)
    }

    /// Returns the state of the HTTP handlers.
    pub fn state(&self) -> Arc<AppState> {
        Arc::clone(&self.state)
    }

    /// Returns the reloader, which applies a changed configuration.
    pub fn reloader(&self) -> Arc<Reloader> {
        Arc::clone(&self.reloader)
    }

    /// Polls and serves until `shutdown`, then completes running scrapes and revokes the access tokens. The shutdown takes
    /// at most `SHUTDOWN_TIMEOUT`, even if Atlas or a file system hangs.
    pub async fn run(self, shutdown: CancellationToken) {
        let heartbeat = self.liveness.register("scheduler");
        let scheduler = self.scheduler;
        // Boxed because it is the largest part of this future.
        let polling = Box::pin(scheduler.run(self.scheduler_rx, heartbeat, shutdown.clone()));
        let notifying = self.notifier.run(
            Arc::clone(&self.state),
            Arc::clone(&self.liveness),
            shutdown.clone(),
        );
        let limits = ServerLimits::from_rlimit();
        let servers = vec![
            Server {
                listeners: self.listeners.main,
                router: web::router(Arc::clone(&self.state)),
                limits,
                web_config: Some(Arc::clone(&self.state.web_config)),
                name: "web",
            },
            Server {
                listeners: self.listeners.probe,
                router: web::probe_router(self.state),
                limits: limits.for_probes(),
                web_config: None,
                name: "probes",
            },
        ];
        let serving = server::serve(servers, self.liveness, shutdown.clone());
        let watching = shutdown.run_until_cancelled(file_watcher::watch(&self.reloader));
        let deadline = async {
            shutdown.cancelled().await;
            tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
        };
        tokio::select! {
            _ = async { tokio::join!(polling, serving, watching, notifying) } => info!("stopped"),
            () = deadline => warn!(timeout = ?SHUTDOWN_TIMEOUT, "shutdown timed out"),
        }
    }
}
