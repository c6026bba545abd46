//! The generated parts of the references are current.

use std::fmt::Write as _;
use std::path::Path;

use atlas_ai_keys_exporter::cli::{
    CHECK_FLAGS, FLAGS, Flag, KEYS_FLAGS, ONCE_FLAGS, SIM_FLAGS, SIM_LISTEN_FLAGS,
};
use atlas_ai_keys_exporter::failure::Explanation;
use atlas_ai_keys_exporter::metrics::families::{ALL, FamilyDef};
use mongodb_atlas_client::FailureReason;

use super::read_repo_file;

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

This page describes every metric family of the exporter: meaning, type, labels, source, when it has no series, how many
series it has, and a first query. `make docs` writes names, help texts, types and labels from the list of families
(`src/metrics/families.rs`).

## How to read the metrics

- Values from Atlas are polled. Their age is `time() - atlas_ai_keys_exporter_org_last_success_timestamp_seconds`. After a
  failed poll, the values of the last successful poll remain.
- Ages and idle times are computed at the scrape.
- A missing value is a missing series. There is no NaN and no sentinel value.
- The number of series is about 6 per key (0 with `--metrics.per-key none`), 50 per organization, 13 per project, and 200 for
  the exporter (with three idle thresholds and one service account).
- No label is named `endpoint`, `instance`, `job`, `namespace`, `pod`, `service` or `container`: Prometheus and its operator
  attach these labels to targets.
- Per-key series have the labels `org_id`, `project_id` and `api_key_id`. The info metric has the descriptive labels
  (`--metrics.key-labels`). Join it where you need them:

```promql
topk(10, mongodbatlas_ai_model_api_key_idle_seconds
  * on (org_id, project_id, api_key_id) group_left (name) mongodbatlas_ai_model_api_key_info)
```

## Data that Atlas does not report

There is no metric for the following:

- Keys that were created at Voyage AI. Atlas lists only the keys of Atlas projects.
- Usage and cost: numbers of requests and tokens, and money. Atlas reports only the time of the last use. A key that is used
  once a day and a key that is used continuously cannot be distinguished.
- Which client used a key, and with which model.
- Limits of single projects. The rate limits below are those of the organization.
- Changes between two polls that cancel each other: a key that was created and deleted, or a name or status that was changed
  and changed back.
";

/// Returns the section that explains the values of the label `reason` of failed polls.
fn failure_reasons() -> String {
    let mut text = "
### Failure reasons

The values of the label `reason` of `atlas_ai_keys_exporter_org_poll_failures_total` and
`atlas_ai_keys_exporter_org_last_poll_failed`. The log, `check` and the page use the same texts.

| reason | meaning | what to do | runbook |
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

/// Returns the manually written part of a family's section: source, when it has no series, number of series, and a query.
fn hand_written_part<'a>(document: &'a str, name: &str) -> &'a str {
    let section = document.split_once(&format!("\n### `{name}`\n"));
    let section = section.map_or("", |(_, rest)| {
        let end = rest.find("\n## ").unwrap_or(rest.len());
        let end = rest.find("\n### ").unwrap_or(end).min(end);
        rest.get(..end).unwrap()
    });
    let start = section.find("\n- Source: ").unwrap_or(section.len());
    let part = section.get(start..).unwrap();
    for line in [
        "\n- Source: ",
        "\n- Absent: ",
        "\n- Series: ",
        "\n```promql\n",
    ] {
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
    for (title, families) in [("Data from Atlas", of_atlas), ("Exporter", of_exporter)] {
        write!(text, "\n## {title}\n").unwrap();
        for family in families {
            let labels = if family.labels.is_empty() {
                "none".to_owned()
            } else {
                join_names(family.labels)
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
                "\n### `{name}`\n\n{help}\n\n- Type: {metric_type}\n- Labels: {labels}{rest}"
            )
            .unwrap();
        }
    }
    text.push_str(&failure_reasons());
    text.push_str(
        "\n### `process_*`\n\nCPU time, memory, open files and start time of the process, as in every Prometheus client library.\n",
    );
    assert_current("docs/metrics.md", &text);
}

/// The text between these lines of a document is generated.
const FLAGS_BEGIN: &str = "<!-- generated from the flags by `make docs` -->\n";
const FLAGS_END: &str = "<!-- end of the generated part -->\n";

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
            let key = match flag.name {
                "config.file" => "-".to_owned(),
                "atlas.org-id" => "`org_ids` of a credential".to_owned(),
                name => format!("`{}`", yaml_key(name)),
            };
            write!(text, " {key} |").unwrap();
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
