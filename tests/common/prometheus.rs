//! A Prometheus server as a child process.

use std::collections::BTreeMap;
use std::process::Command;

use reqwest::Url;
use serde_json::Value;

use super::{ChildProcess, eventually, free_port, get};

/// A running Prometheus, killed on drop.
pub struct Prometheus {
    _process: ChildProcess,
    base_url: String,
    _storage: tempfile::TempDir,
}

/// One sample of a query result.
pub struct Sample {
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Prometheus {
    /// Starts a Prometheus that scrapes `target` every second.
    pub fn scraping(target: &str) -> Self {
        Self::scraping_with_flags(target, &[])
    }

    /// Starts a Prometheus that scrapes `target` every second, with additional flags.
    pub fn scraping_with_flags(target: &str, flags: &[&str]) -> Self {
        let job = format!("static_configs:\n  - targets: ['{target}']");
        Self::start(&[("atlas-ai-keys", &job)], flags)
    }

    /// Starts a Prometheus with these jobs, which are scraped every second.
    pub fn start(jobs: &[(&str, &str)], flags: &[&str]) -> Self {
        let storage = tempfile::tempdir().unwrap();
        let config = storage.path().join("prometheus.yml");
        let jobs = jobs.iter().map(|(name, job)| {
            format!("- job_name: {name}\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  {job}\n")
        });
        let text = format!("scrape_configs:\n{}", jobs.collect::<String>());
        std::fs::write(&config, text).unwrap();
        let base = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                storage.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={base}"))
            .args(flags);
        let mut program = ChildProcess::start(command);
        program.wait_for_output("Server is ready to receive web requests");
        Self {
            _process: program,
            base_url: format!("http://{base}"),
            _storage: storage,
        }
    }

    pub async fn query(&self, query: &str) -> Vec<Sample> {
        let url = Url::parse_with_params(
            &format!("{}/api/v1/query", self.base_url),
            [("query", query)],
        )
        .unwrap();
        let (status, text) = get(url.as_str()).await;
        assert_eq!(status, 200, "{query}: {text}");
        let response: Value = serde_json::from_str(&text).unwrap();
        let results = response["data"]["result"].as_array().unwrap();
        results
            .iter()
            .map(|result| Sample {
                labels: serde_json::from_value(result["metric"].clone()).unwrap(),
                value: result["value"][1].as_str().unwrap().parse().unwrap(),
            })
            .collect()
    }

    /// Queries until the result is not empty.
    pub async fn wait_samples(&self, query: &str) -> Vec<Sample> {
        eventually(query, async || {
            let samples = self.query(query).await;
            if samples.is_empty() {
                Err("no samples")
            } else {
                Ok(samples)
            }
        })
        .await
    }

    pub async fn wait_value(&self, query: &str) -> f64 {
        let samples = self.wait_samples(query).await;
        assert_eq!(samples.len(), 1, "{query}");
        samples[0].value
    }
}
