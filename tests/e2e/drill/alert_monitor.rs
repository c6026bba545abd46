//! A Prometheus that evaluates the alerts over all instances of a drill.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use super::{DRILL_CASES, DrillInstance, read_repo_file};
use crate::common::{ChildProcess, eventually, free_port, get, run_command};
use reqwest::Url;
use serde_json::Value;
use tempfile::TempDir;

/// Prometheus and Alertmanager, with the configuration of `dashboards/drill`.
pub(super) struct AlertMonitor {
    _alertmanager: ChildProcess,
    _prometheus: ChildProcess,
    _folder: TempDir,
    alerts: String,
    query: String,
}

impl AlertMonitor {
    pub(super) fn start(instances: &[DrillInstance]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let shorten = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards/drill/shorten");
        let (code, rules, error) = run_command(
            &mut Command::new(shorten),
            read_repo_file("rules/atlas-ai-keys.yml").as_bytes(),
        );
        assert_eq!(code, Some(0), "{error}");
        assert!(rules.matches("for: 3s").count() > 15 && !rules.contains("for: 15m"));
        std::fs::write(path("rules.yml"), rules).unwrap();
        std::fs::write(
            path("alertmanager.yml"),
            read_repo_file("drill/alertmanager.yml"),
        )
        .unwrap();
        let (alertmanager, prometheus) = (free_port(), free_port());
        let target = "      - targets: ['127.0.0.1:10064']\n";
        let mut targets = String::new();
        for (instance, case) in instances.iter().zip(&DRILL_CASES) {
            let _ = write!(
                targets,
                "      - targets: ['{}']\n        labels: {{instance: {}}}\n",
                instance.address, case.name
            );
        }
        let config = read_repo_file("drill/prometheus.yml");
        assert!(config.contains(target));
        let config = config
            .replace(target, &targets)
            .replace("127.0.0.1:19093", &format!("127.0.0.1:{alertmanager}"))
            .replace("_interval: 5s", "_interval: 1s");
        std::fs::write(path("prometheus.yml"), config).unwrap();
        let mut command = Command::new("prometheus-alertmanager");
        command
            .arg(format!(
                "--config.file={}",
                path("alertmanager.yml").display()
            ))
            .arg(format!("--storage.path={}", path("alertmanager").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{alertmanager}"))
            .arg("--cluster.listen-address=");
        let mut manager = ChildProcess::start(command);
        manager.wait_for_output("Listening on");
        let mut command = Command::new("prometheus");
        command
            .arg(format!(
                "--config.file={}",
                path("prometheus.yml").display()
            ))
            .arg(format!("--storage.tsdb.path={}", path("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{prometheus}"));
        let mut server = ChildProcess::start(command);
        server.wait_for_output("Server is ready to receive web requests");
        Self {
            _alertmanager: manager,
            _prometheus: server,
            _folder: folder,
            alerts: format!("http://127.0.0.1:{alertmanager}/api/v2/alerts"),
            query: format!("http://127.0.0.1:{prometheus}/api/v1/query"),
        }
    }

    /// Waits until Prometheus has seen each instance healthy for some scrapes.
    pub(super) async fn wait_scraped(&self) {
        let query = "count(sum_over_time(up[1m]) >= 5)";
        let url = Url::parse_with_params(&self.query, [("query", query)]).unwrap();
        let expected = Value::from(DRILL_CASES.len().to_string());
        eventually("scrapes of every instance", async || {
            let (_, text) = get(url.as_str()).await;
            let response: Value = serde_json::from_str(&text).unwrap();
            let is_complete = response["data"]["result"][0]["value"][1] == expected;
            is_complete.then_some(()).ok_or(text)
        })
        .await;
    }

    /// Returns the labels of each alert in Alertmanager.
    pub(super) async fn alerts(&self) -> Vec<BTreeMap<String, String>> {
        let (status, text) = get(&self.alerts).await;
        assert_eq!(status, 200, "{text}");
        let alerts: Vec<Value> = serde_json::from_str(&text).unwrap();
        alerts
            .iter()
            .map(|alert| {
                for annotation in ["summary", "description", "runbook_url"] {
                    let text = alert["annotations"][annotation]
                        .as_str()
                        .unwrap_or_default();
                    assert!(
                        !text.is_empty()
                            && !text.contains("<no value>")
                            && !text.contains("error expanding"),
                        "{alert}"
                    );
                }
                serde_json::from_value(alert["labels"].clone()).unwrap()
            })
            .collect()
    }
}
