//! What can be found without a request: the configuration, the files that it names, the addresses.

use std::path::{Path, PathBuf};

use super::findings::{Component, Finding};
use crate::config::{Config, CredentialConfig};
use crate::credentials::SecretLocation;
use crate::storage::Storage;
use exporter_toolkit::address::ListenAddress;
use exporter_toolkit::bounded_file::{self, FileMode};
use exporter_toolkit::web_config::WebConfig;
use mongodb_atlas_client::ProxyRoute;

/// Flags, variables and the configuration file. Mistakes name the value, where it comes from and
/// what would be right.
pub(super) fn check_configuration(config: Option<&Config>, mistakes: &[String]) -> Vec<Finding> {
    let file = config.and_then(|config| config.config_file.as_deref());
    let subject = file.map_or_else(
        || "flags and environment".to_owned(),
        |file| file.display().to_string(),
    );
    match config {
        Some(config) if mistakes.is_empty() => {
            let orgs: usize = config.credentials.iter().map(|account| account.org_ids.len()).sum();
            let discover = config.credentials.iter().any(|account| account.discover_orgs);
            let more = if discover { ", and those that can be seen" } else { "" };
            let every = humantime::format_duration(config.poll_interval);
            vec![Finding::ok(
                Component::Configuration,
                subject,
                format!(
                    "credentials: {}; organizations named: {orgs}{more}; walked each {every}",
                    config.credentials.len()
                ),
            )]
        }
        _ => mistakes
            .iter()
            .map(|mistake| {
                Finding::error(
                    Component::Configuration,
                    &subject,
                    mistake,
                    "put it right where it is said to come from; until then the exporter does not start",
                )
            })
            .collect(),
    }
}

/// The proxy that requests to Atlas go through, or why one that is set is not used.
pub(super) fn check_proxy(config: &Config) -> Option<Finding> {
    let area = Component::Configuration;
    let host = config.base_url.host_str().unwrap_or_default();
    match &config.route {
        ProxyRoute::Direct => None,
        ProxyRoute::Proxy(proxy) => Some(Finding::ok(
            area,
            proxy.variable(),
            format!("requests to {host} go through the proxy {proxy}"),
        )),
        ProxyRoute::Bypassed { variable, reason } => Some(Finding::ok(
            area,
            *variable,
            format!("not used, requests to {host} go out directly: {reason}"),
        )),
    }
}

/// The web configuration, with the certificates that it names.
pub(super) async fn check_web_config(file: Option<PathBuf>) -> Vec<Finding> {
    let area = Component::WebConfiguration;
    let Some(file) = file else {
        return vec![Finding::ok(
            area,
            "none",
            "/metrics is served in the clear to whoever reaches it; --web.config.file adds TLS and passwords",
        )];
    };
    let subject = file.display().to_string();
    match WebConfig::load_stable(&file).await.config {
        Ok(access) if access.warnings.is_empty() => {
            vec![Finding::ok(area, subject, "it can be used as it is")]
        }
        Ok(access) => access
            .warnings
            .iter()
            .map(|warning| {
                Finding::warning(
                    area,
                    &subject,
                    warning.to_string(),
                    "change the file if that is not what was meant",
                )
            })
            .collect(),
        Err(error) => error
            .errors
            .iter()
            .map(|mistake| {
                Finding::error(
                    area,
                    &subject,
                    mistake.to_string(),
                    "put it right in the file; until then the exporter does not start",
                )
            })
            .collect(),
    }
}

/// The parts of each credential: whether they can be read, and by whom else.
pub(super) fn check_credentials(config: &Config) -> Vec<Finding> {
    config
        .credentials
        .iter()
        .flat_map(check_credential)
        .collect()
}

fn check_credential(account: &CredentialConfig) -> Vec<Finding> {
    let area = Component::Credential;
    let name = &*account.name;
    let mut findings: Vec<Finding> = account
        .credential
        .validate()
        .into_iter()
        .map(|mistake| {
            Finding::error(
                area,
                name,
                mistake,
                "give the exporter's user the right to read it, and see that it holds the value alone",
            )
        })
        .collect();
    findings.extend(account.credential.secrets().filter_map(|source| {
        let (path, mode) = world_readable(source)?;
        Some(Finding::warning(
            area,
            name,
            format!(
                "{} can be read by every user of this machine (mode {mode})",
                path.display()
            ),
            format!(
                "chmod 600 {0}, and chown it to the exporter's user",
                path.display()
            ),
        ))
    }));
    findings.extend(account.credential.secrets().filter_map(|source| {
        let SecretLocation::EnvVar { name: variable, .. } = source else {
            return None;
        };
        Some(Finding::warning(
            area,
            name,
            format!("{variable} holds the secret itself: the environment of a process is seen by whoever can look into it, and is inherited"),
            format!("put the secret into a file, and name it in {variable}_FILE; or use systemd's LoadCredential="),
        ))
    }));
    if findings.is_empty() {
        let kind = account.credential.kind();
        findings.push(Finding::ok(
            area,
            name,
            format!("a {kind}; every part can be read, and not by everybody"),
        ));
    }
    findings
}

/// The file of a secret whose mode lets everybody read it, and that mode. A group may: it is how a secret is
/// given to a service without being its own.
fn world_readable(source: &SecretLocation) -> Option<(&Path, FileMode)> {
    let path = match source {
        SecretLocation::File(path) => path,
        SecretLocation::ConfigKey { file, .. } => file,
        SecretLocation::EnvVar { .. } => return None,
    };
    let mode = FileMode::from_path(path).ok()?;
    mode.is_world_readable().then_some((path, mode))
}

/// The directory for state.
pub(super) async fn check_storage(dir: Option<&Path>) -> Vec<Finding> {
    let area = Component::Storage;
    let Some(dir) = dir else {
        return vec![Finding::warning(
            area,
            "none",
            "nothing survives a restart: until Atlas answers, there are no keys on /metrics, and change counters begin at 0",
            "give --storage.path a directory; under systemd StateDirectory= is enough",
        )];
    };
    let subject = dir.display().to_string();
    let tried = {
        let dir = dir.to_owned();
        let storage = Storage::open_read_only(&dir);
        bounded_file::run_blocking(&dir.clone(), move || {
            Storage::probe_writable(&dir).map(|()| storage.is_world_writable())
        })
        .await
    };
    let unusable = |error: &dyn std::fmt::Display| {
        let action = "give the exporter's user a directory of its own, with room left";
        vec![Finding::error(area, &subject, error.to_string(), action)]
    };
    match tried {
        Ok(Ok(true)) => vec![Finding::warning(
            area,
            &subject,
            "it can be written to by every user of this machine, who can replace the stored inventories",
            format!("chmod 700 {subject}"),
        )],
        Ok(Ok(false)) => vec![Finding::ok(area, &subject, "it can be written to")],
        Ok(Err(error)) => unusable(&error),
        Err(error) => unusable(&error),
    }
}

/// The addresses to listen on. One that is in use may be in use by the exporter itself.
pub(super) async fn check_listeners(config: &Config) -> Vec<Finding> {
    if config.systemd_socket {
        return vec![Finding::skipped(
            Component::Listener,
            "systemd's sockets",
            "the .socket unit has the addresses",
        )];
    }
    let listen = config
        .listen_addresses
        .iter()
        .map(|at| (at, "--web.listen-address"));
    let probe = config
        .probe_address
        .iter()
        .map(|at| (at, "--web.probe-address"));
    let mut findings = Vec::new();
    for (address, flag) in listen.chain(probe) {
        findings.push(check_listener(address, flag).await);
    }
    findings
}

async fn check_listener(address: &ListenAddress, flag: &'static str) -> Finding {
    match exporter_toolkit::server::bind(address, flag).await {
        Ok(_) => Finding::ok(Component::Listener, address.to_string(), "it is free"),
        Err(error) => Finding::warning(
            Component::Listener,
            address.to_string(),
            error.to_string(),
            "nothing, if it is the running exporter that listens there; else choose another address",
        ),
    }
}
