//! Taking connections in, until the stop.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::connection::{self, Ways};
use super::connections::ConnectionTracker;
use super::limits::Limits;
use crate::liveness::{Beat, Pulse};
use crate::web_config::SharedAccess;

/// How long answers that are under way may go on after the stop was asked for.
const GRACE: Duration = Duration::from_secs(3);
/// How long nothing is taken in after the system had no room for one more.
const BREATH: Duration = Duration::from_millis(50);

/// Listeners of one kind, and what is behind them.
pub struct Door {
    /// The sockets.
    pub listeners: Vec<TcpListener>,
    /// What is served.
    pub router: Router,
    /// How patient it is.
    pub limits: Limits,
    /// Whether connections are encrypted, and how; never when there is nothing.
    pub access: Option<Arc<SharedAccess>>,
    /// What it is called in the log.
    pub what: &'static str,
}

/// Serves every door until `shutdown`, then lets answers that are under way end, for three
/// seconds at most. Each listener's loop tells `pulse` of its turns.
pub async fn serve(doors: Vec<Door>, pulse: Arc<Pulse>, shutdown: CancellationToken) {
    let mut keepers = JoinSet::new();
    let connections = TaskTracker::new();
    let end = CancellationToken::new();
    for door in doors {
        let tracker = ConnectionTracker::new(door.limits.connections);
        let ways = Ways {
            router: door.router,
            limits: door.limits,
            stop: shutdown.clone(),
            end: end.clone(),
            access: door.access.clone(),
            peer: None,
        };
        for listener in door.listeners {
            let address = listener.local_addr();
            let beat = pulse.beat(match &address {
                Ok(address) => format!("the listener on {address}"),
                Err(_) => "a listener".to_owned(),
            });
            if let Ok(address) = address {
                let tls = door
                    .access
                    .as_ref()
                    .is_some_and(|a| a.get().tls().is_some());
                info!(tls, %address, "{}", door.what);
            }
            keepers.spawn(keep(
                (listener, beat),
                Arc::clone(&tracker),
                door.access.clone(),
                ways.clone(),
                connections.clone(),
            ));
        }
    }
    shutdown.cancelled().await;
    while keepers.join_next().await.is_some() {}
    connections.close();
    if tokio::time::timeout(GRACE, connections.wait())
        .await
        .is_err()
    {
        warn!("a client has not taken its answer in time; closing its connection");
        end.cancel();
        connections.wait().await;
    }
}

/// Takes in the connections of one listener.
async fn keep(
    (listener, beat): (TcpListener, Beat),
    tracker: Arc<ConnectionTracker>,
    access: Option<Arc<SharedAccess>>,
    ways: Ways,
    connections: TaskTracker,
) {
    loop {
        beat.turn();
        let accepted = tokio::select! {
            () = ways.stop.cancelled() => return,
            () = tokio::time::sleep_until(beat.next()) => continue,
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
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                warn!(%error, "accept failed; evicting a connection");
                tracker.evict();
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

/// Whether the client alone is concerned, who has gone before he was taken in.
fn is_of_the_client(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}
