//! Binds listeners, or takes the sockets that systemd passes (socket activation).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::address::ListenAddress;

/// The maximum number of connections that wait to be accepted, within the system's limit. The system drops excess
/// connections, and their clients retry after a second.
const BACKLOG: i32 = 4096;

/// The error when a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is in use, or is not an address of this machine.
    #[error("cannot listen on {address} ({flag}): {source}")]
    Address {
        /// The address.
        address: String,
        /// The flag that sets the address.
        flag: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// systemd has not passed the expected sockets.
    #[error("--web.systemd-socket: {0}")]
    Systemd(String),
}

/// Binds a listener. `flag` is the flag that sets the address, for the error message.
///
/// # Errors
/// [`BindError`] when the address is in use, or is not an address of this machine.
pub async fn bind(address: &ListenAddress, flag: &'static str) -> Result<TcpListener, BindError> {
    let bound = if address.host.is_empty() {
        let any = |ip: IpAddr| SocketAddr::from((ip, address.port));
        match bind_socket(any(Ipv6Addr::UNSPECIFIED.into()), true) {
            // The machine may have no IPv6.
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                bind_socket(any(Ipv4Addr::UNSPECIFIED.into()), false)
            }
            bound => bound,
        }
    } else {
        bind_host(address).await
    };
    bound.map_err(|source| BindError::Address {
        address: address.to_string(),
        flag,
        source,
    })
}

/// Binds the first available address of a host.
async fn bind_host(address: &ListenAddress) -> io::Result<TcpListener> {
    let mut last_error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in tokio::net::lookup_host((address.host.as_str(), address.port)).await? {
        match bind_socket(address, false) {
            Ok(listener) => return Ok(listener),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

/// Binds a socket. With `dual_stack`, an IPv6 socket also accepts IPv4 connections, independent of the system's default.
fn bind_socket(address: SocketAddr, dual_stack: bool) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if dual_stack {
        socket.set_only_v6(false)?;
    }
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Returns whether systemd passes sockets to this process.
pub fn has_systemd_sockets() -> bool {
    std::env::var_os("LISTEN_FDS").is_some()
}

/// Takes the sockets that systemd passes with the `LISTEN_FDS` protocol.
///
/// # Errors
/// [`BindError`] when systemd passes no socket, or a socket that is not a TCP socket.
pub fn systemd_listeners() -> Result<Vec<TcpListener>, BindError> {
    let mut sockets = ListenFd::from_env();
    if sockets.len() == 0 {
        let text = "systemd has passed no socket (LISTEN_FDS is not set)";
        return Err(BindError::Systemd(text.to_owned()));
    }
    let mut listeners = Vec::new();
    for index in 0..sockets.len() {
        let invalid = |error: io::Error| {
            BindError::Systemd(format!("socket {} is not a TCP socket: {error}", index + 1))
        };
        let Some(listener) = sockets.take_tcp_listener(index).map_err(invalid)? else {
            continue;
        };
        listener.set_nonblocking(true).map_err(invalid)?;
        listeners.push(TcpListener::from_std(listener).map_err(invalid)?);
    }
    Ok(listeners)
}
