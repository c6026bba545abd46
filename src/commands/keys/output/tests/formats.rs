//! CSV and Markdown, read by other parsers.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{DAY, ReportedKey, any_keys, any_projects, write};
use crate::commands::terminal::sanitize_for_terminal;

/// Parses CSV by RFC 4180, character by character.
fn parse_csv(text: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut cell) = (Vec::new(), Vec::new(), String::new());
    let mut letters = text.chars().peekable();
    let mut is_quoted = false;
    while let Some(letter) = letters.next() {
        match letter {
            '"' if is_quoted && letters.next_if_eq(&'"').is_some() => cell.push('"'),
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => record.push(std::mem::take(&mut cell)),
            '\n' if !is_quoted => {
                record.push(std::mem::take(&mut cell));
                records.push(std::mem::take(&mut record));
            }
            '\r' if !is_quoted => panic!("a carriage return outside quotes: {text:?}"),
            _ => cell.push(letter),
        }
    }
    assert!(
        !is_quoted && cell.is_empty() && record.is_empty(),
        "{text:?}"
    );
    records
}

/// Splits a row of a Markdown table: each cell as a list of characters, and whether they are escaped.
fn parse_row(line: &str) -> Vec<Vec<(char, bool)>> {
    let mut cells = vec![Vec::new()];
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => cells
                .last_mut()
                .expect("a cell")
                .push((letters.next().expect("a letter"), true)),
            '|' => cells.push(Vec::new()),
            _ => cells.last_mut().expect("a cell").push((letter, false)),
        }
    }
    assert!(cells.len() > 2, "{line:?}");
    cells[1..cells.len() - 1].to_vec()
}

fn cell_text(cell: &[(char, bool)]) -> String {
    let text: String = cell.iter().map(|(letter, _)| letter).collect();
    text.trim().to_owned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn csv_has_one_record_a_key_and_no_formula(keys in any_keys(), projects in any_projects()) {
        let (text, _) = write(&keys, &projects, &["--output=csv", "--include-exempt"]);
        let records = parse_csv(&text);
        prop_assert_eq!(records.len(), keys.len() + 1);
        let guarded = |text: &str| {
            let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
            if is_formula { format!("'{text}") } else { text.to_owned() }
        };
        let by_id: BTreeMap<String, &ReportedKey> =
            keys.iter().map(|key| (guarded(&key.id), key)).collect();
        for record in &records {
            prop_assert_eq!(record.len(), 15);
            for cell in record {
                prop_assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r']), "{:?}", cell);
            }
        }
        for record in &records[1..] {
            let key = by_id[&record[5]];
            let (project, owner) = &projects[key.project];
            prop_assert_eq!(&record[6], &guarded(&key.name));
            prop_assert_eq!(&record[3], &guarded(project));
            prop_assert_eq!(&record[4], &guarded(owner));
            prop_assert_eq!(record[11].parse::<i64>().expect("a number"), key.idle_days * DAY);
            prop_assert_eq!(&record[14], &format!("https://cloud.mongodb.com/v2/p{}", key.project));
        }
    }

    #[test]
    fn markdown_has_one_row_a_key_and_no_markup(keys in any_keys(), projects in any_projects()) {
        let (text, _) = write(&keys, &projects, &["--output=markdown", "--include-exempt"]);
        let lines: Vec<&str> = text.lines().collect();
        prop_assert_eq!(lines.len(), keys.len() + 4);
        prop_assert!(lines[lines.len() - 2].is_empty());
        let sanitized = |text: &str| {
            sanitize_for_terminal(text).replace('@', "@\u{2060}").trim().to_owned()
        };
        let by_id: BTreeMap<String, &ReportedKey> =
            keys.iter().map(|key| (sanitized(&key.id), key)).collect();
        let columns = parse_row(lines[0]).len();
        for line in &lines[2..lines.len() - 2] {
            let cells = parse_row(line);
            prop_assert_eq!(cells.len(), columns, "{}", line);
            let key = by_id[&cell_text(&cells[7])];
            prop_assert_eq!(cell_text(&cells[2]), sanitized(&key.name));
            for (index, cell) in cells.iter().enumerate() {
                // The cell of the project is a link.
                let is_link = index == 5;
                let plain: String =
                    cell.iter().filter(|(_, is_escaped)| !is_escaped).map(|(letter, _)| letter).collect();
                let markup = plain.matches(['<', '>', '[', ']', '`', '*', '_', '~', '&', '(', ')']);
                prop_assert_eq!(markup.count(), if is_link { 6 } else { 0 }, "{}", line);
                prop_assert!(is_link || !plain.contains("://"), "{}", line);
                prop_assert!(!plain.to_lowercase().contains("www."), "{}", line);
                prop_assert!(!plain.contains(char::is_control));
            }
        }
    }
}
