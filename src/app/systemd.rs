//! What the service manager is told: that the exporter serves, how it goes, that it still lives. It
//! is systemd that asks, through `$NOTIFY_SOCKET` and `$WATCHDOG_USEC` (`sd_notify(3)`); where nobody asks,
//! nothing is done.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::web::AppState;
use exporter_toolkit::liveness::LivenessMonitor;

/// How often the status is looked at; it is told when it has changed.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// A loop tells of itself so many times within the watchdog's patience, and is silent after two that
/// it has missed.
const TICKS_PER_WATCHDOG: u32 = 4;

/// The service manager, if there is one.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServiceNotifier {
    enabled: bool,
    watchdog_timeout: Option<Duration>,
}

impl ServiceNotifier {
    /// The one that has started this process.
    pub(super) fn from_env() -> Self {
        let listens = std::env::var_os("NOTIFY_SOCKET").is_some();
        Self {
            enabled: listens,
            watchdog_timeout: system::watchdog().filter(|_| listens),
        }
    }

    /// The pulse that its watchdog asks for.
    pub(super) fn liveness_monitor(self) -> LivenessMonitor {
        LivenessMonitor::new(
            self.watchdog_timeout
                .map(|patience| patience / TICKS_PER_WATCHDOG),
        )
    }

    /// A new configuration is being taken up, or no longer is.
    pub(super) fn reloading(self, yes: bool) {
        if self.enabled {
            if yes {
                system::reloading();
            } else {
                system::ready();
            }
        }
    }

    /// Says that the exporter serves, and then how it goes, until `shutdown`. The watchdog hears nothing
    /// while a loop of `liveness_monitor` is silent: a new process is better than this one.
    pub(super) async fn run(
        self,
        app: Arc<AppState>,
        pulse: Arc<LivenessMonitor>,
        shutdown: CancellationToken,
    ) {
        if !self.enabled {
            return;
        }
        system::ready();
        let mut told = String::new();
        let mut alive_at: Option<Instant> = None;
        while !shutdown.is_cancelled() {
            let status = app.status.summary();
            if status != told {
                system::status(&status);
                told = status;
            }
            if let Some(patience) = self.watchdog_timeout {
                let every = patience / TICKS_PER_WATCHDOG;
                let silent = pulse.stalled(every * 2);
                if !silent.is_empty() {
                    error!(
                        silent = silent.join(", "),
                        "stuck: the service manager will start the exporter anew"
                    );
                } else if alive_at
                    .is_none_or(|at| at.elapsed() >= every.saturating_sub(STATUS_INTERVAL))
                {
                    system::alive();
                    alive_at = Some(Instant::now());
                }
            }
            let pause = self.watchdog_timeout.map_or(STATUS_INTERVAL, |patience| {
                STATUS_INTERVAL.min(patience / TICKS_PER_WATCHDOG)
            });
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        system::stopping();
    }
}

/// systemd's protocol. What cannot be told is not told: the manager sees for itself.
#[cfg(target_os = "linux")]
mod system {
    use std::time::Duration;

    use sd_notify::NotifyState;

    pub(super) fn watchdog() -> Option<Duration> {
        sd_notify::watchdog_enabled().filter(|patience| !patience.is_zero())
    }

    pub(super) fn ready() {
        let _ = sd_notify::notify(&[NotifyState::Ready]);
    }

    pub(super) fn reloading() {
        let mut states = vec![NotifyState::Reloading];
        states.extend(NotifyState::monotonic_usec_now());
        let _ = sd_notify::notify(&states);
    }

    pub(super) fn status(text: &str) {
        let _ = sd_notify::notify(&[NotifyState::Status(text)]);
    }

    pub(super) fn alive() {
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
    }

    pub(super) fn stopping() {
        let _ = sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }
}

/// Elsewhere there is no such manager.
#[cfg(not(target_os = "linux"))]
mod system {
    use std::time::Duration;

    pub(super) fn watchdog() -> Option<Duration> {
        None
    }

    pub(super) fn ready() {}

    pub(super) fn reloading() {}

    pub(super) fn status(_: &str) {}

    pub(super) fn alive() {}

    pub(super) fn stopping() {}
}
