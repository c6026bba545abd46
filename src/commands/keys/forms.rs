//! How keys are written: for people, for spreadsheets, for programs.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{Attribute, Cell, Color};

use super::super::terminal::{self, plain};
use super::found::{Found, Row};

/// Idle for longer than this, a key is shown in yellow; for longer than three times as long, in red.
const LONG: u64 = 30 * 86_400;

/// Rows of one table, whose columns are as wide as these need: with a million of them in one it would
/// take gigabytes.
const ROWS: usize = 10_000;

/// Tables that fit the terminal, and a line that says what they are.
pub(super) fn table(found: &Found<'_>, colour: bool, out: &mut impl Write) -> io::Result<()> {
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
        let mut table = terminal::table(&head);
        for row in rows.by_ref().take(ROWS) {
            table.add_row(cells(&row, colour));
        }
        terminal::write(&table, out)?;
    }
    let as_of = found
        .oldest()
        .map(|at| format!(", as of {at:.0}"))
        .unwrap_or_default();
    writeln!(out, "{} of {} keys{as_of}", found.len(), found.all())
}

fn cells(row: &Row, colour: bool) -> [Cell; 7] {
    let idle = row.idle_seconds.map_or_else(|| "unknown".to_owned(), age);
    let mut idle_cell = Cell::new(idle);
    let shade = match row.idle_seconds {
        Some(seconds) if seconds >= 3 * LONG => Some(Color::Red),
        Some(seconds) if seconds >= LONG => Some(Color::Yellow),
        _ => None,
    };
    if let Some(shade) = shade.filter(|_| colour) {
        idle_cell = idle_cell.fg(shade);
    }
    let mut used = Cell::new(match (row.used, row.last_used_at) {
        (Some(false), _) => "never".to_owned(),
        (_, Some(at)) => format!("{}", at.strftime("%Y-%m-%d")),
        _ => "unknown".to_owned(),
    });
    if colour && row.used == Some(false) {
        used = used.add_attribute(Attribute::Bold);
    }
    let or = |name: &str, id: &str| plain(if name.is_empty() { id } else { name });
    [
        idle_cell,
        used,
        Cell::new(plain(&row.name)),
        Cell::new(plain(&row.status)),
        Cell::new(or(&row.project_name, &row.project_id)),
        Cell::new(or(&row.org_name, &row.org_id)),
        Cell::new(plain(&row.api_key_id)),
    ]
}

/// A length of time in its two largest units.
fn age(seconds: u64) -> String {
    let whole = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// With a head, and a line for each key.
pub(super) fn csv(found: &Found<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    if found.len() == 0 {
        // the head is otherwise made of the first row
        writer.write_record(HEAD).map_err(io_error)?;
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

const HEAD: [&str; 15] = [
    "org_id",
    "org_name",
    "project_id",
    "project_name",
    "api_key_id",
    "name",
    "status",
    "cloud",
    "geography",
    "endpoint",
    "created_at",
    "last_used_at",
    "used",
    "idle_seconds",
    "read_at",
];

/// An array of objects, one a line.
pub(super) fn json(found: &Found<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut before = "[\n";
    for row in found.rows() {
        out.write_all(before.as_bytes())?;
        serde_json::to_writer(&mut *out, &row)?;
        before = ",\n";
    }
    writeln!(out, "{}", if found.len() == 0 { "[]" } else { "\n]" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units() {
        assert_eq!(age(0), "0s");
        assert_eq!(age(86_400 * 3 + 3600 * 2 + 60), "3days 2h");
        assert_eq!(age(86_400 * 100), "3months 8days");
    }
}
