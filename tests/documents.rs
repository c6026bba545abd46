//! What the documents say exists.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::path::Path;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Everything that stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_row_of_the_failures_names_a_test() {
    let text = read("docs/failures.md");
    let rows = text.lines().filter(|line| {
        line.starts_with("| ") && !line.starts_with("| what fails") && !line.starts_with("| ---")
    });
    let mut count = 0;
    for row in rows {
        let cell = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let names: Vec<&str> = quoted(cell).collect();
        assert!(!names.is_empty(), "no test: {row}");
        for name in names {
            let (file, function) = name.split_once("::").unwrap_or_else(|| panic!("{name}"));
            let source = read(&format!("tests/{file}.rs"));
            assert!(
                source.contains(&format!("fn {function}(")),
                "there is no {name}"
            );
        }
        count += 1;
    }
    assert!(count > 30, "{count} rows");
}

#[test]
fn every_flag_and_family_in_the_documents_exists() {
    let families: Vec<&str> = atlas_ai_keys_exporter::metrics::catalogue::ALL
        .iter()
        .map(|family| family.name)
        .collect();
    for document in [
        "README.md",
        "docs/failures.md",
        "docs/configuration.md",
        "docs/web.md",
    ] {
        let text = read(document);
        for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))) {
            if word.starts_with("mongodbatlas_") || word.starts_with("atlas_ai_keys_exporter_") {
                let known = families.iter().any(|family| {
                    *family == word || word.ends_with('_') && family.starts_with(word)
                });
                assert!(known, "{document}: there is no family {word}");
            }
            let flag = word.strip_prefix("--").filter(|flag| flag.contains('.'));
            if let Some(flag) = flag {
                let flags = atlas_ai_keys_exporter::cli::FLAGS.iter();
                let mut all = flags.chain(atlas_ai_keys_exporter::cli::SIM_FLAGS);
                assert!(
                    all.any(|known| known.name == flag.trim_end_matches('.')),
                    "{document}: there is no flag --{flag}"
                );
            }
        }
    }
}
