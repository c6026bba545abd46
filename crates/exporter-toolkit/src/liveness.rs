//! Whether the loops that everything depends on still go round. Each has a [`Heartbeat`] that it tells of
//! its turns; whoever answers the service manager's watchdog asks the [`LivenessMonitor`] which have fallen silent.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Without anybody who asks, a loop need not go round more often than its work makes it.
const DEFAULT_INTERVAL: Duration = Duration::from_hours(1);

/// All loops that are to go round. Held by the exporter, and by whoever starts a loop.
#[derive(Debug)]
pub struct LivenessMonitor {
    interval: Option<Duration>,
    epoch: Instant,
    heartbeats: Mutex<Vec<(String, Arc<AtomicU64>)>>,
}

/// What one loop tells of its turns. It ends with the loop.
#[derive(Debug)]
pub struct Heartbeat {
    interval: Duration,
    epoch: Instant,
    /// Milliseconds from `begun` to the last turn.
    last_tick_ms: Arc<AtomicU64>,
}

impl Default for LivenessMonitor {
    /// A pulse that nobody asks for.
    fn default() -> Self {
        Self::new(None)
    }
}

impl LivenessMonitor {
    /// A pulse of which each loop has to tell so often; never when nobody asks.
    pub fn new(every: Option<Duration>) -> Self {
        Self {
            interval: every,
            epoch: Instant::now(),
            heartbeats: Mutex::default(),
        }
    }

    /// A loop begins; `what` is what it is called in the log.
    pub fn register(&self, what: impl Display) -> Heartbeat {
        let beat = Heartbeat {
            interval: self.interval.unwrap_or(DEFAULT_INTERVAL),
            epoch: self.epoch,
            last_tick_ms: Arc::default(),
        };
        beat.tick();
        let mut beats = self
            .heartbeats
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        beats.push((what.to_string(), Arc::clone(&beat.last_tick_ms)));
        beat
    }

    /// The loops of which nothing has been heard for longer than `silence`.
    pub fn stalled(&self, silence: Duration) -> Vec<String> {
        let now = elapsed_millis(self.epoch);
        let mut beats = self
            .heartbeats
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // a loop that has ended need not go round
        beats.retain(|(_, last)| Arc::strong_count(last) > 1);
        let silence = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
        let silent = beats
            .iter()
            .filter(|(_, last)| now.saturating_sub(last.load(Ordering::Relaxed)) > silence);
        silent.map(|(what, _)| what.clone()).collect()
    }
}

impl Heartbeat {
    /// The loop has gone round once more.
    pub fn tick(&self) {
        self.last_tick_ms
            .store(elapsed_millis(self.epoch), Ordering::Relaxed);
    }

    /// When it has to go round again, at the latest.
    pub fn next_deadline(&self) -> Instant {
        Instant::now() + self.interval
    }
}

fn elapsed_millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stalled_loops_are_reported_and_finished_ones_are_not() {
        let pulse = LivenessMonitor::new(Some(Duration::from_secs(1)));
        let (lively, stuck, ended) = (
            pulse.register("lively"),
            pulse.register("stuck"),
            pulse.register("x"),
        );
        drop(ended);
        for _ in 0..5 {
            tokio::time::sleep_until(lively.next_deadline()).await;
            lively.tick();
        }
        assert_eq!(pulse.stalled(Duration::from_secs(2)), ["stuck"]);
        stuck.tick();
        assert!(pulse.stalled(Duration::from_secs(2)).is_empty());
    }
}
