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

use crate::cli::{Args, Origin};
use crate::credentials::Environment;
use crate::logging::{LogFormat, LogLevel};
use crate::metrics::{PerKey, Selection};
use crate::shard::Shard;
pub use command_options::{
    CheckChoice, Filter, KeysChoice, Output, check_check, check_keys, check_sim, parse_once_output,
};
pub use credentials::Account;
use exporter_toolkit::address::ListenAddress;
use exporter_toolkit::host::AllowedHosts;
use mongodb_atlas_client::{Route, Version};
use parse::{
    base_url, duration, key_labels, page_size, shard, switch, telemetry_path, thresholds, version,
    whole,
};
use resolver::Checker;

/// What the exporter does, checked and complete.
#[derive(Debug, Clone)]
pub struct Config {
    /// How to authenticate, and what to watch: at least one, no name and no organization twice.
    pub accounts: Vec<Account>,
    /// Atlas' address, ending in a slash.
    pub base_url: Url,
    /// How requests reach it: directly, or through the proxy that environment variables name.
    pub route: Route,
    /// The API's version.
    pub version: Version,
    /// How often each organization is walked.
    pub poll_interval: Duration,
    /// What one request may take.
    pub timeout: Duration,
    /// Keys a page.
    pub page_size: u32,
    /// Past which age an inventory is no longer shown; zero for never.
    pub max_staleness: Duration,
    /// Discovered organizations past this number are not watched.
    pub max_orgs: usize,
    /// This instance's share of the organizations.
    pub shard: Shard,
    /// Where state is kept over a restart, if anywhere.
    pub storage: Option<PathBuf>,
    /// What is shown of the keys; at least one threshold.
    pub selection: Selection,
    /// Where to serve; none when systemd hands the sockets over.
    pub listen: Vec<ListenAddress>,
    /// Whether systemd hands the sockets over.
    pub systemd_socket: bool,
    /// Where to serve health alone, in the clear.
    pub probe: Option<ListenAddress>,
    /// Who is let in: a file in the exporter-toolkit's format.
    pub web_file: Option<PathBuf>,
    /// The path of the metrics.
    pub telemetry_path: String,
    /// Scrapes that are served at once.
    pub max_requests: usize,
    /// Hosts that are answered.
    pub allowed_hosts: AllowedHosts,
    /// Whether a request may ask for a reload.
    pub lifecycle: bool,
    /// From which level on logs are written.
    pub log_level: LogLevel,
    /// The form of the logs.
    pub log_format: LogFormat,
    /// The configuration file, if there is one.
    pub file: Option<PathBuf>,
}

/// Everything that is wrong with a configuration, a sentence each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is wrong in {} place{}:\n{}", .0.len(), if .0.len() == 1 { "" } else { "s" }, .0.iter().map(|m| format!("  - {m}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// The longest interval.
const WEEK: Duration = Duration::from_hours(7 * 24);
/// The longest age.
const CENTURY: Duration = Duration::from_hours(100 * 366 * 24);

impl Config {
    /// Makes a configuration of the command line, the environment and the configuration file.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake.
    pub fn check(args: &Args, environment: &Environment) -> Result<Self, ConfigError> {
        match examine(args, environment) {
            (Some(config), mistakes) if mistakes.is_empty() => Ok(config),
            (_, mistakes) => Err(ConfigError(mistakes)),
        }
    }

    /// The configuration with defaults in the places of what is wrong; mistakes are told to `checker`.
    fn examine(checker: &mut Checker<'_>) -> Option<Self> {
        checker.unknown_members();
        let accounts = credentials::check(checker);
        let log = checker.logging();
        let base_url = checker.one("atlas.base-url", base_url);
        let route = base_url
            .as_ref()
            .map(|base| checker.route(base))
            .unwrap_or_default();
        let version = checker.one("atlas.api-version", version);
        let poll_interval = checker.one("atlas.poll-interval", |text| {
            duration(text, Duration::from_secs(1), WEEK)
        });
        let timeout = checker.one("atlas.timeout", |text| {
            duration(text, Duration::from_millis(100), Duration::from_mins(10))
        });
        let page_size = checker.one("atlas.page-size", page_size);
        let max_staleness = checker.one("atlas.max-staleness", |text| {
            duration(text, Duration::ZERO, CENTURY)
        });
        let max_orgs = checker.one("atlas.max-orgs", |text| {
            whole(text, 1, 1_000_000).ok_or("a whole number from 1 to 1000000")
        });
        let host = host_name(checker.environment);
        let shard = checker.one("atlas.shard", |text| shard(text, &host));
        let storage = checker.storage();
        let selection = selection(checker);
        let (systemd_socket, listen) = listeners(checker);
        let probe = checker.listen("web.probe-address").into_iter().next();
        if let Some(probe) = probe
            .as_ref()
            .filter(|probe| listen.contains(probe) && probe.port != 0)
        {
            let origin = checker.values("web.probe-address").1;
            checker.wrong(
                &origin,
                &probe.to_string(),
                "an address of its own: --web.listen-address has it",
            );
        }
        let web_file = checker.path("web.config.file").0;
        let telemetry_path = checker.one("web.telemetry-path", telemetry_path);
        let max_requests = checker.one("web.max-requests", |text| {
            whole(text, 1, 100_000).ok_or("a whole number from 1 to 100000")
        });
        let allowed_hosts = checker.one("web.allowed-hosts", AllowedHosts::parse);
        let lifecycle = checker.one("web.enable-lifecycle", switch);
        let file = checker.file_path();
        let (log_level, log_format) = log?;
        Some(Self {
            accounts,
            base_url: base_url?,
            route,
            version: version?,
            poll_interval: poll_interval?,
            timeout: timeout?,
            page_size: page_size?,
            max_staleness: max_staleness?,
            max_orgs: max_orgs?,
            shard: shard?,
            storage,
            selection: selection?,
            listen,
            systemd_socket: systemd_socket?,
            probe,
            web_file,
            telemetry_path: telemetry_path?,
            max_requests: max_requests?,
            allowed_hosts: allowed_hosts.unwrap_or_default(),
            lifecycle: lifecycle?,
            log_level,
            log_format,
            file,
        })
    }
}

/// As [`Config::check`], for who wants to know all the same what the configuration would be: with
/// defaults in the places of what is wrong. And every mistake.
pub fn examine(args: &Args, environment: &Environment) -> (Option<Config>, Vec<String>) {
    let mut checker = Checker::new(args, environment);
    let config = Config::examine(&mut checker);
    (config, checker.mistakes)
}

/// Whether systemd hands the sockets over, and the addresses to listen on when it does not.
fn listeners(checker: &mut Checker<'_>) -> (Option<bool>, Vec<ListenAddress>) {
    let systemd = checker.one("web.systemd-socket", switch);
    let (values, origin) = checker.values("web.listen-address");
    let listen = checker.listen("web.listen-address");
    if systemd != Some(true) {
        return (systemd, listen);
    }
    if !matches!(origin, Origin::Default(_)) {
        let right =
            "left out together with --web.systemd-socket, whose .socket unit has the addresses";
        checker.wrong(&origin, &values.join(","), right);
    }
    (systemd, Vec::new())
}

impl Config {
    /// The same for a process that serves nobody and leaves nothing behind.
    #[must_use]
    pub fn alone(self) -> Self {
        Self {
            storage: None,
            listen: Vec::new(),
            systemd_socket: false,
            probe: None,
            web_file: None,
            ..self
        }
    }
}

fn selection(checker: &mut Checker<'_>) -> Option<Selection> {
    let per_key = checker.one("metrics.per-key", |text| {
        PerKey::named(text).ok_or("all, idle or none")
    });
    let labels = checker.one("metrics.key-labels", key_labels);
    let max_keys = checker.one("metrics.max-keys", |text| {
        whole(text, 0, 100_000_000).ok_or("a whole number from 0 to 100000000")
    });
    let thresholds = checker.one("metrics.idle-thresholds", thresholds);
    Some(Selection {
        per_key: per_key?,
        labels: labels?.into(),
        max_keys: max_keys?,
        thresholds: thresholds?.into(),
    })
}

/// What logs look like, and from which level on they are written, as far as that can be made out
/// before everything else is checked.
pub fn logging(args: &Args, environment: &Environment) -> Option<(LogLevel, LogFormat)> {
    Checker::new(args, environment).logging()
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
