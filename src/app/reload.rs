//! Applies the configuration: at the start, on request, and after a file change.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use exporter_toolkit::bounded_file::run_blocking;
use exporter_toolkit::web_config::{ContentDigest, SharedWebConfig, WebConfig, WebConfigLoad};
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::Instant;
use tracing::{info, warn};

use super::active_config::{
    ActiveConfig, CompletedReload, FileRole, ReloadError, load_web_config, log_warnings,
};
use super::client_factory::{ClientFactory, open_storage};
use super::systemd::ServiceNotifier;
use super::{Dependencies, StartError, Telemetry};
use crate::config::Config;
use crate::inventory::InventoryStore;
use crate::logging;
use crate::poll::{PollPlan, SchedulerCommand};
use crate::web::{HandlerOptions, Reload, SharedHandlerOptions};

/// Minimum time between the starts of two reloads. Requests during this time share the next reload.
const MIN_RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// Applies configurations, and passes their plans to the scheduler.
pub struct Reloader {
    pub(super) client_factory: ClientFactory,
    scheduler_tx: mpsc::Sender<SchedulerCommand>,
    /// The active configuration; locked during a reload, so that only one runs at a time.
    pub(super) active: Mutex<ActiveConfig>,
    /// Number of reloads that have started to read their files.
    reloads_started: AtomicU64,
    pub(super) web_config: Arc<SharedWebConfig>,
    notifier: ServiceNotifier,
    /// Notified after each reload, when the set of files may have changed.
    pub(super) reload_done: Notify,
}

impl Reloader {
    /// Applies the first configuration and its web configuration.
    pub(super) async fn new(
        config: &Config,
        dependencies: Dependencies,
        store: &Arc<InventoryStore>,
        telemetry: Arc<Telemetry>,
        scheduler_tx: mpsc::Sender<SchedulerCommand>,
        notifier: ServiceNotifier,
    ) -> Result<(Self, PollPlan), StartError> {
        let handler_options = SharedHandlerOptions::new(HandlerOptions::new(config.clone()));
        let client_factory = ClientFactory {
            dependencies,
            rate_limiter: Arc::default(),
            telemetry,
            handler_options: Arc::new(handler_options),
            store: Arc::clone(store),
        };
        let storage = open_storage(config).await?;
        let (clients, plan) = client_factory.build_plan(config, storage, None)?;
        let loaded = load_web_config(config.web_config_file.as_deref()).await;
        let web_config = loaded.config?;
        log_warnings(&web_config);
        let active = ActiveConfig {
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
        let reloader = Self {
            client_factory,
            scheduler_tx,
            active: Mutex::new(active),
            reloads_started: AtomicU64::new(0),
            web_config: Arc::new(
                SharedWebConfig::new(web_config).with_realm(env!("CARGO_PKG_NAME")),
            ),
            notifier,
            reload_done: Notify::new(),
        };
        Ok((reloader, plan))
    }

    /// Handles the change of a credential's file.
    pub(super) async fn on_credential_changed(&self, name: Arc<str>) {
        let command = SchedulerCommand::CredentialChanged(name);
        // The only error is that the scheduler has stopped, during a shutdown.
        let _ = self.scheduler_tx.send(command).await;
    }

    /// Loads the configuration and applies it. A configuration is rejected if it is invalid, or if it removes a protection
    /// of the active web configuration.
    ///
    /// Only one reload runs at a time, and at most one starts each second; requests in the meantime share it.
    ///
    /// # Errors
    /// Every error, one per line.
    pub async fn reload(&self, trigger: &str) -> Result<(), String> {
        let requested_at = self.reloads_started.load(Ordering::SeqCst);
        let mut active = self.active.lock().await;
        if let Some(last) = &active.last_reload {
            if last.sequence > requested_at {
                return last.result.clone();
            }
            tokio::time::sleep_until(last.started_at + MIN_RELOAD_INTERVAL).await;
        }
        active.last_error = None;
        self.reload_all(&mut active, trigger).await
    }

    /// Loads the files that have `changed` and applies them, as [`Self::reload`] does. A repeated error is logged once.
    pub(super) async fn on_files_changed(&self, changed: &BTreeSet<FileRole>) {
        let is_credential = |role: &FileRole| matches!(role, FileRole::Credential(_));
        if changed.iter().all(is_credential) {
            return;
        }
        let mut active = self.active.lock().await;
        let mut is_retry_due = false;
        // The last configuration may have been rejected because of its web configuration.
        if changed.contains(&FileRole::Configuration) || !active.config_ok {
            // `reload_all` logs its errors.
            let _ = self.reload_all(&mut active, "file change").await;
            if active.config_ok {
                return;
            }
            is_retry_due = active.is_retry_due;
        }
        if !changed.contains(&FileRole::WebConfig) {
            return;
        }
        let loaded = load_web_config(active.config.web_config_file.as_deref()).await;
        active.is_retry_due = is_retry_due || loaded.is_transient;
        let is_active = active.web_content == Some(loaded.content_digest) && loaded.config.is_ok();
        if is_active && active.web_config_ok {
            return;
        }
        active.web_files.clone_from(&loaded.files);
        match self.accept_web_config(loaded) {
            Ok(accepted) => {
                self.apply_web_config(&mut active, accepted);
                active.web_config_ok = true;
                info!("web configuration reloaded");
            }
            Err(message) => {
                active.web_config_ok = false;
                active.log_error(&ReloadError::WebConfig(message), "file change");
            }
        }
        self.record_reload(&active);
    }

    /// Rejects a web configuration that lacks a protection of the active one. A truncated file cannot be distinguished
    /// from a file without the protection; only a restart removes a protection.
    fn accept_web_config(
        &self,
        loaded: WebConfigLoad,
    ) -> Result<(WebConfig, ContentDigest), String> {
        let config = loaded.config.map_err(|error| error.to_string())?;
        let lost = self.web_config.get().weakened_by(&config);
        if lost.is_empty() {
            return Ok((config, loaded.content_digest));
        }
        Err(format!(
            "the new web configuration lacks {}: a reload never removes a protection; restart the exporter to apply the change",
            lost.join(", ")
        ))
    }

    fn apply_web_config(
        &self,
        active: &mut ActiveConfig,
        (config, digest): (WebConfig, ContentDigest),
    ) {
        log_warnings(&config);
        self.web_config.set(config);
        active.web_content = Some(digest);
    }

    fn record_reload(&self, active: &ActiveConfig) {
        self.reload_done.notify_one();
        let factory = &self.client_factory;
        let succeeded = active.config_ok && active.web_config_ok;
        let now = factory.dependencies.clock.now();
        factory.telemetry.metrics.config_reloaded(succeeded, now);
    }

    async fn reload_all(&self, active: &mut ActiveConfig, trigger: &str) -> Result<(), String> {
        let sequence = self.reloads_started.fetch_add(1, Ordering::SeqCst) + 1;
        let started_at = Instant::now();
        let result = {
            let _notification = ReloadNotification::new(self.notifier);
            self.try_reload(active).await
        };
        active.config_ok = !matches!(result, Err(ReloadError::Config(_)));
        if active.config_ok {
            active.web_config_ok = result.is_ok();
            info!(trigger, "configuration reloaded");
        }
        match &result {
            Ok(()) => active.last_error = None,
            Err(error) => active.log_error(error, trigger),
        }
        self.record_reload(active);
        let result = result.map_err(|error| error.message().to_owned());
        active.last_reload = Some(CompletedReload {
            sequence,
            started_at,
            result: result.clone(),
        });
        result
    }

    async fn try_reload(&self, active: &mut ActiveConfig) -> Result<(), ReloadError> {
        let config = self.load_config(active).await?;
        let loaded = load_web_config(config.web_config_file.as_deref()).await;
        active.is_retry_due = loaded.is_transient;
        active.wanted_web_files.clone_from(&loaded.files);
        let web_config = self.accept_web_config(loaded);
        if let Err(message) = &web_config
            && config.web_config_file != active.config.web_config_file
        {
            // A configuration with another web configuration file is not applied without that file.
            return Err(ReloadError::Config(message.clone()));
        }
        let storage = open_storage(&config).await.map_err(ReloadError::config)?;
        let permit = self.scheduler_tx.reserve().await;
        let permit = permit.map_err(|_| ReloadError::config("the exporter is stopping"))?;
        // No `.await` from here on: a reload is applied completely or not at all, even if its request is cancelled.
        let (clients, plan) = self
            .client_factory
            .build_plan(&config, storage, Some(active))
            .map_err(ReloadError::config)?;
        if !config.has_same_listeners(&active.config) {
            warn!("listen address changed; restart required");
        }
        logging::reload(config.log_level, config.log_format);
        let options = HandlerOptions::new(config.clone());
        self.client_factory.handler_options.set(options);
        let (store, policy) = (
            Arc::clone(&self.client_factory.store),
            Arc::clone(&config.key_policy),
        );
        let reclassified = tokio::task::spawn_blocking(move || store.set_policy(policy));
        active.config = config;
        active.clients = clients;
        active.web_files = std::mem::take(&mut active.wanted_web_files);
        permit.send(SchedulerCommand::ApplyPlan(plan));
        let accepted = web_config.map_err(ReloadError::WebConfig)?;
        self.apply_web_config(active, accepted);
        // The first scrape after the reload must use the new policy. A panic has been logged.
        let _ = reclassified.await;
        Ok(())
    }

    /// Loads the configuration on a thread that may block.
    async fn load_config(&self, active: &mut ActiveConfig) -> Result<Config, ReloadError> {
        active.is_retry_due = true;
        let load = Arc::clone(&self.client_factory.dependencies.load_config);
        let file = active.config.config_file.as_ref();
        let file = file.or(active.config.web_config_file.as_ref()).cloned();
        let loaded = run_blocking(&file.unwrap_or_default(), move || load()).await;
        let config = loaded.map_err(|error| {
            ReloadError::Config(format!("reading the configuration failed: {error}"))
        })?;
        active.is_retry_due = false;
        let config = config.map_err(ReloadError::config)?;
        if !active.config.allowed_hosts.allows_any() && config.allowed_hosts.allows_any() {
            return Err(ReloadError::config(
                "the new configuration lacks web.allowed_hosts: a reload never removes a protection; restart the exporter to apply the change",
            ));
        }
        Ok(config)
    }
}

/// Notifies systemd that a reload has started, and on drop that it has ended, even if it was cancelled.
struct ReloadNotification(ServiceNotifier);

impl ReloadNotification {
    fn new(notifier: ServiceNotifier) -> Self {
        notifier.notify_reloading();
        Self(notifier)
    }
}

impl Drop for ReloadNotification {
    fn drop(&mut self) {
        self.0.notify_ready();
    }
}

impl Reload for Reloader {
    fn reload(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.reload("HTTP request"))
    }
}
