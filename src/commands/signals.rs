//! SIGTERM and SIGINT, which ask the process to end, and SIGHUP, which asks it to reload.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::info;

use super::CommandError;
use crate::app::Reloader;

/// A token that is cancelled at the first SIGTERM or SIGINT.
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

/// A token that is cancelled at Ctrl-C.
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

/// Reloads the configuration at each SIGHUP, until the process ends.
#[cfg(unix)]
pub(super) fn spawn_sighup_reload(control: Arc<Reloader>) -> Result<(), CommandError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup =
        signal(SignalKind::hangup()).map_err(CommandError::io("cannot listen for signals"))?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // what is wrong with it is told there
            let _ = control.reload("SIGHUP").await;
        }
    });
    Ok(())
}

/// Elsewhere there is no such signal.
#[cfg(not(unix))]
pub(super) fn spawn_sighup_reload(_: Arc<Control>) -> Result<(), Failure> {
    Ok(())
}
