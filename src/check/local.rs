//! Checks that send no request: the configuration, its files, the listen addresses.

use std::path::Path;

use exporter_toolkit::address::ListenAddress;
use exporter_toolkit::bounded_file;
use exporter_toolkit::web_config::WebConfig;
use mongodb_atlas_client::ProxyRoute;

use super::findings::{Component, Finding, Topic};
use crate::config::{Config, CredentialConfig, Diagnostic};
use crate::credentials::SecretLocation;
use crate::humanize::exact;
use crate::storage::Storage;

/// Reports the errors of flags, environment variables and the configuration file.
pub(super) fn check_configuration(config: Option<&Config>, errors: &[Diagnostic]) -> Vec<Finding> {
    let file = config.and_then(|config| config.config_file.as_deref());
    let subject = file.map_or_else(
        || "flags and environment".to_owned(),
        |file| file.display().to_string(),
    );
    let topic = Topic::new(Component::Configuration, subject);
    if let (Some(config), []) = (config, errors) {
        let credentials = &config.credentials;
        let orgs: usize = credentials.iter().map(|it| it.org_ids.len()).sum();
        let is_discovering = credentials.iter().any(|it| it.discover_orgs);
        let discovered = if is_discovering {
            ", and those that can be seen"
        } else {
            ""
        };
        let interval = exact(config.poll_interval);
        let count = credentials.len();
        return vec![topic.ok(format!(
            "credentials: {count}; organizations named: {orgs}{discovered}; walked each {interval}"
        ))];
    }
    let help = "put it right where it is said to come from; until then the exporter does not start";
    errors
        .iter()
        .map(|error| topic.error(error, help))
        .collect()
}

/// Reports the proxy in use, or why one that is set is not used.
pub(super) fn check_proxy(config: &Config) -> Option<Finding> {
    let host = config.base_url.host_str().unwrap_or_default();
    let topic = |variable| Topic::new(Component::Configuration, variable);
    match &config.route {
        ProxyRoute::Direct => None,
        ProxyRoute::Proxy(proxy) => {
            let message = format!("requests to {host} go through the proxy {proxy}");
            Some(topic(proxy.variable()).ok(message))
        }
        ProxyRoute::Bypassed { variable, reason } => {
            let message = format!("not used, requests to {host} go out directly: {reason}");
            Some(topic(*variable).ok(message))
        }
    }
}

/// Checks the web configuration and the certificates that it names.
pub(super) async fn check_web_config(file: Option<&Path>) -> Vec<Finding> {
    let Some(file) = file else {
        let message = "/metrics is served in the clear to whoever reaches it; --web.config.file adds TLS and passwords";
        return vec![Topic::new(Component::WebConfiguration, "none").ok(message)];
    };
    let topic = Topic::new(Component::WebConfiguration, file.display());
    let help = "change the file if that is not what was meant";
    match WebConfig::load_stable(file).await.config {
        Ok(config) if config.warnings.is_empty() => vec![topic.ok("it can be used as it is")],
        Ok(config) => {
            let warnings = config.warnings.iter();
            warnings
                .map(|warning| topic.warning(warning, help))
                .collect()
        }
        Err(error) => {
            let help = "put it right in the file; until then the exporter does not start";
            let errors = error.errors.iter();
            errors.map(|error| topic.error(error, help)).collect()
        }
    }
}

/// Checks that the fields of each credential are readable, and by the exporter only.
pub(super) fn check_credentials(config: &Config) -> Vec<Finding> {
    config
        .credentials
        .iter()
        .flat_map(check_credential)
        .collect()
}

fn check_credential(config: &CredentialConfig) -> Vec<Finding> {
    let topic = Topic::new(Component::Credential, &config.name);
    let help =
        "give the exporter's user the right to read it, and see that it holds the value alone";
    let errors = config.credential.validate();
    let mut findings: Vec<_> = errors
        .iter()
        .map(|error| topic.error(error, help))
        .collect();
    let secret = config.credential.secret();
    if let Some((path, mode)) = secret.world_readable_file() {
        let path = path.display();
        findings.push(topic.warning(
            format!("{path} can be read by every user of this machine (mode {mode})"),
            format!("chmod 600 {path}, and chown it to the exporter's user"),
        ));
    }
    if let SecretLocation::EnvVar { name, .. } = secret {
        findings.push(topic.warning(
            format!("{name} holds the secret itself: the environment of a process is seen by whoever can look into it, and is inherited"),
            format!("put the secret into a file, and name it in {name}_FILE; or use systemd's LoadCredential="),
        ));
    }
    if findings.is_empty() {
        let kind = config.credential.kind();
        let message = format!("a {kind}; every part can be read, and not by everybody");
        findings.push(topic.ok(message));
    }
    findings
}

/// Checks the state directory.
pub(super) async fn check_storage(dir: Option<&Path>) -> Finding {
    let Some(dir) = dir else {
        return Topic::new(Component::Storage, "none").warning(
            "nothing survives a restart: until Atlas answers, there are no keys on /metrics, and change counters begin at 0",
            "give --storage.path a directory; under systemd StateDirectory= is enough",
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
            "it can be written to by every user of this machine, who can replace the stored inventories",
            format!("chmod 700 {}", dir.display()),
        ),
        Ok(false) => topic.ok("it can be written to"),
        Err(error) => {
            let help = "give the exporter's user a directory of its own, with room left";
            topic.error(error, help)
        }
    }
}

/// Checks the listen addresses. The running exporter may be the one that uses them.
pub(super) async fn check_listeners(config: &Config) -> Vec<Finding> {
    if config.systemd_socket {
        let topic = Topic::new(Component::Listener, "systemd's sockets");
        return vec![topic.skipped("the .socket unit has the addresses")];
    }
    let mut findings = Vec::new();
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
        Ok(_) => topic.ok("it is free"),
        Err(error) => topic.warning(
            error,
            "nothing, if it is the running exporter that listens there; else choose another address",
        ),
    }
}
