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

What each family means, where its values come from, when it has no series, and how many there are. `make docs` writes names,
texts, types and labels from the catalogue (`src/metrics/families.rs`). Every value of Atlas is polled: it is as old as
`time() - atlas_ai_keys_exporter_org_last_success_timestamp_seconds`, and stays when Atlas fails. Ages are computed at the
scrape. A missing value is a missing series: there is no NaN and no sentinel.

Series in all: some 6 a key (0 with `--metrics.per-key none`), 41 an organization, 6 a project, 180 for the exporter
itself. No label is named `endpoint`, `instance`, `job`, `namespace`, `pod`, `service` or `container`: Prometheus and its
operator attach those to targets. Single keys carry `org_id`, `project_id` and `api_key_id`; what is to be read is on the info metric
(`--metrics.key-labels`), and is joined where it is needed:

```promql
topk(10, mongodbatlas_ai_model_api_key_idle_seconds
  * on (org_id, project_id, api_key_id) group_left (name) mongodbatlas_ai_model_api_key_info)
```

## Not visible

Atlas does not report the following, so that there is no metric for it:

- Keys that were created at Voyage AI. Only those of Atlas projects are listed.
- Use and cost: numbers of requests and tokens, money. The only trace of use is the time of the last one, so that a key that is
  used once a day and one that is used without a pause look alike.
- Who or what used a key, and with which model.
- Limits of single projects. The rate limits below are those of the organization.
- What happens between two polls: a key that was created and deleted, a name or a status that was changed and changed back.
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
