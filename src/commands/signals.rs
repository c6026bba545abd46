//! Signals: SIGTERM and SIGINT stop the process, SIGHUP reloads the configuration.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::info;

use super::CommandError;
use crate::app::Reloader;

/// Returns a token that is cancelled by SIGTERM or SIGINT.
#[cfg(unix)]
pub(super) fn shutdown_token() -> Result<CancellationToken, CommandError> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(CommandError::io("cannot listen for signals"));
    let (mut term, mut int) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
    );
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let signal = tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        };
        cancelled.cancel();
        info!(signal, "stopping");
    });
    Ok(token)
}

/// Returns a token that is cancelled by Ctrl-C.
#[cfg(not(unix))]
pub(super) fn shutdown_token() -> Result<CancellationToken, Failure> {
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            info!("stopping");
            cancelled.cancel();
        }
    });
    Ok(token)
}

/// Spawns a task that reloads the configuration on each SIGHUP.
#[cfg(unix)]
pub(super) fn spawn_sighup_reload(reloader: Arc<Reloader>) -> Result<(), CommandError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup =
        signal(SignalKind::hangup()).map_err(CommandError::io("cannot listen for signals"))?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // `reload` logs its errors.
            let _ = reloader.reload("SIGHUP").await;
        }
    });
    Ok(())
}

/// Other systems have no such signal.
#[cfg(not(unix))]
pub(super) fn spawn_sighup_reload(_: Arc<Control>) -> Result<(), Failure> {
    Ok(())
}
