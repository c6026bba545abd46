//! Thresholds of the idle roll-up.

use std::time::Duration;

/// An idle threshold: how long, and how its label says it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdleThreshold {
    /// How long a key has been idle at least.
    pub duration: Duration,
    /// The label's value, in the largest whole unit of Prometheus' own: `7d`, `36h`, `90m`.
    pub label: String,
}

impl IdleThreshold {
    /// The threshold of that length, in whole seconds.
    pub fn new(length: Duration) -> Self {
        let seconds = length.as_secs();
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
