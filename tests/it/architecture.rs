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

/// Words that are replaced by standard terms, one a line.
const RETIRED_WORDS: &str = include_str!("retired_words.txt");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the files below `dir` whose names end in one of `extensions`, in a stable order.
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
        assert_eq!(contains_word(line, "word"), expected, "{line}");
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

#[test]
fn retired_words_do_not_return() {
    let words: Vec<&str> = RETIRED_WORDS
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    assert!(words.len() > 30, "{words:?}");
    let mut found = Vec::new();
    let mut paths = files_in(
        &[
            "src",
            "crates",
            "tests",
            "benches",
            "fuzz",
            "docs",
            "dashboards",
        ],
        &["rs", "md", "html"],
    );
    paths.extend(["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| root().join(name)));
    for path in paths {
        let text = fs::read_to_string(&path).unwrap().to_lowercase();
        for (number, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| contains_word(line, word)) {
                found.push(format!("{}:{}: {word}", relative(&path), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Returns whether `line` contains `word` between other characters than letters.
fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let after = line
            .get(at + word.len()..)
            .and_then(|text| text.chars().next());
        !before.is_some_and(char::is_alphabetic) && !after.is_some_and(char::is_alphabetic)
    })
}
