//! Opening the sockets, or taking those that systemd hands over.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::address::ListenAddress;

/// Connections that may wait to be taken in, as far as the system allows so many: one more is
/// dropped, and its client tries again after a second.
const BACKLOG: i32 = 4096;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// It is in use, or not this machine's.
    #[error("cannot listen on {address}: {why}; choose another with {flag}, or end what uses it")]
    Address {
        /// The address.
        address: String,
        /// The flag that names it.
        flag: &'static str,
        /// What the system says.
        why: io::Error,
    },
    /// There is no socket where systemd should have handed one over.
    #[error("--web.systemd-socket: {0}; a .socket unit of the service hands over TCP sockets")]
    Systemd(String),
}

/// Opens a listener; `flag` is the flag that names the address.
///
/// # Errors
/// [`BindError`] when the address is in use or not this machine's.
pub async fn bind(address: &ListenAddress, flag: &'static str) -> Result<TcpListener, BindError> {
    let bound = if address.host.is_empty() {
        let any = |ip: IpAddr| SocketAddr::from((ip, address.port));
        match bind_socket(any(Ipv6Addr::UNSPECIFIED.into()), true) {
            // machines that have no IPv6
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                bind_socket(any(Ipv4Addr::UNSPECIFIED.into()), false)
            }
            bound => bound,
        }
    } else {
        bind_host(address).await
    };
    bound.map_err(|why| BindError::Address {
        address: address.to_string(),
        flag,
        why,
    })
}

/// Opens the first address of a host that can be had.
async fn bind_host(address: &ListenAddress) -> io::Result<TcpListener> {
    let mut why = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in tokio::net::lookup_host((address.host.as_str(), address.port)).await? {
        match bind_socket(address, false) {
            Ok(listener) => return Ok(listener),
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// Opens a socket; `both` is whether one of IPv6 takes IPv4 as well, whatever the system's default
/// is.
fn bind_socket(address: SocketAddr, both: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if both {
        socket.set_only_v6(false)?;
    }
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Whether systemd hands sockets over, wanted or not.
pub fn has_systemd_sockets() -> bool {
    std::env::var_os("LISTEN_FDS").is_some()
}

/// The sockets that systemd hands over by its `LISTEN_FDS` protocol.
///
/// # Errors
/// [`BindError`] when there is none, or one is no TCP socket.
pub fn systemd_listeners() -> Result<Vec<TcpListener>, BindError> {
    let mut sockets = ListenFd::from_env();
    if sockets.len() == 0 {
        let text = "systemd has handed no socket over to this process (LISTEN_FDS is not set)";
        return Err(BindError::Systemd(text.to_owned()));
    }
    let mut listeners = Vec::new();
    for place in 0..sockets.len() {
        let wrong = |why: io::Error| {
            BindError::Systemd(format!("socket {} is no TCP socket: {why}", place + 1))
        };
        let Some(listener) = sockets.take_tcp_listener(place).map_err(wrong)? else {
            continue;
        };
        listener.set_nonblocking(true).map_err(wrong)?;
        listeners.push(TcpListener::from_std(listener).map_err(wrong)?);
    }
    Ok(listeners)
}
