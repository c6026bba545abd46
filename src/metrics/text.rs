//! The text formats: Prometheus' 0.0.4, and `OpenMetrics` 1.0, which differ in what a family is
//! called, in units, and in how a bound is written.

use super::encoder::{Encoder, FamilyHeader, HistogramData, SampleValue};
use super::families::Kind;
use super::write_number;
use crate::inventory::write_label;
use mongodb_atlas_client::{OrgId, ProjectId};

/// Prometheus' text format 0.0.4.
pub(super) struct PrometheusText;
/// `OpenMetrics` 1.0.
pub(super) struct OpenMetrics;

/// What the two do differently.
trait Dialect {
    fn head(out: &mut Vec<u8>, head: FamilyHeader<'_>);
    fn bound(out: &mut Vec<u8>, bound: f64);
    fn end(out: &mut Vec<u8>);
}

impl Dialect for PrometheusText {
    fn head(out: &mut Vec<u8>, head: FamilyHeader<'_>) {
        write_line(out, &["# HELP ", head.name, " ", head.help]);
        write_line(out, &["# TYPE ", head.name, " ", head.kind.as_str()]);
    }

    fn bound(out: &mut Vec<u8>, bound: f64) {
        write_number::write_f64(out, bound);
    }

    fn end(_: &mut Vec<u8>) {}
}

impl Dialect for OpenMetrics {
    fn head(out: &mut Vec<u8>, head: FamilyHeader<'_>) {
        let (name, kind) = openmetrics_family(head);
        write_line(out, &["# TYPE ", name, " ", kind]);
        if let Some(unit) = unit_suffix(name) {
            write_line(out, &["# UNIT ", name, " ", unit]);
        }
        write_line(out, &["# HELP ", name, " ", head.help]);
    }

    fn bound(out: &mut Vec<u8>, bound: f64) {
        write_number::write_f64(out, bound);
        // canonical: a bound is a float
        if bound.is_finite() && bound.fract() == 0.0 {
            out.extend_from_slice(b".0");
        }
    }

    fn end(out: &mut Vec<u8>) {
        out.extend_from_slice(b"# EOF\n");
    }
}

/// The name and type of a family in `OpenMetrics`, where the suffix belongs to the sample alone.
fn openmetrics_family(head: FamilyHeader<'_>) -> (&str, &'static str) {
    match head.kind {
        Kind::Counter => (
            head.name.strip_suffix("_total").unwrap_or(head.name),
            "counter",
        ),
        Kind::Gauge => match head.name.strip_suffix("_info") {
            Some(name) => (name, "info"),
            None => (head.name, "gauge"),
        },
        Kind::Histogram => (head.name, "histogram"),
    }
}

/// The unit that a family's name ends with.
fn unit_suffix(name: &str) -> Option<&'static str> {
    ["seconds", "bytes"].into_iter().find(|unit| {
        name.strip_suffix(unit)
            .is_some_and(|rest| rest.ends_with('_'))
    })
}

fn write_line(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'\n');
}

/// Appends a name and labels, with a brace open if there are any.
fn write_sample_start(out: &mut Vec<u8>, name: &str, suffix: &str, labels: &[(&str, &str)]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(suffix.as_bytes());
    let mut text = String::with_capacity(128);
    for (name, value) in labels {
        text.push(if text.is_empty() { '{' } else { ',' });
        write_label(&mut text, name, value);
    }
    out.extend_from_slice(text.as_bytes());
}

impl<D: Dialect> Encoder for D {
    const SIZED: bool = false;

    fn write_header(out: &mut Vec<u8>, head: FamilyHeader<'_>, _: usize) {
        D::head(out, head);
    }

    fn write_sample(
        out: &mut Vec<u8>,
        head: FamilyHeader<'_>,
        labels: &[(&str, &str)],
        value: SampleValue,
    ) {
        write_sample_start(out, head.name, "", labels);
        out.extend_from_slice(if labels.is_empty() { b" " } else { b"} " });
        value.write(out);
        out.push(b'\n');
    }

    fn write_histogram(
        out: &mut Vec<u8>,
        head: FamilyHeader<'_>,
        labels: &[(&str, &str)],
        buckets: &HistogramData<'_>,
    ) {
        let last = buckets
            .bounds
            .last()
            .is_none_or(|(bound, _)| bound.is_finite());
        let infinite = last.then_some((f64::INFINITY, buckets.count));
        for (bound, count) in buckets.bounds.iter().copied().chain(infinite) {
            write_sample_start(out, head.name, "_bucket", labels);
            out.push(if labels.is_empty() { b'{' } else { b',' });
            out.extend_from_slice(b"le=\"");
            D::bound(out, bound);
            out.extend_from_slice(b"\"} ");
            write_number::write_u64(out, count);
            out.push(b'\n');
        }
        for (suffix, value) in [
            ("_sum", SampleValue::Float(buckets.sum)),
            ("_count", SampleValue::Int(buckets.count)),
        ] {
            write_sample_start(out, head.name, suffix, labels);
            out.extend_from_slice(if labels.is_empty() { b" " } else { b"} " });
            value.write(out);
            out.push(b'\n');
        }
    }

    fn key_prefix(head: FamilyHeader<'_>, org: &OrgId, project: &ProjectId) -> Vec<u8> {
        let mut out = Vec::with_capacity(192);
        let labels = [("org_id", org.as_str()), ("project_id", project.as_str())];
        write_sample_start(&mut out, head.name, "", &labels);
        out.extend_from_slice(b",api_key_id=\"");
        out
    }

    fn write_labels(out: &mut Vec<u8>, labels: &[(&str, &str)]) {
        let mut text = String::with_capacity(64);
        for (name, value) in labels {
            text.push(',');
            write_label(&mut text, name, value);
        }
        out.extend_from_slice(text.as_bytes());
    }

    fn write_escaped_label(out: &mut Vec<u8>, name: &str, escaped: &str) {
        out.push(b',');
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"=\"");
        out.extend_from_slice(escaped.as_bytes());
        out.push(b'"');
    }

    fn write_key_sample(
        out: &mut Vec<u8>,
        prefix: &[u8],
        id: &str,
        labels: &[u8],
        value: SampleValue,
    ) {
        // once, instead of at each of the parts
        out.reserve(prefix.len() + id.len() + labels.len() + 32);
        out.extend_from_slice(prefix);
        out.extend_from_slice(id.as_bytes());
        out.push(b'"');
        out.extend_from_slice(labels);
        out.extend_from_slice(b"} ");
        value.write(out);
        out.push(b'\n');
    }

    fn write_end(out: &mut Vec<u8>) {
        D::end(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(name: &str, kind: Kind) -> FamilyHeader<'_> {
        FamilyHeader {
            name,
            help: "Words.",
            kind,
        }
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn family_names_follow_each_format() {
        let open = |name, kind| {
            written(|out| <OpenMetrics as Encoder>::write_header(out, head(name, kind), 0))
        };
        assert_eq!(
            open("a_seconds_total", Kind::Counter),
            "# TYPE a_seconds counter\n# UNIT a_seconds seconds\n# HELP a_seconds Words.\n"
        );
        assert_eq!(
            open("a_info", Kind::Gauge),
            "# TYPE a info\n# HELP a Words.\n"
        );
        assert_eq!(open("a", Kind::Gauge), "# TYPE a gauge\n# HELP a Words.\n");
        let text = written(|out| {
            <PrometheusText as Encoder>::write_header(out, head("a_total", Kind::Counter), 0);
        });
        assert_eq!(text, "# HELP a_total Words.\n# TYPE a_total counter\n");
    }

    #[test]
    fn histograms_end_with_infinity_and_canonical_bounds() {
        let buckets = HistogramData {
            bounds: &[(0.5, 1), (1.0, 2)],
            sum: 3.25,
            count: 4,
        };
        let head = head("h", Kind::Histogram);
        let text =
            written(|out| PrometheusText::write_histogram(out, head, &[("a", "b")], &buckets));
        assert_eq!(
            text,
            "h_bucket{a=\"b\",le=\"0.5\"} 1\nh_bucket{a=\"b\",le=\"1\"} 2\nh_bucket{a=\"b\",le=\"+Inf\"} 4\nh_sum{a=\"b\"} 3.25\nh_count{a=\"b\"} 4\n"
        );
        let open = written(|out| OpenMetrics::write_histogram(out, head, &[], &buckets));
        assert!(
            open.contains("h_bucket{le=\"1.0\"} 2\n") && open.ends_with("h_sum 3.25\nh_count 4\n"),
            "{open}"
        );
    }
}
