//! The log line of each change of a key, and its documentation in `docs/audit-log.md`.

use std::collections::BTreeSet;
use std::process::Command;

use crate::common::documents::parse_code_blocks;
use crate::common::{ChildProcess, eventually, run_command, sim_env, start_sim, static_sim};
use atlas_ai_keys_exporter::poll::Change;
use exporter_toolkit::yaml;
use jiff::{SignedDuration, Timestamp};
use mongodb_atlas_sim::{SimHandle, World};
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../docs/audit-log.md");

/// A name that without escaping would look like other fields, control a terminal and start another line.
const HOSTILE_NAME: &str =
    "x\" change=deleted\nts=0 level=error msg=\"key changed\" \u{1b}[31m\u{202e}\\";

/// The fields of a line in their order; in JSON, sorted.
type Fields = Vec<(String, String)>;

/// Parses a line of logfmt.
fn parse_logfmt(line: &str) -> Fields {
    let mut fields = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').unwrap_or_else(|| panic!("{line}"));
        let end = if after.starts_with('"') {
            let mut is_escaped = false;
            let closing = after.char_indices().skip(1).find(|(_, c)| {
                let closes = *c == '"' && !is_escaped;
                is_escaped = *c == '\\' && !is_escaped;
                closes
            });
            closing.unwrap_or_else(|| panic!("{line}")).0 + 1
        } else {
            after.find(' ').unwrap_or(after.len())
        };
        let (value, after) = after.split_at(end);
        let value = if value.starts_with('"') {
            serde_json::from_str(value).unwrap_or_else(|error| panic!("{error}: {line}"))
        } else {
            value.to_owned()
        };
        fields.push((key.to_owned(), value));
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    fields
}

fn parse_json(line: &str) -> Fields {
    let object: Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let fields = object.as_object().unwrap().iter();
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    fields
        .map(|(key, value)| (key.clone(), text(value)))
        .collect()
}

fn get<'a>(fields: &'a Fields, key: &str) -> Option<&'a str> {
    let mut found = fields.iter().filter(|(known, _)| known == key);
    let value = found.next().map(|(_, value)| value.as_str());
    assert!(found.next().is_none(), "{key} twice in {fields:?}");
    value
}

/// An expected change of a key in the log.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Expected {
    change: &'static str,
    project: String,
    key: String,
    name: String,
}

/// Applies one change of each kind.
fn make_changes(sim: &SimHandle, org: &str) -> BTreeSet<Expected> {
    let long_ago = sim.now() - SignedDuration::from_hours(91 * 24);
    sim.with_world(|world| {
        let id = |world: &World, condition: &dyn Fn(Option<Timestamp>) -> bool| {
            let mut keys = world.keys(org).iter();
            keys.find(|key| condition(key.last_used))
                .unwrap()
                .id
                .clone()
        };
        let unused = id(world, &|used| used.is_none());
        let stale = id(world, &|used| used.is_some_and(|used| used < long_ago));
        let others = world.keys(org).iter().map(|key| key.id.clone());
        let mut others = others.filter(|id| *id != unused && *id != stale);
        let [renamed, disabled, deleted] = [(); 3].map(|()| others.next().unwrap());
        drop(others);
        let expected = |world: &World, change, key: String| {
            let found = world
                .keys(org)
                .iter()
                .find(|known| known.id == key)
                .unwrap();
            Expected {
                change,
                project: found.project.clone(),
                name: found.name.clone(),
                key,
            }
        };
        let last = expected(world, "deleted", deleted.clone());
        world.delete_key(org, &deleted);
        let created = world.create_key(org, "new key").unwrap();
        world.mark_used(org, &unused);
        world.mark_used(org, &stale);
        world.rename_key(org, &renamed, HOSTILE_NAME);
        world.set_key_status(org, &disabled, "REVOKED");
        let changes = [
            ("created", created),
            ("first_used", unused),
            ("revived", stale),
            ("renamed", renamed),
            ("status_changed", disabled),
        ];
        let changes = changes.map(|(change, key)| expected(world, change, key));
        changes.into_iter().chain([last]).collect()
    })
}

/// Runs the exporter while each kind of change happens; returns the organization, the changes and the log.
async fn record_log(flags: &[&str]) -> (String, BTreeSet<Expected>, String) {
    let sim = start_sim(static_sim(1, 40)).await;
    let org = sim.org_ids()[0].clone();
    let arguments = [
        &[
            "--web.listen-address=127.0.0.1:0",
            "--atlas.poll-interval=1s",
        ],
        flags,
    ]
    .concat();
    let mut program = ChildProcess::exporter(&arguments, &sim_env(&sim));
    program.wait_for_output("poll succeeded");
    let changes = make_changes(&sim, &org);
    let log = eventually("a line for each change", async || {
        let output = program.output();
        let lines = output.matches("\"key changed\" org=").count();
        let objects = output.matches("\"msg\":\"key changed\"").count();
        if lines + objects >= Change::ALL.len() {
            Ok(output)
        } else {
            Err(output)
        }
    })
    .await;
    sim.stop().await;
    (org, changes, log)
}

/// Returns the first column of the table with this header.
fn documented(header: &str) -> Vec<&'static str> {
    let (_, table) = DOCUMENT.split_once(&format!("| {header} |")).unwrap();
    let rows = table
        .lines()
        .skip(2)
        .take_while(|row| row.starts_with("| "));
    rows.map(|row| row.split('`').nth(1).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_logged_with_the_documented_fields() {
    let kinds: Vec<&str> = Change::ALL.iter().map(|change| change.as_str()).collect();
    assert_eq!(documented("change | meaning"), kinds);
    let mut fields = documented("field | value | present");
    // A line has the owner only if the project has one.
    fields.retain(|field| *field != "owner");
    for (format, parse) in [
        ("logfmt", parse_logfmt as fn(&str) -> Fields),
        ("json", parse_json),
    ] {
        let (org, changes, log) = record_log(&["--log.format", format]).await;
        let lines: Vec<Fields> = log.lines().map(parse).collect();
        for line in &lines {
            let time: Timestamp = get(line, "ts").unwrap().parse().unwrap();
            assert!(time.as_second() > 1_700_000_000, "{line:?}");
            assert!(["info", "warn"].contains(&get(line, "level").unwrap()));
            assert!(
                get(line, "msg").is_some_and(|it| !it.is_empty()),
                "{line:?}"
            );
        }
        let is_printed = |c: char| c == '\n' || !c.is_control() && c != '\u{202e}';
        assert!(log.chars().all(is_printed), "{log:?}");
        let audit = |line: &&Fields| get(line, "msg") == Some("key changed");
        let audit_lines: Vec<&Fields> = lines.iter().filter(audit).collect();
        let mut logged = BTreeSet::new();
        for line in &audit_lines {
            let mut keys: Vec<&str> = line.iter().map(|(key, _)| key.as_str()).collect();
            let mut expected = fields.clone();
            if format == "json" {
                keys.sort_unstable();
                expected.sort_unstable();
            }
            assert_eq!(keys, expected, "{line:?}");
            assert_eq!(get(line, "org"), Some(org.as_str()));
            let value = |key| get(line, key).unwrap().to_owned();
            let change = get(line, "change").unwrap();
            logged.insert(Expected {
                change: kinds.iter().find(|kind| **kind == change).unwrap(),
                project: value("project"),
                key: value("key"),
                name: value("name"),
            });
        }
        assert_eq!(logged, changes, "{log}");
        assert_eq!(
            audit_lines.len(),
            changes.len(),
            "each change is logged once: {log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn key_names_are_omitted_from_the_log_without_the_name_label() {
    let (_, changes, log) = record_log(&["--metrics.key-labels=status,cloud"]).await;
    let lines = log.lines().map(parse_logfmt);
    let audit = lines.filter(|line| get(line, "msg") == Some("key changed"));
    assert_eq!(
        audit.filter(|line| get(line, "name").is_none()).count(),
        changes.len(),
        "{log}"
    );
    for change in changes {
        assert!(!log.contains(&change.name), "{change:?}: {log}");
    }
}

/// Returns the code blocks of a language.
fn code_blocks(language: &str) -> Vec<String> {
    let blocks = parse_code_blocks("docs/audit-log.md", DOCUMENT).into_iter();
    blocks
        .filter(|block| block.language == language)
        .map(|block| block.text)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_journal_commands_find_the_changes() {
    let (org, changes, log) = record_log(&[]).await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, log.as_bytes()).unwrap();
    let commands = code_blocks("sh");
    let run = async |command: &str| {
        assert!(
            command.starts_with("journalctl -u atlas-ai-keys-exporter "),
            "{command}"
        );
        let script = format!("journalctl() {{ cat \"$LOG\"; }}\n{command}");
        let mut shell = Command::new("sh");
        shell.args(["-euc", &script]).env("LOG", file.path());
        let ran = tokio::task::spawn_blocking(move || run_command(&mut shell, &[])).await;
        let (code, output, error) = ran.unwrap();
        assert_eq!((code, error.as_str()), (Some(0), ""), "{command}");
        output
    };
    let [all, deleted, counts] = &commands[..] else {
        panic!("{commands:?}")
    };
    let all = run(all).await;
    assert_eq!(all.lines().count(), changes.len(), "{all}");
    let deleted = run(deleted).await;
    let expected = changes.iter().find(|it| it.change == "deleted").unwrap();
    let (time, ids) = deleted.trim_end().split_once(' ').unwrap();
    assert!(time.parse::<Timestamp>().is_ok(), "{deleted}");
    assert_eq!(ids, format!("{org} {} {}", expected.project, expected.key));
    let counts = run(counts).await;
    let counts: BTreeSet<&str> = counts.lines().map(str::trim).collect();
    let expected: Vec<String> = Change::ALL.iter().map(|it| format!("1 {it}")).collect();
    assert_eq!(counts, expected.iter().map(String::as_str).collect());
    // The manual page has the first command in one line.
    let man = include_str!("../../src/commands/man.roff")
        .replace("\\(aq", "'")
        .replace('\\', "");
    let line = man.lines().find(|line| line.starts_with("journalctl "));
    let shown = run(line.unwrap()).await;
    assert_eq!(shown, all);
}

#[test]
fn documented_loki_examples_use_documented_fields() {
    let fields = documented("field | value | present");
    let blocks = code_blocks("yaml");
    let parsed: Vec<_> = blocks
        .iter()
        .map(|block| yaml::parse(block).unwrap())
        .collect();
    let [scrape_configs, rules] = &parsed[..] else {
        panic!("{blocks:?}")
    };
    let scrape_config = &scrape_configs
        .get("scrape_configs")
        .unwrap()
        .as_sequence()
        .unwrap()[0];
    let labels = scrape_config.get("journal").unwrap().get("labels").unwrap();
    let job = labels.get("job").unwrap().as_str().unwrap();
    let group = &rules.get("groups").unwrap().as_sequence().unwrap()[0];
    let rule = &group.get("rules").unwrap().as_sequence().unwrap()[0];
    let alert = rule.get("expr").unwrap().as_str().unwrap();
    let query = code_blocks("logql").remove(0);
    for query in [alert, &query] {
        assert!(query.contains(&format!(
            "{{job={job:?}}} |= `msg=\"key changed\"` | logfmt"
        )));
        for filter in query.split(" | ").skip(2) {
            let name = filter.split(['=', '!']).next().unwrap();
            assert!(fields.contains(&name), "{name}: {query}");
        }
    }
    let by = alert.split(['(', ')']).nth(1).unwrap();
    let summary = rule.get("annotations").unwrap().get("summary").unwrap();
    let used = summary.as_str().unwrap().split("$labels.").skip(1);
    let used = used.map(|rest| rest.split(' ').next().unwrap());
    for name in by.split(", ").chain(used) {
        assert!(fields.contains(&name), "{name}: {alert}");
        assert!(by.contains(name), "{name} is not among {by}");
    }
}
