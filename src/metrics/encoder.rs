//! What the three forms have in common, so that every family is written by the same code.

use super::families::Kind;
use super::write_number;
use mongodb_atlas_client::{OrgId, ProjectId};

/// A value before it is put into a form.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum SampleValue {
    /// A whole number.
    Int(u64),
    /// Seconds, in microseconds.
    Micros(i64),
    /// Seconds, in milliseconds.
    Millis(i64),
    /// Any number.
    Float(f64),
}

impl SampleValue {
    /// Appends it as the text formats write it.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Int(number) => write_number::write_u64(out, number),
            Self::Micros(micros) => write_number::write_micros(out, micros),
            Self::Millis(millis) => write_number::write_millis(out, millis),
            Self::Float(float) => write_number::write_f64(out, float),
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "53 bits, as Prometheus itself has them"
    )]
    pub(super) fn float(self) -> f64 {
        match self {
            Self::Int(number) => number as f64,
            Self::Micros(micros) => micros as f64 / 1e6,
            Self::Millis(millis) => millis as f64 / 1e3,
            Self::Float(float) => float,
        }
    }
}

/// What a family's head says.
#[derive(Debug, Clone, Copy)]
pub(super) struct FamilyHeader<'a> {
    pub(super) name: &'a str,
    pub(super) help: &'a str,
    pub(super) kind: Kind,
}

/// A histogram.
pub(super) struct HistogramData<'a> {
    /// Upper bound and cumulative count of each bucket; the last may be infinite.
    pub(super) bounds: &'a [(f64, u64)],
    pub(super) sum: f64,
    pub(super) count: u64,
}

/// A form of the exposition. Everything is appended to `out`.
pub(super) trait Encoder {
    /// Whether the head has to say how many bytes follow.
    const SIZED: bool;

    /// The head of a family whose samples take `body` bytes.
    fn write_header(out: &mut Vec<u8>, head: FamilyHeader<'_>, body: usize);

    /// One sample of a family.
    fn write_sample(
        out: &mut Vec<u8>,
        head: FamilyHeader<'_>,
        labels: &[(&str, &str)],
        value: SampleValue,
    );

    /// One histogram of a family.
    fn write_histogram(
        out: &mut Vec<u8>,
        head: FamilyHeader<'_>,
        labels: &[(&str, &str)],
        buckets: &HistogramData<'_>,
    );

    /// What the samples of all keys of a project begin with.
    fn key_prefix(head: FamilyHeader<'_>, org: &OrgId, project: &ProjectId) -> Vec<u8>;

    /// Labels that many keys share, as they stand behind a key's id.
    fn write_labels(out: &mut Vec<u8>, labels: &[(&str, &str)]);

    /// A label of one key, whose value is escaped already, as it stands behind the key's id.
    fn write_escaped_label(out: &mut Vec<u8>, name: &str, escaped: &str);

    /// One sample of a key: the prefix, its id (escaped), labels that were made by the two
    /// functions above, the value.
    fn write_key_sample(
        out: &mut Vec<u8>,
        prefix: &[u8],
        id: &str,
        labels: &[u8],
        value: SampleValue,
    );

    /// What stands at the very end.
    fn write_end(out: &mut Vec<u8>);
}
