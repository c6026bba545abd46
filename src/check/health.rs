//! Whether the exporter that runs with a configuration is healthy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::findings::{Component, Finding};
use crate::cli::Args;
use crate::config::{self, Config};
use crate::credentials::Environment;
use exporter_toolkit::address::ListenAddress;

/// How long the answer may take, from the connection to its last byte.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Most bytes of the answer that are looked at.
const MAX_RESPONSE_BYTES: u64 = 4096;

/// Asks `/-/healthy` of the exporter that these arguments and this environment would start: at
/// `--web.probe-address`, or at the first address where there is none.
pub async fn probe_running_exporter(args: &Args, environment: &Environment) -> Vec<Finding> {
    // what else is wrong is no matter here: it runs, or it does not
    let (config, mistakes) = config::load_lenient(args, environment);
    let Some(config) = config else {
        return super::local::check_configuration(None, &mistakes);
    };
    let (Some(address), closed) = probe_target(&config) else {
        return vec![Finding::error(
            Component::Listener,
            "systemd's sockets",
            "there is no address to ask at",
            "give --web.probe-address one for health alone",
        )];
    };
    let subject = address.to_string();
    let healthy = tokio::time::timeout(
        TIMEOUT,
        fetch_health(address, config.allowed_hosts.example()),
    )
    .await
    .unwrap_or_else(|_| Err("it does not answer in time".to_owned()));
    vec![match healthy {
        Ok(()) => Finding::ok(Component::Listener, subject, "it runs, and is healthy"),
        Err(why) if closed => Finding::error(
            Component::Listener,
            subject,
            why,
            "give --web.probe-address an address: where TLS or a password is asked for, health cannot be",
        ),
        Err(why) => Finding::error(
            Component::Listener,
            subject,
            why,
            "look at its log, and whether it was started with this configuration",
        ),
    }]
}

/// Where, and whether TLS or a password may be asked for there.
fn probe_target(config: &Config) -> (Option<&ListenAddress>, bool) {
    match &config.probe_address {
        Some(probe) => (Some(probe), false),
        None => (
            config.listen_addresses.first(),
            config.web_config_file.is_some(),
        ),
    }
}

/// A request of a few lines, for which no client has to be set up.
async fn fetch_health(address: &ListenAddress, allowed_host: Option<String>) -> Result<(), String> {
    let host = if address.host.is_empty() {
        "localhost"
    } else {
        &address.host
    };
    let found = tokio::net::lookup_host((host, address.port))
        .await
        .map_err(|error| error.to_string())?;
    let mut last = "its name leads nowhere".to_owned();
    for place in found.map(to_loopback) {
        let host = allowed_host.clone().unwrap_or_else(|| place.to_string());
        match fetch_from(place, &host).await {
            Ok(()) => return Ok(()),
            Err(why) => last = why,
        }
    }
    Err(last)
}

/// Who listens on every address is asked on the loopback one.
fn to_loopback(place: SocketAddr) -> SocketAddr {
    let ip = match place.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, place.port())
}

async fn fetch_from(place: SocketAddr, host: &str) -> Result<(), String> {
    let exchange = async {
        let mut stream = TcpStream::connect(place).await?;
        let request = format!("GET /-/healthy HTTP/1.0\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream
            .take(MAX_RESPONSE_BYTES)
            .read_to_end(&mut answer)
            .await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = exchange.await.map_err(|error| error.to_string())?;
    let head = answer
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    if head.starts_with(b"HTTP/1.") && head.windows(5).any(|part| part == b" 200 ") {
        return Ok(());
    }
    let head: String = String::from_utf8_lossy(head).chars().take(60).collect();
    Err(format!("it answers {head:?} instead of 200"))
}
