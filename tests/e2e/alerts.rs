//! The rules: promtool accepts them and their tests, and each alert has a test with firing and not
//! firing cases, and a runbook that the exporter serves.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Lab, run, still};
use exporter_toolkit::yaml::{self, YamlValue};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("dashboards")
        .join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

/// The names of the files in a folder, without their ending.
fn files(folder: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(path(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().path());
    names
        .filter(|path| path.is_file())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect()
}

/// Every rule of the rules file.
fn rules() -> Vec<YamlValue> {
    let YamlValue::Mapping(root) = yaml::load_file(&path("rules/atlas-ai-keys.yml")).unwrap()
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

fn text<'a>(rule: &'a YamlValue, member: &str) -> Option<&'a str> {
    rule.get(member)?.as_str()
}

fn alerts() -> BTreeSet<String> {
    let rules = rules();
    rules
        .iter()
        .filter_map(|rule| text(rule, "alert"))
        .map(str::to_owned)
        .collect()
}

fn promtool(arguments: &[&str]) {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(path("rules"));
    let (code, output, error) = run(&mut command, b"");
    assert_eq!(code, Some(0), "{output}{error}");
}

#[test]
fn promtool_accepts_the_rules_and_their_tests() {
    promtool(&["check", "rules", "atlas-ai-keys.yml"]);
    for name in files("rules/tests") {
        promtool(&["test", "rules", &format!("tests/{name}.yml")]);
    }
    promtool(&["test", "rules", "no-false-alarms.yml"]);
}

#[test]
fn each_alert_has_a_test_a_runbook_and_words() {
    let alerts = alerts();
    assert!(alerts.len() >= 15);
    assert_eq!(files("rules/tests"), alerts, "one file of tests an alert");
    assert_eq!(files("runbooks"), alerts, "one runbook an alert");
    for alert in &alerts {
        let tests = read(&format!("rules/tests/{alert}.yml"));
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
        let runbook = read(&format!("runbooks/{alert}.md"));
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
    for rule in rules() {
        let Some(alert) = text(&rule, "alert") else {
            continue;
        };
        // two polls at the usual interval are ten minutes
        assert_eq!(text(&rule, "for"), Some("15m"), "{alert}");
        let severity = rule
            .get("labels")
            .and_then(|labels| text(labels, "severity"));
        assert!(
            ["info", "warning", "critical"].contains(&severity.unwrap_or_default()),
            "{alert}"
        );
        let annotations = rule.get("annotations").unwrap();
        for member in ["summary", "description"] {
            assert!(
                text(annotations, member).is_some_and(|words| words.contains("{{")),
                "{alert}: {member} names what it is about"
            );
        }
        let runbook = format!("http://localhost:10064/-/docs/runbooks/{alert}");
        assert_eq!(text(annotations, "runbook_url"), Some(runbook.as_str()));
    }
}

#[test]
fn thresholds_are_said_once() {
    let rules = rules();
    let thresholds: BTreeSet<&str> = rules
        .iter()
        .filter_map(|rule| text(rule, "record"))
        .filter(|name| name.contains(":threshold_"))
        .collect();
    assert!(thresholds.len() > 8);
    let all: String = rules
        .iter()
        .filter(|rule| text(rule, "alert").is_some())
        .filter_map(|rule| text(rule, "expr"))
        .collect();
    for threshold in thresholds {
        assert!(all.contains(threshold), "{threshold} is used");
    }
}

#[test]
fn the_manifest_is_made_from_the_same_rules() {
    let target = tempfile::tempdir().unwrap();
    let copy = target.path().join("dashboards/rules");
    std::fs::create_dir_all(&copy).unwrap();
    std::fs::copy(
        path("rules/atlas-ai-keys.yml"),
        copy.join("atlas-ai-keys.yml"),
    )
    .unwrap();
    let makefile = Path::new(env!("CARGO_MANIFEST_DIR")).join("Makefile");
    let mut make = Command::new("make");
    make.arg("-f")
        .arg(makefile)
        .arg("rules")
        .current_dir(target.path());
    let (code, _, error) = run(&mut make, b"");
    assert_eq!(code, Some(0), "{error}");
    let made = std::fs::read_to_string(copy.join("prometheus-rule.yml")).unwrap();
    assert_eq!(
        made,
        read("rules/prometheus-rule.yml"),
        "`make rules` makes it anew"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exporter_serves_every_runbook() {
    let lab = Lab::start(still(1, 5), &[]).await;
    for alert in alerts() {
        let (status, text) = lab.get(&format!("/-/docs/runbooks/{alert}")).await;
        assert_eq!(
            (status, text),
            (200, read(&format!("runbooks/{alert}.md"))),
            "{alert}"
        );
    }
    assert_eq!(lab.get("/-/docs/runbooks/Nothing").await.0, 404);
    lab.stop().await.stop().await;
}
