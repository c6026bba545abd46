//! `keys`: owners, exemptions, groups and order, from Atlas and from storage.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{expected_ids, row_ids, run_keys_json, successful_stdout, wait_saved};
use crate::common::{TestExporter, error_fault, run_exporter, sim_env, static_sim};
use mongodb_atlas_sim::{SimEndpoint, SimHandle};
use serde_json::Value;

/// Writes a configuration file with an owner of one project and an exemption of one key. Returns project and key.
fn write_policy(rows: &[Value], dir: &tempfile::TempDir) -> (String, String) {
    let text = |field: &str| rows[0][field].as_str().unwrap().to_owned();
    let (project, key) = (text("project_name"), text("api_key_id"));
    let config = format!(
        "owners:\n- projects: [{project:?}]\n  owner: team-search\n\
         exemptions:\n- key: {key:?}\n  reason: disaster recovery\n  until: 9999-06-30\n"
    );
    std::fs::write(dir.path().join("config.yml"), config).unwrap();
    (project, key)
}

/// Returns the simulated Atlas and the state directory of an exporter that polled it.
async fn stored_state(orgs: usize, keys: usize) -> (SimHandle, tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let flags = ["--storage.path", state.to_str().unwrap()];
    let exporter = TestExporter::start(static_sim(orgs, keys), &flags).await;
    exporter.wait_polled_with_names().await;
    let sim = exporter.stop().await;
    wait_saved(&state, orgs);
    (sim, dir, state)
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_and_exemptions_apply_to_atlas_and_to_storage() {
    let (sim, dir, state) = stored_state(2, 200).await;
    let all = run_keys_json(&[], &sim_env(&sim)).await;
    let (project, key) = write_policy(&all, &dir);
    let config = dir.path().join("config.yml");
    let config = format!("--config.file={}", config.display());
    let state = format!("--storage.path={}", state.display());
    let base = format!("--atlas.base-url={}", sim.base_url());
    let stored = [&*config, "--from-storage", &*state, &*base];
    for (source, variables) in [(&[&*config][..], sim_env(&sim)), (&stored, Vec::new())] {
        let run = async |flags: &[&str]| {
            let flags = [&["keys"], source, flags].concat();
            run_exporter(&flags, variables.clone()).await
        };
        // Exempt keys are not listed, and the output reports their number.
        let output = run(&["--output=json"]).await;
        let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{error}");
        assert_eq!(
            error,
            "exempt keys not listed: 1 (use --include-exempt to list them)\n"
        );
        assert_eq!(rows.len(), 199);
        assert!(!row_ids(&rows).contains(&key));
        let output = run(&[]).await;
        let text = successful_stdout(&output);
        assert!(text.contains("199 of 200 keys, as of "), "{text}");
        assert!(text.contains("1 exempt (not listed)"), "{text}");
        // With --include-exempt, exempt keys are listed with reason and end.
        let output = run(&["--output=json", "--include-exempt"]).await;
        let rows: Vec<Value> = serde_json::from_str(&successful_stdout(&output)).unwrap();
        assert_eq!(row_ids(&rows), expected_ids(&sim, |_| true));
        for row in &rows {
            let is_exempt = row["api_key_id"] == *key;
            let expected = if is_exempt {
                (Value::from("9999-06-30"), Value::from("disaster recovery"))
            } else {
                (Value::Null, Value::from(""))
            };
            assert_eq!(
                (row["exempt_until"].clone(), row["exempt_reason"].clone()),
                expected
            );
            let is_owned = row["project_name"] == *project;
            assert_eq!(row["owner"], if is_owned { "team-search" } else { "" });
            let id = row["project_id"].as_str().unwrap();
            assert_eq!(row["url"], format!("{}/v2/{id}", sim.base_url()));
        }
        // Filters select keys with an owner, and keys without an owner.
        let of = async |owner: &str| {
            let owner = format!("--owner={owner}");
            let output = run(&["--output=json", "--include-exempt", &owner]).await;
            let rows: Vec<Value> = serde_json::from_str(&successful_stdout(&output)).unwrap();
            row_ids(&rows)
        };
        let (owned, others) = (of("team-search").await, of("").await);
        assert!(owned.contains(&key) && !others.contains(&key));
        assert_eq!(owned.len() + others.len(), 200);
        let output = run(&["--owner=team-serch", "--owner="]).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        let expected = "--owner: unknown owner \"team-serch\": closest of 1: \"team-search\"";
        assert!(error.contains(expected), "{error}");
        assert!(output.stdout.is_empty());
    }
    // An invalid policy is an error with --from-storage too, because exemptions would be missing.
    std::fs::write(dir.path().join("config.yml"), "exemption: []\n").unwrap();
    let output = run_exporter(&[&["keys"], &stored[..]].concat(), vec![]).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("exemption"), "{error}");
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_tags_are_not_reported_as_missing_owners() {
    let sim = crate::common::start_sim(static_sim(1, 30)).await;
    sim.add_fault(error_fault(SimEndpoint::Groups, None, 403));
    for flags in [&["--owner="][..], &["--group-by=owner"], &["--owner=x"]] {
        let output = run_exporter(&[&["keys"], flags].concat(), sim_env(&sim)).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{flags:?}: {error}");
        assert!(
            error.contains("the project names of organization"),
            "{error}"
        );
    }
    let output = run_exporter(&["keys", "--group-by=project"], sim_env(&sim)).await;
    successful_stdout(&output);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_written_in_every_format() {
    let sim = crate::common::start_sim(static_sim(3, 300)).await;
    let run = async |flags: &[&str]| {
        let flags = [&["keys"], flags].concat();
        successful_stdout(&run_exporter(&flags, sim_env(&sim)).await)
    };
    let json = run(&["--output=json", "--group-by=org", "--idle=30d", "--limit=5"]).await;
    let groups: Vec<Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(groups.len(), 3);
    let names: Vec<&str> = groups
        .iter()
        .map(|group| group["org_name"].as_str().unwrap())
        .collect();
    assert!(
        names.is_sorted_by_key(|name| name.to_lowercase()),
        "{names:?}"
    );
    for group in &groups {
        let count = |field: &str| group[field].as_u64().unwrap();
        let sum = count("never_used") + count("idle") + count("disabled") + count("exempt");
        assert_eq!(count("keys"), sum, "{group}");
        assert!(count("keys") > 5, "{group}");
        let rows = group["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 5);
        let idle = rows.iter().map(|row| row["idle_seconds"].as_u64().unwrap());
        assert!(idle.is_sorted_by(|a, b| a >= b));
    }
    let csv = run(&["--output=csv", "--group-by=org", "--idle=30d"]).await;
    let mut lines = csv.lines();
    assert_eq!(
        lines.next(),
        Some("org_id,org_name,keys,never_used,idle,disabled,exempt")
    );
    assert_eq!(lines.count(), 3);
    let table = run(&["--group-by=org", "--limit=2"]).await;
    assert!(table.starts_with("ORGANIZATION"), "{table}");
    assert!(table.contains("\nTotal "), "{table}");
    assert_eq!(table.matches(", 2 listed\n").count(), 3, "{table}");
    let markdown = run(&["--group-by=org", "--limit=2", "--output=markdown"]).await;
    assert!(
        markdown.starts_with(
            "| Organization | Keys | Never used | Idle 7d | Disabled | Exempt |\n| --- | ---: |"
        ),
        "{markdown}"
    );
    assert_eq!(markdown.matches("\n### ").count(), 3, "{markdown}");
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_options_are_listed_at_once() {
    let flags = [
        "keys",
        "--output=xml",
        "--group-by=team",
        "--sort=used",
        "--limit=-1",
        "--include-exempt=perhaps",
    ];
    let output = run_exporter(&flags, vec![]).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    for part in [
        "--output: invalid value \"xml\"",
        "--group-by: invalid value \"team\"",
        "owner, project or org",
        "--sort: invalid value \"used\"",
        "idle, name, created, owner, project",
        "--limit: invalid value \"-1\"",
        "--include-exempt: invalid value \"perhaps\"",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_sorted_by_each_column() {
    let sim = crate::common::start_sim(static_sim(2, 120)).await;
    let variables = sim_env(&sim);
    let all = expected_ids(&sim, |_| true);
    for (column, field, is_descending) in [
        ("name", "name", false),
        ("project", "project_name", false),
        ("owner", "owner", false),
        ("created", "created_at", true),
    ] {
        let rows = run_keys_json(&["--sort", column], &variables).await;
        assert_eq!(row_ids(&rows), all, "{column}");
        let mut values: Vec<String> = rows
            .iter()
            .map(|row| row[field].as_str().unwrap().to_lowercase())
            .collect();
        if is_descending {
            values.reverse();
        }
        assert!(values.is_sorted(), "{column}: {values:?}");
    }
    let some = run_keys_json(&["--limit=7"], &variables).await;
    let longest_idle = run_keys_json(&[], &variables).await;
    let ids = |rows: &[Value]| -> Vec<String> {
        rows.iter()
            .map(|row| row["api_key_id"].to_string())
            .collect()
    };
    assert_eq!(ids(&some), ids(&longest_idle)[..7]);
    assert!(run_keys_json(&["--limit=0"], &variables).await.is_empty());
    let distinct: BTreeSet<String> = ids(&longest_idle).into_iter().collect();
    assert_eq!(distinct.len(), 120);
    sim.stop().await;
}
