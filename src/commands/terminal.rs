//! Writes to standard output, and formats tables for a terminal.

use std::io::{self, IsTerminal as _, StdoutLock, Write};

use comfy_table::{ContentArrangement, Table, presets};

use super::{CommandError, ignore_broken_pipe};
use crate::credentials::Environment;
use crate::humanize::is_unprintable;

/// Writes to standard output. A closed pipe is not an error.
pub(super) fn write_stdout(
    write: impl FnOnce(&mut StdoutLock<'_>) -> io::Result<()>,
) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    write(&mut out)
        .and_then(|()| out.flush())
        .or_else(ignore_broken_pipe)
        .map_err(CommandError::stdout())
}

/// Returns whether tables on standard output are colored.
pub(super) fn is_coloured(environment: &Environment) -> bool {
    io::stdout().is_terminal() && environment.get("NO_COLOR").is_none()
}

/// Creates a table without borders, at most as wide as the terminal.
pub(super) fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.to_vec());
    // Some terminals report a width of zero.
    if table.width() == Some(0) {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    // The first column starts at the left edge.
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table
}

/// Writes a table without trailing spaces.
pub(super) fn write_table(table: &Table, out: &mut impl Write) -> io::Result<()> {
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Replaces control characters, line separators and controls of the text direction. Names from Atlas could otherwise control
/// the terminal, or change the order of a text.
pub(super) fn sanitize_for_terminal(text: &str) -> String {
    text.replace(is_unprintable, "\u{fffd}")
}
