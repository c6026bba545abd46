//! The rate limit of requests: one token bucket for all clients, as in the exporter-toolkit, and a second one for verified
//! clients, which have sent a correct password before.

use std::time::Duration;

use tokio::time::Instant;

use crate::sync::Mutex;

/// The two buckets of `rate_limit`, with the same parameters. Other clients must not use the scraper's tokens.
///
/// The bucket depends on the client's address, and never on the password of the request. Otherwise the status of a request
/// above the limit would reveal whether its password is correct.
pub(super) struct RateLimit {
    /// The bucket for requests with a password from verified clients.
    pub(super) verified_clients: TokenBucket,
    /// The bucket for all other requests.
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

/// A bucket of `burst` tokens that gains one per `interval` (GCRA).
pub(super) struct TokenBucket {
    interval: Duration,
    /// The maximum time from now to `full_at`.
    tolerance: Duration,
    /// The time when the bucket will be full.
    full_at: Mutex<Instant>,
}

impl TokenBucket {
    fn new(interval: Duration, burst: u32) -> Self {
        Self {
            interval,
            tolerance: interval.saturating_mul(burst - 1),
            full_at: Mutex::new(Instant::now()),
        }
    }

    /// Takes a token. Returns whether one was available.
    pub(super) fn try_take(&self) -> bool {
        let mut full_at = self.full_at.lock();
        let now = Instant::now();
        if full_at.saturating_duration_since(now) > self.tolerance {
            return false;
        }
        // An interval of centuries would overflow.
        let next = (*full_at).max(now).checked_add(self.interval);
        *full_at = next.unwrap_or(*full_at);
        true
    }
}

/// Parses a duration in Go's format: numbers with units, such as `1m30s` or `1.5h`.
pub(super) fn parse_go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut nanos = 0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, after) = rest.split_at_checked(rest.find(|c| !is_number(c))?)?;
        let unit_end = after.find(is_number).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(unit_end)?;
        let unit_nanos = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        nanos += number.parse::<f64>().ok()? * unit_nanos;
        rest = after;
    }
    Duration::try_from_secs_f64(nanos / 1e9).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bucket_allows_a_burst_then_one_per_interval() {
        let bucket = TokenBucket::new(Duration::from_secs(1), 3);
        let takes = |n: usize| (0..n).filter(|_| bucket.try_take()).count();
        assert_eq!(takes(10), 3);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(takes(10), 1);
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(takes(10), 3, "the bucket is full");
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
