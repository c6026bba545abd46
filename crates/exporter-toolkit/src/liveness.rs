//! Detects stalled loops. Each loop registers a [`Heartbeat`] and ticks it; the [`LivenessMonitor`] returns the names of
//! stalled loops, for the watchdog of a service manager.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::sync::Mutex;

/// The tick interval without a watchdog: a loop does not have to run more often than its work requires.
const DEFAULT_INTERVAL: Duration = Duration::from_hours(1);

/// All registered loops.
#[derive(Debug)]
pub struct LivenessMonitor {
    interval: Duration,
    /// The name and the last tick of each loop.
    heartbeats: Mutex<Vec<(String, Arc<Mutex<Instant>>)>>,
}

/// The heartbeat of one loop. Dropping it unregisters the loop.
#[derive(Debug)]
pub struct Heartbeat {
    interval: Duration,
    last_tick: Arc<Mutex<Instant>>,
}

impl Default for LivenessMonitor {
    /// Creates a monitor without a watchdog.
    fn default() -> Self {
        Self::new(None)
    }
}

impl LivenessMonitor {
    /// Creates a monitor. Each loop ticks at least once per `interval`; without a watchdog, once per hour.
    pub fn new(interval: Option<Duration>) -> Self {
        Self {
            interval: interval.unwrap_or(DEFAULT_INTERVAL),
            heartbeats: Mutex::default(),
        }
    }

    /// Registers a loop that starts now. `name` identifies the loop in the log.
    pub fn register(&self, name: impl Display) -> Heartbeat {
        let last_tick = Arc::new(Mutex::new(Instant::now()));
        let mut heartbeats = self.heartbeats.lock();
        heartbeats.push((name.to_string(), Arc::clone(&last_tick)));
        Heartbeat {
            interval: self.interval,
            last_tick,
        }
    }

    /// Returns the names of the loops with a last tick older than `timeout`.
    pub fn stalled(&self, timeout: Duration) -> Vec<String> {
        let mut heartbeats = self.heartbeats.lock();
        // A finished loop has dropped its heartbeat.
        heartbeats.retain(|(_, last_tick)| Arc::strong_count(last_tick) > 1);
        let stalled = heartbeats
            .iter()
            .filter(|(_, last_tick)| last_tick.lock().elapsed() > timeout);
        stalled.map(|(name, _)| name.clone()).collect()
    }
}

impl Heartbeat {
    /// Records one more iteration of the loop.
    pub fn tick(&self) {
        *self.last_tick.lock() = Instant::now();
    }

    /// Returns the latest time of the next tick.
    pub fn next_deadline(&self) -> Instant {
        Instant::now() + self.interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stalled_loops_are_reported_and_finished_ones_are_not() {
        let monitor = LivenessMonitor::new(Some(Duration::from_secs(1)));
        let [lively, stuck, finished] =
            ["lively", "stuck", "finished"].map(|n| monitor.register(n));
        drop(finished);
        for _ in 0..5 {
            tokio::time::sleep_until(lively.next_deadline()).await;
            lively.tick();
        }
        assert_eq!(monitor.stalled(Duration::from_secs(2)), ["stuck"]);
        stuck.tick();
        assert!(monitor.stalled(Duration::from_secs(2)).is_empty());
    }
}
