//! Listeners: bound all before anything is served, closed in good order.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::ListenAddress;

/// How long scrapes that are under way may go on after the stop was asked for.
const GRACE: Duration = Duration::from_secs(3);

/// How patient the listeners are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// A client that takes nothing of its answer for so long is cut off.
    pub stalled: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            stalled: Duration::from_secs(30),
        }
    }
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address}: {why}; choose another with --web.listen-address, or end what uses it"
)]
pub struct BindError {
    address: String,
    why: io::Error,
}

/// Opens a listener.
///
/// # Errors
/// [`BindError`] when the address is in use or not this machine's.
pub async fn bind(address: &ListenAddress) -> Result<TcpListener, BindError> {
    let bound = if address.host.is_empty() {
        // one socket takes IPv4 and IPv6, but for machines that have no IPv6
        match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port))).await {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port))).await
            }
            bound => bound,
        }
    } else {
        TcpListener::bind((address.host.as_str(), address.port)).await
    };
    bound.map_err(|why| BindError {
        address: address.to_string(),
        why,
    })
}

/// A listener whose connections end when nobody takes what is written to them.
struct Door {
    listener: TcpListener,
    patience: Patience,
}

impl Listener for Door {
    type Io = Pin<Box<TimeoutStream<TcpStream>>>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // an answer is written in large pieces, and its end is not to wait for an acknowledgement
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.patience.stalled));
        (Box::pin(stream), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// Serves `router` on every listener until `shutdown`, then lets answers that are under way end,
/// for three seconds at most.
pub async fn serve(
    listeners: Vec<TcpListener>,
    router: Router,
    patience: Patience,
    shutdown: CancellationToken,
) {
    let mut servers = JoinSet::new();
    for listener in listeners {
        if let Ok(address) = listener.local_addr() {
            info!(%address, "listening");
        }
        let stop = shutdown.clone().cancelled_owned();
        let door = Door { listener, patience };
        let server = axum::serve(door, router.clone()).with_graceful_shutdown(stop);
        servers.spawn(async move { server.await });
    }
    shutdown.cancelled().await;
    let ended = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, ended).await.is_err() {
        warn!("a client has not taken its answer in time; closing its connection");
    }
    servers.shutdown().await;
}
