//! Requests a second: a token bucket for all clients together, as the exporter-toolkit has it, and one more for logins
//! of clients that have passed before.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The two buckets of `rate_limit`, with the same parameters. A stranger must not use up the tokens of the scraper.
///
/// Which one it is depends on the client's address and never on the password that it sends: were a right password let
/// through while wrong ones find the bucket empty, the response would tell them apart for free, at any rate.
pub(super) struct RateLimit {
    /// For requests with a login, of clients whose password was right before.
    pub(super) verified_clients: TokenBucket,
    /// For all other requests.
    pub(super) other_clients: TokenBucket,
}

impl RateLimit {
    pub(super) fn new(interval: Duration, burst: u32) -> Self {
        Self {
            verified_clients: TokenBucket::new(interval, burst),
            other_clients: TokenBucket::new(interval, burst),
        }
    }
}

/// A bucket of `burst` tokens that gains one each `interval`.
pub(super) struct TokenBucket {
    interval: Duration,
    /// How far ahead of the clock the bucket may be asked to go.
    tolerance: Duration,
    /// When the bucket will be full again.
    full_at: Mutex<Instant>,
}

impl TokenBucket {
    pub(super) fn new(interval: Duration, burst: u32) -> Self {
        Self {
            interval,
            tolerance: interval.saturating_mul(burst - 1),
            full_at: Mutex::new(Instant::now()),
        }
    }

    /// Takes a token, if there is one.
    pub(super) fn try_take(&self) -> bool {
        let mut full = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if full.saturating_duration_since(now) > self.tolerance {
            return false;
        }
        // an interval of centuries ends the bucket's use, not the program
        *full = (*full).max(now).checked_add(self.interval).unwrap_or(*full);
        true
    }
}

/// A duration as Go writes it: numbers with units, such as `1m30s` or `1.5h`.
pub(super) fn parse_go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut nanos = 0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at_checked(end)?;
        let number: f64 = number.parse().ok()?;
        let end = behind
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at_checked(end)?;
        nanos += number
            * match unit {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = behind;
    }
    Duration::try_from_secs_f64(nanos / 1e9).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bucket_allows_a_burst_then_one_per_interval() {
        let rate = TokenBucket::new(Duration::from_secs(1), 3);
        let takes = |n: usize| (0..n).filter(|_| rate.try_take()).count();
        assert_eq!(takes(10), 3);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(takes(10), 1);
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(takes(10), 3, "it gains no more than it holds");
    }

    #[test]
    fn go_durations_are_parsed() {
        for (text, millis) in [
            ("1s", 1000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("250ms", 250),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(
                parse_go_duration(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in ["", "1", "s", "-1s", "1 s", "1d", "1s2", "9e9s", "...s"] {
            assert_eq!(parse_go_duration(text), None, "{text}");
        }
    }
}
