//! Numbers as the text formats write them.

/// Appends an integer.
pub(super) fn write_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends `number` divided by `unit`, a power of ten, with all its significant fractional digits.
pub(super) fn write_fixed_point(out: &mut Vec<u8>, number: i64, unit: u64) {
    if number < 0 {
        out.push(b'-');
    }
    let number = number.unsigned_abs();
    write_u64(out, number / unit);
    let fraction = number % unit;
    if fraction == 0 {
        return;
    }
    // With a leading 1, the zeros behind the point stay.
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(fraction + unit);
    let digits = digits.trim_end_matches('0');
    out.push(b'.');
    out.extend_from_slice(digits.as_bytes().get(1..).unwrap_or_default());
}

/// Appends a floating-point number.
pub(super) fn write_f64(out: &mut Vec<u8>, number: f64) {
    use std::io::Write as _;
    let text = match number {
        f64::INFINITY => "+Inf",
        f64::NEG_INFINITY => "-Inf",
        _ if number.is_nan() => "NaN",
        // Writing to a Vec cannot fail.
        _ => return drop(write!(out, "{number}")),
    };
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("digits")
    }

    #[test]
    fn timestamps_keep_all_fractional_digits() {
        for (number, expected) in [
            (1_768_495_669_855_000, "1768495669.855"),
            (1_768_495_669_000_001, "1768495669.000001"),
            (1_768_495_669_000_000, "1768495669"),
            (0, "0"),
            (-1_500_000, "-1.5"),
            (i64::MIN, "-9223372036854.775808"),
        ] {
            assert_eq!(
                text(|out| write_fixed_point(out, number, 1_000_000)),
                expected
            );
        }
        assert_eq!(text(|out| write_fixed_point(out, 1_050, 1000)), "1.05");
    }

    #[test]
    fn floats_are_written_in_prometheus_syntax() {
        for (number, expected) in [
            (0.025, "0.025"),
            (1.0, "1"),
            (1e21, "1000000000000000000000"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(text(|out| write_f64(out, number)), expected);
        }
    }
}
