//! Panels show the numbers of the exposition: several exporters of the same organizations count once, the owner filter works, and
//! every change is counted once.

use std::process::Command;

use super::{all_panels, as_list, query_text, query_text_with, str_field};
use crate::common::prometheus::Prometheus;
use crate::common::{Scrape, TestExporter, run_command, static_sim};

const CONFIG: &str = "owners:\n\
    - {projects: [\"search-*\"], owner: team-search}\n\
    - {projects: [\"support-*\"], owner: team-support}\n\
    exemptions:\n\
    - {name: \"*-prod-*\", reason: disaster recovery, until: 2999-12-31}\n";

/// Returns the first query of a panel.
fn expression_of(name: &str) -> String {
    let (_, panel) = all_panels()
        .into_iter()
        .find(|(what, _)| what == name)
        .unwrap_or_else(|| panic!("missing panel {name}"));
    str_field(&as_list(&panel["targets"])[0], "expr").to_owned()
}

/// Returns the sum of a metric over all projects, at the default threshold of the dashboards.
fn sum_at_threshold(scrape: &Scrape, family: &str) -> f64 {
    let series = scrape.series();
    let series = series.iter().filter(|series| series.name == family);
    series
        .filter(|series| series.labels.get("threshold").is_none_or(|it| it == "90d"))
        .map(|series| series.value)
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn exporters_of_one_organization_count_once() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.yml");
    std::fs::write(&config, CONFIG).unwrap();
    let flag = format!("--config.file={}", config.display());
    let exporter = TestExporter::start(static_sim(3, 1200), &[&flag]).await;
    let scrape = exporter.wait_polled_with_names().await;
    let target = exporter.base_url.replace("http://", "");
    let job = format!("static_configs:\n  - targets: ['{target}']");
    let prometheus = Prometheus::start(&[("first", &job), ("second", &job)], &[]);
    prometheus
        .wait_samples("count(count by (job) (mongodbatlas_project_info)) == 2")
        .await;
    for (panel, family) in [
        ("fleet: Keys", "mongodbatlas_ai_model_api_keys"),
        (
            "fleet: Idle for $threshold",
            "mongodbatlas_ai_model_api_keys_idle",
        ),
        (
            "fleet: Never used for $threshold",
            "mongodbatlas_ai_model_api_keys_never_used",
        ),
        (
            "fleet: Disabled for $threshold",
            "mongodbatlas_ai_model_api_keys_disabled",
        ),
        ("fleet: Exempt", "mongodbatlas_ai_model_api_keys_exempt"),
        ("report: Exempt", "mongodbatlas_ai_model_api_keys_exempt"),
    ] {
        let expected = sum_at_threshold(&scrape, family);
        assert!(expected > 0.0, "{panel}");
        let query = query_text(&expression_of(panel));
        assert_eq!(prometheus.wait_value(&query).await, expected, "{panel}");
    }
    let unused = ["idle", "never_used", "disabled"]
        .map(|class| sum_at_threshold(&scrape, &format!("mongodbatlas_ai_model_api_keys_{class}")));
    let query = query_text(&expression_of("report: Unused for $threshold"));
    assert_eq!(
        prometheus.wait_value(&query).await,
        unused.iter().sum::<f64>()
    );
    // Each key has one row, with its names.
    let idle = prometheus
        .query(&query_text(&expression_of("fleet: Longest-idle keys")))
        .await;
    assert_eq!(idle.len(), 50);
    for sample in idle {
        for label in [
            "name",
            "api_key_id",
            "project_name",
            "project_id",
            "org_name",
            "status",
        ] {
            assert!(sample.labels.contains_key(label), "{:?}", sample.labels);
        }
        assert!(!sample.labels["name"].contains("-prod-"), "an exempt key");
    }
    assert_owners_are_filtered(&prometheus).await;
    exporter.stop().await.stop().await;
}

async fn assert_owners_are_filtered(prometheus: &Prometheus) {
    let keys = expression_of("fleet: Keys");
    let all = prometheus.wait_value(&query_text(&keys)).await;
    let by_owner = prometheus
        .query(&query_text(&expression_of("report: Keys by owner")))
        .await;
    let owners: Vec<&str> = by_owner
        .iter()
        .map(|sample| &*sample.labels["owner"])
        .collect();
    for owner in ["team-search", "team-support", "no owner"] {
        assert!(owners.contains(&owner), "{owners:?}");
    }
    assert_eq!(by_owner.iter().map(|it| it.value).sum::<f64>(), all);
    for sample in by_owner {
        let owner = &sample.labels["owner"];
        let query = query_text_with(&keys, "owner", owner);
        assert_eq!(prometheus.wait_value(&query).await, sample.value, "{owner}");
    }
}

/// Two exporters watch the same organization. One of them restarts with another address, like a pod, and continues its counter.
#[test]
fn deleted_keys_count_once_over_restarts_and_replicas() {
    let expression = expression_of("report: Deleted").replace("$__range", "6h");
    let family = |instance: &str, values: &str| {
        serde_json::json!({
            "series": format!(
                "mongodbatlas_ai_model_api_key_changes_total{{job=\"a\", instance=\"{instance}\", org_id=\"1\", change=\"deleted\"}}"
            ),
            "values": values,
        })
    };
    let tests = serde_json::json!({
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m",
            "input_series": [
                // Three deletions in the first hour, and two after the restart in the third hour.
                family("a:1", "0x30 3x100 _x500"),
                family("a:2", "_x140 3x60 5x400"),
                // A replica that starts later.
                family("b:1", "0x190 2x400"),
            ],
            "promql_expr_test": [
                {"expr": "deleted", "eval_time": "6h", "exp_samples": [{"labels": "deleted", "value": 5}]},
            ],
        }],
    });
    let dir = tempfile::tempdir().unwrap();
    let rules = serde_json::json!({"groups": [{"name": "report", "rules": [
        {"record": "deleted", "expr": query_text(&expression)},
    ]}]});
    std::fs::write(dir.path().join("rules.yml"), rules.to_string()).unwrap();
    std::fs::write(dir.path().join("tests.yml"), tests.to_string()).unwrap();
    let mut command = Command::new("promtool");
    command
        .args(["test", "rules", "tests.yml"])
        .current_dir(dir.path());
    let (code, output, error) = run_command(&mut command, b"");
    assert_eq!(code, Some(0), "{output}{error}");
}
