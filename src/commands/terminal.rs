//! Tables on a terminal.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};

/// A table without frames, as wide as the terminal at most.
pub(super) fn new_table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(head.to_vec());
    // nothing stands left of the first column
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table
}

/// Writes a table without blanks at the ends of its lines.
pub(super) fn write_table(table: &Table, out: &mut impl Write) -> io::Result<()> {
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A text in which nothing can steer a terminal: whoever names a key could otherwise write what he
/// likes on the screen of whoever lists it.
pub(super) fn sanitize_for_terminal(text: &str) -> String {
    let shown = |letter: char| {
        if letter.is_control() {
            '\u{fffd}'
        } else {
            letter
        }
    };
    text.chars().map(shown).collect()
}
