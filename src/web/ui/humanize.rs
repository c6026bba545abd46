//! States, errors and times in words.

use std::time::Duration;

use jiff::Timestamp;

/// Why a walk failed, and what to do about it, by the closed list of reasons.
const FAILURES: &[(&str, &str)] = &[
    (
        "unauthorized",
        "Atlas refuses the credential, or it cannot be read. Check that it is whole, not expired and not deleted; a new one is taken up by itself when its file changes.",
    ),
    (
        "forbidden",
        "Atlas forbids it to this credential. Give it the role Organization Read Only, and let this machine's address into the credential's IP access list.",
    ),
    (
        "not_found",
        "Atlas does not know the organization. Check its id, and that the credential belongs to it.",
    ),
    (
        "rate_limited",
        "Atlas asks to slow down. Raise --atlas.poll-interval, or find out who else spends this organization's requests.",
    ),
    (
        "server_error",
        "Atlas is out of order. Nothing is to be done here: it is tried again by itself.",
    ),
    (
        "timeout",
        "Atlas has not answered in time. Check the network between here and Atlas, or raise --atlas.timeout.",
    ),
    (
        "connection",
        "There is no connection to Atlas. Check name resolution, the proxy and the firewall.",
    ),
    (
        "tls",
        "Atlas' certificate is not trusted here. Check the system's certificates, the clock, and what stands between here and Atlas.",
    ),
    (
        "invalid_response",
        "The answer is not what Atlas' API promises. Something between here and Atlas may have answered; the exporter's log says more.",
    ),
    (
        "incomplete",
        "The pages of keys do not come to an end. It is tried again by itself; the exporter's log says more.",
    ),
];

/// Whether the page has words for a reason.
pub fn has_description(reason: &str) -> bool {
    FAILURES.iter().any(|(known, _)| *known == reason)
}

/// Why a walk failed, and what to do about it.
pub(super) fn describe_failure(reason: &str) -> &'static str {
    let found = FAILURES.iter().find(|(known, _)| *known == reason);
    found.map_or("The exporter's log says why.", |(_, words)| words)
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// What the Gregorian calendar has on average.
const YEAR: u64 = 31_556_952;

/// A length of time in its two largest units.
pub(super) fn format_duration(length: Duration) -> String {
    let seconds = length.as_secs();
    let two = |large: u64, name: &str, small: u64, small_name: &str| {
        let (first, second) = (seconds / large, seconds % large / small);
        if second == 0 {
            format_unit(first, name)
        } else {
            format!(
                "{} {}",
                format_unit(first, name),
                format_unit(second, small_name)
            )
        }
    };
    match seconds {
        YEAR.. => two(YEAR, "year", DAY, "day"),
        DAY.. => two(DAY, "day", HOUR, "hour"),
        HOUR.. => two(HOUR, "hour", MINUTE, "minute"),
        MINUTE.. => two(MINUTE, "minute", 1, "second"),
        _ => format_unit(seconds, "second"),
    }
}

fn format_unit(number: u64, name: &str) -> String {
    format!("{number} {name}{}", if number == 1 { "" } else { "s" })
}

/// From one moment to another; a time that runs backwards is none.
pub(super) fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// A number with a comma at every thousand.
pub(super) fn format_count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_counts_are_readable() {
        for (seconds, words) in [
            (0, "0 seconds"),
            (61, "1 minute 1 second"),
            (3600, "1 hour"),
            (DAY + HOUR, "1 day 1 hour"),
            (90 * DAY, "90 days"),
            (2 * YEAR + 3 * DAY, "2 years 3 days"),
        ] {
            assert_eq!(format_duration(Duration::from_secs(seconds)), words);
        }
        for (value, words) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(format_count(value), words);
        }
    }
}
