//! JSON.

use std::io::{self, Write};

use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};

use super::{KeyRow, Report};
use crate::inventory::{KeyCounts, KeyGroup};

/// Writes an array of keys or of groups, one per line.
pub(super) fn write(report: &Report<'_>, out: &mut impl Write) -> io::Result<()> {
    match &report.groups {
        None => write_array(report.keys.rows(), out),
        Some(groups) => {
            let objects = groups.iter().map(|group| GroupObject { report, group });
            write_array(objects, out)
        }
    }
}

fn write_array(
    values: impl Iterator<Item = impl Serialize>,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut is_empty = true;
    for value in values {
        out.write_all(if is_empty { b"[\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *out, &value)?;
        is_empty = false;
    }
    writeln!(out, "{}", if is_empty { "[]" } else { "\n]" })
}

/// A group: the common fields of the keys, the number of keys by class, and `rows` with the listed keys.
struct GroupObject<'a> {
    report: &'a Report<'a>,
    group: &'a KeyGroup,
}

impl Serialize for GroupObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        for (name, value) in &self.group.fields {
            object.serialize_entry(name, value)?;
        }
        for (name, count) in KeyCounts::FIELDS.iter().zip(self.group.counts.to_array()) {
            object.serialize_entry(name, &count)?;
        }
        let rows: Vec<KeyRow> = self.report.group_rows(self.group).collect();
        object.serialize_entry("rows", &rows)?;
        object.end()
    }
}
