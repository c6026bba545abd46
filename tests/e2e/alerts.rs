//! The alerting rules: promtool accepts them and their tests, and each alert has tests for firing and not
//! firing, and a runbook that the exporter serves.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{TestExporter, run_command, static_sim};
use exporter_toolkit::yaml::{self, YamlValue};

fn monitoring_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("dashboards")
        .join(name)
}

fn read_file(name: &str) -> String {
    std::fs::read_to_string(monitoring_path(name)).unwrap()
}

/// Returns the names of the files in a directory, without extension.
fn file_names(folder: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(monitoring_path(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().path());
    names
        .filter(|path| path.is_file())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect()
}

/// Returns all rules of the rules file.
fn load_rules() -> Vec<YamlValue> {
    let YamlValue::Mapping(root) =
        yaml::load_file(&monitoring_path("rules/atlas-ai-keys.yml")).unwrap()
    else {
        panic!("groups")
    };
    let mut all = Vec::new();
    for (_, groups) in root {
        let YamlValue::Sequence(groups) = groups else {
            panic!("a list of groups")
        };
        for group in groups {
            let YamlValue::Mapping(members) = group else {
                panic!("a group")
            };
            for (name, value) in members {
                if let ("rules", YamlValue::Sequence(rules)) = (name.as_str(), value) {
                    all.extend(rules);
                }
            }
        }
    }
    all
}

fn rule_text<'a>(rule: &'a YamlValue, member: &str) -> Option<&'a str> {
    rule.get(member)?.as_str()
}

fn alert_names() -> BTreeSet<String> {
    let rules = load_rules();
    let alerts = rules.iter().filter_map(|rule| rule_text(rule, "alert"));
    let alerts: BTreeSet<String> = alerts.map(str::to_owned).collect();
    assert!(alerts.len() >= 15, "{alerts:?}");
    alerts
}

fn run_promtool(arguments: &[&str]) {
    let mut command = Command::new("promtool");
    command
        .args(arguments)
        .current_dir(monitoring_path("rules"));
    let (code, output, error) = run_command(&mut command, b"");
    assert_eq!(code, Some(0), "{output}{error}");
}

#[test]
fn promtool_accepts_rules_and_rule_tests() {
    run_promtool(&["check", "rules", "atlas-ai-keys.yml"]);
    let tests = file_names("rules/tests");
    assert_eq!(tests, alert_names());
    for name in tests {
        run_promtool(&["test", "rules", &format!("tests/{name}.yml")]);
    }
    run_promtool(&["test", "rules", "no-false-alarms.yml"]);
}

#[test]
fn each_alert_has_a_test_a_runbook_and_annotations() {
    let alerts = alert_names();
    assert_eq!(
        file_names("rules/tests"),
        alerts,
        "one file of tests an alert"
    );
    assert_eq!(file_names("runbooks"), alerts, "one runbook an alert");
    for alert in &alerts {
        let tests = read_file(&format!("rules/tests/{alert}.yml"));
        let own = format!("alertname: {alert}\n");
        let cases: Vec<&str> = tests.split(&own).skip(1).collect();
        let quiet = cases
            .iter()
            .filter(|case| case.trim_start().starts_with("exp_alerts: []"))
            .count();
        assert!(
            quiet > 0 && cases.len() > quiet,
            "{alert}: {quiet} of {} cases do not fire",
            cases.len()
        );
        let runbook = read_file(&format!("runbooks/{alert}.md"));
        for part in [
            &format!("# {alert}\n"),
            "## Look first",
            "```promql",
            "## Do",
            "## Silence",
        ] {
            assert!(runbook.contains(part), "{alert}: {part}");
        }
        assert!(runbook.lines().count() < 40, "{alert}: short");
    }
    for rule in load_rules() {
        let Some(alert) = rule_text(&rule, "alert") else {
            continue;
        };
        // Two polls at the default interval take ten minutes.
        assert_eq!(rule_text(&rule, "for"), Some("15m"), "{alert}");
        let severity = rule
            .get("labels")
            .and_then(|labels| rule_text(labels, "severity"));
        assert!(
            ["info", "warning", "critical"].contains(&severity.unwrap_or_default()),
            "{alert}"
        );
        let annotations = rule.get("annotations").unwrap();
        for member in ["summary", "description"] {
            assert!(
                rule_text(annotations, member).is_some_and(|words| words.contains("{{")),
                "{alert}: {member} names what it is about"
            );
        }
        let runbook = format!("http://localhost:10064/-/docs/runbooks/{alert}");
        assert_eq!(
            rule_text(annotations, "runbook_url"),
            Some(runbook.as_str())
        );
    }
}

#[test]
fn thresholds_are_defined_once() {
    let rules = load_rules();
    let thresholds: BTreeSet<&str> = rules
        .iter()
        .filter_map(|rule| rule_text(rule, "record"))
        .filter(|name| name.contains(":threshold_"))
        .collect();
    assert!(thresholds.len() > 8);
    let all: String = rules
        .iter()
        .filter(|rule| rule_text(rule, "alert").is_some())
        .filter_map(|rule| rule_text(rule, "expr"))
        .collect();
    for threshold in thresholds {
        assert!(all.contains(threshold), "{threshold} is used");
    }
}

#[test]
fn prometheus_rule_manifest_matches_the_rules() {
    let target = tempfile::tempdir().unwrap();
    let copy = target.path().join("dashboards/rules");
    std::fs::create_dir_all(&copy).unwrap();
    std::fs::copy(
        monitoring_path("rules/atlas-ai-keys.yml"),
        copy.join("atlas-ai-keys.yml"),
    )
    .unwrap();
    let makefile = Path::new(env!("CARGO_MANIFEST_DIR")).join("Makefile");
    let mut make = Command::new("make");
    make.arg("-f")
        .arg(makefile)
        .arg("rules")
        .current_dir(target.path());
    let (code, _, error) = run_command(&mut make, b"");
    assert_eq!(code, Some(0), "{error}");
    let made = std::fs::read_to_string(copy.join("prometheus-rule.yml")).unwrap();
    assert_eq!(
        made,
        read_file("rules/prometheus-rule.yml"),
        "`make rules` makes it anew"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn exporter_serves_every_runbook() {
    let exporter = TestExporter::start(static_sim(1, 5), &[]).await;
    for alert in alert_names() {
        let (status, text) = exporter.get(&format!("/-/docs/runbooks/{alert}")).await;
        assert_eq!(
            (status, text),
            (200, read_file(&format!("runbooks/{alert}.md"))),
            "{alert}"
        );
    }
    assert_eq!(exporter.get("/-/docs/runbooks/Nothing").await.0, 404);
    exporter.stop().await.stop().await;
}
