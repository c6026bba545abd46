//! The alerts: the shipped rule files equal the rendered mixin, other parameters render valid rules, the rule tests pass, and
//! each alert has tests and a runbook that the exporter serves.
mod mixin;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use atlas_ai_keys_exporter::metrics::families;
use serde_json::Value;

use crate::common::{TestExporter, run_command, static_sim};

/// The alerts of the default file: one for each project and cause.
const ALERTS: &[&str] = &[
    "AtlasAiKeysChurn",
    "AtlasAiKeysConfigBad",
    "AtlasAiKeysDisabledNotDeleted",
    "AtlasAiKeysDropped",
    "AtlasAiKeysExporterAbsent",
    "AtlasAiKeysExporterDown",
    "AtlasAiKeysNeverUsed",
    "AtlasAiKeysRevived",
    "AtlasAiKeysStale",
    "AtlasAiKeysStorageFailing",
    "AtlasAiKeysTooMany",
    "AtlasClientSecretExpiring",
    "AtlasExemptionUnmatched",
    "AtlasOrgAccessDenied",
    "AtlasOrgDataStale",
    "AtlasOrgPollFailing",
    "AtlasRequestBudgetTooSmall",
    "AtlasTokenTrouble",
];

/// The alerts of the optional file: one for each key.
const PER_KEY_ALERTS: &[&str] = &[
    "AtlasAiKeyCreated",
    "AtlasAiKeyNeverUsed",
    "AtlasAiKeyRevived",
    "AtlasAiKeyStale",
    "AtlasAiKeyWentQuiet",
];

fn dashboards_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("dashboards")
        .join(name)
}

fn read_file(name: &str) -> String {
    std::fs::read_to_string(dashboards_path(name)).unwrap()
}

/// Returns the names of the files in a folder.
fn file_names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

/// Runs a program in `dashboards` and returns its exit code, standard output and standard error.
fn run(program: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dashboards_path(""));
    run_command(&mut command, b"")
}

fn run_successfully(program: &str, arguments: &[&str]) -> String {
    let (code, output, error) = run(program, arguments);
    assert_eq!(code, Some(0), "{program} {arguments:?}: {output}{error}");
    output
}

/// All rules of both files. jsonnet takes seconds, and therefore evaluates the mixin only once.
static RULES: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let both = "local mixin = (import 'mixin/mixin.libsonnet') { _config+:: { perKeyAlerts: true } };
         std.flatMap(function(group) group.rules, mixin.prometheusRules.groups + mixin.prometheusAlerts.groups)";
    serde_json::from_str(&run_successfully("jsonnet", &["-e", both])).unwrap()
});

/// Returns the expressions of all rules.
pub(crate) fn rule_expressions() -> Vec<String> {
    let expressions = RULES.iter().map(|rule| rule["expr"].as_str().unwrap());
    expressions.map(|text| text.replace('\n', " ")).collect()
}

/// Returns the names of the recorded metrics.
pub(crate) fn recorded_names() -> BTreeSet<String> {
    let names = RULES.iter().filter_map(|rule| rule["record"].as_str());
    names.map(str::to_owned).collect()
}

/// Returns the names in a text that are metrics of this project or recorded metrics.
fn metric_names(text: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c: char| !is_name(c))
        .filter(|word| {
            word.starts_with("mongodbatlas_")
                || word.starts_with("atlas_ai_keys_exporter_")
                || (word.contains(":mongodbatlas_") || word.contains(":atlas_ai_keys_exporter_"))
        })
        .collect()
}

#[test]
fn rule_tests_pass() {
    let mut tests: Vec<String> = Vec::new();
    for folder in ["rules/tests", "rules/tests/cases"] {
        let names = file_names(&dashboards_path(folder));
        tests.extend(names.iter().map(|name| format!("{folder}/{name}")));
    }
    assert!(tests.len() > 35, "{tests:?}");
    // Two processes on two processors. Go's garbage collector would take a third of the processor time with its defaults.
    std::thread::scope(|scope| {
        for half in tests.chunks(tests.len().div_ceil(2)) {
            scope.spawn(move || {
                let mut promtool = Command::new("promtool");
                promtool
                    .args(["test", "rules"])
                    .args(half)
                    .envs([("GOGC", "400"), ("GOMAXPROCS", "1")])
                    .current_dir(dashboards_path(""));
                let (code, output, error) = run_command(&mut promtool, b"");
                assert_eq!(code, Some(0), "{output}{error}");
            });
        }
    });
}

#[test]
fn each_alert_has_tests_and_a_runbook() {
    let alerts: BTreeSet<&str> = ALERTS.iter().chain(PER_KEY_ALERTS).copied().collect();
    let with_extension = |extension: &str| -> BTreeSet<String> {
        let names = alerts.iter().map(|alert| format!("{alert}.{extension}"));
        names.collect()
    };
    assert_eq!(
        file_names(&dashboards_path("rules/tests")),
        with_extension("yml")
    );
    assert_eq!(
        file_names(&dashboards_path("runbooks")),
        with_extension("md")
    );
    for alert in alerts {
        let tests = read_file(&format!("rules/tests/{alert}.yml"));
        let own = format!("alertname: {alert}\n");
        let cases: Vec<&str> = tests.split(&own).skip(1).collect();
        let is_quiet = |case: &&&str| case.trim_start().starts_with("exp_alerts: []");
        let quiet = cases.iter().filter(is_quiet).count();
        // One case before the alert fires, and one after the alert has resolved.
        assert!(quiet > 1, "{alert}: {quiet} cases without the alert");
        let fires = cases
            .iter()
            .filter(|case| case.contains("exp_annotations:"));
        assert!(fires.count() > 0, "{alert}: no case with the alert");
        let runbook = read_file(&format!("runbooks/{alert}.md"));
        let headings: Vec<&str> = runbook
            .lines()
            .filter(|line| {
                line.starts_with("# ") && *line == format!("# {alert}") || line.starts_with("## ")
            })
            .collect();
        assert_eq!(
            headings,
            [
                &*format!("# {alert}"),
                "## Meaning",
                "## Impact",
                "## Diagnosis",
                "## Mitigation"
            ]
        );
        assert!(runbook.contains("```promql\n"), "{alert}");
        let scripts = runbook.split("```sh\n").skip(1);
        let scripts: Vec<&str> = scripts
            .map(|text| text.split("```").next().unwrap())
            .collect();
        assert!(!scripts.is_empty(), "{alert}: no commands");
        let mut shell = Command::new("bash");
        let (code, _, error) = run_command(shell.arg("-n"), scripts.concat().as_bytes());
        assert_eq!(code, Some(0), "{alert}: {error}");
    }
}

#[test]
fn alerts_match_the_contract_and_are_complete() {
    let mut names = BTreeSet::new();
    for rule in RULES.iter() {
        let Some(alert) = rule["alert"].as_str() else {
            continue;
        };
        names.insert(alert);
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(
            ["info", "warning", "critical"].contains(&severity),
            "{alert}"
        );
        for annotation in ["summary", "description"] {
            assert!(
                rule["annotations"][annotation].is_string(),
                "{alert}: {annotation}"
            );
        }
        assert_eq!(
            rule["annotations"]["runbook_url"],
            format!("/usr/share/doc/atlas-ai-keys-exporter/runbooks/{alert}.md")
        );
        // Names are only in annotations, because a rename must not start a new alert.
        for label in ["name", "project_name", "org_name"] {
            let expression = rule["expr"].as_str().unwrap();
            let is_joined = expression.contains(&format!(", {label}"))
                || expression.contains(&format!("({label}"));
            assert!(
                !is_joined || rule["labels"][label] == "",
                "{alert}: the alert has the label {label}"
            );
        }
        let expression = rule["expr"].as_str().unwrap();
        assert!(
            !expression.contains("max{threshold=") || rule["labels"]["threshold"] == "",
            "{alert}"
        );
        // A query in an annotation runs for each firing alert, and therefore returns at most five keys.
        let description = rule["annotations"]["description"].as_str().unwrap();
        for query in description.split("with query").skip(1) {
            let is_bounded = query.contains("topk(5, ") || query.contains("max by (reason)");
            assert!(is_bounded, "{alert}: {query}");
        }
    }
    let expected: BTreeSet<&str> = ALERTS.iter().chain(PER_KEY_ALERTS).copied().collect();
    assert_eq!(names, expected);
    let optional = read_file("rules/atlas-ai-keys-per-key.yml");
    let default = read_file("rules/atlas-ai-keys.yml");
    for (text, own, other) in [
        (&default, ALERTS, PER_KEY_ALERTS),
        (&optional, PER_KEY_ALERTS, ALERTS),
    ] {
        let has = |name: &&str| text.contains(&format!("alert: \"{name}\"\n"));
        assert!(own.iter().all(has) && !other.iter().any(has));
    }
}

#[test]
fn rules_read_existing_metrics() {
    let recorded = recorded_names();
    let mut read = BTreeSet::new();
    for rule in RULES.iter() {
        for text in [&rule["expr"], &rule["annotations"]["description"]] {
            let text = text.as_str().unwrap_or_default();
            read.extend(metric_names(text).into_iter().map(str::to_owned));
        }
    }
    let exists = |name: &String| {
        recorded.contains(name) || families::ALL.iter().any(|family| family.name == name)
    };
    let unknown: Vec<&String> = read.iter().filter(|name| !exists(name)).collect();
    assert!(unknown.is_empty(), "unknown metrics: {unknown:?}");
    let unread: Vec<&String> = recorded.difference(&read).collect();
    assert!(unread.is_empty(), "recorded but not read: {unread:?}");
}

#[test]
fn alertmanager_example_routes_by_owner() {
    let file = "alertmanager.example.yml";
    run_successfully("amtool", &["check-config", file]);
    for (labels, receiver) in [
        (
            &[
                "alertname=AtlasAiKeysStale",
                "severity=warning",
                "owner=team-search",
            ][..],
            "team-search",
        ),
        (
            &[
                "alertname=AtlasAiKeyStale",
                "severity=warning",
                "owner=team-assistant",
            ],
            "team-assistant",
        ),
        (
            &[
                "alertname=AtlasAiKeysStale",
                "severity=warning",
                "owner=unknown",
            ],
            "platform",
        ),
        (
            &["alertname=AtlasAiKeysStale", "severity=warning"],
            "platform",
        ),
        (
            &[
                "alertname=AtlasAiKeysDisabledNotDeleted",
                "severity=info",
                "owner=team-search",
            ],
            "team-search",
        ),
        (
            &["alertname=AtlasAiKeysDisabledNotDeleted", "severity=info"],
            "low-priority",
        ),
        (
            &[
                "alertname=AtlasOrgAccessDenied",
                "severity=warning",
                "org_id=o",
            ],
            "platform",
        ),
        (
            &[
                "alertname=AtlasOrgDataStale",
                "severity=critical",
                "org_id=o",
            ],
            "on-call",
        ),
        // Alerts of other rules have the default receiver.
        (&["alertname=NodeDown", "severity=critical"], "platform"),
    ] {
        let mut arguments = vec!["config", "routes", "test", "--config.file", file];
        arguments.extend(labels);
        arguments.push("--verify.receivers");
        arguments.push(receiver);
        run_successfully("amtool", &arguments);
    }
    // Each target of an inhibition requires the last label in `equal`.
    let text = read_file(file);
    for rule in text.split("- source_matchers:").skip(1) {
        let equal = rule
            .split("equal: [")
            .nth(1)
            .unwrap()
            .split(']')
            .next()
            .unwrap();
        let last = equal.split(", ").last().unwrap();
        assert!(rule.contains(&format!("{last}=~\".+\"")), "{rule}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exporter_serves_every_runbook() {
    let exporter = TestExporter::start(static_sim(1, 5), &[]).await;
    for alert in ALERTS.iter().chain(PER_KEY_ALERTS) {
        let (status, text) = exporter.get(&format!("/-/docs/runbooks/{alert}")).await;
        assert!(
            status == 200 && text.contains(alert) && text.contains("Mitigation"),
            "{alert}: {status} {text}"
        );
    }
    assert_eq!(exporter.get("/-/docs/runbooks/Nothing").await.0, 404);
    exporter.stop().await.stop().await;
}
