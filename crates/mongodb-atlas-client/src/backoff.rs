//! Waits between failed attempts.

use std::ops::Range;
use std::time::Duration;

/// Exponential backoff: each consecutive failure doubles the wait, up to a maximum.
///
/// ```
/// use std::time::Duration;
/// use mongodb_atlas_client::ExponentialBackoff;
///
/// const RETRY: ExponentialBackoff = ExponentialBackoff {
///     initial: Duration::from_secs(5),
///     max: Duration::from_secs(60),
///     jitter: 0.5..1.0,
/// };
/// assert_eq!(RETRY.delay(3), Duration::from_secs(20));
/// assert!(RETRY.jittered(RETRY.delay(9)) <= RETRY.max);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ExponentialBackoff {
    /// Wait after the first failure.
    pub initial: Duration,
    /// Maximum wait, before jitter.
    pub max: Duration,
    /// Range of the random factor of [`Self::jittered`].
    pub jitter: Range<f64>,
}

impl ExponentialBackoff {
    /// Returns the wait after `failures` consecutive failures, without jitter.
    pub fn delay(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(u32::BITS - 1);
        self.initial.saturating_mul(1 << doublings).min(self.max)
    }

    /// Returns `delay` times a random factor, so that clients that failed together do not retry together.
    pub fn jittered(&self, delay: Duration) -> Duration {
        let Range { start, end } = self.jitter;
        delay.mul_f64(start + (end - start) * fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_up_to_the_maximum() {
        let backoff = ExponentialBackoff {
            initial: Duration::from_secs(5),
            max: Duration::from_mins(10),
            jitter: 0.5..1.0,
        };
        for (failures, seconds) in [(0, 5), (1, 5), (2, 10), (7, 320), (8, 600), (u32::MAX, 600)] {
            let delay = backoff.delay(failures);
            assert_eq!(delay, Duration::from_secs(seconds), "{failures}");
            assert!((delay / 2..=delay).contains(&backoff.jittered(delay)));
        }
    }
}
