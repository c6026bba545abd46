//! Health of the running exporter.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use exporter_toolkit::address::ListenAddress;
use reqwest::header::HOST;
use reqwest::{StatusCode, redirect};

use super::findings::{Component, Finding, Topic};
use crate::cli::Args;
use crate::config::Config;
use crate::credentials::Environment;
use crate::humanize::exact;

/// Timeout of the whole probe, from name resolution to the response header.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Queries `/-/healthy` of the exporter with this configuration, on `--web.probe-address` or otherwise on the first listen
/// address.
pub async fn probe_running_exporter(args: &Args, environment: &Environment) -> Vec<Finding> {
    // Other errors in the configuration are ignored: the health of the running exporter is independent of them.
    let loaded = Config::load_lenient(args, environment);
    let Some(config) = &loaded.config else {
        return super::local::check_configuration(&loaded);
    };
    let address = config
        .probe_address
        .as_ref()
        .or(config.listen_addresses.first());
    let Some(address) = address else {
        // The address may be in the file that cannot be used.
        if loaded.is_file_unusable {
            return super::local::check_configuration(&loaded);
        }
        let topic = Topic::new(Component::Listener, "systemd's sockets");
        let hint = "set --web.probe-address";
        return vec![topic.error("no address to query", hint)];
    };
    let fetch = fetch_health(address, config.allowed_hosts.example());
    let result = tokio::time::timeout(TIMEOUT, fetch)
        .await
        .unwrap_or_else(|_| Err(format!("no response within {}", exact(TIMEOUT))));
    let topic = Topic::new(Component::Listener, address);
    let is_protected = config.probe_address.is_none() && config.web_config_file.is_some();
    let hint = if is_protected {
        "set --web.probe-address; a listener with TLS or authentication cannot be queried"
    } else {
        "check that the exporter runs with this configuration, and read the log of the exporter"
    };
    vec![match result {
        Ok(()) => topic.ok("exporter is running and healthy"),
        Err(error) => topic.error(error, hint),
    }]
}

/// Queries each address of the host until one responds that the exporter is healthy.
async fn fetch_health(address: &ListenAddress, allowed_host: Option<String>) -> Result<(), String> {
    let host = match address.host.as_str() {
        "" => "localhost",
        host => host,
    };
    let client = http_client().map_err(|error| root_cause(&error))?;
    let addresses = tokio::net::lookup_host((host, address.port))
        .await
        .map_err(|error| error.to_string())?;
    let mut result = Err("host name resolves to no address".to_owned());
    for address in addresses.map(to_loopback) {
        let host = allowed_host.clone().unwrap_or_else(|| address.to_string());
        result = fetch_from(&client, address, &host).await;
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Creates a client for plain HTTP, without proxy, redirects and certificates.
fn http_client() -> reqwest::Result<reqwest::Client> {
    // The only possible error is that a provider is already installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .tls_certs_only([])
        .build()
}

async fn fetch_from(
    client: &reqwest::Client,
    address: SocketAddr,
    host: &str,
) -> Result<(), String> {
    let request = client
        .get(format!("http://{address}/-/healthy"))
        .header(HOST, host);
    let response = request.send().await.map_err(|error| root_cause(&error))?;
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(());
    }
    let status_line = format!("{:?} {status}", response.version());
    Err(format!("expected status 200, got {status_line:?}"))
}

/// Returns the message of the innermost error.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Replaces an unspecified address by the loopback address. A listener on an unspecified address accepts all destinations.
fn to_loopback(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
