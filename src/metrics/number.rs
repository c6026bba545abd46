//! Numbers as the text formats write them.

use jiff::{SignedDuration, Timestamp};

/// Appends a whole number.
pub(super) fn whole(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends a time as seconds since the Unix epoch, with as many digits of the microseconds as it has.
pub(super) fn timestamp(out: &mut Vec<u8>, at: Timestamp) {
    micros(out, at.as_microsecond());
}

/// Appends how long ago `then` is at `now`, in seconds; 0 for a time to come.
pub(super) fn age(out: &mut Vec<u8>, now: Timestamp, then: Timestamp) {
    let age = now.duration_since(then).max(SignedDuration::ZERO);
    micros(out, i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
}

fn micros(out: &mut Vec<u8>, micros: i64) {
    if micros < 0 {
        out.push(b'-');
    }
    let micros = micros.unsigned_abs();
    whole(out, micros / 1_000_000);
    let fraction = micros % 1_000_000;
    if fraction == 0 {
        return;
    }
    // with a leading 1 the zeros behind the point stay
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(fraction + 1_000_000);
    let digits = digits.trim_end_matches('0');
    out.push(b'.');
    out.extend_from_slice(digits.as_bytes().get(1..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("digits")
    }

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_microsecond(micros).expect("a time")
    }

    #[test]
    fn times_keep_their_digits() {
        for (micros, expected) in [
            (1_768_495_669_855_000, "1768495669.855"),
            (1_768_495_669_000_001, "1768495669.000001"),
            (1_768_495_669_000_000, "1768495669"),
            (0, "0"),
            (-1_500_000, "-1.5"),
        ] {
            assert_eq!(text(|out| timestamp(out, at(micros))), expected);
        }
    }

    #[test]
    fn a_time_to_come_has_the_age_zero() {
        assert_eq!(text(|out| age(out, at(1), at(2))), "0");
        assert_eq!(text(|out| age(out, at(2_500_000), at(0))), "2.5");
        assert_ne!(
            text(|out| age(out, Timestamp::MAX, Timestamp::MIN)),
            "0",
            "no overflow at the ends of time"
        );
    }
}
