//! Names in the documents exist, and their examples are valid.

mod examples;
mod references;

use std::path::Path;

use atlas_ai_keys_exporter::cli::{FLAGS, SIM_FLAGS, SIM_LISTEN_FLAGS};
use atlas_ai_keys_exporter::metrics::families::ALL;

fn read_repo_file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Returns everything between backticks.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Returns whether `source` defines `name` as a test that runs: with the attribute of a test, not ignored, and compiled
/// on Linux.
fn defines_running_test(source: &str, name: &str) -> bool {
    let mut attributes = String::new();
    for line in source.lines().map(str::trim) {
        let function = line.strip_prefix("async ").unwrap_or(line);
        let rest = function
            .strip_prefix("fn ")
            .and_then(|it| it.strip_prefix(name));
        if rest.is_some_and(|rest| rest.starts_with('(')) {
            let compiled = attributes.replace("#[cfg(unix)]", "");
            let compiled = compiled.replace("#[cfg(target_os = \"linux\")]", "");
            return ["#[test]", "#[tokio::test"]
                .iter()
                .any(|it| compiled.contains(it))
                && !compiled.contains("ignore")
                && !compiled.contains("cfg");
        }
        let is_continued = attributes.matches('[').count() > attributes.matches(']').count();
        if line.starts_with("#[") || is_continued {
            attributes.push_str(line);
        } else if !line.starts_with("//") {
            attributes.clear();
        }
    }
    false
}

#[test]
fn ignored_functions_and_comments_are_no_running_tests() {
    for (source, expected) in [
        ("#[test]\nfn name() {\n", true),
        (
            "#[tokio::test(flavor = \"multi_thread\")]\nasync fn name() {\n",
            true,
        ),
        ("#[cfg(unix)]\n#[test]\n/// Words.\nfn name() {\n", true),
        ("    #[test]\n    fn name(\n", true),
        ("fn name() {\n", false),
        ("#[test]\nfn other() {}\nfn name() {\n", false),
        ("#[test]\nfn name_of_another() {\n", false),
        ("#[test]\n#[ignore = \"words\"]\nfn name() {\n", false),
        ("#[ignore]\n#[test]\nfn name() {\n", false),
        (
            "#[test]\n#[cfg_attr(\n    unix,\n    ignore\n)]\nfn name() {\n",
            false,
        ),
        ("#[test]\n#[cfg(windows)]\nfn name() {\n", false),
        ("// #[test]\n// fn name() {\n", false),
        ("", false),
    ] {
        assert_eq!(defines_running_test(source, "name"), expected, "{source}");
    }
}

/// Returns the names that a source declares as modules.
fn declared_modules(source: &str) -> impl Iterator<Item = &str> {
    let modules = source.lines().filter_map(|line| line.strip_prefix("mod "));
    modules.filter_map(|rest| rest.strip_suffix(';'))
}

/// Returns the sources of a module of a test binary: its own, and those of its submodules.
fn test_sources(folder: &str, module: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let main = read(&folder.join("main.rs")).unwrap();
    if !declared_modules(&main).any(|known| known == module) {
        return Vec::new();
    }
    let path = folder.join(module);
    let own = read(&path.with_extension("rs")).or_else(|| read(&path.join("mod.rs")));
    let own = own.unwrap();
    let submodules = declared_modules(&own).map(|name| path.join(name).with_extension("rs"));
    let submodules: Vec<String> = submodules.map(|path| read(&path).unwrap()).collect();
    [vec![own], submodules].concat()
}

#[test]
fn failure_modes_rows_name_running_tests() {
    let text = read_repo_file("docs/failure-modes.md");
    let rows = text.lines().filter(|line| {
        line.starts_with("| ") && !line.starts_with("| failure |") && !line.starts_with("| ---")
    });
    let mut count = 0;
    for row in rows {
        let cell = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let names: Vec<&str> = code_spans(cell).collect();
        assert!(!names.is_empty(), "no test: {row}");
        for name in names {
            let (module, function) = name.split_once("::").unwrap_or_else(|| panic!("{name}"));
            let sources = ["tests/it", "tests/e2e"].map(|folder| test_sources(folder, module));
            let runs = sources.iter().flatten();
            let runs = runs.filter(|source| defines_running_test(source, function));
            assert_eq!(runs.count(), 1, "no test {name} runs");
        }
        count += 1;
    }
    assert!(count > 30, "{count} rows");
}

/// Returns the paths of all documents, relative to the repository.
fn documents() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap_or_default();
            if path.is_dir() {
                if !name.starts_with('.') && !["target", "node_modules"].contains(&name) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let relative = path.strip_prefix(root).unwrap();
                found.push(relative.display().to_string());
            }
        }
    }
    for known in [
        "README.md",
        "docs/web.md",
        "dashboards/runbooks/AtlasAiKeyStale.md",
    ] {
        assert!(found.iter().any(|path| path == known), "{known}: {found:?}");
    }
    found
}

#[test]
fn documented_flags_and_metrics_exist() {
    let families: Vec<&str> = ALL.iter().map(|family| family.name).collect();
    let (mut family_count, mut flag_count) = (0, 0);
    // The change log also names what was removed.
    for document in documents().iter().filter(|path| *path != "CHANGELOG.md") {
        let text = read_repo_file(document);
        for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || "-_.:".contains(c))) {
            let word = word.trim_matches(':');
            // A recording rule; other tests compare those with the rules.
            if word.contains(':') {
                continue;
            }
            // Another exporter, and resources of Terraform.
            if word == "mongodbatlas_exporter" || word.starts_with("mongodbatlas_service_account") {
                continue;
            }
            if word.starts_with("mongodbatlas_") || word.starts_with("atlas_ai_keys_exporter_") {
                let word = word.trim_end_matches('.');
                let word = word.strip_suffix("_bucket").unwrap_or(word);
                let known = families.iter().any(|family| {
                    *family == word || word.ends_with('_') && family.starts_with(word)
                });
                assert!(known, "{document}: there is no family {word}");
                family_count += 1;
            }
            let flag = word.strip_prefix("--").filter(|flag| flag.contains('.'));
            if let Some(flag) = flag {
                let mut all = FLAGS.iter().chain(SIM_FLAGS).chain(SIM_LISTEN_FLAGS);
                assert!(
                    all.any(|known| known.name == flag.trim_end_matches('.')),
                    "{document}: there is no flag --{flag}"
                );
                flag_count += 1;
            }
        }
    }
    assert!(
        family_count > 50 && flag_count > 50,
        "{family_count} families, {flag_count} flags"
    );
}

#[test]
fn document_links_resolve() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for document in documents() {
        let folder = root.join(&document).parent().unwrap().to_owned();
        for link in read_repo_file(&document).split("](").skip(1) {
            let link = link.split([')', '#']).next().unwrap();
            if link.is_empty() || link.starts_with("http") {
                continue;
            }
            assert!(folder.join(link).exists(), "{document}: {link}");
            count += 1;
        }
    }
    assert!(count > 10, "{count} links");
}

/// The pages of the manual have the same order: title, purpose, and related pages at the end.
#[test]
fn pages_begin_with_their_purpose_and_end_with_links() {
    let pages = documents();
    let pages = pages.iter().filter(|path| path.starts_with("docs/"));
    let mut count = 0;
    for page in pages {
        let text = read_repo_file(page);
        let mut paragraphs = text.split("\n\n");
        let title = paragraphs.next().unwrap();
        assert!(
            title.starts_with("# ") && !title.contains('\n'),
            "{page}: {title}"
        );
        let purpose = paragraphs.next().unwrap();
        let is_prose = purpose.starts_with(|first: char| first.is_ascii_uppercase());
        assert!(is_prose, "{page}: expected a purpose, got {purpose}");
        // The reference of metrics is generated and links to runbooks at its end.
        if page != "docs/metrics.md" {
            let last_heading = text.lines().rfind(|line| line.starts_with("## "));
            assert_eq!(last_heading, Some("## See also"), "{page}");
        }
        count += 1;
    }
    assert!(count > 7, "{count} pages");
}

/// Two screens: purpose, two commands, and links.
#[test]
fn readme_stays_within_its_line_limit() {
    let text = read_repo_file("README.md");
    assert!(text.lines().count() <= 100);
    let commands = text.lines().filter(|line| line.starts_with("make "));
    assert_eq!(commands.count(), 2);
}
