//! Checks that send no request: configuration, files and listen addresses.

use exporter_toolkit::address::ListenAddress;
use exporter_toolkit::bounded_file;
use exporter_toolkit::web_config::WebConfig;
use mongodb_atlas_client::ProxyRoute;

use super::findings::{Component, Finding, Topic};
use crate::config::{self, Config, CredentialConfig, Diagnostic, LenientConfig};
use crate::credentials::SecretLocation;
use crate::humanize::exact;
use crate::storage::Storage;

/// Message of a check of values that may be in a configuration file that cannot be used.
pub(super) const FILE_UNUSABLE: &str = "skipped: the configuration file cannot be used";
/// Subject of such a check.
const UNKNOWN: &str = "unknown";
/// Hint for a file that cannot be used.
const FILE_HINT: &str = "check that the file exists, contains valid YAML, and is readable for the user of the exporter; the exporter will not start";

/// Reports the errors of flags, environment variables and the configuration file.
pub(super) fn check_configuration(loaded: &LenientConfig) -> Vec<Finding> {
    let LenientConfig { config, errors, .. } = loaded;
    let config = config.as_ref();
    let file = config.and_then(|config| config.config_file.as_deref());
    let subject = file.map_or_else(
        || "flags and environment".to_owned(),
        |file| file.display().to_string(),
    );
    let topic = Topic::new(Component::Configuration, subject);
    if let (Some(config), []) = (config, &errors[..]) {
        let credentials = &config.credentials;
        let orgs: usize = credentials.iter().map(|it| it.org_ids.len()).sum();
        let is_discovering = credentials.iter().any(|it| it.discover_orgs);
        let discovered = if is_discovering {
            " and all visible ones"
        } else {
            ""
        };
        let interval = exact(config.poll_interval);
        let count = credentials.len();
        return vec![topic.ok(format!(
            "credentials: {count}; organizations: {orgs}{discovered}; poll interval: {interval}"
        ))];
    }
    let hint = "fix the value at the location above; the exporter will not start";
    errors
        .iter()
        .map(|error| error_finding(&topic, error, hint))
        .collect()
}

/// Returns the finding for an error. The remedy of the error takes precedence over `hint`.
fn error_finding(topic: &Topic, error: &Diagnostic, hint: &str) -> Finding {
    let is_whole_file = error.path == topic.subject();
    let (message, hint) = if is_whole_file {
        (error.message.clone(), FILE_HINT)
    } else {
        (config::describe(error), hint)
    };
    topic.error(message, error.help.as_deref().unwrap_or(hint))
}

/// Reports the proxy in use, or why a proxy from the environment is not used.
pub(super) fn check_proxy(loaded: &LenientConfig) -> Option<Finding> {
    let config = loaded.config.as_ref();
    // Without the base URL, it is unknown whether the proxy is used.
    let config = config.filter(|_| !loaded.is_file_unusable)?;
    let host = config.base_url.host_str().unwrap_or_default();
    let topic = |variable| Topic::new(Component::Configuration, variable);
    match &config.route {
        ProxyRoute::Direct => None,
        ProxyRoute::Proxy(proxy) => {
            let message = format!("requests to {host} use the proxy {proxy}");
            Some(topic(proxy.variable()).ok(message))
        }
        ProxyRoute::Bypassed { variable, reason } => {
            let message = format!("proxy not used for requests to {host}: {reason}");
            Some(topic(*variable).ok(message))
        }
    }
}

/// Checks the web configuration file and the certificates in it.
pub(super) async fn check_web_config(loaded: &LenientConfig) -> Vec<Finding> {
    let config = loaded.config.as_ref();
    let Some(file) = config.and_then(|config| config.web_config_file.as_deref()) else {
        if loaded.is_file_unusable {
            return vec![Topic::new(Component::WebConfiguration, UNKNOWN).skipped(FILE_UNUSABLE)];
        }
        let message = "/metrics has no TLS and no authentication (see --web.config.file)";
        return vec![Topic::new(Component::WebConfiguration, "none").ok(message)];
    };
    let topic = Topic::new(Component::WebConfiguration, file.display());
    let hint = "change the web configuration file if this is not intended";
    match WebConfig::load_stable(file).await.config {
        Ok(config) if config.warnings.is_empty() => vec![topic.ok("file is valid")],
        Ok(config) => {
            let warnings = config.warnings.iter();
            warnings
                .map(|warning| topic.warning(warning, hint))
                .collect()
        }
        Err(error) => {
            let hint = "fix the value at the location above; the exporter will not start";
            let errors = error.errors.iter().map(|error| {
                // Without a location, the error is about the whole file.
                let hint = if error.path.is_empty() {
                    FILE_HINT
                } else {
                    hint
                };
                error_finding(&topic, error, hint)
            });
            errors.collect()
        }
    }
}

/// Checks that the fields of each credential are readable, and that no file with a secret is world-readable.
pub(super) fn check_credentials(config: &Config) -> Vec<Finding> {
    config
        .credentials
        .iter()
        .flat_map(check_credential)
        .collect()
}

fn check_credential(config: &CredentialConfig) -> Vec<Finding> {
    let topic = Topic::new(Component::Credential, &config.name);
    let hint = "check that the location exists, contains only the value, and is readable for the user of the exporter; the exporter will not start";
    let errors = config.credential.validate();
    let mut findings: Vec<_> = errors
        .iter()
        .map(|error| topic.error(error, hint))
        .collect();
    let secret = config.credential.secret();
    if let Some((path, mode)) = secret.world_readable_file() {
        let path = path.display();
        findings.push(topic.warning(
            format!("{path} is world-readable (mode {mode})"),
            format!("run chmod 600 {path}, and change the owner to the user of the exporter"),
        ));
    }
    if let SecretLocation::EnvVar { name, .. } = secret {
        findings.push(topic.warning(
            format!("secret in environment variable {name}: other processes can read or inherit the environment"),
            format!("store the secret in a file and set {name}_FILE, or use LoadCredential= of systemd"),
        ));
    }
    if findings.is_empty() {
        let kind = config.credential.kind();
        let message = format!("{kind}: all fields are readable, and no file is world-readable");
        findings.push(topic.ok(message));
    }
    findings
}

/// Checks the state directory.
pub(super) async fn check_storage(loaded: &LenientConfig) -> Finding {
    let config = loaded.config.as_ref();
    let Some(dir) = config.and_then(|config| config.storage_path.as_deref()) else {
        if loaded.is_file_unusable {
            return Topic::new(Component::Storage, UNKNOWN).skipped(FILE_UNUSABLE);
        }
        return Topic::new(Component::Storage, "none").warning(
            "no state directory: after a restart, metrics are empty until the first poll and change counters restart at 0",
            "set --storage.path, or StateDirectory= in the systemd unit",
        );
    };
    let topic = Topic::new(Component::Storage, dir.display());
    let owned = dir.to_owned();
    let probe = bounded_file::run_blocking(dir, move || {
        let storage = Storage::open_read_only(&owned);
        Storage::probe_writable(&owned).map(|()| storage.is_world_writable())
    });
    let probed = probe.await.map_err(|error| error.to_string());
    match probed.and_then(|result| result.map_err(|error| error.to_string())) {
        Ok(true) => topic.warning(
            "directory is world-writable: every user can replace the stored inventories",
            format!("run chmod 700 {}", dir.display()),
        ),
        Ok(false) => topic.ok("directory is writable"),
        Err(error) => {
            let hint =
                "use a directory that belongs to the user of the exporter and has free space";
            topic.error(error, hint)
        }
    }
}

/// Checks that the listen addresses are free. The running exporter may use them.
pub(super) async fn check_listeners(loaded: &LenientConfig) -> Vec<Finding> {
    let Some(config) = &loaded.config else {
        return Vec::new();
    };
    if config.systemd_socket {
        let topic = Topic::new(Component::Listener, "systemd's sockets");
        return vec![topic.skipped("skipped: the .socket unit contains the addresses")];
    }
    let mut findings = Vec::new();
    if loaded.is_file_unusable && config.listen_addresses.is_empty() {
        findings.push(Topic::new(Component::Listener, UNKNOWN).skipped(FILE_UNUSABLE));
    }
    for address in &config.listen_addresses {
        findings.push(check_listener(address, "--web.listen-address").await);
    }
    if let Some(address) = &config.probe_address {
        findings.push(check_listener(address, "--web.probe-address").await);
    }
    findings
}

async fn check_listener(address: &ListenAddress, flag: &'static str) -> Finding {
    let topic = Topic::new(Component::Listener, address);
    match exporter_toolkit::server::bind(address, flag).await {
        Ok(_) => topic.ok("port is free"),
        Err(error) => topic.warning(
            error,
            "no action needed if the running exporter uses this address; otherwise choose another address",
        ),
    }
}
