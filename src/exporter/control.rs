//! What a configuration becomes: clients, a plan for the scheduler, settings for the routes. The
//! same at the start and at each reload; what a new configuration does not change is kept.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, Notify, mpsc};
use tracing::{error, info, warn};

use super::manager::Manager;
use super::teller::Teller;
use super::{StartError, Surroundings};
use crate::atlas::{Budgets, Client, ClientConfig, Context, Members, Observer};
use crate::config::{Account, Config};
use crate::logging;
use crate::metrics::{self, KeyLabel};
use crate::poll::{Command, Manner, Member, Plan, Prepare, Storage};
use crate::web::{Access, Loaded, Reload, Settings, SharedAccess, SharedSettings};

/// Takes up configurations, and tells the scheduler of them.
pub struct Control {
    maker: Maker,
    commands: mpsc::Sender<Command>,
    /// One reload at a time.
    roster: Mutex<Roster>,
    access: Arc<SharedAccess>,
    manager: Manager,
    /// Told after each reload, when other files may have to be looked at.
    reloaded: Notify,
}

/// Makes clients and plans of configurations.
struct Maker {
    surroundings: Surroundings,
    budgets: Arc<Budgets>,
    teller: Arc<Teller>,
    settings: Arc<SharedSettings>,
}

/// The clients of all credentials, by name.
type Clients = BTreeMap<Arc<str>, Arc<Client>>;

/// What is in use.
struct Roster {
    config: Config,
    clients: Clients,
    /// The files that the web configuration depends on.
    web_files: Vec<PathBuf>,
    /// Whether the last configuration that was read was good, and the last web configuration.
    good: (bool, bool),
}

/// What a file is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// The configuration itself.
    Configuration,
    /// The web configuration, and what it names.
    Access,
    /// The credential of that name.
    Credential(Arc<str>),
}

impl Control {
    /// Takes up the first configuration, and the web configuration that it names.
    pub(super) async fn new(
        config: &Config,
        surroundings: Surroundings,
        teller: Arc<Teller>,
        commands: mpsc::Sender<Command>,
        manager: Manager,
    ) -> Result<(Self, Plan), StartError> {
        let maker = Maker {
            surroundings,
            budgets: Arc::default(),
            teller,
            settings: Arc::new(SharedSettings::new(settings(config))),
        };
        let (clients, plan) = maker.plan(config, None)?;
        let loaded = load_access(config.web_file.clone()).await;
        let access = Arc::new(SharedAccess::new(loaded.access?));
        tell_of(&access.get());
        let control = Self {
            maker,
            commands,
            roster: Mutex::new(Roster {
                config: config.clone(),
                clients,
                web_files: loaded.files,
                good: (true, true),
            }),
            access,
            manager,
            reloaded: Notify::new(),
        };
        Ok((control, plan))
    }

    /// What the routes are told of the configuration.
    pub(super) fn settings(&self) -> Arc<SharedSettings> {
        Arc::clone(&self.maker.settings)
    }

    /// Who is let in.
    pub(super) fn access(&self) -> Arc<SharedAccess> {
        Arc::clone(&self.access)
    }

    /// The files that the configuration in use depends on, and what each is for.
    pub(super) async fn files(&self) -> Vec<(PathBuf, Purpose)> {
        let roster = self.roster.lock().await;
        let file = roster.config.file.iter();
        let file = file.map(|path| (path.clone(), Purpose::Configuration));
        let web = roster.web_files.iter();
        let web = web.map(|path| (path.clone(), Purpose::Access));
        let credentials = roster.config.accounts.iter().flat_map(|account| {
            let name = &account.name;
            let files = account.credential.files();
            files.map(|path| (path.to_owned(), Purpose::Credential(Arc::clone(name))))
        });
        file.chain(web).chain(credentials).collect()
    }

    /// Returns after a reload; at once if there was one since it was last asked.
    pub(super) async fn reloaded(&self) {
        self.reloaded.notified().await;
    }

    /// Told that a file of a credential has changed.
    pub(super) async fn credential_changed(&self, name: Arc<str>) {
        // the scheduler has ended only when everything ends
        let _ = self.commands.send(Command::CredentialChanged(name)).await;
    }

    /// Reads the configuration again and takes it up. A bad one changes nothing.
    ///
    /// # Errors
    /// What is wrong with it, in a text of several lines.
    pub async fn reload(&self, why: &str) -> Result<(), String> {
        let mut roster = self.roster.lock().await;
        self.manager.reloading(true);
        let result = self.reload_into(&mut roster).await;
        self.manager.reloading(false);
        roster.good.0 = result.is_ok();
        if result.is_ok() {
            roster.good.1 = true;
        }
        self.tell_of_reload(&roster);
        match &result {
            Ok(()) => info!(why, "configuration reloaded"),
            Err(mistakes) => error!(
                why,
                mistakes, "the new configuration is not used, the one before still is"
            ),
        }
        result
    }

    /// Reads the web configuration alone again, and takes it up. A bad one changes nothing: open
    /// connections and new ones are served as before.
    pub(super) async fn reload_access(&self) {
        let mut roster = self.roster.lock().await;
        let loaded = load_access(roster.config.web_file.clone()).await;
        roster.web_files = loaded.files;
        roster.good.1 = loaded.access.is_ok();
        self.tell_of_reload(&roster);
        match loaded.access {
            Ok(access) => {
                tell_of(&access);
                self.access.set(access);
                info!("web configuration reloaded");
            }
            Err(mistakes) => error!(
                %mistakes,
                "the new web configuration is not used, the one before still is"
            ),
        }
    }

    fn tell_of_reload(&self, roster: &Roster) {
        self.reloaded.notify_one();
        let now = self.maker.surroundings.clock.now();
        let good = roster.good.0 && roster.good.1;
        self.maker.teller.own.reloaded(good, now);
    }

    async fn reload_into(&self, roster: &mut Roster) -> Result<(), String> {
        let load = Arc::clone(&self.maker.surroundings.load);
        let config = tokio::task::spawn_blocking(move || load())
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        let loaded = load_access(config.web_file.clone()).await;
        // watched from now on, so that a file that was wrong is read again when it is right
        roster.web_files = loaded.files;
        let access = loaded.access.map_err(|error| error.to_string())?;
        let (clients, plan) = self
            .maker
            .plan(&config, Some(roster))
            .map_err(|error| error.to_string())?;
        let before = &roster.config;
        let listeners = |config: &Config| {
            (
                config.listen.clone(),
                config.probe.clone(),
                config.systemd_socket,
            )
        };
        if listeners(&config) != listeners(before) {
            warn!("an address to listen on has changed, and is only read at the start");
        }
        logging::set(config.log_level, config.log_format);
        self.maker.settings.set(settings(&config));
        tell_of(&access);
        self.access.set(access);
        (roster.config, roster.clients) = (config, clients);
        self.commands
            .send(Command::Plan(plan))
            .await
            .map_err(|_| "the exporter is stopping".to_owned())
    }
}

/// Reads a web configuration, if there is one, where the file system can keep nobody waiting.
async fn load_access(path: Option<PathBuf>) -> Loaded {
    let nothing = || Loaded {
        files: Vec::new(),
        access: Ok(Access::default()),
    };
    let Some(path) = path else {
        return nothing();
    };
    tokio::task::spawn_blocking(move || Access::load(&path))
        .await
        // only when everything ends
        .unwrap_or_else(|_| nothing())
}

fn tell_of(access: &Access) {
    for warning in &access.warnings {
        warn!("web configuration: {warning}");
    }
}

impl Maker {
    /// Clients and a plan for `config`. A client that is to be as it was `before` is the same one,
    /// with its token, its nonce and its connections.
    fn plan(
        &self,
        config: &Config,
        before: Option<&Roster>,
    ) -> Result<(Clients, Plan), StartError> {
        let storage = config.storage.as_deref().map(Storage::open).transpose()?;
        let mut clients = BTreeMap::new();
        let mut members = Vec::new();
        for account in &config.accounts {
            let client_config = client_config(config, account);
            let known = before
                .filter(|before| before.config.storage == config.storage)
                .and_then(|before| before.clients.get(&account.name))
                .filter(|client| *client.config() == client_config);
            let client = match known {
                Some(client) => Arc::clone(client),
                None => self.client(client_config, storage.as_ref())?,
            };
            self.teller.credential(account);
            clients.insert(Arc::clone(&account.name), Arc::clone(&client));
            members.push(Member {
                client,
                orgs: account.orgs.clone(),
                discover: account.discover,
            });
        }
        for gone in before.iter().flat_map(|before| before.clients.keys()) {
            if !clients.contains_key(gone) {
                self.teller.credential_gone(gone);
            }
        }
        let labels = &config.selection.labels;
        let plan = Plan {
            members,
            shard: config.shard,
            interval: config.poll_interval,
            manner: Manner {
                page_size: config.page_size,
                revived_after: config
                    .selection
                    .thresholds
                    .last()
                    .map(|threshold| threshold.length)
                    .unwrap_or_default(),
                members: Members {
                    created_by: labels.contains(&KeyLabel::CreatedBy),
                    masked_secret: labels.contains(&KeyLabel::MaskedSecret),
                },
                clock: self.surroundings.clock.clone(),
                prepare: self.prepare(),
            },
            storage,
        };
        Ok((clients, plan))
    }

    /// What scrapers that want a packed form will need of an inventory is made with it, not at
    /// the first scrape after it.
    fn prepare(&self) -> Prepare {
        let settings = Arc::clone(&self.settings);
        Prepare(Arc::new(move |inventory| {
            let settings = settings.get();
            for format in settings.packed_formats() {
                metrics::prepare(format, inventory, &settings.selection);
            }
        }))
    }

    fn client(
        &self,
        config: ClientConfig,
        storage: Option<&Storage>,
    ) -> Result<Arc<Client>, StartError> {
        let context = Context {
            transport: (self.surroundings.connect)(&config).map_err(StartError::Client)?,
            budgets: Arc::clone(&self.budgets),
            tokens: storage.map(|storage| storage.token_file(&config.name)),
            observer: Arc::clone(&self.teller) as Arc<dyn Observer>,
            clock: self.surroundings.clock.clone(),
        };
        Client::new(config, context)
            .map(Arc::new)
            .map_err(StartError::Client)
    }
}

impl Reload for Control {
    fn reload(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.reload("HTTP request"))
    }
}

fn client_config(config: &Config, account: &Account) -> ClientConfig {
    ClientConfig {
        name: Arc::clone(&account.name),
        credential: account.credential.clone(),
        base_url: config.base_url.clone(),
        route: config.route.clone(),
        version: config.version.clone(),
        timeout: config.timeout,
        patience: config.poll_interval,
    }
}

fn settings(config: &Config) -> Settings {
    Settings {
        selection: Arc::new(config.selection.clone()),
        max_requests: config.max_requests,
        packed: AtomicU8::new(0),
        telemetry_path: config.telemetry_path.clone(),
        max_staleness: config.max_staleness,
        lifecycle: config.lifecycle,
    }
}
