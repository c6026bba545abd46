//! `keys`: filters.

use std::collections::BTreeSet;

use super::{expected_ids, row_ids, run_keys_json, successful_stdout};
use crate::common::{error_fault, run_exporter, sim_env, static_sim};
use jiff::Timestamp;
use mongodb_atlas_sim::SimEndpoint;

#[tokio::test(flavor = "multi_thread")]
async fn filters_select_matching_keys() {
    let sim = crate::common::start_sim(static_sim(2, 500)).await;
    let variables = sim_env(&sim);
    let rows = run_keys_json(&["--never-used"], &variables).await;
    assert_eq!(
        row_ids(&rows),
        expected_ids(&sim, |key| key.last_used.is_none())
    );
    assert!(!rows.is_empty());
    let rows = run_keys_json(&["--status=INACTIVE"], &variables).await;
    assert_eq!(
        row_ids(&rows),
        expected_ids(&sim, |key| key.status == "INACTIVE")
    );
    assert!(!rows.is_empty());
    let both = run_keys_json(&["--status=INACTIVE", "--status=ACTIVE"], &variables).await;
    let expected = expected_ids(&sim, |key| ["ACTIVE", "INACTIVE"].contains(&&*key.status));
    assert_eq!(row_ids(&both), expected);
    let rows = run_keys_json(&["--idle=30d"], &variables).await;
    let limit = Timestamp::now() - jiff::SignedDuration::from_hours(30 * 24);
    assert_eq!(
        row_ids(&rows),
        expected_ids(&sim, |key| key.last_used.unwrap_or(key.created) <= limit)
    );
    let one = &rows[0];
    let by = async |field: &str| {
        let flag = format!("--project={}", one[field].as_str().unwrap());
        run_keys_json(&[&flag], &variables).await
    };
    let project = one["project_id"].as_str().unwrap();
    let of_project = expected_ids(&sim, |key| key.project == project);
    assert_eq!(row_ids(&by("project_id").await), of_project);
    assert!(row_ids(&by("project_name").await).is_superset(&of_project));
    // Valid filters without a match are not an error.
    let output = run_exporter(&["keys", "--status=revoked"], variables.clone()).await;
    let text = successful_stdout(&output);
    assert!(text.starts_with("0 of 500 keys"), "{text}");
    assert!(
        run_keys_json(&["--status=revoked"], &variables)
            .await
            .is_empty()
    );
    let output = run_exporter(
        &["keys", "--status=revoked", "--output=csv"],
        variables.clone(),
    )
    .await;
    let none = successful_stdout(&output);
    let output = run_exporter(&["keys", "--output=csv"], variables.clone()).await;
    assert_eq!(
        none.lines().collect::<Vec<_>>(),
        successful_stdout(&output)
            .lines()
            .take(1)
            .collect::<Vec<_>>(),
        "the header is the same without keys"
    );
    assert_eq!(
        none.trim_end(),
        "org_id,org_name,project_id,project_name,owner,api_key_id,name,status,created_at,created_by,last_used_at,idle_seconds,exempt_until,exempt_reason,url"
    );
    let flags = [
        "keys",
        "--idle=soon",
        "--output=xml",
        "--never-used=perhaps",
    ];
    let output = run_exporter(&flags, variables).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    for part in [
        "--idle: invalid value \"soon\": expected a duration up to 100 years, such as 12h or 30d",
        "--output: invalid value \"xml\"",
        "--never-used: invalid value \"perhaps\"",
    ] {
        assert!(error.contains(part), "{error}");
    }
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_with_unknown_value_is_an_error() {
    let sim = crate::common::start_sim(static_sim(2, 200)).await;
    let variables = sim_env(&sim);
    let rows = run_keys_json(&[], &variables).await;
    let name = rows[0]["project_name"].as_str().unwrap();
    let other_case = name.to_uppercase();
    assert_ne!(other_case, name);
    let typo = format!("{name}x");
    let glob = format!("{}*", &name[..3]);
    let quoted = format!("{name:?}");
    let flag = |name: &str, value: &str| format!("--{name}={value}");
    for (flags, words) in [
        (
            vec![flag("project", &typo)],
            vec!["--project: unknown project", &typo, &quoted],
        ),
        (
            vec![flag("project", &other_case)],
            vec!["unknown project", &quoted],
        ),
        (vec![flag("project", &glob)], vec!["unknown project", &glob]),
        (
            vec![flag("project", "")],
            vec!["--project: invalid value \"\""],
        ),
        (
            vec![flag("project", "\u{1b}[2J")],
            vec!["unknown project \"\\u{1b}[2J\""],
        ),
        // A valid value does not hide an invalid value.
        (
            vec![flag("project", name), flag("project", &typo)],
            vec![&typo],
        ),
        (
            vec![flag("status", "inactiv")],
            vec![
                "--status: unknown status \"inactiv\"",
                "\"INACTIVE\"",
                "\"ACTIVE\"",
            ],
        ),
        (vec![flag("status", "")], vec!["unknown status \"\""]),
        (
            vec![flag("status", "ACTIVE,INACTIVE")],
            vec!["unknown status \"ACTIVE,INACTIVE\""],
        ),
        (
            vec![flag("status", "nope"), flag("project", &typo)],
            vec!["unknown status", "unknown project"],
        ),
    ] {
        for output in ["table", "csv", "json", "markdown"] {
            let format = flag("output", output);
            let mut line = vec!["keys", &format];
            line.extend(flags.iter().map(String::as_str));
            let output = run_exporter(&line, variables.clone()).await;
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{line:?}: {error}");
            assert!(output.stdout.is_empty(), "{line:?}");
            for words in &words {
                assert!(error.contains(words), "{line:?}: {words}: {error}");
            }
            assert!(!error.contains('\u{1b}'), "{error:?}");
            if flags.len() > 1 {
                break;
            }
        }
    }
    // In the environment variable, commas separate values.
    let mut named = variables.clone();
    named.push((
        "ATLAS_AI_KEYS_EXPORTER_KEYS_PROJECT".to_owned(),
        format!("{name}, {typo}"),
    ));
    let output = run_exporter(&["keys"], named).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.contains("variable ATLAS_AI_KEYS_EXPORTER_KEYS_PROJECT: unknown project"),
        "{error}"
    );
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_id_filters_ignore_case() {
    let sim = crate::common::start_sim(static_sim(2, 200)).await;
    let variables = sim_env(&sim);
    let flag = |name: &str, value: &str| format!("--{name}={value}");
    let rows = run_keys_json(&[], &variables).await;
    let id = rows[0]["project_id"].as_str().unwrap();
    // A status of an existing key is valid.
    let key = sim.with_world(|world| {
        let org = world.org_ids().remove(0);
        let key = world.keys(&org)[0].id.clone();
        world.set_key_status(&org, &key, "Quarantined");
        key
    });
    let seen = run_keys_json(&["--status=QUARANTINED"], &variables).await;
    assert_eq!(row_ids(&seen), BTreeSet::from([key]));
    let by_id = run_keys_json(&[&flag("project", id)], &variables).await;
    assert_eq!(row_ids(&by_id), expected_ids(&sim, |key| key.project == id));
    assert_eq!(
        row_ids(&by_id),
        row_ids(&run_keys_json(&[&flag("project", &id.to_uppercase())], &variables).await)
    );
    let mut sum = 0;
    for status in ["active", "Inactive", "quarantined"] {
        sum += run_keys_json(&[&flag("status", status)], &variables)
            .await
            .len();
    }
    assert_eq!(sum, 200);
    for status in [
        "active",
        "inactive",
        "disabled",
        "revoked",
        "suspended",
        "expired",
        "deleted",
    ] {
        let output = run_exporter(&["keys", &flag("status", status)], variables.clone()).await;
        successful_stdout(&output);
    }
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_on_unreadable_values_is_an_error() {
    let sim = crate::common::start_sim(static_sim(2, 100)).await;
    let rows = run_keys_json(&[], &sim_env(&sim)).await;
    let orgs = sim.org_ids();
    let of_second = rows
        .iter()
        .find(|row| row["org_id"] == orgs[1].as_str())
        .unwrap();
    let project = of_second["project_name"].as_str().unwrap();
    let id = of_second["project_id"].as_str().unwrap();
    // The organization that may contain the project cannot be read.
    sim.add_fault(error_fault(
        SimEndpoint::AiModelApiKeys,
        Some(&orgs[1]),
        500,
    ));
    let output = run_exporter(&["keys", "--project", id], sim_env(&sim)).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("unknown project") && error.contains(&orgs[1]),
        "{error}"
    );
    sim.clear_faults();
    // The names of the projects cannot be read. Ids still match.
    sim.add_fault(error_fault(SimEndpoint::Groups, None, 403));
    let output = run_exporter(&["keys", "--project", project], sim_env(&sim)).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("the project names of organization") && error.contains(project),
        "{error}"
    );
    let by_id = run_keys_json(&["--project", id], &sim_env(&sim)).await;
    assert!(!by_id.is_empty() && by_id.iter().all(|row| row["project_id"] == id));
    sim.stop().await;
}
