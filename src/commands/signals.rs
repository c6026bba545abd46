//! Signals: SIGTERM and SIGINT stop the process, SIGHUP reloads the configuration.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::CommandError;
use crate::app::Reloader;

fn listen(kind: SignalKind) -> Result<Signal, CommandError> {
    signal(kind).map_err(CommandError::io("cannot listen for signals"))
}

/// Returns a token that SIGTERM and SIGINT cancel.
pub(super) fn shutdown_token() -> Result<CancellationToken, CommandError> {
    let mut term = listen(SignalKind::terminate())?;
    let mut int = listen(SignalKind::interrupt())?;
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

/// Spawns a task that reloads the configuration on each SIGHUP.
pub(super) fn spawn_sighup_reload(reloader: Arc<Reloader>) -> Result<(), CommandError> {
    let mut hangup = listen(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // `reload` logs its errors.
            let _ = reloader.reload("SIGHUP").await;
        }
    });
    Ok(())
}
