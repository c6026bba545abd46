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
use crate::inventory::Shelf;
use crate::metrics::Own;
use crate::poll::{self, Scheduler};
use crate::status::Board;
use crate::storage::StorageError;
use crate::web::{self, App, Readers, Scrapes};
use exporter_toolkit::bounded_file::FileError;
use exporter_toolkit::liveness::LivenessMonitor;
use exporter_toolkit::server::{BindError, Server, ServerLimits};
use exporter_toolkit::web_config::WebConfigError;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::{self as atlas, Connect};

pub use one_shot::{Progress, Round};
pub use reload::Control;
use systemd::Manager;
use telemetry::Teller;

/// Why the exporter cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The web configuration is wrong.
    #[error(transparent)]
    Access(#[from] WebConfigError),
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
pub type Load = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// What the exporter is surrounded by, which a test can replace.
#[derive(Clone)]
pub struct Surroundings {
    /// The time of day.
    pub clock: Clock,
    /// The way to Atlas.
    pub connect: Connect,
    /// The configuration, as it is at a reload.
    pub load: Load,
}

impl Surroundings {
    /// The machine's clock and network.
    pub fn real(load: Load) -> Self {
        Self {
            clock: Clock::system(),
            connect: Arc::new(atlas::connect),
            load,
        }
    }
}

/// How long the end may take, whatever hangs.
const END_WITHIN: Duration = Duration::from_secs(4);

/// An exporter whose listeners are open; [`Exporter::run`] lets it work.
pub struct Exporter {
    listeners: Vec<TcpListener>,
    probes: Vec<TcpListener>,
    app: Arc<App>,
    scheduler: Scheduler,
    commands: mpsc::Receiver<poll::Command>,
    control: Arc<Control>,
    manager: Manager,
    pulse: Arc<LivenessMonitor>,
}

impl Exporter {
    /// Opens the listeners, makes all parts, and takes up what an earlier process has left;
    /// nothing is asked of Atlas yet.
    ///
    /// # Errors
    /// [`StartError`] when an address is in use, TLS cannot be set up, or there can be no
    /// directory for state.
    pub async fn start(config: Config, surroundings: Surroundings) -> Result<Self, StartError> {
        if !config.systemd_socket && exporter_toolkit::server::has_systemd_sockets() {
            warn!(
                "systemd hands sockets over that nobody serves: switch --web.systemd-socket on, or stop the .socket unit"
            );
        }
        let mut listeners = Vec::new();
        for address in &config.listen {
            listeners.push(exporter_toolkit::server::bind(address, "--web.listen-address").await?);
        }
        if config.systemd_socket {
            listeners = exporter_toolkit::server::systemd_listeners()?;
        }
        let mut probes = Vec::new();
        if let Some(address) = &config.probe {
            probes.push(exporter_toolkit::server::bind(address, "--web.probe-address").await?);
        }
        let manager = Manager::of_this_process();
        let own = Arc::new(Own::new()?);
        let board = Arc::new(Board::default());
        let shelf = Arc::new(Shelf::default());
        let clock = surroundings.clock.clone();
        let teller = Teller::new(Arc::clone(&own), Arc::clone(&board), clock.clone());
        let teller = Arc::new(teller);
        // a reload is rare, and the next one waits for this one
        let (sender, commands) = mpsc::channel(8);
        let (control, plan) =
            Control::new(&config, surroundings, Arc::clone(&teller), sender, manager).await?;
        let scheduler = Scheduler::start(plan, Arc::clone(&shelf), teller, clock.clone()).await;
        let control = Arc::new(control);
        own.reloaded(true, clock.now());
        let app = Arc::new(App {
            own,
            shelf,
            board,
            settings: control.settings(),
            access: control.access(),
            scrapes: Scrapes::default(),
            readers: Readers::default(),
            control: Arc::clone(&control) as Arc<dyn web::Reload>,
            clock,
        });
        Ok(Self {
            listeners,
            probes,
            app,
            scheduler,
            commands,
            control,
            manager,
            pulse: Arc::new(manager.pulse()),
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
        self.probes
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// What its routes answer from.
    pub fn app(&self) -> Arc<App> {
        Arc::clone(&self.app)
    }

    /// What a signal can ask of it.
    pub fn control(&self) -> Arc<Control> {
        Arc::clone(&self.control)
    }

    /// Polls and serves until `shutdown`, then lets scrapes that are under way end and gives back
    /// the access tokens: five seconds at most, whatever Atlas or a file system does.
    pub async fn run(self, shutdown: CancellationToken) {
        let beat = self.pulse.register("the scheduler");
        let polling = self.scheduler.run(self.commands, beat, shutdown.clone());
        let telling = self.manager.tell(
            Arc::clone(&self.app),
            Arc::clone(&self.pulse),
            shutdown.clone(),
        );
        let limits = ServerLimits::from_rlimit();
        let doors = vec![
            Server {
                listeners: self.listeners,
                router: web::router(Arc::clone(&self.app)),
                limits,
                web_config: Some(Arc::clone(&self.app.access)),
                log_message: "listening",
            },
            Server {
                listeners: self.probes,
                router: web::probes(self.app),
                limits: limits.for_probes(),
                web_config: None,
                log_message: "listening for probes",
            },
        ];
        let serving = exporter_toolkit::server::serve(doors, self.pulse, shutdown.clone());
        let watching = file_watcher::watch(self.control, shutdown.clone());
        let deadline = async {
            shutdown.cancelled().await;
            tokio::time::sleep(END_WITHIN).await;
        };
        tokio::select! {
            _ = async { tokio::join!(polling, serving, watching, telling) } => info!("stopped"),
            () = deadline => warn!("stopped; something hangs, most likely a file system, and was not waited for"),
        }
    }
}
