//! Notifications for systemd through `$NOTIFY_SOCKET` (`sd_notify(3)`): readiness, status, reloads and watchdog pings.
//! Without systemd nothing is sent.

use std::sync::Arc;
use std::time::Duration;

use exporter_toolkit::liveness::LivenessMonitor;
use sd_notify::NotifyState;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::web::AppState;

/// Interval between two comparisons of the status with the last one that was sent.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Heartbeats per watchdog timeout; a task that misses two is stalled.
const TICKS_PER_WATCHDOG: u32 = 4;

/// Sends notifications to systemd, if it has started the process.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServiceNotifier {
    enabled: bool,
    /// Interval of the heartbeats and pings that the watchdog expects.
    ping_interval: Option<Duration>,
}

impl ServiceNotifier {
    pub(super) fn from_env() -> Self {
        let enabled = std::env::var_os("NOTIFY_SOCKET").is_some();
        let watchdog_timeout = sd_notify::watchdog_enabled();
        let watchdog_timeout = watchdog_timeout.filter(|timeout| enabled && !timeout.is_zero());
        Self {
            enabled,
            ping_interval: watchdog_timeout.map(|timeout| timeout / TICKS_PER_WATCHDOG),
        }
    }

    /// Returns a monitor with heartbeats that are frequent enough for the watchdog.
    pub(super) fn liveness_monitor(self) -> LivenessMonitor {
        LivenessMonitor::new(self.ping_interval)
    }

    pub(super) fn notify_ready(self) {
        if self.enabled {
            send(&[NotifyState::Ready]);
        }
    }

    pub(super) fn notify_reloading(self) {
        if self.enabled {
            let now = NotifyState::monotonic_usec_now().ok();
            let states: Vec<_> = [NotifyState::Reloading].into_iter().chain(now).collect();
            send(&states);
        }
    }

    /// Sends readiness, status and watchdog pings until `shutdown`. While a task is stalled no ping is sent, so that systemd
    /// restarts the process.
    pub(super) async fn run(
        self,
        state: Arc<AppState>,
        liveness: Arc<LivenessMonitor>,
        shutdown: CancellationToken,
    ) {
        if !self.enabled {
            return;
        }
        send(&[NotifyState::Ready]);
        let mut last_status = String::new();
        let mut last_ping = None;
        let interval = self.ping_interval.unwrap_or(STATUS_INTERVAL);
        while !shutdown.is_cancelled() {
            let status = state.status.summary();
            if status != last_status {
                send(&[NotifyState::Status(&status)]);
                last_status = status;
            }
            if let Some(interval) = self.ping_interval {
                ping_watchdog(interval, &liveness, &mut last_ping);
            }
            let pause = tokio::time::sleep(interval.min(STATUS_INTERVAL));
            shutdown.run_until_cancelled(pause).await;
        }
        send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }
}

/// Pings the watchdog if the last ping is one interval ago, unless a task is stalled.
fn ping_watchdog(interval: Duration, liveness: &LivenessMonitor, last_ping: &mut Option<Instant>) {
    let stalled = liveness.stalled(interval * 2);
    if !stalled.is_empty() {
        error!(
            tasks = stalled.join(", "),
            "task stalled; withholding watchdog ping"
        );
        return;
    }
    let min_age = interval.saturating_sub(STATUS_INTERVAL);
    if last_ping.is_none_or(|at| at.elapsed() >= min_age) {
        send(&[NotifyState::Watchdog]);
        *last_ping = Some(Instant::now());
    }
}

/// Sends notifications. Errors are ignored: systemd detects a missing notification.
fn send(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn watchdog_is_not_pinged_while_a_task_is_stalled() {
        let interval = Duration::from_secs(5);
        let liveness = LivenessMonitor::new(Some(interval));
        let [listener, scheduler] = ["listener", "scheduler"].map(|name| liveness.register(name));
        let mut last_ping = None;
        ping_watchdog(interval, &liveness, &mut last_ping);
        let first = last_ping.expect("a ping");
        tokio::time::advance(interval * 3).await;
        scheduler.tick();
        ping_watchdog(interval, &liveness, &mut last_ping);
        assert_eq!(last_ping, Some(first), "the listener is stalled");
        listener.tick();
        ping_watchdog(interval, &liveness, &mut last_ping);
        assert_eq!(last_ping, Some(Instant::now()));
    }
}
