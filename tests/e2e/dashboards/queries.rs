//! The queries of dashboards, rules and documents return data and use existing names.

use std::collections::BTreeSet;
use std::path::Path;

use super::{DASHBOARDS, expressions, load_dashboard, query_text, read_repo_file};
use crate::common::documents::{Runner, code_blocks_of};
use crate::common::prometheus::Prometheus;
use crate::common::{Scrape, TestExporter, error_fault};
use atlas_ai_keys_exporter::metrics::families;
use mongodb_atlas_sim::{SimConfig, SimEndpoint};

/// Keywords of `PromQL` that are no names.
const PROMQL_KEYWORDS: &[&str] = &[
    "sum",
    "max",
    "min",
    "count",
    "group",
    "topk",
    "by",
    "on",
    "without",
    "ignoring",
    "group_left",
    "group_right",
    "and",
    "or",
    "unless",
    "bool",
    "offset",
    "inf",
    "nan",
    "vector",
    "start",
    "end",
    "m",
    "h",
    "d",
    "s",
];

/// Keywords followed by labels in parentheses.
const LABEL_LIST_KEYWORDS: [&str; 6] = [
    "by",
    "on",
    "without",
    "ignoring",
    "group_left",
    "group_right",
];

/// Returns the metric and label names in a query.
fn metric_and_label_names(expression: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut metrics, mut labels) = (BTreeSet::new(), BTreeSet::new());
    let (mut in_braces, mut in_text, mut of_labels) = (false, false, false);
    let mut current = String::new();
    let mut last = String::new();
    let mut chars = expression.chars().peekable();
    let mut end = |word: &mut String, next: char, in_braces: bool, of_labels: bool| {
        let taken = std::mem::take(word);
        if taken.is_empty() || taken.starts_with(|c: char| c.is_ascii_digit()) {
            return taken;
        }
        if in_braces {
            if "=!".contains(next) {
                labels.insert(taken.clone());
            }
        } else if of_labels {
            labels.insert(taken.clone());
        } else if next != '(' && !PROMQL_KEYWORDS.contains(&taken.as_str()) {
            metrics.insert(taken.clone());
        }
        taken
    };
    while let Some(c) = chars.next() {
        if in_text {
            in_text = c != '"';
            continue;
        }
        if c.is_ascii_alphanumeric() || c == '_' || c == ':' {
            current.push(c);
            continue;
        }
        // The next character determines the meaning of a word.
        let next = if c == ' ' {
            std::iter::once(c)
                .chain(chars.clone())
                .find(|c| *c != ' ')
                .unwrap_or(' ')
        } else {
            c
        };
        let word = end(&mut current, next, in_braces, of_labels);
        if !word.is_empty() {
            last = word;
        }
        match c {
            '"' => in_text = true,
            '{' => in_braces = true,
            '}' => in_braces = false,
            '[' => {
                for inner in chars.by_ref() {
                    if inner == ']' {
                        break;
                    }
                }
            }
            '(' => {
                of_labels = LABEL_LIST_KEYWORDS.contains(&last.as_str());
            }
            ')' => of_labels = false,
            _ => {}
        }
        if c != ' ' && c != '(' {
            last.clear();
        }
    }
    end(&mut current, ' ', in_braces, of_labels);
    (metrics, labels)
}

#[test]
fn metric_and_label_names_are_extracted() {
    let (metrics, labels) = metric_and_label_names(
        "topk by (a, b) (1, x_total{c=~\"y\", d!=\"z\"}) * on (e) group_left (f) 0 * rate(m:n[5m]) or vector(0) > 3e2",
    );
    assert_eq!(metrics.into_iter().collect::<Vec<_>>(), ["m:n", "x_total"]);
    assert_eq!(
        labels.into_iter().collect::<Vec<_>>(),
        ["a", "b", "c", "d", "e", "f"]
    );
}

/// Returns all queries of rules, runbooks and documents.
fn other_expressions() -> Vec<(String, String)> {
    let rules = crate::alerts::rule_expressions().into_iter();
    let mut all: Vec<_> = rules.map(|query| ("rule".to_owned(), query)).collect();
    for block in code_blocks_of(Runner::PromQl) {
        let queries = block.queries().into_iter();
        all.extend(queries.map(|query| (block.path.clone(), query)));
    }
    all
}

/// Starts a simulated Atlas with events, an exporter, and a Prometheus. Waits until Prometheus has scraped changes of keys and failed
/// polls of one organization.
async fn start_exporter_and_prometheus(dir: &Path) -> (TestExporter, Prometheus) {
    let world = SimConfig {
        orgs: 3,
        keys: 1200,
        speed: 3000.0,
        // Tokens are renewed while Prometheus scrapes.
        token_lifetime_seconds: 20,
        ..SimConfig::default()
    };
    let config = dir.join("config.yml");
    let text = "owners: [{projects: [\"search-*\"], owner: team-search}]\n\
        exemptions: [{name: \"*-prod-*\", reason: disaster recovery, until: 2999-12-31}]\n";
    std::fs::write(&config, text).unwrap();
    let flags = [
        "--atlas.poll-interval=1s".to_owned(),
        format!("--config.file={}", config.display()),
        format!("--storage.path={}", dir.join("state").display()),
    ];
    let exporter = TestExporter::start(world, &flags.each_ref().map(String::as_str)).await;
    exporter.wait_polled_with_names().await;
    let prometheus = Prometheus::scraping(&exporter.base_url.replace("http://", ""));
    prometheus
        .wait_samples("sum(increase(mongodbatlas_ai_model_api_key_changes_total[1h])) > 0")
        .await;
    let org = exporter.sim.org_ids()[0].clone();
    exporter
        .sim
        .add_fault(error_fault(SimEndpoint::AiModelApiKeys, Some(&org), 500));
    prometheus
        .wait_samples("sum(increase(atlas_ai_keys_exporter_org_poll_failures_total[1h])) > 0.5")
        .await;
    (exporter, prometheus)
}

#[tokio::test(flavor = "multi_thread")]
async fn dashboard_queries_return_data_and_use_existing_names() {
    let dir = tempfile::tempdir().unwrap();
    let (exporter, prometheus) = start_exporter_and_prometheus(dir.path()).await;
    for name in DASHBOARDS {
        for (what, expression) in expressions(&load_dashboard(name)) {
            let samples = prometheus.wait_samples(&query_text(&expression)).await;
            assert!(
                samples.iter().all(|sample| !sample.value.is_nan()),
                "{name}: {what}: {expression}"
            );
        }
    }
    let others = other_expressions();
    let runbook = "dashboards/runbooks/AtlasAiKeyStale.md";
    for source in ["rule", "README.md", "docs/metrics.md", runbook] {
        assert!(others.iter().any(|(what, _)| what == source), "{source}");
    }
    for (what, expression) in others {
        let expression = expression.replace("humanizeDuration", "");
        // The expression must have no template variable. `$1` is a group of `label_replace`.
        let without_groups = expression.replace("\"$1\"", "");
        assert!(!without_groups.contains('$'), "{what}: {expression}");
        prometheus.query(&expression).await;
    }
    assert_names_exist(&exporter.scrape().await);
    exporter.stop().await.stop().await;
}

fn assert_names_exist(scrape: &Scrape) {
    let prometheus_metrics = ["up", "scrape_duration_seconds", "scrape_samples_scraped"];
    let recorded = crate::alerts::recorded_names();
    let series = scrape.series();
    let exposed: BTreeSet<&str> = series.iter().map(|series| series.name.as_str()).collect();
    let mut known: BTreeSet<&str> = series
        .iter()
        .flat_map(|series| series.labels.keys())
        .map(String::as_str)
        .collect();
    // Prometheus adds `job` and `instance`, and the dashboards' `label_replace` adds `selected`.
    known.extend(["job", "instance", "selected"]);
    let mut used = BTreeSet::new();
    let panels = DASHBOARDS
        .iter()
        .flat_map(|name| expressions(&load_dashboard(name)));
    for (what, expression) in panels.chain(other_expressions()) {
        let (metrics, labels) = metric_and_label_names(&expression);
        for metric in metrics {
            let exists = exposed.contains(metric.as_str())
                || prometheus_metrics.contains(&metric.as_str())
                || recorded.contains(&metric);
            // The list of families also has the names of counters without an event yet.
            let exists = exists || families::ALL.iter().any(|family| family.name == metric);
            assert!(exists, "{what}: unknown metric {metric}: {expression}");
            // The reference has a query for every metric, used or not.
            if what != "docs/metrics.md" {
                used.insert(metric);
            }
        }
        for label in labels {
            assert!(
                known.contains(label.as_str()),
                "{what}: unknown label {label}: {expression}"
            );
        }
    }
    let read_me = read_repo_file("dashboards/README.md");
    let documented = read_me.split("for queries of your own").nth(1).unwrap();
    for family in families::ALL {
        let is_used =
            used.contains(family.name) || used.contains(&format!("{}_bucket", family.name));
        let is_documented = documented.contains(&format!("| `{}` |", family.name));
        assert!(
            is_used != is_documented,
            "{}: used {is_used}, documented as unused {is_documented}",
            family.name
        );
    }
}
