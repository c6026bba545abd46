//! The selection of keys with per-key series, their labels, and the thresholds of the idle roll-up.

use std::sync::Arc;
use std::time::Duration;

use crate::inventory::KeyLabel;

crate::closed_list::closed_list! {
    /// Selects the keys with per-key series.
    pub enum PerKeyMode {
        /// Every key.
        All = "all",
        /// Keys that have been idle for at least the smallest threshold.
        Idle = "idle",
        /// No key; only the roll-ups are exported.
        None = "none",
    }
}

/// The configuration of per-key series and of the idle roll-up.
#[derive(Debug, Clone)]
pub struct KeySeriesOptions {
    /// Selects the keys with per-key series.
    pub per_key: PerKeyMode,
    /// Labels of the info metric, in order.
    pub labels: Arc<[KeyLabel]>,
    /// Maximum number of keys with per-key series.
    pub max_keys: usize,
    /// Thresholds of the idle roll-up, in order.
    pub thresholds: Arc<[IdleThreshold]>,
}

/// An idle threshold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdleThreshold {
    /// The minimum idle time.
    pub duration: Duration,
    /// The label value, in the largest whole unit of `PromQL`: `7d`, `36h`, `90m`.
    pub label: String,
}

impl IdleThreshold {
    /// Creates a threshold of `duration`, in whole seconds.
    pub fn new(duration: Duration) -> Self {
        let seconds = duration.as_secs();
        let units = [(86_400, "d"), (3600, "h"), (60, "m")];
        let (size, unit) = units
            .into_iter()
            .find(|(size, _)| seconds > 0 && seconds.is_multiple_of(*size))
            .unwrap_or((1, "s"));
        Self {
            duration: Duration::from_secs(seconds),
            label: format!("{}{unit}", seconds / size),
        }
    }

    /// Returns the idle cutoff at `now`: keys that have been idle since the cutoff or longer are past the threshold. Both
    /// are in microseconds since the Unix epoch.
    pub fn cutoff(&self, now: i64) -> i64 {
        let duration = i64::try_from(self.duration.as_micros()).unwrap_or(i64::MAX);
        now.saturating_sub(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threshold_labels_use_the_largest_whole_unit() {
        let labels = [604_800, 2_592_000, 7_776_000, 129_600, 5400, 61]
            .map(|s| IdleThreshold::new(Duration::from_secs(s)).label);
        assert_eq!(labels, ["7d", "30d", "90d", "36h", "90m", "61s"]);
    }
}
