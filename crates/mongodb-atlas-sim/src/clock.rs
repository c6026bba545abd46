//! The time of day in the simulated Atlas.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

/// Returns the time of day; given by the caller, so that tests can simulate it. Cheap to clone.
#[derive(Clone)]
pub struct SimClock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl SimClock {
    /// A clock that calls `now` for the time of day.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The machine's own clock.
    pub fn system() -> Self {
        Self::new(Timestamp::now)
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for SimClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimClock")
    }
}
