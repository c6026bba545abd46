//! Tables of GitHub Flavored Markdown.

use std::io::{self, Write};

use super::columns::{self, is_project};
use super::{KeyRow, Report, is_plain_id};
use crate::commands::terminal::sanitize_for_terminal;

/// Writes the keys, by group if keys are grouped, and a summary.
pub(super) fn write(report: &Report<'_>, out: &mut impl Write) -> io::Result<()> {
    match &report.groups {
        None => {
            write_rows(report, report.keys.rows(), out)?;
            writeln!(out)?;
        }
        Some(groups) => {
            write_row(&columns::group_titles(report), out)?;
            writeln!(out, "| --- | ---: | ---: | ---: | ---: | ---: |")?;
            for row in columns::group_rows(report, groups) {
                write_row(&row.map(|text| escape_markdown(&text)), out)?;
            }
            writeln!(out)?;
            for group in groups {
                let mut rows = report.group_rows(group).peekable();
                if rows.peek().is_some() {
                    let title = report.group_title(group);
                    writeln!(out, "### {}\n", escape_markdown(&title))?;
                    write_rows(report, rows, out)?;
                    writeln!(out)?;
                }
            }
        }
    }
    writeln!(out, "{}", report.summary())
}

fn write_rows(
    report: &Report<'_>,
    rows: impl Iterator<Item = KeyRow>,
    out: &mut impl Write,
) -> io::Result<()> {
    let columns = columns::key_columns(report);
    let titles: Vec<String> = columns
        .iter()
        .map(|column| column.title.to_owned())
        .collect();
    write_row(&titles, out)?;
    writeln!(out, "|{}", " --- |".repeat(columns.len()))?;
    for row in rows {
        let cells = columns.iter().map(|column| {
            let text = escape_markdown(&(column.text)(&row));
            if is_project(column) && is_plain_id(&row.project_id) && !row.url.is_empty() {
                format!("[{text}](<{}>)", row.url)
            } else {
                text
            }
        });
        write_row(&cells.collect::<Vec<_>>(), out)?;
    }
    Ok(())
}

fn write_row(cells: &[String], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "| {} |", cells.join(" | "))
}

/// Escapes a text so that Markdown shows it literally, without markup, HTML or links, within one cell.
fn escape_markdown(text: &str) -> String {
    let text = sanitize_for_terminal(text);
    let mut escaped = String::with_capacity(text.len());
    for (at, letter) in text.char_indices() {
        let before = text.get(..at).unwrap_or_default();
        let after = text.get(at + letter.len_utf8()..).unwrap_or_default();
        let is_markup = match letter {
            '-' | ',' | '/' => false,
            // `://` and `www.` start a link without markup.
            ':' => after.starts_with('/'),
            '.' => before.to_ascii_lowercase().ends_with("www"),
            _ => letter.is_ascii_punctuation(),
        };
        if is_markup {
            escaped.push('\\');
        }
        escaped.push(letter);
        if letter == '@' {
            // Markdown recognizes mail addresses and mentions after it resolves escapes.
            escaped.push('\u{2060}');
        }
    }
    escaped
}
