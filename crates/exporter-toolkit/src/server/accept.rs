//! Accepts connections until shutdown, then drains them.

use std::io;
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

/// The time for responses in flight at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// The delay after a failed accept, for example without a free file descriptor.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Listeners that share a router, limits and a web configuration.
///
/// Any tower service can be served: `Router::new().fallback_service(service)`.
pub struct Server {
    /// The listeners.
    pub listeners: Vec<TcpListener>,
    /// The routes.
    pub router: Router,
    /// Timeouts and the connection limit.
    pub limits: ServerLimits,
    /// The web configuration; without one, or without its TLS section, connections are in plain text.
    pub web_config: Option<Arc<SharedWebConfig>>,
    /// The name of the listeners in the log, such as `web`.
    pub name: &'static str,
}

/// Runs the servers until `shutdown`, then waits up to three seconds for responses in flight. Each listener's accept loop
/// registers with `liveness`.
pub async fn serve(
    servers: Vec<Server>,
    liveness: Arc<LivenessMonitor>,
    shutdown: CancellationToken,
) {
    let mut accept_tasks = JoinSet::new();
    let connections = TaskTracker::new();
    let abort = CancellationToken::new();
    for server in servers {
        let tracker = ConnectionTracker::new(server.limits.max_connections);
        let context = Arc::new(ConnectionContext {
            router: server.router,
            limits: server.limits,
            drain: shutdown.clone(),
            abort: abort.clone(),
            web_config: server.web_config.unwrap_or_default(),
        });
        for listener in server.listeners {
            let name = match listener.local_addr() {
                Ok(address) => {
                    let tls = context.web_config.get().uses_tls();
                    info!(listener = server.name, tls, %address, "listening");
                    format!("listener on {address}")
                }
                Err(_) => "listener".to_owned(),
            };
            accept_tasks.spawn(accept_loop(
                listener,
                liveness.register(name),
                Arc::clone(&tracker),
                Arc::clone(&context),
                connections.clone(),
            ));
        }
    }
    shutdown.cancelled().await;
    while accept_tasks.join_next().await.is_some() {}
    connections.close();
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, connections.wait()).await;
    if drained.is_err() {
        warn!("drain timeout; closing the remaining connections");
        abort.cancel();
        connections.wait().await;
    }
}

async fn accept_loop(
    listener: TcpListener,
    heartbeat: Heartbeat,
    tracker: Arc<ConnectionTracker>,
    context: Arc<ConnectionContext>,
    connections: TaskTracker,
) {
    loop {
        heartbeat.tick();
        let accepted = tokio::select! {
            () = context.drain.cancelled() => return,
            () = tokio::time::sleep_until(heartbeat.next_deadline()) => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let Some(guard) = tracker.try_admit(address.ip()) else {
                    debug!("connection rejected; no open connection can be evicted");
                    continue;
                };
                connections.spawn(connection::serve(stream, guard, Arc::clone(&context)));
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

/// Returns whether the error concerns only the connection to accept, and not the listener.
fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}
