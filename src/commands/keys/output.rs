//! How keys are written: for people, for spreadsheets, for programs.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{Attribute, Cell, Color};

use super::super::terminal::{self, sanitize_for_terminal};
use crate::humanize::format_duration_short;
use crate::inventory::{KeyLabel, KeyRow, KeySelection};

/// Idle for longer than this, a key is shown in yellow; for longer than three times as long, in red.
const IDLE_WARNING_SECS: u64 = 30 * 86_400;

/// Rows of one table, whose columns are as wide as these need: with a million of them in one it would
/// take gigabytes.
const ROWS_PER_TABLE: usize = 10_000;

/// Tables that fit the terminal, and a line that says what they are.
pub(super) fn write_key_table(
    found: &KeySelection<'_>,
    colour: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    let head = [
        "IDLE",
        "LAST USED",
        "NAME",
        "STATUS",
        "PROJECT",
        "ORGANIZATION",
        "KEY",
    ];
    let mut rows = found.rows().peekable();
    while rows.peek().is_some() {
        let mut table = terminal::new_table(&head);
        for row in rows.by_ref().take(ROWS_PER_TABLE) {
            table.add_row(table_cells(&row, colour));
        }
        terminal::write_table(&table, out)?;
    }
    writeln!(out, "{}", format_summary(found))
}

fn format_summary(found: &KeySelection<'_>) -> String {
    let inventories = &found.snapshot().inventories;
    let oldest = inventories.iter().map(|it| it.completed_at()).min();
    let as_of = oldest.map(|at| format!(", as of {at:.0}"));
    let total: usize = inventories.iter().map(|it| it.len()).sum();
    let as_of = as_of.unwrap_or_default();
    format!("{} of {total} keys{as_of}", found.len())
}

fn table_cells(row: &KeyRow, colour: bool) -> [Cell; 7] {
    let [idle, used, name, status, project, org, id] =
        row_texts(row).map(|text| Cell::new(sanitize_for_terminal(&text)));
    let mut idle_cell = idle;
    let shade = match row.idle_seconds {
        Some(seconds) if seconds >= 3 * IDLE_WARNING_SECS => Some(Color::Red),
        Some(seconds) if seconds >= IDLE_WARNING_SECS => Some(Color::Yellow),
        _ => None,
    };
    if let Some(shade) = shade.filter(|_| colour) {
        idle_cell = idle_cell.fg(shade);
    }
    let mut used = used;
    if colour && row.was_used == Some(false) {
        used = used.add_attribute(Attribute::Bold);
    }
    [idle_cell, used, name, status, project, org, id]
}

/// The texts of a row for people: idle time, last use, name, status, project, organization, key.
fn row_texts(row: &KeyRow) -> [String; 7] {
    let or = |name: &str, id: &str| if name.is_empty() { id } else { name }.to_owned();
    [
        row.idle_seconds.map_or_else(
            || "unknown".to_owned(),
            |idle| format_duration_short(Duration::from_secs(idle)),
        ),
        match (row.was_used, row.last_used_at) {
            (Some(false), _) => "never".to_owned(),
            (_, Some(at)) => format!("{}", at.strftime("%Y-%m-%d")),
            _ => "unknown".to_owned(),
        },
        row.name.clone(),
        row.status.clone(),
        or(&row.project_name, &row.project_id),
        or(&row.org_name, &row.org_id),
        row.api_key_id.clone(),
    ]
}

/// With a head, and a line for each key.
pub(super) fn write_csv(found: &KeySelection<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    if found.is_empty() {
        // the head is otherwise made of the first row
        writer.write_record(CSV_HEADER).map_err(io_error)?;
    }
    for row in found.rows() {
        writer.serialize(row).map_err(io_error)?;
    }
    writer.flush()
}

/// The crate's own conversion hides which error it was.
fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

const CSV_HEADER: [&str; 11] = [
    "org_id",
    "org_name",
    "project_id",
    "project_name",
    "api_key_id",
    "name",
    "status",
    "created_at",
    "created_by",
    "last_used_at",
    "idle_seconds",
];

/// An array of objects, one a line.
pub(super) fn write_json(found: &KeySelection<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut before = "[\n";
    for row in found.rows() {
        out.write_all(before.as_bytes())?;
        serde_json::to_writer(&mut *out, &row)?;
        before = ",\n";
    }
    writeln!(out, "{}", if found.is_empty() { "[]" } else { "\n]" })
}

/// A table of GitHub Flavored Markdown, and a line that says what it is.
pub(super) fn write_markdown(found: &KeySelection<'_>, out: &mut impl Write) -> io::Result<()> {
    let creator = found.shows(KeyLabel::CreatedBy);
    let (title, rule) = if creator {
        (" Created by |", " --- |")
    } else {
        ("", "")
    };
    writeln!(
        out,
        "| Idle | Last used | Name | Status |{title} Project | Organization | Key |"
    )?;
    writeln!(out, "| --- | --- | --- | --- |{rule} --- | --- | --- |")?;
    for row in found.rows() {
        let [idle, used, name, status, project, org, id] =
            row_texts(&row).map(|text| escape_markdown(&text));
        let creator = if creator {
            format!(" {} |", escape_markdown(&row.created_by))
        } else {
            String::new()
        };
        writeln!(
            out,
            "| {idle} | {used} | {name} | {status} |{creator} {project} | {org} | {id} |"
        )?;
    }
    writeln!(out, "\n{}", format_summary(found))
}

/// A text that is only text in Markdown, and ends no cell.
fn escape_markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in sanitize_for_terminal(text).chars() {
        if letter.is_ascii_punctuation() && !matches!(letter, '-' | '.' | ',' | ':' | '/') {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}
