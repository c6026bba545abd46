//! Names in the documents exist.
use std::fmt::Write as _;
use std::path::Path;

use atlas_ai_keys_exporter::cli::{
    CHECK_FLAGS, FLAGS, Flag, KEYS_FLAGS, ONCE_FLAGS, SIM_FLAGS, SIM_LISTEN_FLAGS,
};
use atlas_ai_keys_exporter::failure::Explanation;
use atlas_ai_keys_exporter::metrics::families::{ALL, FamilyDef};
use mongodb_atlas_client::FailureReason;

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
        line.starts_with("| ") && !line.starts_with("| what fails") && !line.starts_with("| ---")
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
        for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))) {
            // A name of another program.
            if word == "mongodbatlas_exporter" {
                continue;
            }
            if word.starts_with("mongodbatlas_") || word.starts_with("atlas_ai_keys_exporter_") {
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

/// Two screens: purpose, two commands, and links.
#[test]
fn readme_stays_within_its_line_limit() {
    let text = read_repo_file("README.md");
    assert!(text.lines().count() <= 100);
    let commands = text.lines().filter(|line| line.starts_with("make "));
    assert_eq!(commands.count(), 2);
}

/// Writes `text` to a document for `make docs`; otherwise asserts that it is there already.
fn assert_current(path: &str, text: &str) {
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(path), text).unwrap();
    }
    assert!(
        read_repo_file(path) == text,
        "{path} is not current: `make docs` writes it"
    );
}

fn join_names(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

const METRICS_INTRO: &str = "# Metrics

What each family means, where its values come from, when it has no series, and how many there are. `make docs` writes names,
texts, types and labels from the catalogue (`src/metrics/families.rs`). Every value of Atlas is polled: it is as old as
`time() - atlas_ai_keys_exporter_org_last_success_timestamp_seconds`, and stays when Atlas fails. Ages are computed at the
scrape. A missing value is a missing series: there is no NaN and no sentinel.

Series in all: some 6 a key (0 with `--metrics.per-key none`), 40 an organization, 6 a project, 180 for the exporter
itself. Single keys carry `org_id`, `project_id` and `api_key_id`; what is to be read is on the info metric
(`--metrics.key-labels`), and is joined where it is needed:

```promql
topk(10, mongodbatlas_ai_model_api_key_idle_seconds
  * on (org_id, project_id, api_key_id) group_left (name) mongodbatlas_ai_model_api_key_info)
```
";

/// Returns the section that explains the values of the label `reason` of failed polls.
fn failure_reasons() -> String {
    let mut text = "
### Failure reasons

The label `reason` of `atlas_ai_keys_exporter_org_poll_failures_total` and `atlas_ai_keys_exporter_org_last_poll_failed`. The
log, `check` and the page say the same.

| reason | what it means | what to do | runbook |
| --- | --- | --- | --- |
"
    .to_owned();
    for reason in FailureReason::ALL {
        let Explanation {
            summary,
            remedy,
            runbook,
        } = Explanation::for_reason(reason);
        let link = format!("[{runbook}](../dashboards/runbooks/{runbook}.md)");
        writeln!(text, "| `{reason}` | {summary} | {remedy} | {link} |").unwrap();
    }
    text
}

/// Returns the part of a family's section that is written by hand: its source, when it has no series, their number, and a
/// query.
fn hand_written_part<'a>(document: &'a str, name: &str) -> &'a str {
    let section = document.split_once(&format!("\n### `{name}`\n"));
    let section = section.map_or("", |(_, rest)| {
        let end = rest.find("\n## ").unwrap_or(rest.len());
        let end = rest.find("\n### ").unwrap_or(end).min(end);
        rest.get(..end).unwrap()
    });
    let start = section.find("\n- from ").unwrap_or(section.len());
    let part = section.get(start..).unwrap();
    for line in ["\n- from ", "\n- absent ", "\n- series: ", "\n```promql\n"] {
        let text = part.split_once(line).map(|(_, text)| text);
        let is_there = text.is_some_and(|text| !text.starts_with(char::is_whitespace));
        assert!(is_there, "docs/metrics.md lacks {line:?} for {name}");
    }
    part
}

#[test]
fn metrics_reference_is_current() {
    let document = read_repo_file("docs/metrics.md");
    let mut text = METRICS_INTRO.to_owned();
    let (of_exporter, of_atlas): (Vec<&FamilyDef>, Vec<&FamilyDef>) = ALL
        .iter()
        .copied()
        .partition(|family| family.name.starts_with("atlas_ai_keys_exporter_"));
    for (title, families) in [
        ("What Atlas says", of_atlas),
        ("The exporter itself", of_exporter),
    ] {
        write!(text, "\n## {title}\n").unwrap();
        for family in families {
            let labels = if family.labels.is_empty() {
                "no labels".to_owned()
            } else {
                format!("labels {}", join_names(family.labels))
            };
            let FamilyDef {
                name,
                help,
                metric_type,
                ..
            } = family;
            let rest = hand_written_part(&document, name);
            write!(
                text,
                "\n### `{name}`\n\n{help}\n\n- {metric_type}, {labels}{rest}"
            )
            .unwrap();
        }
    }
    text.push_str(&failure_reasons());
    text.push_str(
        "\n### `process_*`\n\nProcessor time, memory, open files and start of the process, as every Prometheus client has them.\n",
    );
    assert_current("docs/metrics.md", &text);
}

/// The text between these lines of a document is generated.
const FLAGS_BEGIN: &str = "<!-- made from the flags by `make docs` -->\n";
const FLAGS_END: &str = "<!-- end of what is made -->\n";

fn write_flag_table(text: &mut String, title: &str, flags: &[&Flag], in_file: bool) {
    write!(
        text,
        "\n### {title}\n\n| flag | default | variable{} | |\n",
        if in_file { " | in the file" } else { "" }
    )
    .unwrap();
    text.push_str(if in_file {
        "| --- | --- | --- | --- | --- |\n"
    } else {
        "| --- | --- | --- | --- |\n"
    });
    for flag in flags {
        let value = if flag.value_name.is_empty() {
            String::new()
        } else {
            format!(" {}", flag.value_name)
        };
        let default = flag
            .default
            .map_or_else(|| "none".to_owned(), |default| format!("`{default}`"));
        write!(
            text,
            "| `--{}{value}` | {default} | `{}` |",
            flag.name, flag.env
        )
        .unwrap();
        if in_file {
            let member = match flag.name {
                "config.file" => "-".to_owned(),
                "atlas.org-id" => "`org_ids` of a credential".to_owned(),
                name => format!("`{}`", yaml_key(name)),
            };
            write!(text, " {member} |").unwrap();
        }
        writeln!(text, " {} |", flag.help.replace('|', "\\|")).unwrap();
    }
}

/// Returns the key of the configuration file for a flag.
fn yaml_key(name: &str) -> String {
    let (group, rest) = name.split_once('.').unwrap();
    format!("{group}.{}", rest.replace(['-', '.'], "_"))
}

#[test]
fn flags_reference_is_current() {
    let document = read_repo_file("docs/configuration.md");
    let (before, rest) = document
        .split_once(FLAGS_BEGIN)
        .expect("a place for the flags");
    let (_, after) = rest.split_once(FLAGS_END).expect("its end");
    let mut made = String::new();
    let mut groups: Vec<&str> = Vec::new();
    for flag in FLAGS {
        if !groups.contains(&flag.help_heading) {
            groups.push(flag.help_heading);
        }
    }
    for group in groups {
        let of_group: Vec<&Flag> = FLAGS
            .iter()
            .filter(|flag| flag.help_heading == group)
            .collect();
        write_flag_table(&mut made, group, &of_group, true);
    }
    for (title, of_command) in [
        ("`check`", vec![CHECK_FLAGS]),
        ("`keys`", vec![KEYS_FLAGS]),
        ("`once`", vec![ONCE_FLAGS]),
        ("`demo` and `sim`", vec![SIM_FLAGS, SIM_LISTEN_FLAGS]),
    ] {
        let all: Vec<&Flag> = of_command.into_iter().flatten().collect();
        write_flag_table(&mut made, title, &all, false);
    }
    assert_current(
        "docs/configuration.md",
        &format!("{before}{FLAGS_BEGIN}{made}\n{FLAGS_END}{after}"),
    );
}
