//! Prometheus and Alertmanager, with the rules of the mixin and shortened times.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use reqwest::Url;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{ChildProcess, eventually, free_port, get, run_command};

/// Returns a path below `dashboards`.
pub(super) fn dashboards(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("dashboards")
        .join(path)
}

/// The rule files with the times of the drill, rendered once for all tests: `(name, content)`.
static RULE_FILES: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let mut jsonnet = Command::new("jsonnet");
    jsonnet
        .args(["-S", "-m"])
        .arg(folder.path())
        .arg("--tla-code-file")
        .arg(format!(
            "config={}",
            dashboards("drill/parameters.jsonnet").display()
        ))
        .arg(dashboards("mixin/render.jsonnet"));
    let (code, _, error) = run_command(&mut jsonnet, b"");
    assert_eq!(code, Some(0), "{error}");
    let entries = std::fs::read_dir(folder.path()).unwrap();
    let read = |entry: std::fs::DirEntry| {
        let content = std::fs::read_to_string(entry.path()).unwrap();
        (entry.file_name().into_string().unwrap(), content)
    };
    entries.map(|entry| read(entry.unwrap())).collect()
});

/// Address and `instance` label of a target.
pub(super) type Target = (String, String);

/// An Alertmanager, killed on drop.
pub(super) struct Alertmanager {
    _process: ChildProcess,
    _folder: TempDir,
    pub(super) address: String,
}

/// An alert in Alertmanager.
pub(super) struct Alert {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    /// Whether another alert inhibits its notifications.
    pub(super) is_inhibited: bool,
}

impl Alertmanager {
    pub(super) fn start(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("alertmanager.yml"), config).unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new("prometheus-alertmanager");
        command
            .arg(format!(
                "--config.file={}",
                path("alertmanager.yml").display()
            ))
            .arg(format!("--storage.path={}", path("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=");
        let mut process = ChildProcess::start(command);
        process.wait_for_output("Listening on");
        Self {
            _process: process,
            _folder: folder,
            address,
        }
    }

    /// Returns the alerts that have not resolved. Panics if an annotation is missing or not expanded.
    pub(super) async fn alerts(&self) -> Vec<Alert> {
        let (status, text) = get(&format!("http://{}/api/v2/alerts", self.address)).await;
        assert_eq!(status, 200, "{text}");
        let alerts: Vec<Value> = serde_json::from_str(&text).unwrap();
        let alerts = alerts.into_iter().map(|alert| {
            let annotations: BTreeMap<String, String> =
                serde_json::from_value(alert["annotations"].clone()).unwrap();
            for annotation in ["summary", "description", "runbook_url"] {
                let text = annotations.get(annotation).map_or("", String::as_str);
                let is_complete = !text.is_empty()
                    && !text.contains("<no value>")
                    && !text.contains("error expanding");
                assert!(is_complete, "{alert}");
            }
            Alert {
                labels: serde_json::from_value(alert["labels"].clone()).unwrap(),
                annotations,
                is_inhibited: alert["status"]["inhibitedBy"] != json!([]),
            }
        });
        alerts.collect()
    }
}

/// A Prometheus that evaluates the rules of the drill, killed on drop.
pub(super) struct RuleEvaluator {
    _process: ChildProcess,
    folder: TempDir,
    query_url: String,
}

impl RuleEvaluator {
    /// Starts a Prometheus with these rule files. Its alerts have the label `drill` with the value `name`.
    pub(super) fn start(
        name: &str,
        rule_files: &[&str],
        alertmanager: &Alertmanager,
        targets: &[Target],
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (file, content) in RULE_FILES.iter() {
            std::fs::write(folder.path().join(file), content).unwrap();
        }
        let address = format!("127.0.0.1:{}", free_port());
        let config = json!({
            "global": {
                "scrape_interval": "1s",
                "scrape_timeout": "1s",
                // Annotations with queries take the most processor time.
                "evaluation_interval": "3s",
                "external_labels": {"drill": name},
            },
            "rule_files": rule_files,
            "alerting": {
                "alertmanagers": [{"static_configs": [{"targets": [alertmanager.address]}]}],
            },
            "scrape_configs": [{
                "job_name": "atlas-ai-keys",
                "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": "1s"}],
            }],
        });
        let path = folder.path().join("prometheus.yml");
        // JSON is valid YAML.
        std::fs::write(&path, config.to_string()).unwrap();
        let data = folder.path().join("data");
        let evaluator_url = format!("http://{address}/api/v1/query");
        write_targets(folder.path(), targets);
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address={address}"));
        let mut process = ChildProcess::start(command);
        process.wait_for_output("Server is ready to receive web requests");
        Self {
            _process: process,
            folder,
            query_url: evaluator_url,
        }
    }

    pub(super) fn set_targets(&self, targets: &[Target]) {
        write_targets(self.folder.path(), targets);
    }

    /// Waits until Prometheus has scraped each instance at least `scrapes` times.
    pub(super) async fn wait_scraped(&self, instances: usize, scrapes: u64) {
        let query = format!("count(sum_over_time(up[1m]) >= {scrapes})");
        let url = Url::parse_with_params(&self.query_url, [("query", &*query)]).unwrap();
        let expected = Value::from(instances.to_string());
        eventually("scrapes of every instance", async || {
            let (_, text) = get(url.as_str()).await;
            let response: Value = serde_json::from_str(&text).unwrap();
            let is_complete = response["data"]["result"][0]["value"][1] == expected;
            is_complete.then_some(()).ok_or(text)
        })
        .await;
    }
}

/// Replaces the targets of file-based service discovery.
fn write_targets(folder: &Path, targets: &[Target]) {
    let targets: Vec<Value> = targets
        .iter()
        .map(|(address, name)| json!({"targets": [address], "labels": {"instance": name}}))
        .collect();
    let new = folder.join("targets.json.new");
    std::fs::write(&new, Value::from(targets).to_string()).unwrap();
    std::fs::rename(new, folder.join("targets.json")).unwrap();
}
