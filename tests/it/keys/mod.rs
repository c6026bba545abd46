//! `keys`: lists every key once, longest idle first, as a table, CSV, JSON or Markdown; from Atlas, or without a request
//! from the state files of an exporter.

mod commands;
mod filters;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Output;

use crate::common::{
    TestExporter, error_fault, eventually_blocking, run_exporter, sim_env, static_sim,
};
use jiff::Timestamp;
use mongodb_atlas_sim::{SimEndpoint, SimHandle};
use serde_json::Value;

fn successful_stdout(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*error), (Some(0), ""));
    String::from_utf8(output.stdout.clone()).unwrap()
}

async fn run_keys_json(flags: &[&str], variables: &[(String, String)]) -> Vec<Value> {
    let arguments = [&["keys", "--output=json"], flags].concat();
    let output = run_exporter(&arguments, variables.to_vec()).await;
    serde_json::from_str(&successful_stdout(&output)).unwrap()
}

fn row_ids(rows: &[Value]) -> BTreeSet<String> {
    let ids: Vec<String> = rows
        .iter()
        .map(|row| row["api_key_id"].as_str().unwrap().to_owned())
        .collect();
    let set: BTreeSet<String> = ids.iter().cloned().collect();
    assert_eq!(set.len(), ids.len(), "duplicate key");
    set
}

/// Returns whether a field is a non-empty text.
fn has_text(row: &Value, field: &str) -> bool {
    row[field].as_str().is_some_and(|text| !text.is_empty())
}

/// Returns the ids of the matching keys of the simulated Atlas.
fn expected_ids(
    sim: &SimHandle,
    condition: impl Fn(&mongodb_atlas_sim::SimKey) -> bool,
) -> BTreeSet<String> {
    sim.with_world(|world| {
        let orgs = world.org_ids();
        let keys = orgs.iter().flat_map(|org| world.keys(org));
        keys.filter(|key| condition(key))
            .map(|key| key.id.clone())
            .collect()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_listed_once_sorted_by_idle_time() {
    let sim = crate::common::start_sim(static_sim(3, 600)).await;
    let variables = sim_env(&sim);
    let rows = run_keys_json(&[], &variables).await;
    assert_eq!(row_ids(&rows), expected_ids(&sim, |_| true));
    let idle: Vec<u64> = rows
        .iter()
        .map(|row| row["idle_seconds"].as_u64().unwrap())
        .collect();
    assert!(idle.is_sorted_by(|a, b| a >= b), "{idle:?}");
    let expected: BTreeMap<String, (String, Option<Timestamp>)> = sim.with_world(|world| {
        let orgs = world.org_ids();
        let keys = orgs.iter().flat_map(|org| world.keys(org));
        keys.map(|key| (key.id.clone(), (key.name.clone(), key.last_used)))
            .collect()
    });
    for row in &rows {
        let (name, used) = &expected[row["api_key_id"].as_str().unwrap()];
        assert_eq!(row["name"].as_str(), Some(name.as_str()));
        let shown = row["last_used_at"]
            .as_str()
            .map(|at| at.parse::<Timestamp>().unwrap());
        assert_eq!(
            shown.map(Timestamp::as_microsecond),
            used.map(Timestamp::as_microsecond)
        );
        assert_eq!(row["last_used_at"].is_null(), used.is_none());
        assert_eq!(row["created_by"], "", "personal data is opt-in");
        for field in ["org_name", "project_name", "status"] {
            assert!(has_text(row, field), "{field}: {row}");
        }
    }
    let output = run_exporter(&["keys", "--output", "csv"], variables.clone()).await;
    let text = successful_stdout(&output);
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let column = reader
        .headers()
        .unwrap()
        .iter()
        .position(|name| name == "name")
        .unwrap();
    let names: Vec<String> = reader
        .records()
        .map(|record| record.unwrap()[column].to_owned())
        .collect();
    let same: Vec<&str> = rows
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, same);
    let output = run_exporter(&["keys"], variables).await;
    let text = successful_stdout(&output);
    assert!(text.starts_with("IDLE"), "{text}");
    assert!(text.contains("600 of 600 keys, as of 20"), "{text}");
    assert!(!text.contains('\u{1b}'), "only terminals get colors");
    assert_eq!(sim.live_token_count(), 0);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn created_by_column_is_opt_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    let labels = "--metrics.key-labels=name,status,created_by";
    let exporter = TestExporter::start(static_sim(1, 30), &[labels, "--storage.path", &path]).await;
    exporter.wait_polled_with_names().await;
    let sim = exporter.stop().await;
    let creators: BTreeMap<String, String> = sim.with_world(|world| {
        let org = world.org_ids().remove(0);
        let keys = world.keys(&org).iter();
        keys.map(|key| (key.id.clone(), key.created_by.clone()))
            .collect()
    });
    let stored = ["--from-storage", "--storage.path", &path];
    for (source, variables) in [(&[][..], sim_env(&sim)), (&stored, Vec::new())] {
        let rows = run_keys_json(&[source, &[labels]].concat(), &variables).await;
        let of_rows = rows.iter().map(|row| {
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            (text("api_key_id"), text("created_by"))
        });
        assert_eq!(of_rows.collect::<BTreeMap<_, _>>(), creators);
        for (output, labelled) in [
            ("csv", true),
            ("csv", false),
            ("markdown", true),
            ("markdown", false),
            ("json", false),
        ] {
            let format = format!("--output={output}");
            let mut line = [&["keys", &format], source].concat();
            if labelled {
                line.push(labels);
            }
            let text = successful_stdout(&run_exporter(&line, variables.clone()).await);
            let shows = creators
                .values()
                .any(|creator| text.contains(creator.as_str()));
            assert_eq!(shows, labelled, "{line:?}: {text}");
        }
    }
    let output = run_exporter(&["keys", "--metrics.key-labels=creator"], sim_env(&sim)).await;
    assert_eq!(output.status.code(), Some(2));
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn markdown_output_escapes_names() {
    let sim = crate::common::start_sim(static_sim(1, 3)).await;
    sim.with_world(|world| {
        let org = world.org_ids().remove(0);
        let id = world.keys(&org)[0].id.clone();
        world.rename_key(&org, &id, "a|b <i>*c*\\ \u{1b}[2J\nd");
    });
    let text =
        successful_stdout(&run_exporter(&["keys", "--output=markdown"], sim_env(&sim)).await);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "| Idle | Last used | Name | Status | Owner | Project | Organization | Key |"
    );
    assert_eq!(lines.len(), 7, "{text}");
    assert!(lines[6].starts_with("3 of 3 keys, as of "), "{text}");
    for line in &lines[..5] {
        let cells = line.replace("\\\\", "").replace("\\|", "");
        assert_eq!(cells.matches('|').count(), 9, "{line}");
    }
    assert!(
        text.contains("a\\|b \\<i\\>\\*c\\*\\\\ \u{fffd}\\[2J\u{fffd}d"),
        "{text}"
    );
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_organizations_are_reported_and_others_listed() {
    let sim = crate::common::start_sim(static_sim(3, 90)).await;
    let org = sim.org_ids().remove(1);
    sim.add_fault(error_fault(SimEndpoint::AiModelApiKeys, Some(&org), 403));
    let output = run_exporter(&["keys", "--output=json"], sim_env(&sim)).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&org));
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let orgs: BTreeSet<&str> = rows
        .iter()
        .map(|row| row["org_id"].as_str().unwrap())
        .collect();
    let mut expected: BTreeSet<String> = sim.org_ids().into_iter().collect();
    assert!(expected.remove(&org));
    assert!(orgs.iter().eq(&expected), "{orgs:?}");
    let of_others =
        expected_ids(&sim, |_| true).len() - sim.with_world(|world| world.keys(&org).len());
    assert_eq!(row_ids(&rows).len(), of_others);
    sim.stop().await;
}

/// Returns names, lengths and modification times of all files.
fn file_fingerprints(dir: &Path) -> BTreeMap<String, (u64, std::time::SystemTime)> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let data = entry.metadata().unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, (data.len(), data.modified().unwrap()))
        })
        .collect()
}

/// Waits until the state of a stopped exporter is saved. Its last writes can complete after it stopped.
fn wait_saved(dir: &Path, orgs: usize) {
    eventually_blocking("the state is saved", || {
        let files = file_fingerprints(dir);
        let count = |end: &str| files.keys().filter(|name| name.ends_with(end)).count();
        let is_saved = [".inventory", ".details", ".deferred"].map(count) == [orgs, orgs, 0];
        is_saved.then_some(()).ok_or(format!("{files:?}"))
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn from_storage_sends_no_request_and_changes_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    let exporter = TestExporter::start(static_sim(3, 300), &["--storage.path", &path]).await;
    exporter.wait_polled_with_names().await;
    let orgs = exporter.sim.org_ids();
    let sim = exporter.stop().await;
    wait_saved(dir.path(), 3);
    let expected = expected_ids(&sim, |_| true);
    let requests = sim.requests().len();
    let before = file_fingerprints(dir.path());
    // Only the directory is needed: no credential, no organization.
    let flags = ["--from-storage", "--storage.path", &path];
    let rows = run_keys_json(&flags, &[]).await;
    assert_eq!(row_ids(&rows), expected);
    assert!(
        rows.iter()
            .all(|row| has_text(row, "org_name") && has_text(row, "project_name"))
    );
    let some = run_keys_json(&[&flags[..], &["--atlas.org-id", &orgs[0]]].concat(), &[]).await;
    assert!(!some.is_empty() && some.iter().all(|row| row["org_id"] == orgs[0].as_str()));
    assert_eq!(file_fingerprints(dir.path()), before);
    // A damaged file is reported and not changed; only the exporter quarantines files.
    let damaged = dir.path().join(format!("{}.inventory", orgs[1]));
    let text = std::fs::read(&damaged).unwrap();
    std::fs::write(&damaged, &text[..text.len() / 2]).unwrap();
    let before = file_fingerprints(dir.path());
    let output = run_exporter(&[&["keys", "--output=json"], &flags[..]].concat(), vec![]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&orgs[1]));
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!rows.is_empty());
    assert_eq!(file_fingerprints(dir.path()), before);
    for (flags, words) in [
        (vec!["keys", "--from-storage"], "--storage.path"),
        (
            vec!["keys", "--from-storage", "--storage.path=/nowhere"],
            "/nowhere",
        ),
        (
            vec!["keys", "--from-storage", "--storage.path=/usr"],
            "no stored data in /usr",
        ),
        (
            vec![
                "keys",
                "--from-storage",
                "--storage.path",
                &path,
                "--atlas.org-id=x",
            ],
            "organization id of 24 lower-case hexadecimal",
        ),
    ] {
        let output = run_exporter(&flags, vec![]).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(sim.requests().len(), requests);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_characters_are_replaced_in_table_output() {
    let sim = crate::common::start_sim(static_sim(1, 5)).await;
    sim.with_world(|world| {
        let org = world.org_ids().remove(0);
        let id = world.keys(&org)[0].id.clone();
        world.rename_key(&org, &id, "evil\u{1b}[2Jname\r\u{7f}\u{2028}\u{202e}txt");
    });
    let output = run_exporter(&["keys"], sim_env(&sim)).await;
    let text = successful_stdout(&output);
    assert!(text.contains("evil\u{fffd}[2Jname"), "{text:?}");
    assert!(
        text.chars()
            .all(|letter| letter == '\n' || !letter.is_control())
    );
    // Line separators and direction controls are replaced too.
    assert!(!text.contains(['\u{2028}', '\u{202e}']), "{text:?}");
    sim.stop().await;
}
