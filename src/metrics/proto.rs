//! The Prometheus protobuf form: `io.prometheus.client.MetricFamily` messages, each after its
//! length. Written by hand from the field numbers of Prometheus' `metrics.proto`: a few lines,
//! and no message has to be built before it is written.

use super::encoder::{Encoder, FamilyHeader, HistogramData, SampleValue};
use super::families::Kind;
use crate::inventory::unescape;
use mongodb_atlas_client::{OrgId, ProjectId};

/// The protobuf form.
pub(super) struct Protobuf;

/// A field of wire type 2: bytes after their length.
const fn bytes_field(number: u8) -> u8 {
    number << 3 | 2
}

/// A field of wire type 1: a double.
const fn double_field(number: u8) -> u8 {
    number << 3 | 1
}

/// A field of wire type 0: a varint.
const fn varint_field(number: u8) -> u8 {
    number << 3
}

const FAMILY_NAME: u8 = bytes_field(1);
const FAMILY_HELP: u8 = bytes_field(2);
const FAMILY_TYPE: u8 = varint_field(3);
const FAMILY_METRIC: u8 = bytes_field(4);
const METRIC_LABEL: u8 = bytes_field(1);
const METRIC_GAUGE: u8 = bytes_field(2);
const METRIC_COUNTER: u8 = bytes_field(3);
const METRIC_HISTOGRAM: u8 = bytes_field(7);
const LABEL_NAME: u8 = bytes_field(1);
const LABEL_VALUE: u8 = bytes_field(2);
const SIMPLE_VALUE: u8 = double_field(1);
const HISTOGRAM_COUNT: u8 = varint_field(1);
const HISTOGRAM_SUM: u8 = double_field(2);
const HISTOGRAM_BUCKET: u8 = bytes_field(3);
const BUCKET_COUNT: u8 = varint_field(1);
const BUCKET_BOUND: u8 = double_field(2);

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "seven bits")]
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "seven bits")]
    out.push(number as u8);
}

fn varint_length(number: usize) -> usize {
    let bits = usize::BITS - number.leading_zeros();
    (bits.max(1) as usize).div_ceil(7)
}

fn bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn bytes_length(length: usize) -> usize {
    1 + varint_length(length) + length
}

fn double(out: &mut Vec<u8>, field: u8, value: f64) {
    out.push(field);
    out.extend_from_slice(&value.to_le_bytes());
}

fn label(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(METRIC_LABEL);
    let length = bytes_length(name.len()) + bytes_length(value.len());
    varint(out, length as u64);
    bytes(out, LABEL_NAME, name.as_bytes());
    bytes(out, LABEL_VALUE, value.as_bytes());
}

fn label_length(name: &str, value: &str) -> usize {
    bytes_length(bytes_length(name.len()) + bytes_length(value.len()))
}

/// A gauge's or counter's message: a double in it.
const SIMPLE: usize = 1 + 1 + 9;

fn simple(out: &mut Vec<u8>, kind: Kind, value: f64) {
    out.push(if kind == Kind::Counter {
        METRIC_COUNTER
    } else {
        METRIC_GAUGE
    });
    out.push(9);
    double(out, SIMPLE_VALUE, value);
}

fn metric(out: &mut Vec<u8>, labels: &[(&str, &str)], value: &[u8]) {
    let length: usize = labels
        .iter()
        .map(|(name, value)| label_length(name, value))
        .sum();
    out.push(FAMILY_METRIC);
    varint(out, (length + value.len()) as u64);
    for (name, value) in labels {
        label(out, name, value);
    }
    out.extend_from_slice(value);
}

impl Encoder for Protobuf {
    const SIZED: bool = true;

    fn write_header(out: &mut Vec<u8>, head: FamilyHeader<'_>, body: usize) {
        let kind = match head.kind {
            Kind::Counter => 0,
            Kind::Gauge => 1,
            Kind::Histogram => 4,
        };
        let length = bytes_length(head.name.len()) + bytes_length(head.help.len()) + 2 + body;
        varint(out, length as u64);
        bytes(out, FAMILY_NAME, head.name.as_bytes());
        bytes(out, FAMILY_HELP, head.help.as_bytes());
        out.extend_from_slice(&[FAMILY_TYPE, kind]);
    }

    fn write_sample(
        out: &mut Vec<u8>,
        head: FamilyHeader<'_>,
        labels: &[(&str, &str)],
        value: SampleValue,
    ) {
        let mut message = Vec::with_capacity(SIMPLE);
        simple(&mut message, head.kind, value.float());
        metric(out, labels, &message);
    }

    fn write_histogram(
        out: &mut Vec<u8>,
        _: FamilyHeader<'_>,
        labels: &[(&str, &str)],
        buckets: &HistogramData<'_>,
    ) {
        let mut inner = vec![HISTOGRAM_COUNT];
        varint(&mut inner, buckets.count);
        double(&mut inner, HISTOGRAM_SUM, buckets.sum);
        for (bound, count) in buckets.bounds {
            let mut bucket = vec![BUCKET_COUNT];
            varint(&mut bucket, *count);
            double(&mut bucket, BUCKET_BOUND, *bound);
            bytes(&mut inner, HISTOGRAM_BUCKET, &bucket);
        }
        let mut message = Vec::with_capacity(inner.len() + 4);
        bytes(&mut message, METRIC_HISTOGRAM, &inner);
        metric(out, labels, &message);
    }

    fn key_prefix(_: FamilyHeader<'_>, org: &OrgId, project: &ProjectId) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        label(&mut out, "org_id", org.as_str());
        label(&mut out, "project_id", project.as_str());
        out
    }

    fn write_labels(out: &mut Vec<u8>, labels: &[(&str, &str)]) {
        for (name, value) in labels {
            label(out, name, value);
        }
    }

    fn write_escaped_label(out: &mut Vec<u8>, name: &str, escaped: &str) {
        label(out, name, &unescape(escaped));
    }

    fn write_key_sample(
        out: &mut Vec<u8>,
        prefix: &[u8],
        id: &str,
        labels: &[u8],
        value: SampleValue,
    ) {
        const NAME: &str = "api_key_id";
        let id = unescape(id);
        let length = prefix.len() + label_length(NAME, &id) + labels.len() + SIMPLE;
        out.push(FAMILY_METRIC);
        varint(out, length as u64);
        out.extend_from_slice(prefix);
        label(out, NAME, &id);
        out.extend_from_slice(labels);
        simple(out, Kind::Gauge, value.float());
    }

    fn write_end(_: &mut Vec<u8>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_what_is_written() {
        for number in [0_usize, 1, 127, 128, 16_383, 16_384, 2_097_151, usize::MAX] {
            let mut out = Vec::new();
            varint(&mut out, number as u64);
            assert_eq!(out.len(), varint_length(number), "{number}");
        }
        for value in ["", "x", &"y".repeat(200)] {
            let mut out = Vec::new();
            label(&mut out, "name", value);
            assert_eq!(out.len(), label_length("name", value));
        }
    }

    #[test]
    fn a_family_is_the_bytes_that_the_specification_gives() {
        let head = FamilyHeader {
            name: "n",
            help: "h",
            kind: Kind::Gauge,
        };
        let mut body = Vec::new();
        Protobuf::write_sample(&mut body, head, &[("a", "b")], SampleValue::Int(1));
        let mut out = Vec::new();
        Protobuf::write_header(&mut out, head, body.len());
        out.extend(body);
        let metric = [
            &[0x0a, 6, 0x0a, 1, b'a', 0x12, 1, b'b'][..],
            &[0x12, 9, 0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f],
        ]
        .concat();
        let family = [
            &[0x0a, 1, b'n', 0x12, 1, b'h', 0x18, 1, 0x22, 19][..],
            &metric,
        ]
        .concat();
        assert_eq!(out, [&[29][..], &family].concat());
    }
}
