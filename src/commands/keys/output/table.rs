//! Tables for a terminal.

use std::io::{self, Write};

use comfy_table::{Attribute, Cell, Color};

use super::columns::{self, Column};
use super::{KeyRow, Report};
use crate::commands::terminal::{self, sanitize_for_terminal};

/// Minimum idle time of a key that is shown in yellow; after three times this time, a key is shown in red.
const IDLE_WARNING_SECS: u64 = 30 * 86_400;
/// Maximum number of rows of a table. The width of the columns depends on all rows, so a table of a million rows would need
/// gigabytes of memory.
const ROWS_PER_TABLE: usize = 10_000;

/// Writes the keys, by group if keys are grouped, and a summary.
pub(super) fn write(report: &Report<'_>, out: &mut impl Write) -> io::Result<()> {
    match &report.groups {
        None => write_rows(report, report.keys.rows(), out)?,
        Some(groups) => {
            let titles = columns::group_titles(report).map(|title| title.to_uppercase());
            let titles = titles.each_ref().map(String::as_str);
            let mut table = terminal::new_table(&titles);
            for row in columns::group_rows(report, groups) {
                table.add_row(row.map(|text| sanitize_for_terminal(&text)));
            }
            terminal::write_table(&table, out)?;
            writeln!(out)?;
            for group in groups {
                let mut rows = report.group_rows(group).peekable();
                if rows.peek().is_some() {
                    let title = report.group_title(group);
                    writeln!(out, "{}", sanitize_for_terminal(&title))?;
                    write_rows(report, rows, out)?;
                    writeln!(out)?;
                }
            }
        }
    }
    // A table with one cell wraps the summary at the same width as the other tables.
    terminal::write_table(&terminal::new_table(&[&report.summary()]), out)
}

fn write_rows(
    report: &Report<'_>,
    rows: impl Iterator<Item = KeyRow>,
    out: &mut impl Write,
) -> io::Result<()> {
    let columns = columns::key_columns(report);
    let titles: Vec<String> = columns
        .iter()
        .map(|column| column.title.to_uppercase())
        .collect();
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    let mut rows = rows.peekable();
    while rows.peek().is_some() {
        let mut table = terminal::new_table(&titles);
        for row in rows.by_ref().take(ROWS_PER_TABLE) {
            table.add_row(cells(&columns, &row, report.colored));
        }
        terminal::write_table(&table, out)?;
    }
    Ok(())
}

fn cells(columns: &[Column], row: &KeyRow, colored: bool) -> Vec<Cell> {
    let texts = columns.iter().map(|column| (column.text)(row));
    let mut cells: Vec<Cell> = texts
        .map(|text| Cell::new(sanitize_for_terminal(&text)))
        .collect();
    if !colored {
        return cells;
    }
    let color = match row.idle_seconds {
        Some(seconds) if seconds >= 3 * IDLE_WARNING_SECS => Some(Color::Red),
        Some(seconds) if seconds >= IDLE_WARNING_SECS => Some(Color::Yellow),
        _ => None,
    };
    if let [idle, last_used, ..] = cells.as_mut_slice() {
        if let Some(color) = color {
            *idle = idle.clone().fg(color);
        }
        if row.was_used == Some(false) {
            *last_used = last_used.clone().add_attribute(Attribute::Bold);
        }
    }
    cells
}
