//! What a configuration becomes: clients, a plan for the scheduler, settings for the routes. The
//! same at the start and at each reload; what a new configuration does not change is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::systemd::ServiceNotifier;
use super::telemetry::Telemetry;
use super::{Dependencies, StartError};
use crate::config::{Config, CredentialConfig};
use crate::logging;
use crate::metrics::{self, KeyLabel};
use crate::poll::{
    CredentialTarget, InventoryHook, PollOptions, PollPlan, SchedulerCommand, walk_timeout,
};
use crate::storage::Storage;
use crate::web::{HandlerOptions, Reload, SharedHandlerOptions};
use exporter_toolkit::bounded_file::run_blocking;
use exporter_toolkit::web_config::{ContentDigest, SharedWebConfig, WebConfig, WebConfigLoad};
use mongodb_atlas_client::{
    Client, ClientConfig, ClientDeps, ClientObserver, OptionalFields, RateLimiter,
};

/// Time between the starts of two reloads. Whoever asks for one in between shares the next with everybody else who does.
const MIN_RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// Takes up configurations, and tells the scheduler of them.
pub struct Reloader {
    client_factory: ClientFactory,
    scheduler_tx: mpsc::Sender<SchedulerCommand>,
    /// One reload at a time.
    active: Mutex<ActiveConfig>,
    /// How many reloads have begun to read their files.
    reloads_started: AtomicU64,
    web_config: Arc<SharedWebConfig>,
    notifier: ServiceNotifier,
    /// Told after each reload, when other files may have to be looked at.
    reload_done: Notify,
}

/// Makes clients and plans of configurations.
struct ClientFactory {
    dependencies: Dependencies,
    rate_limiter: Arc<RateLimiter>,
    telemetry: Arc<Telemetry>,
    handler_options: Arc<SharedHandlerOptions>,
}

/// The clients of all credentials, by name.
type ClientsByName = BTreeMap<Arc<str>, Arc<Client>>;

/// What is in use.
struct ActiveConfig {
    config: Config,
    clients: ClientsByName,
    /// The files that the web configuration depends on, and the content of those in force.
    web_files: Vec<PathBuf>,
    web_content: Option<ContentDigest>,
    /// The files of the web configuration that the last reload wanted to change to. They are watched beside those in
    /// force, so that a reload follows when what was wrong with them is fixed.
    wanted_web_files: Vec<PathBuf>,
    /// Whether the last configuration that was read was good.
    config_ok: bool,
    /// Whether the last web configuration that was read was good.
    web_config_ok: bool,
    /// Whether a file could not be read for a reason that may pass without a change of the file.
    is_retry_due: bool,
    last_reload: Option<CompletedReload>,
    /// The error that was logged last, until a reload succeeds.
    last_error: Option<String>,
}

/// A reload of the whole configuration.
struct CompletedReload {
    /// The value of [`Reloader::reloads_started`] since it has begun.
    sequence: u64,
    started_at: Instant,
    result: Result<(), String>,
}

/// What a file is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FileRole {
    /// The configuration itself.
    Configuration,
    /// The web configuration, and what it names.
    WebConfig,
    /// The credential of that name.
    Credential(Arc<str>),
}

impl Reloader {
    /// Takes up the first configuration, and the web configuration that it names.
    pub(super) async fn new(
        config: &Config,
        surroundings: Dependencies,
        teller: Arc<Telemetry>,
        commands: mpsc::Sender<SchedulerCommand>,
        manager: ServiceNotifier,
    ) -> Result<(Self, PollPlan), StartError> {
        let maker = ClientFactory {
            dependencies: surroundings,
            rate_limiter: Arc::default(),
            telemetry: teller,
            handler_options: Arc::new(SharedHandlerOptions::new(build_handler_options(config))),
        };
        let storage = open_storage(config).await?;
        let (clients, plan) = maker.build_plan(config, storage, None)?;
        let loaded = load_web_config(config.web_config_file.as_deref()).await;
        let access = loaded.config?;
        log_warnings(&access);
        let roster = ActiveConfig {
            config: config.clone(),
            clients,
            web_files: loaded.files,
            web_content: Some(loaded.content_digest),
            wanted_web_files: Vec::new(),
            config_ok: true,
            web_config_ok: true,
            is_retry_due: false,
            last_reload: None,
            last_error: None,
        };
        let control = Self {
            client_factory: maker,
            scheduler_tx: commands,
            active: Mutex::new(roster),
            reloads_started: AtomicU64::new(0),
            web_config: Arc::new(SharedWebConfig::new(access)),
            notifier: manager,
            reload_done: Notify::new(),
        };
        Ok((control, plan))
    }

    /// What the routes are told of the configuration.
    pub(super) fn handler_options(&self) -> Arc<SharedHandlerOptions> {
        Arc::clone(&self.client_factory.handler_options)
    }

    /// Who is let in.
    pub(super) fn web_config(&self) -> Arc<SharedWebConfig> {
        Arc::clone(&self.web_config)
    }

    /// The files that the configuration in use depends on, and what each is for.
    pub(super) async fn watched_files(&self) -> Vec<(PathBuf, FileRole)> {
        let roster = self.active.lock().await;
        let file = roster.config.config_file.iter();
        let file = file.map(|path| (path.clone(), FileRole::Configuration));
        let web = roster.web_files.iter().chain(&roster.wanted_web_files);
        let web = web.map(|path| (path.clone(), FileRole::WebConfig));
        let credentials = roster.config.credentials.iter().flat_map(|account| {
            let name = &account.name;
            let files = account.credential.files();
            files.map(|path| (path.to_owned(), FileRole::Credential(Arc::clone(name))))
        });
        file.chain(web).chain(credentials).collect()
    }

    /// Returns after a reload; at once if there was one since it was last asked.
    pub(super) async fn wait_for_reload(&self) {
        self.reload_done.notified().await;
    }

    /// Told that a file of a credential has changed.
    pub(super) async fn on_credential_changed(&self, name: Arc<str>) {
        // the scheduler has ended only when everything ends
        let _ = self
            .scheduler_tx
            .send(SchedulerCommand::CredentialChanged(name))
            .await;
    }

    /// Whether the last reload failed for a reason that may pass without a change of a file.
    pub(super) async fn is_retry_due(&self) -> bool {
        self.active.lock().await.is_retry_due
    }

    /// Reads the configuration again and takes it up. A bad one changes nothing, and neither does one that would drop
    /// a protection of the web configuration in force.
    ///
    /// Only one reload runs at a time, and at most one begins each second: all that are asked for meanwhile share it.
    ///
    /// # Errors
    /// What is wrong with it, in a text of several lines.
    pub async fn reload(&self, why: &str) -> Result<(), String> {
        let asked_at = self.reloads_started.load(Ordering::SeqCst);
        let mut roster = self.active.lock().await;
        if let Some(last) = &roster.last_reload {
            if last.sequence > asked_at {
                return last.result.clone();
            }
            tokio::time::sleep_until(last.started_at + MIN_RELOAD_INTERVAL).await;
        }
        roster.last_error = None;
        self.reload_all(&mut roster, why).await
    }

    /// Reads again what has `changed`, and takes it up, as [`Self::reload`] does; an error that is known is not logged
    /// again.
    pub(super) async fn on_files_changed(&self, changed: &BTreeSet<FileRole>) {
        let is_credential = |purpose: &FileRole| matches!(purpose, FileRole::Credential(_));
        if changed.iter().all(is_credential) {
            return;
        }
        let mut roster = self.active.lock().await;
        let mut is_retry_due = false;
        // the last configuration may have been refused because of the web configuration that it names
        if changed.contains(&FileRole::Configuration) || !roster.config_ok {
            // what is wrong with it is logged
            let _ = self.reload_all(&mut roster, "the file has changed").await;
            if roster.config_ok {
                return;
            }
            is_retry_due = roster.is_retry_due;
        }
        if !changed.contains(&FileRole::WebConfig) {
            return;
        }
        let loaded = load_web_config(roster.config.web_config_file.as_deref()).await;
        roster.is_retry_due = is_retry_due || loaded.is_transient;
        let is_in_force =
            roster.web_content == Some(loaded.content_digest) && loaded.config.is_ok();
        if is_in_force && roster.web_config_ok {
            return;
        }
        roster.web_files = loaded.files;
        let result = loaded
            .config
            .map_err(|error| error.to_string())
            .and_then(|access| self.reject_weaker(access));
        roster.web_config_ok = result.is_ok();
        match result {
            Ok(access) => {
                self.apply_web_config(&mut roster, access, loaded.content_digest);
                info!("web configuration reloaded");
            }
            Err(mistakes) => log_web_config_error(&mut roster, &mistakes),
        }
        self.record_reload(&roster);
    }

    fn apply_web_config(
        &self,
        roster: &mut ActiveConfig,
        access: WebConfig,
        content: ContentDigest,
    ) {
        log_warnings(&access);
        self.web_config.set(access);
        roster.web_content = Some(content);
    }

    /// Refuses a web configuration that lacks a protection of the one in force. A file that was cut while it was
    /// written looks the same as one from which a protection was removed on purpose, and a restart tells them apart.
    fn reject_weaker(&self, access: WebConfig) -> Result<WebConfig, String> {
        let lost = self.web_config.get().weakened_by(&access);
        if lost.is_empty() {
            return Ok(access);
        }
        Err(format!(
            "the new web configuration lacks {}: a reload never removes a protection; restart the exporter to apply it",
            lost.join(", ")
        ))
    }

    fn record_reload(&self, roster: &ActiveConfig) {
        self.reload_done.notify_one();
        let now = self.client_factory.dependencies.clock.now();
        let good = roster.config_ok && roster.web_config_ok;
        self.client_factory
            .telemetry
            .metrics
            .config_reloaded(good, now);
    }

    async fn reload_all(&self, roster: &mut ActiveConfig, why: &str) -> Result<(), String> {
        let number = self.reloads_started.fetch_add(1, Ordering::SeqCst) + 1;
        let started_at = Instant::now();
        let result = {
            let _notification = ReloadNotification::new(self.notifier);
            self.try_reload(roster).await
        };
        roster.config_ok = !matches!(result, Err(ReloadError::Config(_)));
        if roster.config_ok {
            roster.web_config_ok = result.is_ok();
            info!(why, "configuration reloaded");
        }
        let result = match result {
            Ok(()) => {
                roster.last_error = None;
                Ok(())
            }
            Err(ReloadError::Config(mistakes)) => {
                if roster.record_error(&mistakes) {
                    error!(
                        why,
                        mistakes, "the new configuration is not used, the one before still is"
                    );
                }
                Err(mistakes)
            }
            Err(ReloadError::WebConfig(mistakes)) => {
                log_web_config_error(roster, &mistakes);
                Err(mistakes)
            }
        };
        self.record_reload(roster);
        roster.last_reload = Some(CompletedReload {
            sequence: number,
            started_at,
            result: result.clone(),
        });
        result
    }

    async fn try_reload(&self, roster: &mut ActiveConfig) -> Result<(), ReloadError> {
        // until the last file is read
        roster.is_retry_due = true;
        let load = Arc::clone(&self.client_factory.dependencies.load_config);
        let file = roster.config.config_file.as_ref();
        let file = file.or(roster.config.web_config_file.as_ref()).cloned();
        let loaded = run_blocking(&file.unwrap_or_default(), move || load()).await;
        let config = loaded
            .map_err(|error| format!("the configuration cannot be read: {error}"))
            .map_err(ReloadError::Config)?;
        roster.is_retry_due = false;
        let config = config.map_err(|error| ReloadError::from_config(&error))?;
        if !roster.config.allowed_hosts.allows_any() && config.allowed_hosts.allows_any() {
            return Err(ReloadError::Config(
                "the new configuration lacks web.allowed_hosts: a reload never removes a protection; restart the exporter to apply it".to_owned(),
            ));
        }
        let loaded = load_web_config(config.web_config_file.as_deref()).await;
        roster.is_retry_due = loaded.is_transient;
        roster.wanted_web_files.clone_from(&loaded.files);
        let access = loaded.config.map_err(|error| error.to_string());
        let access = access.and_then(|access| self.reject_weaker(access));
        if let Err(mistakes) = &access
            && config.web_config_file != roster.config.web_config_file
        {
            // one that names another web configuration is not taken up without it
            return Err(ReloadError::Config(mistakes.clone()));
        }
        let storage = open_storage(&config)
            .await
            .map_err(|error| ReloadError::from_config(&error))?;
        let place = self.scheduler_tx.reserve().await;
        let place =
            place.map_err(|_| ReloadError::Config("the exporter is stopping".to_owned()))?;
        // From here on nothing waits: a reload is applied whole or not at all, also when the request that asked for it
        // is given up.
        let (clients, plan) = self
            .client_factory
            .build_plan(&config, storage, Some(roster))
            .map_err(|error| ReloadError::from_config(&error))?;
        let before = &roster.config;
        let listeners = |config: &Config| {
            (
                config.listen_addresses.clone(),
                config.probe_address.clone(),
                config.systemd_socket,
            )
        };
        if listeners(&config) != listeners(before) {
            warn!("an address to listen on has changed, and is only read at the start");
        }
        logging::reload(config.log_level, config.log_format);
        self.client_factory
            .handler_options
            .set(build_handler_options(&config));
        (roster.config, roster.clients) = (config, clients);
        roster.web_files = std::mem::take(&mut roster.wanted_web_files);
        place.send(SchedulerCommand::ApplyPlan(plan));
        let access = access.map_err(ReloadError::WebConfig)?;
        self.apply_web_config(roster, access, loaded.content_digest);
        Ok(())
    }
}

/// Why a reload has failed.
enum ReloadError {
    /// Nothing of it is in force.
    Config(String),
    /// The configuration is in force, beside the web configuration that was in force before.
    WebConfig(String),
}

impl ReloadError {
    fn from_config(error: &impl ToString) -> Self {
        Self::Config(error.to_string())
    }
}

impl ActiveConfig {
    /// Whether the error is another one than that which was logged last.
    fn record_error(&mut self, error: &str) -> bool {
        let is_new = self.last_error.as_deref() != Some(error);
        self.last_error = Some(error.to_owned());
        is_new
    }
}

fn log_web_config_error(roster: &mut ActiveConfig, mistakes: &str) {
    if roster.record_error(mistakes) {
        error!(
            mistakes,
            "the new web configuration is not used, the one before still is"
        );
    }
}

fn log_warnings(access: &WebConfig) {
    for warning in &access.warnings {
        warn!(warning, "web configuration warning");
    }
}

/// Tells the service manager of a reload, and of its end, also when it is given up.
struct ReloadNotification(ServiceNotifier);

impl ReloadNotification {
    fn new(manager: ServiceNotifier) -> Self {
        manager.reloading(true);
        Self(manager)
    }
}

impl Drop for ReloadNotification {
    fn drop(&mut self) {
        self.0.reloading(false);
    }
}

/// Reads a web configuration, if there is one.
async fn load_web_config(path: Option<&Path>) -> WebConfigLoad {
    match path {
        Some(path) => WebConfig::load_stable(path).await,
        None => WebConfigLoad {
            files: Vec::new(),
            config: Ok(WebConfig::default()),
            content_digest: ContentDigest::default(),
            is_transient: false,
        },
    }
}

/// Opens the storage where the file system can keep nobody waiting.
async fn open_storage(config: &Config) -> Result<Option<Storage>, StartError> {
    let Some(path) = config.storage_path.clone() else {
        return Ok(None);
    };
    let opened = run_blocking(&path.clone(), move || Storage::open(&path)).await;
    let opened = opened.map_err(StartError::StorageUnavailable)?;
    Ok(Some(opened?))
}

impl ClientFactory {
    /// Clients and a plan for `config`. A client that is to be as it was `before` is the same one,
    /// with its token, its nonce and its connections.
    fn build_plan(
        &self,
        config: &Config,
        storage: Option<Storage>,
        before: Option<&ActiveConfig>,
    ) -> Result<(ClientsByName, PollPlan), StartError> {
        let mut clients = BTreeMap::new();
        let mut members = Vec::new();
        for account in &config.credentials {
            let client_config = client_config(config, account);
            let known = before
                .filter(|before| before.config.storage_path == config.storage_path)
                .and_then(|before| before.clients.get(&account.name))
                .filter(|client| *client.config() == client_config);
            let client = match known {
                Some(client) => Arc::clone(client),
                None => self.create_client(client_config, storage.as_ref())?,
            };
            self.telemetry.register_credential(account);
            clients.insert(Arc::clone(&account.name), Arc::clone(&client));
            members.push(CredentialTarget {
                client,
                orgs: account.org_ids.clone(),
                discover: account.discover_orgs,
            });
        }
        for gone in before.iter().flat_map(|before| before.clients.keys()) {
            if !clients.contains_key(gone) {
                self.telemetry.remove_credential(gone);
            }
        }
        let labels = &config.key_series.labels;
        let plan = PollPlan {
            credentials: members,
            shard: config.shard,
            max_orgs: config.max_orgs,
            interval: config.poll_interval,
            options: PollOptions {
                page_size: config.page_size,
                revived_after: config
                    .key_series
                    .thresholds
                    .last()
                    .map(|threshold| threshold.duration)
                    .unwrap_or_default(),
                optional_fields: OptionalFields {
                    created_by: labels.contains(&KeyLabel::CreatedBy),
                    masked_secret: labels.contains(&KeyLabel::MaskedSecret),
                },
                clock: self.dependencies.clock.clone(),
                inventory_hook: self.inventory_hook(),
                walk_timeout: walk_timeout(config.poll_interval),
            },
            storage,
        };
        Ok((clients, plan))
    }

    /// What scrapers that want a packed form will need of an inventory is made with it, not at
    /// the first scrape after it.
    fn inventory_hook(&self) -> InventoryHook {
        let settings = Arc::clone(&self.handler_options);
        InventoryHook(Arc::new(move |inventory| {
            let settings = settings.get();
            for format in settings.gzip_formats() {
                metrics::precompress(format, inventory, &settings.key_series);
            }
        }))
    }

    fn create_client(
        &self,
        config: ClientConfig,
        storage: Option<&Storage>,
    ) -> Result<Arc<Client>, StartError> {
        let context = ClientDeps {
            transport: (self.dependencies.transport_factory)(&config)
                .map_err(StartError::Client)?,
            rate_limiter: Arc::clone(&self.rate_limiter),
            token_store: storage.map(|storage| storage.token_store(&config.credential_name)),
            observer: Arc::clone(&self.telemetry) as Arc<dyn ClientObserver>,
            clock: self.dependencies.clock.clone(),
        };
        Client::new(config, context)
            .map(Arc::new)
            .map_err(StartError::Client)
    }
}

impl Reload for Reloader {
    fn reload(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.reload("HTTP request"))
    }
}

fn client_config(config: &Config, account: &CredentialConfig) -> ClientConfig {
    ClientConfig {
        credential_name: Arc::clone(&account.name),
        credential: account.credential.to_client(),
        base_url: config.base_url.clone(),
        route: config.route.clone(),
        api_version: config.api_version.clone(),
        request_timeout: config.request_timeout,
        max_retry_wait: config.poll_interval,
    }
}

fn build_handler_options(config: &Config) -> HandlerOptions {
    HandlerOptions {
        key_series: Arc::new(config.key_series.clone()),
        max_requests: config.max_requests,
        gzip_formats: AtomicU8::new(0),
        telemetry_path: config.telemetry_path.clone(),
        max_staleness: config.max_staleness,
        lifecycle_enabled: config.enable_lifecycle,
        allowed_hosts: config.allowed_hosts.clone(),
    }
}
