//! Whether the loops that everything depends on still go round. Each has a [`Beat`] that it tells of
//! its turns; whoever answers the service manager's watchdog asks the [`Pulse`] which have fallen silent.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Without anybody who asks, a loop need not go round more often than its work makes it.
const SELDOM: Duration = Duration::from_hours(1);

/// All loops that are to go round. Held by the exporter, and by whoever starts a loop.
#[derive(Debug)]
pub struct Pulse {
    every: Option<Duration>,
    begun: Instant,
    beats: Mutex<Vec<(String, Arc<AtomicU64>)>>,
}

/// What one loop tells of its turns. It ends with the loop.
#[derive(Debug)]
pub struct Beat {
    every: Duration,
    begun: Instant,
    /// Milliseconds from `begun` to the last turn.
    last: Arc<AtomicU64>,
}

impl Default for Pulse {
    /// A pulse that nobody asks for.
    fn default() -> Self {
        Self::new(None)
    }
}

impl Pulse {
    /// A pulse of which each loop has to tell so often; never when nobody asks.
    pub fn new(every: Option<Duration>) -> Self {
        Self {
            every,
            begun: Instant::now(),
            beats: Mutex::default(),
        }
    }

    /// A loop begins; `what` is what it is called in the log.
    pub fn beat(&self, what: impl Display) -> Beat {
        let beat = Beat {
            every: self.every.unwrap_or(SELDOM),
            begun: self.begun,
            last: Arc::default(),
        };
        beat.turn();
        let mut beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        beats.push((what.to_string(), Arc::clone(&beat.last)));
        beat
    }

    /// The loops of which nothing has been heard for longer than `silence`.
    pub fn silent(&self, silence: Duration) -> Vec<String> {
        let now = millis(self.begun);
        let mut beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        // a loop that has ended need not go round
        beats.retain(|(_, last)| Arc::strong_count(last) > 1);
        let silence = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
        let silent = beats
            .iter()
            .filter(|(_, last)| now.saturating_sub(last.load(Ordering::Relaxed)) > silence);
        silent.map(|(what, _)| what.clone()).collect()
    }
}

impl Beat {
    /// The loop has gone round once more.
    pub fn turn(&self) {
        self.last.store(millis(self.begun), Ordering::Relaxed);
    }

    /// When it has to go round again, at the latest.
    pub fn next(&self) -> Instant {
        Instant::now() + self.every
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_falls_silent_is_named_and_whoever_has_ended_is_not() {
        let pulse = Pulse::new(Some(Duration::from_secs(1)));
        let (lively, stuck, ended) = (pulse.beat("lively"), pulse.beat("stuck"), pulse.beat("x"));
        drop(ended);
        for _ in 0..5 {
            tokio::time::sleep_until(lively.next()).await;
            lively.turn();
        }
        assert_eq!(pulse.silent(Duration::from_secs(2)), ["stuck"]);
        stuck.turn();
        assert!(pulse.silent(Duration::from_secs(2)).is_empty());
    }
}
