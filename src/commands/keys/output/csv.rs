//! CSV (RFC 4180) for spreadsheets.

use std::io::{self, Write};

use ::csv::{ErrorKind, Writer};

use super::{KeyRow, Report};
use crate::inventory::KeyCounts;

const COLUMNS: [&str; 15] = [
    "org_id",
    "org_name",
    "project_id",
    "project_name",
    "owner",
    "api_key_id",
    "name",
    "status",
    "created_at",
    "created_by",
    "last_used_at",
    "idle_seconds",
    "exempt_until",
    "exempt_reason",
    "url",
];

/// Writes a header, and one record per key, or per group if keys are grouped.
pub(super) fn write(report: &Report<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut writer = Writer::from_writer(out);
    write_records(report, &mut writer).map_err(io_error)?;
    writer.flush()
}

fn write_records(report: &Report<'_>, writer: &mut Writer<impl Write>) -> Result<(), ::csv::Error> {
    let Some(groups) = &report.groups else {
        writer.write_record(COLUMNS)?;
        return report
            .keys
            .rows()
            .try_for_each(|row| writer.write_record(record(row)));
    };
    let by = report.options.group_by;
    let fields = by.map_or(&[] as &[&str], |by| by.fields());
    writer.write_record(fields.iter().chain(&KeyCounts::FIELDS))?;
    for group in groups {
        let fields = fields
            .iter()
            .map(|name| as_text(group.field(name).to_owned()));
        let counts = group.counts.to_array().map(|count| count.to_string());
        writer.write_record(fields.chain(counts))?;
    }
    Ok(())
}

/// Returns the values of [`COLUMNS`].
fn record(row: KeyRow) -> [String; 15] {
    let optional = |value: Option<String>| value.unwrap_or_default();
    let idle_seconds = optional(row.idle_seconds.map(|seconds| seconds.to_string()));
    [
        row.org_id,
        row.org_name,
        row.project_id,
        row.project_name,
        row.owner,
        row.api_key_id,
        row.name,
        row.status,
        optional(row.created_at.map(|at| at.to_string())),
        row.created_by,
        optional(row.last_used_at.map(|at| at.to_string())),
        idle_seconds,
        optional(row.exempt_until.map(|until| until.to_string())),
        row.exempt_reason,
        row.url,
    ]
    .map(as_text)
}

/// Prefixes a text that a spreadsheet would run as a formula. Numbers in the output never start with a sign.
fn as_text(text: String) -> String {
    let is_formula = text.starts_with([
        '=', '+', '-', '@', '\t', '\r', '\n', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}',
    ]);
    if is_formula { format!("'{text}") } else { text }
}

/// Converts an error. The conversion of the `csv` crate hides the kind of an I/O error.
fn io_error(error: ::csv::Error) -> io::Error {
    match error.into_kind() {
        ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}
