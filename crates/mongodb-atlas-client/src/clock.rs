//! The time of day, which tests replace by a fixed time or by tokio's paused time.
#![allow(
    clippy::disallowed_methods,
    reason = "this module reads the system's clock"
)]

use std::fmt;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// The source of the time of day. Cheap to clone.
///
/// Intervals are measured with [`tokio::time::Instant`] instead, which operators and NTP daemons cannot set back.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// Returns the system's clock.
    pub fn system() -> Self {
        Self::from_fn(Timestamp::now)
    }

    /// Returns a clock that starts at `start` and follows tokio's time, including `tokio::time::pause` and `advance`. Must
    /// be called in a tokio runtime.
    pub fn simulated(start: Timestamp) -> Self {
        let origin = Instant::now();
        Self::from_fn(move || {
            let passed = SignedDuration::try_from(origin.elapsed()).unwrap_or(SignedDuration::MAX);
            start.saturating_add(passed).unwrap_or(Timestamp::MAX)
        })
    }

    /// Returns a clock that calls `read` each time, for tests in which the clock jumps.
    pub fn from_fn(read: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Returns the current time.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Returns seconds since the Unix epoch, with their fraction, as Prometheus represents times.
#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds of this era fit 53 bits"
)]
pub fn unix_seconds(at: Timestamp) -> f64 {
    at.as_microsecond() as f64 / 1e6
}
