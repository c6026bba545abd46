//! Checks CSV and Markdown with independent parsers.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::{DAY, ReportedKey, any_keys, any_projects, write};
use crate::commands::terminal::sanitize_for_terminal;

/// Parses CSV (RFC 4180).
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

/// Content of a document that a Markdown parser finds.
#[derive(Default)]
struct ParsedMarkdown {
    /// Texts of the cells, by row, without the header.
    rows: Vec<Vec<String>>,
    columns: usize,
    links: Vec<String>,
    headings: usize,
    /// Everything else than text, tables, links and headings.
    others: Vec<String>,
}

fn parse_markdown(text: &str) -> ParsedMarkdown {
    let mut parsed = ParsedMarkdown::default();
    let mut is_header = false;
    let mut cell = None;
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
    for event in Parser::new_ext(text, options) {
        match event {
            Event::Start(Tag::TableHead) => (is_header, parsed.columns) = (true, 0),
            Event::End(TagEnd::TableHead) => is_header = false,
            Event::Start(Tag::TableRow) => parsed.rows.push(Vec::new()),
            Event::Start(Tag::TableCell) if is_header => parsed.columns += 1,
            Event::Start(Tag::TableCell) => cell = Some(String::new()),
            Event::End(TagEnd::TableCell) => {
                let row = parsed.rows.last_mut().filter(|_| !is_header);
                if let (Some(row), Some(text)) = (row, cell.take()) {
                    row.push(text.trim().to_owned());
                }
            }
            Event::Text(text) => {
                if let Some(cell) = &mut cell {
                    cell.push_str(&text);
                }
            }
            Event::Start(Tag::Link { dest_url, .. }) => parsed.links.push(dest_url.into_string()),
            Event::Start(Tag::Heading { .. }) => parsed.headings += 1,
            Event::Start(Tag::Paragraph | Tag::Table(_)) | Event::End(_) => {}
            other => parsed.others.push(format!("{other:?}")),
        }
    }
    parsed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn csv_has_one_record_per_key_and_no_formula(keys in any_keys(), projects in any_projects()) {
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
    fn markdown_has_one_row_per_key_and_no_markup(keys in any_keys(), projects in any_projects()) {
        let (text, _) = write(&keys, &projects, &["--output=markdown", "--include-exempt"]);
        let sanitized = |text: &str| {
            let text = sanitize_for_terminal(text).replace('@', "@\u{2060}");
            text.trim().to_owned()
        };
        let by_id: BTreeMap<String, &ReportedKey> =
            keys.iter().map(|key| (sanitized(&key.id), key)).collect();
        let parsed = parse_markdown(&text);
        prop_assert_eq!(parsed.rows.len(), keys.len(), "{}", text);
        for cells in &parsed.rows {
            prop_assert_eq!(cells.len(), parsed.columns, "{}", text);
            let key = by_id[&cells[7]];
            prop_assert_eq!(&cells[2], &sanitized(&key.name));
            prop_assert_eq!(&cells[4], &sanitized(&projects[key.project].1));
        }
        prop_assert_eq!(parsed.others, Vec::<String>::new(), "{}", text);
        let url = "https://cloud.mongodb.com/v2/p";
        prop_assert_eq!(parsed.links.len(), keys.len());
        prop_assert!(parsed.links.iter().all(|link| link.starts_with(url)));
        // Some texts become links without markup.
        let text = text.replace(url, "").replace("\\:", "").to_lowercase();
        prop_assert!(!text.contains("://") && !text.contains("www."), "{}", text);
        prop_assert_eq!(text.matches('@').count(), text.matches("@\u{2060}").count());
        prop_assert!(!text.contains(|letter: char| letter.is_control() && letter != '\n'));
        let (text, _) = write(&keys, &projects, &["--output=markdown", "--group-by=owner"]);
        let parsed = parse_markdown(&text);
        let listed = keys.iter().filter(|key| !key.is_exempt);
        let owners: BTreeSet<&str> = listed.map(|key| &*projects[key.project].1).collect();
        prop_assert_eq!(parsed.headings, owners.len(), "{}", text);
        prop_assert_eq!(parsed.others, Vec::<String>::new(), "{}", text);
    }
}
