//! Durations and counts as text.

use std::time::Duration;

use jiff::Timestamp;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// The average year of the Gregorian calendar.
const YEAR: u64 = 31_556_952;

const UNITS: [(u64, &str); 5] = [
    (YEAR, "year"),
    (DAY, "day"),
    (HOUR, "hour"),
    (MINUTE, "minute"),
    (1, "second"),
];

/// Formats a duration in its two largest units: `14 minutes 41 seconds`.
pub fn format_duration(duration: Duration) -> String {
    let mut seconds = duration.as_secs();
    let largest = UNITS.iter().position(|(size, _)| *size <= seconds);
    let largest = largest.unwrap_or(UNITS.len() - 1);
    let mut parts = Vec::new();
    for (size, unit) in UNITS.iter().skip(largest).take(2) {
        let number = seconds / size;
        seconds %= size;
        if number > 0 || parts.is_empty() {
            let plural = if number == 1 { "" } else { "s" };
            parts.push(format!("{number} {unit}{plural}"));
        }
    }
    parts.join(" ")
}

/// Formats a duration in the format of the command line, with all units: `93d 2h 5ms`.
pub fn exact(duration: Duration) -> String {
    let days = duration.as_secs() / DAY;
    let rest = duration.saturating_sub(Duration::from_secs(days * DAY));
    match days {
        0 => humantime::format_duration(rest).to_string(),
        _ if rest.is_zero() => format!("{days}d"),
        _ => format!("{days}d {}", humantime::format_duration(rest)),
    }
}

/// Formats a duration as [`exact`] does, without fractions of a millisecond.
pub fn whole_millis(duration: Duration) -> String {
    exact(Duration::from_millis(
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
    ))
}

/// Formats a duration as [`exact`] does, without fractions of a second.
pub fn whole_seconds(duration: Duration) -> String {
    exact(Duration::from_secs(duration.as_secs()))
}

/// Formats a duration as [`exact`] does, in its two largest units: `93d 2h`.
pub fn format_duration_short(duration: Duration) -> String {
    let text = whole_seconds(duration);
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Returns the time between two timestamps; zero if `to` is before `from`.
pub fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// Formats a number with thousands separators: `1,234,567`.
pub fn format_count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns whether a character controls a terminal or the direction of text, separates lines, or is invisible.
pub fn is_unprintable(c: char) -> bool {
    let is_format = |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    c.is_control() || is_format(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_durations_have_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (3 * DAY + 2 * HOUR + 60, "3d 2h"),
            (100 * DAY, "100d"),
        ] {
            assert_eq!(format_duration_short(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn exact_durations_have_days_as_the_largest_unit() {
        for (duration, text) in [
            (Duration::ZERO, "0s"),
            (Duration::from_millis(1500), "1s 500ms"),
            (Duration::from_secs(7 * DAY), "7d"),
            (Duration::from_secs(400 * DAY + HOUR), "400d 1h"),
        ] {
            assert_eq!(exact(duration), text);
            assert_eq!(humantime::parse_duration(text), Ok(duration), "{text}");
        }
    }

    #[test]
    fn durations_and_counts_are_readable() {
        for (seconds, text) in [
            (0, "0 seconds"),
            (61, "1 minute 1 second"),
            (3600, "1 hour"),
            (DAY + HOUR, "1 day 1 hour"),
            (90 * DAY, "90 days"),
            (2 * YEAR + 3 * DAY, "2 years 3 days"),
        ] {
            assert_eq!(format_duration(Duration::from_secs(seconds)), text);
        }
        for (value, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(format_count(value), text);
        }
    }
}
