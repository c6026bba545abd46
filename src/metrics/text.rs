//! The text formats: Prometheus' 0.0.4, and `OpenMetrics` 1.0, which differ in what a family is
//! called, in units, and in how a bound is written.

use super::encoder::{Buckets, Encoder, Head, Value};
use super::families::Kind;
use super::write_number;
use crate::inventory::label;
use mongodb_atlas_client::{OrgId, ProjectId};

/// Prometheus' text format 0.0.4.
pub(super) struct Text;
/// `OpenMetrics` 1.0.
pub(super) struct OpenMetrics;

/// What the two do differently.
trait Dialect {
    fn head(out: &mut Vec<u8>, head: Head<'_>);
    fn bound(out: &mut Vec<u8>, bound: f64);
    fn end(out: &mut Vec<u8>);
}

impl Dialect for Text {
    fn head(out: &mut Vec<u8>, head: Head<'_>) {
        line(out, &["# HELP ", head.name, " ", head.help]);
        line(out, &["# TYPE ", head.name, " ", head.kind.as_str()]);
    }

    fn bound(out: &mut Vec<u8>, bound: f64) {
        write_number::float(out, bound);
    }

    fn end(_: &mut Vec<u8>) {}
}

impl Dialect for OpenMetrics {
    fn head(out: &mut Vec<u8>, head: Head<'_>) {
        let (name, kind) = family(head);
        line(out, &["# TYPE ", name, " ", kind]);
        if let Some(unit) = unit(name) {
            line(out, &["# UNIT ", name, " ", unit]);
        }
        line(out, &["# HELP ", name, " ", head.help]);
    }

    fn bound(out: &mut Vec<u8>, bound: f64) {
        write_number::float(out, bound);
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
fn family(head: Head<'_>) -> (&str, &'static str) {
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
fn unit(name: &str) -> Option<&'static str> {
    ["seconds", "bytes"].into_iter().find(|unit| {
        name.strip_suffix(unit)
            .is_some_and(|rest| rest.ends_with('_'))
    })
}

fn line(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'\n');
}

/// Appends a name and labels, with a brace open if there are any.
fn begin(out: &mut Vec<u8>, name: &str, suffix: &str, labels: &[(&str, &str)]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(suffix.as_bytes());
    let mut text = String::with_capacity(128);
    for (name, value) in labels {
        text.push(if text.is_empty() { '{' } else { ',' });
        label(&mut text, name, value);
    }
    out.extend_from_slice(text.as_bytes());
}

impl<D: Dialect> Encoder for D {
    const SIZED: bool = false;

    fn head(out: &mut Vec<u8>, head: Head<'_>, _: usize) {
        D::head(out, head);
    }

    fn sample(out: &mut Vec<u8>, head: Head<'_>, labels: &[(&str, &str)], value: Value) {
        begin(out, head.name, "", labels);
        out.extend_from_slice(if labels.is_empty() { b" " } else { b"} " });
        value.write(out);
        out.push(b'\n');
    }

    fn histogram(
        out: &mut Vec<u8>,
        head: Head<'_>,
        labels: &[(&str, &str)],
        buckets: &Buckets<'_>,
    ) {
        let last = buckets
            .bounds
            .last()
            .is_none_or(|(bound, _)| bound.is_finite());
        let infinite = last.then_some((f64::INFINITY, buckets.count));
        for (bound, count) in buckets.bounds.iter().copied().chain(infinite) {
            begin(out, head.name, "_bucket", labels);
            out.push(if labels.is_empty() { b'{' } else { b',' });
            out.extend_from_slice(b"le=\"");
            D::bound(out, bound);
            out.extend_from_slice(b"\"} ");
            write_number::whole(out, count);
            out.push(b'\n');
        }
        for (suffix, value) in [
            ("_sum", Value::Float(buckets.sum)),
            ("_count", Value::Whole(buckets.count)),
        ] {
            begin(out, head.name, suffix, labels);
            out.extend_from_slice(if labels.is_empty() { b" " } else { b"} " });
            value.write(out);
            out.push(b'\n');
        }
    }

    fn prefix(head: Head<'_>, org: &OrgId, project: &ProjectId) -> Vec<u8> {
        let mut out = Vec::with_capacity(192);
        let labels = [("org_id", org.as_str()), ("project_id", project.as_str())];
        begin(&mut out, head.name, "", &labels);
        out.extend_from_slice(b",api_key_id=\"");
        out
    }

    fn shared_labels(out: &mut Vec<u8>, labels: &[(&str, &str)]) {
        let mut text = String::with_capacity(64);
        for (name, value) in labels {
            text.push(',');
            label(&mut text, name, value);
        }
        out.extend_from_slice(text.as_bytes());
    }

    fn own_label(out: &mut Vec<u8>, name: &str, escaped: &str) {
        out.push(b',');
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"=\"");
        out.extend_from_slice(escaped.as_bytes());
        out.push(b'"');
    }

    fn key(out: &mut Vec<u8>, prefix: &[u8], id: &str, labels: &[u8], value: Value) {
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

    fn end(out: &mut Vec<u8>) {
        D::end(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(name: &str, kind: Kind) -> Head<'_> {
        Head {
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
    fn families_are_called_as_each_format_asks() {
        let open =
            |name, kind| written(|out| <OpenMetrics as Encoder>::head(out, head(name, kind), 0));
        assert_eq!(
            open("a_seconds_total", Kind::Counter),
            "# TYPE a_seconds counter\n# UNIT a_seconds seconds\n# HELP a_seconds Words.\n"
        );
        assert_eq!(
            open("a_info", Kind::Gauge),
            "# TYPE a info\n# HELP a Words.\n"
        );
        assert_eq!(open("a", Kind::Gauge), "# TYPE a gauge\n# HELP a Words.\n");
        let text = written(|out| <Text as Encoder>::head(out, head("a_total", Kind::Counter), 0));
        assert_eq!(text, "# HELP a_total Words.\n# TYPE a_total counter\n");
    }

    #[test]
    fn histograms_end_with_infinity_and_bounds_are_canonical() {
        let buckets = Buckets {
            bounds: &[(0.5, 1), (1.0, 2)],
            sum: 3.25,
            count: 4,
        };
        let head = head("h", Kind::Histogram);
        let text = written(|out| Text::histogram(out, head, &[("a", "b")], &buckets));
        assert_eq!(
            text,
            "h_bucket{a=\"b\",le=\"0.5\"} 1\nh_bucket{a=\"b\",le=\"1\"} 2\nh_bucket{a=\"b\",le=\"+Inf\"} 4\nh_sum{a=\"b\"} 3.25\nh_count{a=\"b\"} 4\n"
        );
        let open = written(|out| OpenMetrics::histogram(out, head, &[], &buckets));
        assert!(
            open.contains("h_bucket{le=\"1.0\"} 2\n") && open.ends_with("h_sum 3.25\nh_count 4\n"),
            "{open}"
        );
    }
}
