//! The two text formats: Prometheus' 0.0.4 and `OpenMetrics` 1.0.
//!
//! Samples are the same in both. Only family headers, histogram bounds and the end of the exposition depend on the format.

use prometheus::proto::Histogram;

use super::families::MetricType;
use super::negotiate::Format;
use crate::inventory::write_label;
use mongodb_atlas_client::{OrgId, ProjectId};

/// The name and value of each label of a sample.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

/// A sample value before it is formatted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum SampleValue {
    /// An integer.
    Int(u64),
    /// Seconds, given in microseconds.
    Micros(i64),
    /// Seconds, given in milliseconds.
    Millis(i64),
    /// A floating-point number.
    Float(f64),
}

impl SampleValue {
    fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Int(number) => write_u64(out, number),
            Self::Micros(micros) => write_fixed_point(out, micros, 1_000_000),
            Self::Millis(millis) => write_fixed_point(out, millis, 1000),
            Self::Float(number) => write_f64(out, number),
        }
    }
}

/// The metadata of a family.
#[derive(Debug, Clone, Copy)]
pub(super) struct FamilyHeader<'a> {
    pub(super) name: &'a str,
    pub(super) help: &'a str,
    pub(super) metric_type: MetricType,
}

impl FamilyHeader<'_> {
    /// Appends the metadata lines of the family.
    pub(super) fn write(&self, out: &mut Vec<u8>, format: Format) {
        match format {
            Format::Text => {
                write_line(out, &["# HELP ", self.name, " ", self.help]);
                write_line(out, &["# TYPE ", self.name, " ", self.metric_type.as_str()]);
            }
            Format::OpenMetrics => {
                let (name, metric_type) = self.openmetrics_family();
                write_line(out, &["# TYPE ", name, " ", metric_type]);
                if let Some(unit) = unit_suffix(name) {
                    write_line(out, &["# UNIT ", name, " ", unit]);
                }
                write_line(out, &["# HELP ", name, " ", self.help]);
            }
        }
    }

    /// Returns the name and type of the family in `OpenMetrics`, where the suffix belongs to the sample only.
    fn openmetrics_family(&self) -> (&str, &'static str) {
        let suffix = match self.metric_type {
            MetricType::Counter => "_total",
            MetricType::Gauge => "_info",
            MetricType::Histogram => return (self.name, "histogram"),
        };
        match (self.name.strip_suffix(suffix), self.metric_type) {
            (Some(name), MetricType::Gauge) => (name, "info"),
            (name, metric_type) => (name.unwrap_or(self.name), metric_type.as_str()),
        }
    }
}

/// Returns the unit at the end of a family name.
fn unit_suffix(name: &str) -> Option<&'static str> {
    let (_, suffix) = name.rsplit_once('_')?;
    ["seconds", "bytes"]
        .into_iter()
        .find(|unit| *unit == suffix)
}

fn write_line(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'\n');
}

/// Appends a name and labels. The brace remains open if there are labels.
fn write_sample_start(out: &mut Vec<u8>, name: &str, suffix: &str, labels: Labels<'_>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(suffix.as_bytes());
    let mut text = String::with_capacity(128);
    for (name, value) in labels {
        text.push(if text.is_empty() { '{' } else { ',' });
        write_label(&mut text, name, value);
    }
    out.extend_from_slice(text.as_bytes());
}

/// Appends one sample.
pub(super) fn write_sample(
    out: &mut Vec<u8>,
    name: &str,
    suffix: &str,
    labels: Labels<'_>,
    value: SampleValue,
) {
    write_sample_start(out, name, suffix, labels);
    out.extend_from_slice(if labels.is_empty() { b" " } else { b"} " });
    value.write(out);
    out.push(b'\n');
}

/// Appends the samples of one histogram.
pub(super) fn write_histogram(
    out: &mut Vec<u8>,
    format: Format,
    name: &str,
    labels: Labels<'_>,
    histogram: &Histogram,
) {
    let buckets = histogram.get_bucket().iter();
    let buckets = buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    let finite = buckets.filter(|(bound, _)| bound.is_finite());
    let count = histogram.get_sample_count();
    for (bound, count) in finite.chain([(f64::INFINITY, count)]) {
        write_sample_start(out, name, "_bucket", labels);
        out.push(if labels.is_empty() { b'{' } else { b',' });
        out.extend_from_slice(b"le=\"");
        write_f64(out, bound);
        if format == Format::OpenMetrics && bound.is_finite() && bound.fract() == 0.0 {
            // The canonical form of a bound is a float.
            out.extend_from_slice(b".0");
        }
        out.extend_from_slice(b"\"} ");
        write_u64(out, count);
        out.push(b'\n');
    }
    let sum = SampleValue::Float(histogram.get_sample_sum());
    write_sample(out, name, "_sum", labels, sum);
    write_sample(out, name, "_count", labels, SampleValue::Int(count));
}

/// Renders the prefix that the samples of all keys of a project share.
pub(super) fn key_prefix(name: &str, org: &OrgId, project: &ProjectId) -> Vec<u8> {
    let mut out = Vec::with_capacity(192);
    let labels = [("org_id", org.as_str()), ("project_id", project.as_str())];
    write_sample_start(&mut out, name, "", &labels);
    out.extend_from_slice(b",api_key_id=\"");
    out
}

/// Appends a label of a key sample, with a leading comma. The value is already escaped.
pub(super) fn write_escaped_label(out: &mut Vec<u8>, name: &str, escaped: &str) {
    out.push(b',');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"=\"");
    out.extend_from_slice(escaped.as_bytes());
    out.push(b'"');
}

/// Appends one sample of a key: the prefix, the escaped id, rendered labels and the value.
pub(super) fn write_key_sample(
    out: &mut Vec<u8>,
    prefix: &[u8],
    id: &str,
    labels: &[u8],
    value: SampleValue,
) {
    // Reserves once instead of for each part.
    out.reserve(prefix.len() + id.len() + labels.len() + 32);
    out.extend_from_slice(prefix);
    out.extend_from_slice(id.as_bytes());
    out.push(b'"');
    out.extend_from_slice(labels);
    out.extend_from_slice(b"} ");
    value.write(out);
    out.push(b'\n');
}

/// Appends the end of the exposition.
pub(super) fn write_end(out: &mut Vec<u8>, format: Format) {
    if format == Format::OpenMetrics {
        out.extend_from_slice(b"# EOF\n");
    }
}

/// Appends an integer.
fn write_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends `number` divided by `unit`, a power of ten, with all its significant fractional digits.
fn write_fixed_point(out: &mut Vec<u8>, number: i64, unit: u64) {
    if number < 0 {
        out.push(b'-');
    }
    let number = number.unsigned_abs();
    write_u64(out, number / unit);
    let fraction = number % unit;
    if fraction == 0 {
        return;
    }
    // The leading 1 preserves the zeros after the decimal point.
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(fraction + unit);
    let digits = digits.trim_end_matches('0');
    out.push(b'.');
    out.extend_from_slice(digits.as_bytes().get(1..).unwrap_or_default());
}

/// Appends a floating-point number.
fn write_f64(out: &mut Vec<u8>, number: f64) {
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
    use prometheus::core::Metric as _;
    use prometheus::{Histogram as HistogramMetric, HistogramOpts};

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn family_names_follow_each_format() {
        let header = |name, metric_type, format| {
            let help = "Words.";
            let header = FamilyHeader {
                name,
                help,
                metric_type,
            };
            written(|out| header.write(out, format))
        };
        let open = |name, metric_type| header(name, metric_type, Format::OpenMetrics);
        assert_eq!(
            open("a_seconds_total", MetricType::Counter),
            "# TYPE a_seconds counter\n# UNIT a_seconds seconds\n# HELP a_seconds Words.\n"
        );
        assert_eq!(
            open("a_info", MetricType::Gauge),
            "# TYPE a info\n# HELP a Words.\n"
        );
        assert_eq!(
            open("a", MetricType::Gauge),
            "# TYPE a gauge\n# HELP a Words.\n"
        );
        assert_eq!(
            header("a_total", MetricType::Counter, Format::Text),
            "# HELP a_total Words.\n# TYPE a_total counter\n"
        );
    }

    #[test]
    fn histograms_end_with_infinity_and_canonical_bounds() {
        let opts = HistogramOpts::new("h", "Words.").buckets(vec![0.5, 1.0]);
        let histogram = HistogramMetric::with_opts(opts).expect("valid options");
        for value in [0.25, 1.0, 2.0, 0.0] {
            histogram.observe(value);
        }
        let metric = histogram.metric();
        let histogram = metric.get_histogram();
        let labels = [("a", "b")];
        let text = written(|out| write_histogram(out, Format::Text, "h", &labels, histogram));
        assert_eq!(
            text,
            "h_bucket{a=\"b\",le=\"0.5\"} 2\nh_bucket{a=\"b\",le=\"1\"} 3\nh_bucket{a=\"b\",le=\"+Inf\"} 4\nh_sum{a=\"b\"} 3.25\nh_count{a=\"b\"} 4\n"
        );
        let open = written(|out| write_histogram(out, Format::OpenMetrics, "h", &[], histogram));
        assert!(
            open.contains("h_bucket{le=\"1.0\"} 3\n") && open.ends_with("h_sum 3.25\nh_count 4\n"),
            "{open}"
        );
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
                written(|out| write_fixed_point(out, number, 1_000_000)),
                expected
            );
        }
        assert_eq!(written(|out| write_fixed_point(out, 1_050, 1000)), "1.05");
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
            assert_eq!(written(|out| write_f64(out, number)), expected);
        }
    }
}
