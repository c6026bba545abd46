//! The active configuration, and the result of reloads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use exporter_toolkit::web_config::{ContentDigest, WebConfig, WebConfigLoad};
use mongodb_atlas_client::Client;
use tokio::time::Instant;
use tracing::{error, warn};

use crate::config::Config;

/// The clients of all credentials, by name.
pub(super) type ClientsByName = BTreeMap<Arc<str>, Arc<Client>>;

/// The active configuration, and the state of the last reload.
pub(super) struct ActiveConfig {
    pub(super) config: Config,
    pub(super) clients: ClientsByName,
    /// Files of the active web configuration.
    pub(super) web_files: Vec<PathBuf>,
    /// Digest of the active web configuration.
    pub(super) web_content: Option<ContentDigest>,
    /// Files of the web configuration that the last reload rejected. They are watched as well, so that a reload follows
    /// when they are fixed.
    pub(super) wanted_web_files: Vec<PathBuf>,
    /// Whether the last configuration was valid.
    pub(super) config_ok: bool,
    /// Whether the last web configuration was valid.
    pub(super) web_config_ok: bool,
    /// Whether a file was unreadable because of a transient error, which can end without a change of the file.
    pub(super) is_retry_due: bool,
    pub(super) last_reload: Option<CompletedReload>,
    /// The error that was logged last, until a reload succeeds.
    pub(super) last_error: Option<String>,
}

/// A completed reload of the whole configuration.
pub(super) struct CompletedReload {
    /// The value of `Reloader::reloads_started` after its start.
    pub(super) sequence: u64,
    pub(super) started_at: Instant,
    pub(super) result: Result<(), String>,
}

/// The role of a watched file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FileRole {
    /// The configuration file.
    Configuration,
    /// The web configuration file, or a file that it names.
    WebConfig,
    /// A file of the credential of that name.
    Credential(Arc<str>),
}

/// The error of a failed reload.
pub(super) enum ReloadError {
    /// The previous configuration remains active.
    Config(String),
    /// The configuration is active, with the previous web configuration.
    WebConfig(String),
}

impl ReloadError {
    #[allow(clippy::needless_pass_by_value, reason = "a function for `map_err`")]
    pub(super) fn config(error: impl ToString) -> Self {
        Self::Config(error.to_string())
    }

    pub(super) fn message(&self) -> &str {
        let (Self::Config(message) | Self::WebConfig(message)) = self;
        message
    }
}

impl ActiveConfig {
    /// Returns the files of the configuration, and their roles.
    pub(super) fn watched_files(&self) -> BTreeSet<(PathBuf, FileRole)> {
        let file = self.config.config_file.iter();
        let file = file.map(|path| (path.clone(), FileRole::Configuration));
        let web = self.web_files.iter().chain(&self.wanted_web_files);
        let web = web.map(|path| (path.clone(), FileRole::WebConfig));
        let credentials = self.config.credentials.iter().flat_map(|config| {
            let role = FileRole::Credential(Arc::clone(&config.name));
            let files = config.credential.files();
            files.map(move |path| (path.to_owned(), role.clone()))
        });
        file.chain(web).chain(credentials).collect()
    }

    /// Logs an error, unless it was the last one that was logged.
    pub(super) fn log_error(&mut self, error: &ReloadError, trigger: &str) {
        let errors = error.message();
        if self.last_error.as_deref() == Some(errors) {
            return;
        }
        match error {
            ReloadError::Config(_) => error!(
                trigger,
                errors, "configuration reload failed; keeping the active configuration"
            ),
            ReloadError::WebConfig(_) => error!(
                trigger,
                errors, "web configuration reload failed; keeping the active one"
            ),
        }
        self.last_error = Some(errors.to_owned());
    }
}

pub(super) fn log_warnings(config: &WebConfig) {
    for warning in &config.warnings {
        warn!(%warning, "web configuration warning");
    }
}

/// Loads a web configuration; without a path, the default one.
pub(super) async fn load_web_config(path: Option<&Path>) -> WebConfigLoad {
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
