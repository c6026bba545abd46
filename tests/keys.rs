//! `keys`: every key once, most idle first, as a table, CSV or JSON; from Atlas, or from what an exporter
//! has kept, without a request.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Output;

use atlas_ai_keys_exporter::sim::{SimEndpoint, SimHandle};
use common::{Lab, outcome, refusal, sim_variables, still};
use jiff::Timestamp;
use serde_json::Value;

fn good(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*error), (Some(0), ""));
    String::from_utf8(output.stdout.clone()).unwrap()
}

async fn json(flags: &[&str], variables: &[(String, String)]) -> Vec<Value> {
    let arguments = [&["keys", "--output=json"], flags].concat();
    let output = outcome(&arguments, variables.to_vec()).await;
    serde_json::from_str(&good(&output)).unwrap()
}

fn ids(rows: &[Value]) -> BTreeSet<String> {
    let ids: Vec<String> = rows
        .iter()
        .map(|row| row["api_key_id"].as_str().unwrap().to_owned())
        .collect();
    let set: BTreeSet<String> = ids.iter().cloned().collect();
    assert_eq!(set.len(), ids.len(), "a key twice");
    set
}

/// The ids of the keys of the world that are `good`.
fn expected(
    sim: &SimHandle,
    good: impl Fn(&atlas_ai_keys_exporter::sim::SimKey) -> bool,
) -> BTreeSet<String> {
    sim.with_world(|world| {
        let orgs = world.org_ids();
        let keys = orgs.iter().flat_map(|org| world.keys(org));
        keys.filter(|key| good(key))
            .map(|key| key.id.clone())
            .collect()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_is_there_once_and_the_most_idle_first() {
    let sim = common::sim(still(3, 600)).await;
    let variables = sim_variables(&sim);
    let rows = json(&[], &variables).await;
    assert_eq!(ids(&rows), expected(&sim, |_| true));
    let idle: Vec<u64> = rows
        .iter()
        .map(|row| row["idle_seconds"].as_u64().unwrap())
        .collect();
    assert!(idle.is_sorted_by(|a, b| a >= b), "{idle:?}");
    let truth: BTreeMap<String, (String, Option<Timestamp>)> = sim.with_world(|world| {
        let orgs = world.org_ids();
        let keys = orgs.iter().flat_map(|org| world.keys(org));
        keys.map(|key| (key.id.clone(), (key.name.clone(), key.last_used)))
            .collect()
    });
    for row in &rows {
        let (name, used) = &truth[row["api_key_id"].as_str().unwrap()];
        assert_eq!(row["name"].as_str(), Some(name.as_str()));
        let shown = row["last_used_at"]
            .as_str()
            .map(|at| at.parse::<Timestamp>().unwrap());
        assert_eq!(
            shown.map(Timestamp::as_microsecond),
            used.map(Timestamp::as_microsecond)
        );
        assert_eq!(row["used"].as_bool(), Some(used.is_some()));
        for member in ["org_name", "project_name", "status"] {
            assert_ne!(row[member].as_str(), Some(""), "{row}");
        }
    }
    let output = outcome(&["keys", "--output", "csv"], variables.clone()).await;
    let text = good(&output);
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
    let output = outcome(&["keys"], variables).await;
    let text = good(&output);
    assert!(text.starts_with("IDLE"), "{text}");
    assert!(text.contains("600 of 600 keys, as of 20"), "{text}");
    assert!(!text.contains('\u{1b}'), "colours are for terminals");
    assert_eq!(sim.live_tokens(), 0);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_leave_what_was_asked_for() {
    let sim = common::sim(still(2, 500)).await;
    let variables = sim_variables(&sim);
    let rows = json(&["--never-used"], &variables).await;
    assert_eq!(ids(&rows), expected(&sim, |key| key.last_used.is_none()));
    assert!(!rows.is_empty());
    let rows = json(&["--status=INACTIVE"], &variables).await;
    assert_eq!(ids(&rows), expected(&sim, |key| key.status == "INACTIVE"));
    assert!(!rows.is_empty());
    let both = json(&["--status=INACTIVE", "--status=ACTIVE"], &variables).await;
    assert!(both.len() > rows.len());
    let rows = json(&["--idle=30d"], &variables).await;
    let limit = Timestamp::now() - jiff::SignedDuration::from_hours(30 * 24);
    assert_eq!(
        ids(&rows),
        expected(&sim, |key| key.last_used.unwrap_or(key.created) <= limit)
    );
    let one = &rows[0];
    let by = async |member: &str| {
        let flag = format!("--project={}", one[member].as_str().unwrap());
        json(&[&flag], &variables).await
    };
    let by_id = by("project_id").await;
    assert!(
        by_id
            .iter()
            .all(|row| row["project_id"] == one["project_id"])
    );
    assert!(by("project_name").await.len() >= by_id.len());
    let output = outcome(&["keys", "--project=nobody's"], variables.clone()).await;
    let text = good(&output);
    assert!(text.starts_with("0 of 500 keys"), "{text}");
    assert!(json(&["--project=nobody's"], &variables).await.is_empty());
    let output = outcome(
        &["keys", "--project=nobody's", "--output=csv"],
        variables.clone(),
    )
    .await;
    let none = good(&output);
    let output = outcome(&["keys", "--output=csv"], variables.clone()).await;
    assert_eq!(
        none.lines().collect::<Vec<_>>(),
        good(&output).lines().take(1).collect::<Vec<_>>(),
        "the same head without and with keys"
    );
    let flags = [
        "keys",
        "--idle=soon",
        "--output=xml",
        "--never-used=perhaps",
    ];
    let output = outcome(&flags, variables).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    for part in [
        "--idle: \"soon\"",
        "--output: \"xml\"",
        "--never-used: \"perhaps\"",
    ] {
        assert!(error.contains(part), "{error}");
    }
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_named_and_the_others_are_shown() {
    let sim = common::sim(still(3, 90)).await;
    let org = sim.org_ids().remove(1);
    sim.add_fault(refusal(SimEndpoint::AiModelApiKeys, Some(&org), 403));
    let output = outcome(&["keys", "--output=json"], sim_variables(&sim)).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&org));
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let orgs: BTreeSet<&str> = rows
        .iter()
        .map(|row| row["org_id"].as_str().unwrap())
        .collect();
    assert_eq!(orgs.len(), 2);
    sim.stop().await;
}

/// Names, lengths and times of all files.
fn files(dir: &Path) -> BTreeMap<String, (u64, std::time::SystemTime)> {
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

#[tokio::test(flavor = "multi_thread")]
async fn from_storage_nothing_is_asked_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    let lab = Lab::start(still(3, 300), &["--storage.path", &path]).await;
    lab.named().await;
    let orgs = lab.sim.org_ids();
    let sim = lab.stop().await;
    let truth = expected(&sim, |_| true);
    let asked = sim.requests().len();
    let before = files(dir.path());
    // no credential, no organization: nothing but the directory
    let flags = ["--from-storage", "--storage.path", &path];
    let rows = json(&flags, &[]).await;
    assert_eq!(ids(&rows), truth);
    assert!(
        rows.iter()
            .all(|row| row["org_name"] != "" && row["project_name"] != "")
    );
    let some = json(&[&flags[..], &["--atlas.org-id", &orgs[0]]].concat(), &[]).await;
    assert!(!some.is_empty() && some.iter().all(|row| row["org_id"] == orgs[0].as_str()));
    assert_eq!(files(dir.path()), before);
    // a damaged file is named, and left for the exporter to judge
    let damaged = dir.path().join(format!("{}.inventory", orgs[1]));
    let text = std::fs::read(&damaged).unwrap();
    std::fs::write(&damaged, &text[..text.len() / 2]).unwrap();
    let before = files(dir.path());
    let output = outcome(&[&["keys", "--output=json"], &flags[..]].concat(), vec![]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&orgs[1]));
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!rows.is_empty());
    assert_eq!(files(dir.path()), before);
    for (flags, words) in [
        (vec!["keys", "--from-storage"], "--storage.path"),
        (
            vec!["keys", "--from-storage", "--storage.path=/nowhere"],
            "/nowhere",
        ),
        (
            vec![
                "keys",
                "--from-storage",
                "--storage.path",
                &path,
                "--atlas.org-id=x",
            ],
            "24 hexadecimal",
        ),
    ] {
        let output = outcome(&flags, vec![]).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(sim.requests().len(), asked);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_steers_no_terminal() {
    let sim = common::sim(still(1, 5)).await;
    sim.with_world(|world| {
        let org = world.org_ids().remove(0);
        let id = world.keys(&org)[0].id.clone();
        world.rename(&org, &id, "evil\u{1b}[2Jname\r\u{7f}");
    });
    let output = outcome(&["keys"], sim_variables(&sim)).await;
    let text = good(&output);
    assert!(text.contains("evil\u{fffd}[2Jname"), "{text:?}");
    assert!(
        text.chars()
            .all(|letter| letter == '\n' || !letter.is_control())
    );
    sim.stop().await;
}
