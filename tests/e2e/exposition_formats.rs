//! The exposition, read by other parsers: the Python parser of `OpenMetrics`, promtool,
//! and Prometheus itself, with hostile names.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use crate::common::prometheus::Prometheus;
use crate::common::{ChildProcess, Scrape, run_command, sim_env, static_sim};
use axum::Router;
use axum::http::header;
use axum::routing::get as route;
use mongodb_atlas_sim::{SimHandle, SimKey};
use tokio::net::TcpListener;

/// Names with characters that parsers have failed on, and names in many writing systems.
fn hostile_names() -> Vec<String> {
    let mut names: Vec<String> = [
        "",
        " ",
        "\"",
        "\\",
        "\n",
        "\\n",
        "\\\"",
        "\"\n\\",
        "a\0b",
        "\r\n",
        "\t",
        "{}",
        "} 1\n",
        "# EOF\n",
        "# HELP x y\n",
        "x{y=\"z\"} 1 # {a=\"b\"} 2",
        "\u{feff}bom",
        "\u{202e}right to left",
        "\u{2028}",
        "e\u{301}",
        "👩‍👩‍👧‍👦",
        "\u{10ffff}",
        "\u{7f}\u{80}\u{9f}",
        "NaN",
        "+Inf",
        "名前",
        "שם",
        "اسم",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let length = rng.usize(0..30);
        names.push((0..length).map(|_| rng.char(..)).collect());
    }
    names
}

/// Returns a simulated Atlas with a key of each name.
async fn hostile_names_sim() -> SimHandle {
    let sim = crate::common::start_sim(static_sim(1, 20)).await;
    sim.with_world(|world| {
        let org = world.org_ids()[0].clone();
        let like = world.keys(&org)[0].clone();
        for (n, name) in hostile_names().into_iter().enumerate() {
            let key = SimKey {
                id: format!("wild{n}"),
                name,
                ..like.clone()
            };
            world.insert_key(&org, key);
        }
    });
    sim
}

fn key_names(sim: &SimHandle) -> BTreeMap<String, String> {
    crate::common::expected_sim_keys(sim)
        .into_iter()
        .map(|(id, (name, ..))| (id, name))
        .collect()
}

fn start_exporter(sim: &SimHandle) -> (ChildProcess, String) {
    let mut program = ChildProcess::exporter(&["--web.listen-address=127.0.0.1:0"], &sim_env(sim));
    let address = program.wait_for_output("address=");
    program.wait_for_output("poll succeeded");
    (program, address)
}

async fn fetch(address: &str, accept: &str) -> String {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client
        .get(format!("http://{address}/metrics"))
        .header("accept", accept);
    request.send().await.unwrap().text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_accepts_hostile_names() {
    let sim = hostile_names_sim().await;
    let (program, address) = start_exporter(&sim);
    let text = fetch(&address, "text/plain").await;
    let series = Scrape::parse(&text);
    let info = series.with_name("mongodbatlas_ai_model_api_key_info");
    let names = info.map(|it| (it.labels["api_key_id"].clone(), it.labels["name"].clone()));
    assert_eq!(names.collect::<BTreeMap<_, _>>(), key_names(&sim));
    let (code, output, error) = run_command(
        Command::new("promtool").args(["check", "metrics"]),
        text.as_bytes(),
    );
    assert_eq!((code, output.as_str(), error.as_str()), (Some(0), "", ""));
    drop(program);
    sim.stop().await;
}

/// Prints every sample that the parser reads, as JSON.
const OPENMETRICS_READER: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
text = sys.stdin.buffer.read().decode('utf-8')
samples = []
for family in text_string_to_metric_families(text):
    for sample in family.samples:
        samples.append({'family': family.name, 'type': family.type, 'unit': family.unit,
                        'name': sample.name, 'labels': sample.labels, 'value': sample.value})
print(json.dumps(samples))
";

#[tokio::test(flavor = "multi_thread")]
async fn openmetrics_reference_parser_accepts_the_exposition() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/python");
    assert!(python.exists(), "`make test` installs what the tests need");
    let sim = hostile_names_sim().await;
    let (program, address) = start_exporter(&sim);
    let text = fetch(&address, "application/openmetrics-text;version=1.0.0").await;
    let (code, output, error) = run_command(
        Command::new(python).args(["-c", OPENMETRICS_READER]),
        text.as_bytes(),
    );
    assert_eq!(code, Some(0), "{error}");
    let samples: Vec<serde_json::Value> = serde_json::from_str(&output).unwrap();
    let read: BTreeSet<(String, BTreeMap<String, String>, String)> = samples
        .iter()
        .map(|sample| {
            (
                sample["name"].as_str().unwrap().to_owned(),
                serde_json::from_value(sample["labels"].clone()).unwrap(),
                format!("{:?}", sample["value"].as_f64().unwrap()),
            )
        })
        .collect();
    // Bounds are compared as text.
    let written: BTreeSet<_> = Scrape::parse(&text)
        .series()
        .into_iter()
        .map(|series| (series.name, series.labels, format!("{:?}", series.value)))
        .collect();
    assert_eq!(read, written);
    let names: BTreeMap<String, String> = read
        .iter()
        .filter(|(name, ..)| name == "mongodbatlas_ai_model_api_key_info")
        .map(|(_, labels, _)| (labels["api_key_id"].clone(), labels["name"].clone()))
        .collect();
    assert_eq!(names, key_names(&sim));
    let family = |name: &str| {
        let found = samples
            .iter()
            .find(|sample| sample["name"] == name)
            .unwrap();
        [&found["family"], &found["type"], &found["unit"]]
            .map(|name| name.as_str().unwrap().to_owned())
    };
    assert_eq!(
        family("mongodbatlas_ai_model_api_key_info"),
        ["mongodbatlas_ai_model_api_key", "info", ""]
    );
    assert_eq!(
        family("mongodbatlas_ai_model_api_key_idle_seconds"),
        [
            "mongodbatlas_ai_model_api_key_idle_seconds",
            "gauge",
            "seconds"
        ]
    );
    assert_eq!(
        family("mongodbatlas_ai_model_api_key_changes_total"),
        ["mongodbatlas_ai_model_api_key_changes", "counter", ""]
    );
    drop(program);
    sim.stop().await;
}

/// Starts a Prometheus that scrapes the exporter, and compares the stored names.
async fn assert_ingested(sim: &SimHandle, target: &str, features: &[&str]) {
    let prometheus = Prometheus::scraping_with_flags(target, features);
    prometheus.wait_samples("up == 1").await;
    let samples = prometheus
        .wait_samples("mongodbatlas_ai_model_api_key_info")
        .await;
    let names: BTreeMap<String, String> = samples
        .into_iter()
        .map(|sample| {
            // Prometheus drops empty labels.
            let name = sample.labels.get("name").cloned().unwrap_or_default();
            (sample.labels["api_key_id"].clone(), name)
        })
        .collect();
    assert_eq!(names, key_names(sim));
    let keys = prometheus
        .wait_value("sum(mongodbatlas_ai_model_api_keys)")
        .await;
    assert_eq!(keys.to_string(), key_names(sim).len().to_string());
    let requests = prometheus
        .wait_value("atlas_ai_keys_exporter_api_request_duration_seconds_count{operation=\"ai_model_api_keys\"}")
        .await;
    assert!(requests >= 1.0);
}

/// A proxy that requests one format, because an old Prometheus has no setting for the format.
async fn accept_rewriting_proxy(target: String, accept: &'static str) -> String {
    let pass_on = move || {
        let target = target.clone();
        async move {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let request = client
                .get(format!("http://{target}/metrics"))
                .header("accept", accept);
            let response = request.send().await.unwrap();
            let content_type = response.headers()["content-type"].clone();
            (
                [(header::CONTENT_TYPE, content_type)],
                response.bytes().await.unwrap(),
            )
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        axum::serve(listener, Router::new().route("/metrics", route(pass_on))).await
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_ingests_text() {
    let sim = hostile_names_sim().await;
    let (program, address) = start_exporter(&sim);
    let target = accept_rewriting_proxy(address, "text/plain;version=0.0.4").await;
    assert_ingested(&sim, &target, &[]).await;
    drop(program);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_ingests_openmetrics() {
    let sim = hostile_names_sim().await;
    let (program, address) = start_exporter(&sim);
    assert_ingested(&sim, &address, &[]).await;
    drop(program);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_with_native_histograms_ingests_openmetrics() {
    let sim = hostile_names_sim().await;
    let (program, address) = start_exporter(&sim);
    assert_ingested(&sim, &address, &["--enable-feature=native-histograms"]).await;
    drop(program);
    sim.stop().await;
}
