//! Taking connections in, until the stop.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::connection::{self, ConnectionContext};
use super::connections::ConnectionTracker;
use super::limits::ServerLimits;
use crate::liveness::{Heartbeat, LivenessMonitor};
use crate::web_config::SharedWebConfig;

/// How long answers that are under way may go on after the stop was asked for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long nothing is taken in after the system had no room for one more.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Listeners of one kind, and what is behind them.
pub struct Server {
    /// The sockets.
    pub listeners: Vec<TcpListener>,
    /// What is served.
    pub router: Router,
    /// How patient it is.
    pub limits: ServerLimits,
    /// Whether connections are encrypted, and how; never when there is nothing.
    pub web_config: Option<Arc<SharedWebConfig>>,
    /// What it is called in the log.
    pub log_message: &'static str,
}

/// Serves every door until `shutdown`, then lets answers that are under way end, for three
/// seconds at most. Each listener's loop tells `pulse` of its turns.
pub async fn serve(doors: Vec<Server>, pulse: Arc<LivenessMonitor>, shutdown: CancellationToken) {
    let mut keepers = JoinSet::new();
    let connections = TaskTracker::new();
    let end = CancellationToken::new();
    for door in doors {
        let tracker = ConnectionTracker::new(door.limits.max_connections);
        let ways = ConnectionContext {
            router: door.router,
            limits: door.limits,
            drain: shutdown.clone(),
            abort: end.clone(),
            web_config: door.web_config.clone(),
            peer: None,
        };
        for listener in door.listeners {
            let address = listener.local_addr();
            let beat = pulse.register(match &address {
                Ok(address) => format!("the listener on {address}"),
                Err(_) => "a listener".to_owned(),
            });
            if let Ok(address) = address {
                let tls = door
                    .web_config
                    .as_ref()
                    .is_some_and(|a| a.get().tls().is_some());
                info!(tls, %address, "{}", door.log_message);
            }
            keepers.spawn(accept_loop(
                (listener, beat),
                Arc::clone(&tracker),
                door.web_config.clone(),
                ways.clone(),
                connections.clone(),
            ));
        }
    }
    shutdown.cancelled().await;
    while keepers.join_next().await.is_some() {}
    connections.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, connections.wait())
        .await
        .is_err()
    {
        warn!("a client has not taken its answer in time; closing its connection");
        end.cancel();
        connections.wait().await;
    }
}

/// Takes in the connections of one listener.
async fn accept_loop(
    (listener, beat): (TcpListener, Heartbeat),
    tracker: Arc<ConnectionTracker>,
    access: Option<Arc<SharedWebConfig>>,
    ways: ConnectionContext,
    connections: TaskTracker,
) {
    loop {
        beat.tick();
        let accepted = tokio::select! {
            () = ways.drain.cancelled() => return,
            () = tokio::time::sleep_until(beat.next_deadline()) => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let Some(connection) = tracker.try_admit(address.ip()) else {
                    debug!("connection refused: every open one has a response in progress");
                    continue;
                };
                let tls = access.as_ref().and_then(|access| access.get().tls());
                connections.spawn(connection::serve(stream, tls, connection, ways.clone()));
            }
            Err(error) if is_connection_error(&error) => {}
            Err(error) => {
                warn!(%error, "accept failed; evicting a connection");
                tracker.evict();
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

/// Whether the client alone is concerned, who has gone before he was taken in.
fn is_connection_error(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}
