//! Random events of keys. Each kind has a separate mean interval, and the seed determines all events.

use jiff::{SignedDuration, Timestamp};

/// Kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyEvent {
    Use,
    Create,
    Rename,
    Toggle,
    Delete,
    FirstUse,
    Revive,
}

/// Mean seconds between two events of a kind at speed 1 with 1,000 keys.
const MEAN_INTERVALS: &[(KeyEvent, f64)] = &[
    (KeyEvent::Use, 2.0),
    (KeyEvent::Create, 900.0),
    (KeyEvent::Rename, 7200.0),
    (KeyEvent::Toggle, 7200.0),
    (KeyEvent::Delete, 1000.0),
    (KeyEvent::FirstUse, 1800.0),
];

/// Additional event of the churn scenario: the use of a key after a long idle time.
const REVIVAL_EVENT: (KeyEvent, f64) = (KeyEvent::Revive, 600.0);

/// Schedules the next event of each kind.
#[derive(Debug)]
pub(crate) struct EventGenerator {
    speed: f64,
    pending: Vec<PendingEvent>,
}

#[derive(Debug)]
struct PendingEvent {
    due_at: Timestamp,
    event: KeyEvent,
    mean_interval: f64,
}

impl EventGenerator {
    pub(crate) fn new(speed: f64, revivals: bool, now: Timestamp) -> Self {
        let kinds = MEAN_INTERVALS
            .iter()
            .chain(revivals.then_some(&REVIVAL_EVENT));
        let pending = kinds.map(|(event, mean_interval)| PendingEvent {
            due_at: now,
            event: *event,
            mean_interval: *mean_interval,
        });
        Self {
            speed,
            pending: pending.collect(),
        }
    }

    /// Returns the earliest event that is due by `now`, and schedules the next one of its kind.
    pub(crate) fn take_due(
        &mut self,
        rng: &mut fastrand::Rng,
        keys: usize,
        now: Timestamp,
    ) -> Option<(Timestamp, KeyEvent)> {
        let next = self.pending.iter_mut().min_by_key(|event| event.due_at)?;
        let due_at = next.due_at;
        if due_at > now {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a number of keys")]
        let mean = next.mean_interval * 1000.0 / keys.max(1) as f64 / self.speed;
        let interval = -mean * rng.f64().max(1e-9).ln();
        // The minimum of one microsecond makes time advance at a high speed.
        let interval = SignedDuration::try_from_secs_f64(interval.clamp(1e-6, 1e9))
            .unwrap_or(SignedDuration::MAX);
        next.due_at = due_at.saturating_add(interval).unwrap_or(Timestamp::MAX);
        Some((due_at, next.event))
    }
}
