//! The notifications of the first hour on the demo, with Prometheus and with Alertmanager and its example configuration. The
//! intervals of Alertmanager are shortened, so that the hour takes 20 seconds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;

use super::alert_monitor::{Alertmanager, RuleEvaluator, Target, dashboards};
use crate::common::{ChildProcess, Scrape};

/// Speed factor of the first hour.
const SCALE: u32 = 180;
/// Maximum number of alerts.
const MAX_ALERTS: usize = 60;
/// Maximum size of one notification, in bytes.
const MAX_BODY: usize = 32 << 10;

/// Returns the example configuration of Alertmanager with intervals divided by `scale`, and receivers that post to `webhook`.
pub(super) fn alertmanager_config(webhook: &str, scale: u32) -> String {
    let example = std::fs::read_to_string(dashboards("alertmanager.example.yml")).unwrap();
    let mut config = String::new();
    let mut receivers = Vec::new();
    let mut section = "";
    for line in example.lines() {
        let text = line.trim_start().trim_start_matches("- ");
        if !line.starts_with([' ', '#', '-']) && !line.is_empty() {
            section = line;
        }
        if section.starts_with("receivers:") {
            receivers.extend(
                text.strip_prefix("name: ")
                    .filter(|_| line.contains("- name:")),
            );
            continue;
        }
        let interval = ["group_wait: ", "group_interval: ", "repeat_interval: "]
            .into_iter()
            .find_map(|name| Some((name, text.strip_prefix(name)?)));
        match interval {
            Some((name, value)) => {
                let value = value.split('#').next().unwrap_or_default().trim();
                let value: Duration = humantime::parse_duration(value).unwrap();
                let indent = &line[..line.len() - line.trim_start().len()];
                let millis = (value / scale).as_millis();
                let _ = writeln!(config, "{indent}{name}{millis}ms");
            }
            None => {
                let _ = writeln!(config, "{line}");
            }
        }
    }
    assert!(!receivers.is_empty(), "{example}");
    config.push_str("receivers:\n");
    for receiver in receivers {
        let receiver = format!("- name: {receiver}\n  webhook_configs: [{{url: '{webhook}'}}]");
        let _ = writeln!(config, "{receiver}");
    }
    config
}

/// Starts a webhook that stores the bodies of notifications. Returns its URL and the bodies.
async fn start_receiver() -> (String, Arc<Mutex<Vec<Bytes>>>) {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let received = Arc::clone(&bodies);
    let store = move |body: Bytes| async move { received.lock().unwrap().push(body) };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let router = Router::new().route("/", post(store));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, bodies)
}

#[tokio::test(flavor = "multi_thread")]
async fn first_hour_on_the_demo_has_at_most_one_alert_for_each_project_and_cause() {
    let mut exporter = ChildProcess::exporter(
        &[
            "demo",
            "--web.listen-address=127.0.0.1:0",
            "--atlas.poll-interval=1s",
        ],
        &[],
    );
    let address = exporter.wait_for_output("address=");
    exporter
        .wait_scrape(&address, "all organizations", |scrape: &Scrape| {
            scrape.sum("atlas_ai_keys_exporter_org_up") >= 3.0
                && scrape.with_name("mongodbatlas_project_info").count() >= 18
        })
        .await;
    let (webhook, bodies) = start_receiver().await;
    let alertmanager = Alertmanager::start(&alertmanager_config(&webhook, SCALE));
    let targets: Vec<Target> = vec![(address, "demo".to_owned())];
    let evaluator = RuleEvaluator::start("demo", &["atlas-ai-keys.yml"], &alertmanager, &targets);
    // Until the first scrape, an alert reports that the exporter is absent.
    evaluator.wait_scraped(1, 5).await;
    // The hour must pass completely: the test counts the notifications within this time.
    tokio::time::sleep(Duration::from_hours(1) / SCALE).await;
    let alerts = alertmanager.alerts().await;
    let mut by_name = BTreeMap::<&str, usize>::new();
    let mut by_cause = BTreeMap::<(&str, &str, &str), usize>::new();
    for alert in &alerts {
        let label = |name: &str| alert.labels.get(name).map_or("", String::as_str);
        *by_name.entry(label("alertname")).or_default() += 1;
        let cause = (label("alertname"), label("org_id"), label("project_id"));
        *by_cause.entry(cause).or_default() += 1;
        let description = &alert.annotations["description"];
        assert!(description.len() < 2000, "{description}");
    }
    let bodies = bodies.lock().unwrap();
    let largest = bodies.iter().map(Bytes::len).max().unwrap_or(0);
    let notified: usize = bodies
        .iter()
        .map(|body| {
            let body: Value = serde_json::from_slice(body).unwrap();
            body["alerts"].as_array().unwrap().len()
        })
        .sum();
    println!(
        "\nFirst hour on the demo (3 organizations, 18 projects, 1,200 keys): {} alerts {by_name:?}, \
         {} notifications with {notified} alerts in all, the largest {largest} bytes",
        alerts.len(),
        bodies.len(),
    );
    assert!(
        !bodies.is_empty() && bodies.len() <= alerts.len() * 2,
        "{}",
        bodies.len()
    );
    assert!(by_cause.values().all(|alerts| *alerts == 1), "{by_cause:?}");
    assert!(
        !alerts.is_empty() && alerts.len() <= MAX_ALERTS,
        "{by_cause:?}"
    );
    assert!(largest <= MAX_BODY, "{largest} bytes");
    assert!(
        alerts
            .iter()
            .any(|alert| alert.labels.contains_key("owner")),
        "no alert has the owner of its project"
    );
}
