//! Flags, environment and file become one validated [`Config`]. Every mistake is found, not the
//! first alone, and each names the value, where it came from and what would be right.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `resolver` | where a value comes from, and the mistakes that are found |
//! | `file` | the configuration file |
//! | `credentials` | the credentials, each with its organizations |
//! | `parse` | what each text means |
//! | `command_options` | what single commands take beside all that |

mod command_options;
mod credentials;
mod file;
mod parse;
mod resolver;

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use crate::cli::{Args, ValueSource};
use crate::credentials::Environment;
use crate::logging::{LogFormat, LogLevel};
use crate::metrics::{KeySeriesOptions, PerKeyMode};
use crate::shard::Shard;
pub use command_options::{
    CheckOptions, FilterValues, KeysOptions, OutputFormat, parse_check_options, parse_keys_options,
    parse_once_output, parse_sim_config,
};
pub use credentials::CredentialConfig;
use exporter_toolkit::address::ListenAddress;
use exporter_toolkit::host::AllowedHosts;
use mongodb_atlas_client::{ApiVersion, ProxyRoute};
use parse::{
    parse_api_version, parse_base_url, parse_bool, parse_duration, parse_key_labels,
    parse_page_size, parse_shard, parse_telemetry_path, parse_thresholds, parse_uint,
};
use resolver::Resolver;

/// What the exporter does, checked and complete.
#[derive(Debug, Clone)]
pub struct Config {
    /// How to authenticate, and what to watch: at least one, no name and no organization twice.
    pub credentials: Vec<CredentialConfig>,
    /// Atlas' address, ending in a slash.
    pub base_url: Url,
    /// How requests reach it: directly, or through the proxy that environment variables name.
    pub route: ProxyRoute,
    /// The API's version.
    pub api_version: ApiVersion,
    /// How often each organization is walked.
    pub poll_interval: Duration,
    /// What one request may take.
    pub request_timeout: Duration,
    /// Keys a page.
    pub page_size: u32,
    /// Past which age an inventory is no longer shown; zero for never.
    pub max_staleness: Duration,
    /// Discovered organizations past this number are not watched.
    pub max_orgs: usize,
    /// This instance's share of the organizations.
    pub shard: Shard,
    /// Where state is kept over a restart, if anywhere.
    pub storage_path: Option<PathBuf>,
    /// What is shown of the keys; at least one threshold.
    pub key_series: KeySeriesOptions,
    /// Where to serve; none when systemd hands the sockets over.
    pub listen_addresses: Vec<ListenAddress>,
    /// Whether systemd hands the sockets over.
    pub systemd_socket: bool,
    /// Where to serve health alone, in the clear.
    pub probe_address: Option<ListenAddress>,
    /// Who is let in: a file in the exporter-toolkit's format.
    pub web_config_file: Option<PathBuf>,
    /// The path of the metrics.
    pub telemetry_path: String,
    /// Scrapes that are served at once.
    pub max_requests: usize,
    /// Hosts that are answered.
    pub allowed_hosts: AllowedHosts,
    /// Whether a request may ask for a reload.
    pub enable_lifecycle: bool,
    /// From which level on logs are written.
    pub log_level: LogLevel,
    /// The form of the logs.
    pub log_format: LogFormat,
    /// The configuration file, if there is one.
    pub config_file: Option<PathBuf>,
}

/// Everything that is wrong with a configuration, a sentence each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is wrong in {} place{}:\n{}", .0.len(), if .0.len() == 1 { "" } else { "s" }, .0.iter().map(|m| format!("  - {m}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// The longest interval.
const MAX_POLL_INTERVAL: Duration = Duration::from_hours(7 * 24);
/// The longest age.
const MAX_AGE: Duration = Duration::from_hours(100 * 366 * 24);

impl Config {
    /// Makes a configuration of the command line, the environment and the configuration file.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake.
    pub fn load(args: &Args, environment: &Environment) -> Result<Self, ConfigError> {
        match load_lenient(args, environment) {
            (Some(config), mistakes) if mistakes.is_empty() => Ok(config),
            (_, mistakes) => Err(ConfigError(mistakes)),
        }
    }

    /// The configuration with defaults in the places of what is wrong; mistakes are told to `checker`.
    fn resolve(checker: &mut Resolver<'_>) -> Option<Self> {
        checker.check_unknown_keys();
        let accounts = credentials::resolve(checker);
        let log = checker.log_settings();
        let base_url = checker.get("atlas.base-url", parse_base_url);
        let route = base_url
            .as_ref()
            .map(|base| checker.proxy_route(base))
            .unwrap_or_default();
        let version = checker.get("atlas.api-version", parse_api_version);
        let poll_interval = checker.get("atlas.poll-interval", |text| {
            parse_duration(text, Duration::from_secs(1), MAX_POLL_INTERVAL)
        });
        let timeout = checker.get("atlas.timeout", |text| {
            parse_duration(text, Duration::from_millis(100), Duration::from_mins(10))
        });
        let page_size = checker.get("atlas.page-size", parse_page_size);
        let max_staleness = checker.get("atlas.max-staleness", |text| {
            parse_duration(text, Duration::ZERO, MAX_AGE)
        });
        let max_orgs = checker.get("atlas.max-orgs", |text| {
            parse_uint(text, 1, 1_000_000).ok_or("a whole number from 1 to 1000000")
        });
        let host = host_name(checker.environment);
        let shard = checker.get("atlas.shard", |text| parse_shard(text, &host));
        let storage = checker.storage_path();
        let selection = resolve_key_series(checker);
        let (systemd_socket, listen) = resolve_listeners(checker);
        let probe = checker
            .listen_addresses("web.probe-address")
            .into_iter()
            .next();
        if let Some(probe) = probe
            .as_ref()
            .filter(|probe| listen.contains(probe) && probe.port != 0)
        {
            let origin = checker.raw_values("web.probe-address").1;
            checker.reject(
                &origin,
                &probe.to_string(),
                "an address of its own: --web.listen-address has it",
            );
        }
        let web_file = checker.get_path("web.config.file").0;
        let telemetry_path = checker.get("web.telemetry-path", parse_telemetry_path);
        let max_requests = checker.get("web.max-requests", |text| {
            parse_uint(text, 1, 100_000).ok_or("a whole number from 1 to 100000")
        });
        let allowed_hosts = checker.get("web.allowed-hosts", AllowedHosts::parse);
        let lifecycle = checker.get("web.enable-lifecycle", parse_bool);
        let file = checker.config_file_path();
        let (log_level, log_format) = log?;
        Some(Self {
            credentials: accounts,
            base_url: base_url?,
            route,
            api_version: version?,
            poll_interval: poll_interval?,
            request_timeout: timeout?,
            page_size: page_size?,
            max_staleness: max_staleness?,
            max_orgs: max_orgs?,
            shard: shard?,
            storage_path: storage,
            key_series: selection?,
            listen_addresses: listen,
            systemd_socket: systemd_socket?,
            probe_address: probe,
            web_config_file: web_file,
            telemetry_path: telemetry_path?,
            max_requests: max_requests?,
            allowed_hosts: allowed_hosts.unwrap_or_default(),
            enable_lifecycle: lifecycle?,
            log_level,
            log_format,
            config_file: file,
        })
    }
}

/// As [`Config::load`], for who wants to know all the same what the configuration would be: with
/// defaults in the places of what is wrong. And every mistake.
pub fn load_lenient(args: &Args, environment: &Environment) -> (Option<Config>, Vec<String>) {
    let mut checker = Resolver::new(args, environment);
    let config = Config::resolve(&mut checker);
    (config, checker.errors)
}

/// Whether systemd hands the sockets over, and the addresses to listen on when it does not.
fn resolve_listeners(checker: &mut Resolver<'_>) -> (Option<bool>, Vec<ListenAddress>) {
    let systemd = checker.get("web.systemd-socket", parse_bool);
    let (values, origin) = checker.raw_values("web.listen-address");
    let listen = checker.listen_addresses("web.listen-address");
    if systemd != Some(true) {
        return (systemd, listen);
    }
    if !matches!(origin, ValueSource::Default(_)) {
        let right =
            "left out together with --web.systemd-socket, whose .socket unit has the addresses";
        checker.reject(&origin, &values.join(","), right);
    }
    (systemd, Vec::new())
}

impl Config {
    /// The same for a process that serves nobody and leaves nothing behind.
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

fn resolve_key_series(checker: &mut Resolver<'_>) -> Option<KeySeriesOptions> {
    let per_key = checker.get("metrics.per-key", |text| {
        PerKeyMode::named(text).ok_or("all, idle or none")
    });
    let labels = checker.get("metrics.key-labels", parse_key_labels);
    let max_keys = checker.get("metrics.max-keys", |text| {
        parse_uint(text, 0, 100_000_000).ok_or("a whole number from 0 to 100000000")
    });
    let thresholds = checker.get("metrics.idle-thresholds", parse_thresholds);
    Some(KeySeriesOptions {
        per_key: per_key?,
        labels: labels?.into(),
        max_keys: max_keys?,
        thresholds: thresholds?.into(),
    })
}

/// What logs look like, and from which level on they are written, as far as that can be made out
/// before everything else is checked.
pub fn log_settings(args: &Args, environment: &Environment) -> Option<(LogLevel, LogFormat)> {
    Resolver::new(args, environment).log_settings()
}

/// The name that a `StatefulSet` gives its pods, or any other host's.
fn host_name(environment: &Environment) -> String {
    environment.get("HOSTNAME").unwrap_or_else(|| {
        #[cfg(unix)]
        return rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        #[cfg(not(unix))]
        String::new()
    })
}
