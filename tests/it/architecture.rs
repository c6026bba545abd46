//! The source tree follows docs/architecture.md: import order, unique type names, file lengths and vocabulary.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of the root package, lowest first. A module imports only from modules before it.
const IMPORT_ORDER: [&str; 18] = [
    "closed_list",
    "humanize",
    "logging",
    "shard",
    "credentials",
    "failure",
    "cli",
    "key_policy",
    "inventory",
    "storage",
    "poll",
    "status",
    "metrics",
    "config",
    "web",
    "app",
    "check",
    "commands",
];

/// Maximum length of a source file, in lines.
const MAX_LINES: usize = 400;

/// Maximum length of a function, in lines of code.
const MAX_FUNCTION_LINES: usize = 60;

/// Words and phrases that were replaced by standard terms, one a line, and phrases with them that are allowed.
const RETIRED_WORDS: &str = include_str!("retired_words.txt");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the files below `dir` with one of `extensions`, in a stable order.
fn files(dir: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") {
                found.extend(files(&path, extensions));
            }
        } else if path
            .extension()
            .is_some_and(|extension| extensions.iter().any(|known| extension == *known))
        {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn files_in(dirs: &[&str], extensions: &[&str]) -> Vec<PathBuf> {
    let files_of = |dir: &&str| {
        let found = files(&root().join(dir), extensions);
        assert!(!found.is_empty(), "{dir} has no source file");
        found
    };
    dirs.iter().flat_map(files_of).collect()
}

/// Returns the path relative to the repository.
fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

/// Returns the lines of a file without comments.
fn code(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(str::to_owned)
        .collect()
}

/// Returns the modules of the crate that a line imports or names.
fn named_modules(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(leading_name)
}

/// Returns the name that begins `text`.
fn leading_name(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
    text.get(..end.unwrap_or(text.len())).unwrap()
}

#[test]
fn imports_follow_the_order_of_modules() {
    let rank = |module: &str| IMPORT_ORDER.iter().position(|known| *known == module);
    let mut violations = Vec::new();
    for path in files_in(&["src"], &["rs"]) {
        let name = relative(&path);
        let module = leading_name(name.strip_prefix("src/").unwrap());
        if matches!(module, "lib" | "main") {
            continue;
        }
        let Some(own) = rank(module) else {
            violations.push(format!("{name}: module {module} has no place in the order"));
            continue;
        };
        for line in code(&path) {
            if line.contains("crate::{") {
                violations.push(format!("{name}: one import for several modules: {line}"));
            }
            for imported in named_modules(&line) {
                if rank(imported).is_some_and(|other| other > own) {
                    violations.push(format!("{name}: {module} imports {imported}"));
                }
            }
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn durations_are_formatted_in_one_module() {
    let mut violations = Vec::new();
    for path in files_in(&["src"], &["rs"]) {
        let name = relative(&path);
        if name != "src/humanize.rs" && code(&path).join("\n").contains("humantime::format") {
            violations.push(name);
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn type_names_are_unique_within_a_crate() {
    let crates = fs::read_dir(root().join("crates")).unwrap();
    let mut sources: Vec<PathBuf> = crates
        .map(|entry| entry.unwrap().path().join("src"))
        .collect();
    sources.push(root().join("src"));
    let mut duplicates = Vec::new();
    let mut count = 0;
    for source in sources {
        let mut types: BTreeMap<String, String> = BTreeMap::new();
        for path in files(&source, &["rs"]) {
            for line in code(&path) {
                let Some(name) = defined_type(&line) else {
                    continue;
                };
                let here = relative(&path);
                count += 1;
                if let Some(other) = types.insert(name.to_owned(), here.clone()) {
                    duplicates.push(format!("{name}: {other} and {here}"));
                }
            }
        }
    }
    assert!(duplicates.is_empty(), "{}", duplicates.join("\n"));
    assert!(count > 200, "{count} types");
}

#[test]
fn definitions_and_words_are_recognized() {
    for (line, expected) in [
        ("pub struct Name;", Some("Name")),
        ("pub(crate) enum Name {", Some("Name")),
        ("trait Name: Send {", Some("Name")),
        ("type Name = u8;", Some("Name")),
        ("    struct Name;", None),
        ("impl Name {", None),
    ] {
        assert_eq!(defined_type(line), expected, "{line}");
    }
    for (line, expected) in [
        ("fn name() {", Some("name")),
        ("    pub(super) async fn name(", Some("name")),
        ("const fn name<T>() {", Some("name")),
        ("let fn_name = 1;", None),
        ("use fn_name;", None),
        ("", None),
    ] {
        assert_eq!(defined_function(line), expected, "{line}");
    }
    for (line, expected) in [
        ("a word here", true),
        ("word", true),
        ("a_word_here", true),
        ("words", false),
        ("sword, then word", true),
        ("sword", false),
    ] {
        assert_eq!(word_positions(line, "word").count() > 0, expected, "{line}");
    }
    let named: Vec<&str> = named_modules("use crate::one::Two; crate::three::four()").collect();
    assert_eq!(named, ["one", "three"]);
}

/// Returns the name of the type that a line at module level defines.
fn defined_type(line: &str) -> Option<&str> {
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.trim_start(),
        None => line,
    };
    ["struct ", "enum ", "trait ", "type ", "union "]
        .iter()
        .find_map(|keyword| line.strip_prefix(keyword))
        .map(leading_name)
}

#[test]
fn files_are_short() {
    let long: Vec<String> = files_in(&["src", "crates", "tests", "benches", "fuzz"], &["rs"])
        .into_iter()
        .filter_map(|path| {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            (lines > MAX_LINES).then(|| format!("{}: {lines} lines", relative(&path)))
        })
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// Returns the name of the function that a line begins to define.
fn defined_function(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let qualifiers = ["pub", "pub(crate)", "pub(super)", "const", "async"];
    let keyword = words.find(|word| !qualifiers.contains(word))?;
    (keyword == "fn").then(|| words.next().map(leading_name))?
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    let mut count = 0;
    for path in files_in(&["src", "crates"], &["rs"]) {
        let name = relative(&path);
        if name.ends_with("tests.rs") || name.contains("/tests/") {
            continue;
        }
        let lines = code(&path);
        for (start, line) in lines.iter().enumerate() {
            let Some(function) = defined_function(line) else {
                continue;
            };
            let indent = line.len() - line.trim_start().len();
            let end = format!("{}}}", " ".repeat(indent));
            let body = lines.iter().skip(start).take_while(|line| **line != end);
            let length = body.filter(|line| !line.trim().is_empty()).count() + 1;
            // A function without a body, or with all of it on one line, has no such end.
            let has_body = lines
                .iter()
                .skip(start)
                .find(|line| line.ends_with(['{', ';', '}']));
            count += usize::from(length > 5);
            if length > MAX_FUNCTION_LINES && has_body.is_some_and(|line| line.ends_with('{')) {
                long.push(format!("{name}: {function}: {length} lines"));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
    assert!(count > 500, "{count} functions of more than five lines");
}

/// Folders without texts of this project, and files that programs write.
const UNCHECKED_NAMES: [&str; 7] = [
    ".git",
    "target",
    "node_modules",
    "corpus",
    "artifacts",
    "Cargo.lock",
    "retired_words.txt",
];

/// Returns the paths and contents of all text files below `dir`, in a stable order.
fn text_files(dir: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.unwrap();
        let path = entry.path();
        if UNCHECKED_NAMES
            .iter()
            .any(|name| entry.file_name() == *name)
        {
            continue;
        }
        if path.is_dir() {
            found.extend(text_files(&path));
        } else if let Ok(text) = fs::read_to_string(&path) {
            found.push((relative(&path), text));
        }
    }
    found.sort();
    found
}

/// Returns the retired words, and the phrases with one of them that are allowed.
fn retired_words() -> (Vec<&'static str>, Vec<&'static str>) {
    let lines = RETIRED_WORDS
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (allowed, words): (Vec<&str>, Vec<&str>) =
        lines.partition(|line| line.starts_with("allow "));
    let allowed = allowed.iter().map(|line| line.trim_start_matches("allow "));
    (words, allowed.collect())
}

/// Returns the line numbers at which `text` contains one of `words`, with the word. A phrase can continue on the next line.
fn find_words<'a>(text: &str, words: &[&'a str], allowed: &[&str]) -> Vec<(usize, &'a str)> {
    let lower = text.to_lowercase();
    let mut next_lines = lower.lines().skip(1);
    let mut found = Vec::new();
    for (index, line) in lower.lines().enumerate() {
        let next_line = next_lines.next().unwrap_or_default();
        let next_line = next_line.trim_start_matches(|letter: char| " \t/#!*|".contains(letter));
        let mut joined = format!("{} {next_line}", line.trim_end());
        for phrase in allowed {
            joined = joined.replace(phrase, &" ".repeat(phrase.len()));
        }
        for word in words {
            if word_positions(&joined, word).any(|at| at < line.len()) {
                found.push((index + 1, *word));
            }
        }
    }
    found
}

#[test]
fn retired_words_do_not_return() {
    let (words, allowed) = retired_words();
    assert!(words.len() > 60, "{words:?}");
    assert!(allowed.len() < 10, "{allowed:?}");
    let files = text_files(root());
    assert!(files.len() > 500, "{} files", files.len());
    let mut found = Vec::new();
    for (path, text) in files {
        for (line, word) in find_words(&text, &words, &allowed) {
            found.push(format!("{path}:{line}: {word}"));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn retired_phrases_are_found_across_lines() {
    let words = ["one phrase", "word"];
    let find = |text| find_words(text, &words, &["a word processor"]);
    assert_eq!(find("// This is one\n// phrase.\n"), [(1, "one phrase")]);
    assert_eq!(
        find("One phrase\nand a WORD\n"),
        [(1, "one phrase"), (2, "word")]
    );
    assert_eq!(find("a word processor has a\nword"), [(2, "word")]);
    assert_eq!(find("a word processor, one\n\nphrase"), []);
}

/// Returns where `line` contains `word` between other characters than letters.
fn word_positions(line: &str, word: &str) -> impl Iterator<Item = usize> {
    line.match_indices(word)
        .filter(|(at, _)| {
            let before = line.get(..*at).and_then(|text| text.chars().next_back());
            let after = line
                .get(at + word.len()..)
                .and_then(|text| text.chars().next());
            !before.is_some_and(char::is_alphabetic) && !after.is_some_and(char::is_alphabetic)
        })
        .map(|(at, _)| at)
}
