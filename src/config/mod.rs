//! Merges flags, environment variables and the configuration file into one validated [`Config`]. Reports all errors at
//! once, each with the value, its source and the expected value.
//!
//! | module | purpose |
//! | --- | --- |
//! | `resolver` | looks up values in the order of precedence and collects errors |
//! | `file` | the configuration file |
//! | `credentials` | credentials, each with its organizations |
//! | `key_policy` | owners of projects, and exemptions of keys |
//! | `parse` | parsers of single values |
//! | `command_options` | options of single commands |

mod command_options;
mod credentials;
mod file;
mod key_policy;
mod parse;
mod resolver;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use exporter_toolkit::address::ListenAddress;
use exporter_toolkit::host::AllowedHosts;
use mongodb_atlas_client::{ApiVersion, ClientConfig, ProxyRoute};
use reqwest::Url;

use crate::cli::{Args, ValueSource};
use crate::credentials::Environment;
use crate::key_policy::KeyPolicy;
use crate::logging::{LogFormat, LogLevel};
use crate::metrics::KeySeriesOptions;
use crate::shard::Shard;
#[cfg(feature = "sim")]
pub use command_options::parse_sim_config;
pub use command_options::{
    CheckOptions, KeysOptions, OutputFormat, StorageSource, parse_check_options,
    parse_keys_options, parse_once_output,
};
pub use credentials::CredentialConfig;
pub use exporter_toolkit::diagnostic::Diagnostic;
use parse::{
    parse_api_version, parse_base_url, parse_key_labels, parse_owner_tag, parse_shard,
    parse_telemetry_path, parse_thresholds,
};
pub use resolver::ConfigError;
use resolver::Resolver;
pub(crate) use resolver::describe;

/// The validated configuration of the exporter.
#[derive(Debug, Clone)]
pub struct Config {
    /// Credentials and their organizations: at least one credential; names and organizations are unique.
    pub credentials: Vec<CredentialConfig>,
    /// Base URL of Atlas, ending in a slash.
    pub base_url: Url,
    /// Route to Atlas: direct, or through the proxy from the environment.
    pub route: ProxyRoute,
    /// API version.
    pub api_version: ApiVersion,
    /// Time between two polls of an organization.
    pub poll_interval: Duration,
    /// Timeout of one request.
    pub request_timeout: Duration,
    /// Keys per page.
    pub page_size: u32,
    /// Age past which an inventory is no longer exported; zero disables the limit.
    pub max_staleness: Duration,
    /// Maximum number of discovered organizations.
    pub max_orgs: usize,
    /// Project tag that names the owner, if any.
    pub owner_tag: Option<String>,
    /// Shard of the organizations that this instance polls.
    pub shard: Shard,
    /// Directory for state kept across restarts.
    pub storage_path: Option<PathBuf>,
    /// Options of the per-key series, with at least one threshold.
    pub key_series: Arc<KeySeriesOptions>,
    /// Owners of projects, and exemptions of keys.
    pub key_policy: Arc<KeyPolicy>,
    /// Listen addresses; empty with systemd sockets.
    pub listen_addresses: Vec<ListenAddress>,
    /// Whether systemd passes the listening sockets.
    pub systemd_socket: bool,
    /// Listen address for health and readiness only, without TLS.
    pub probe_address: Option<ListenAddress>,
    /// Web configuration file in the exporter-toolkit's format.
    pub web_config_file: Option<PathBuf>,
    /// Path of the metrics.
    pub telemetry_path: String,
    /// Maximum number of concurrent scrapes.
    pub max_requests: usize,
    /// Accepted `Host` headers.
    pub allowed_hosts: AllowedHosts,
    /// Whether an HTTP request can reload the configuration.
    pub enable_lifecycle: bool,
    /// Minimum level of log events.
    pub log_level: LogLevel,
    /// Format of log events.
    pub log_format: LogFormat,
    /// Configuration file.
    pub config_file: Option<PathBuf>,
}

/// The configuration with defaults in place of invalid values.
#[derive(Debug)]
pub struct LenientConfig {
    /// The configuration; `None` if an invalid value has no default.
    pub config: Option<Config>,
    /// All errors.
    pub errors: Vec<Diagnostic>,
    /// Whether there is a configuration file that cannot be used. Values that are missing may be in that file.
    pub is_file_unusable: bool,
    /// Whether the base URL or the proxy is invalid, or the base URL may be in an unknown field of the configuration file.
    pub is_atlas_address_unknown: bool,
}

/// Maximum of `--atlas.poll-interval`.
const MAX_POLL_INTERVAL: Duration = Duration::from_hours(7 * 24);
/// Maximum of ages: staleness, idle time and thresholds.
const MAX_AGE: Duration = Duration::from_hours(100 * 366 * 24);

impl Config {
    /// Loads the configuration from the command line, the environment and the configuration file.
    ///
    /// # Errors
    /// [`ConfigError`] with all errors.
    pub fn load(args: &Args, environment: &Environment) -> Result<Self, ConfigError> {
        Resolver::new(args, environment).resolve(Self::resolve)
    }

    /// Loads the configuration, with defaults in place of invalid values. The errors are without those of
    /// [`Credential::validate`](crate::credentials::Credential::validate). If the configuration file cannot be used, the
    /// default listen address is left out.
    pub fn load_lenient(args: &Args, environment: &Environment) -> LenientConfig {
        let mut resolver = Resolver::new(args, environment);
        resolver.validates_credentials = false;
        LenientConfig {
            config: Self::resolve(&mut resolver),
            is_file_unusable: resolver.is_file_unusable,
            is_atlas_address_unknown: resolver.is_atlas_address_unknown(),
            errors: resolver.diagnostics,
        }
    }

    /// Resolves every value, with defaults in place of invalid values. Collects errors in `resolver`.
    fn resolve(resolver: &mut Resolver<'_>) -> Option<Self> {
        resolver.check_unknown_keys();
        let credentials = credentials::resolve(resolver);
        let (log_level, log_format) = resolver.log_settings()?;
        let base_url = resolver.get("atlas.base-url", parse_base_url)?;
        let host = host_name(resolver.environment);
        let mut config = Self {
            credentials,
            route: resolver.proxy_route(&base_url),
            base_url,
            api_version: resolver.get("atlas.api-version", parse_api_version)?,
            poll_interval: resolver.get_duration(
                "atlas.poll-interval",
                Duration::from_secs(1)..=MAX_POLL_INTERVAL,
            )?,
            request_timeout: resolver.get_duration(
                "atlas.timeout",
                Duration::from_millis(100)..=Duration::from_mins(10),
            )?,
            page_size: resolver.get_uint("atlas.page-size", 1..=500)?,
            max_staleness: resolver
                .get_duration("atlas.max-staleness", Duration::ZERO..=MAX_AGE)?,
            max_orgs: resolver.get_uint("atlas.max-orgs", 1..=1_000_000)?,
            owner_tag: resolver.get("atlas.owner-tag", parse_owner_tag)?,
            shard: resolver.get("atlas.shard", |text| parse_shard(text, &host))?,
            storage_path: resolver.storage_path(),
            key_series: Arc::new(KeySeriesOptions {
                per_key: resolver.get_parsed("metrics.per-key")?,
                labels: resolver.get("metrics.key-labels", parse_key_labels)?.into(),
                max_keys: resolver.get_uint("metrics.max-keys", 0..=100_000_000)?,
                thresholds: resolver
                    .get("metrics.idle-thresholds", parse_thresholds)?
                    .into(),
            }),
            key_policy: Arc::new(key_policy::resolve(resolver)),
            systemd_socket: resolver.get_bool("web.systemd-socket")?,
            listen_addresses: resolver.listen_addresses("web.listen-address"),
            probe_address: resolver.listen_addresses("web.probe-address").pop(),
            web_config_file: resolver.path("web.config.file"),
            telemetry_path: resolver.get("web.telemetry-path", parse_telemetry_path)?,
            max_requests: resolver.get_uint("web.max-requests", 1..=100_000)?,
            allowed_hosts: resolver
                .get("web.allowed-hosts", AllowedHosts::parse)
                .unwrap_or_default(),
            enable_lifecycle: resolver.get_bool("web.enable-lifecycle")?,
            log_level,
            log_format,
            config_file: resolver.config_file.clone(),
        };
        config.check_listeners(resolver);
        Some(config)
    }

    /// Checks that the listen addresses do not conflict. With systemd sockets there are none.
    fn check_listeners(&mut self, resolver: &mut Resolver<'_>) {
        let source = resolver.lookup("web.listen-address").source;
        let is_default = matches!(source, ValueSource::Default(_));
        // The default does not apply if the address is in a file that cannot be used.
        if self.systemd_socket || (is_default && resolver.is_file_unusable) {
            self.listen_addresses.clear();
        }
        if self.systemd_socket && !is_default {
            let message = "conflict with --web.systemd-socket";
            let error = Diagnostic::new(source.to_string(), message)
                .with_help("remove the listen address; the .socket unit contains the addresses");
            resolver.diagnostics.push(error);
        }
        if let Some(probe) = &self.probe_address
            && probe.port != 0
            && self.listen_addresses.contains(probe)
        {
            let source = resolver.lookup("web.probe-address").source;
            let expected = "an address that differs from --web.listen-address";
            resolver.reject(&source, &probe.to_string(), expected);
        }
    }

    /// Returns the configuration of the client for a credential.
    pub fn client_config(&self, credential: &CredentialConfig) -> ClientConfig {
        ClientConfig {
            credential_name: Arc::clone(&credential.name),
            user_agent: crate::USER_AGENT.to_owned(),
            credential: credential.credential.to_client(),
            base_url: self.base_url.clone(),
            route: self.route.clone(),
            api_version: self.api_version.clone(),
            request_timeout: self.request_timeout,
            max_retry_wait: self.poll_interval,
        }
    }

    /// Returns whether both configurations listen on the same addresses.
    pub fn has_same_listeners(&self, other: &Self) -> bool {
        self.listen_addresses == other.listen_addresses
            && self.probe_address == other.probe_address
            && self.systemd_socket == other.systemd_socket
    }

    /// Returns the configuration for a process that neither serves nor stores anything.
    #[must_use]
    pub fn for_one_shot(self) -> Self {
        Self {
            storage_path: None,
            listen_addresses: Vec::new(),
            systemd_socket: false,
            probe_address: None,
            web_config_file: None,
            ..self
        }
    }
}

/// Returns the log settings if they are valid. Logging starts before everything else is checked.
pub fn log_settings(args: &Args, environment: &Environment) -> Option<(LogLevel, LogFormat)> {
    Resolver::new(args, environment).log_settings()
}

/// Returns the host name. The pods of a `StatefulSet` have numbered host names.
fn host_name(environment: &Environment) -> String {
    environment.get("HOSTNAME").unwrap_or_else(|| {
        let uname = rustix::system::uname();
        uname.nodename().to_string_lossy().into_owned()
    })
}
