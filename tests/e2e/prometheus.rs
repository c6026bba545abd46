//! The main purpose, end to end: the exporter's binary polls the simulated Atlas, a Prometheus
//! scrapes it, and the query results match the simulator's state.
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::common::prometheus::Prometheus;
use crate::common::{
    ChildProcess, TestExporter, eventually, get, run_command, sim_env, static_sim, wait_timeout,
};
use jiff::Timestamp;
use mongodb_atlas_sim::SimHandle;

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_data_matches_the_simulator() {
    let sim = crate::common::start_sim(static_sim(3, 1200)).await;
    let mut exporter =
        ChildProcess::exporter(&["--web.listen-address=127.0.0.1:0"], &sim_env(&sim));
    let prometheus = Prometheus::scraping(&exporter.wait_for_output("address="));
    prometheus
        .wait_samples("count(atlas_ai_keys_exporter_org_up == 1) == 3")
        .await;
    assert_eq!(prometheus.wait_value("up == 1").await, 1.0);
    assert_status_counts(&prometheus, &sim).await;
    assert_ages(&prometheus, &sim).await;
    assert_names_unchanged(&prometheus, &sim).await;
    assert_aggregates_match(&prometheus).await;
    sim.stop().await;
}

async fn assert_status_counts(prometheus: &Prometheus, sim: &SimHandle) {
    let counts = prometheus
        .wait_samples("sum by (status) (mongodbatlas_ai_model_api_keys)")
        .await;
    let counts: BTreeMap<String, String> = counts
        .iter()
        .map(|sample| (sample.labels["status"].clone(), sample.value.to_string()))
        .collect();
    let expected: BTreeMap<String, String> = sim
        .with_world(|world| world.count_by_status())
        .into_iter()
        .map(|(status, keys)| (status, keys.to_string()))
        .collect();
    assert_eq!(counts, expected);
}

/// Compares the ages of one scrape: age plus time of the last use is the time of the scrape.
#[allow(
    clippy::cast_precision_loss,
    reason = "numbers of keys, and microseconds since 1970"
)]
async fn assert_ages(prometheus: &Prometheus, sim: &SimHandle) {
    let used: Vec<f64> = sim.with_world(|world| {
        let orgs = world.org_ids();
        let keys = orgs.iter().flat_map(|org| world.keys(org));
        keys.filter_map(|key| key.last_used)
            .map(|at| at.as_microsecond() as f64 / 1e6)
            .collect()
    });
    let number = used.len() as f64;
    let family = "mongodbatlas_ai_model_api_key_last_used";
    let scraped = prometheus
        .wait_value(&format!("max(timestamp({family}_age_seconds))"))
        .await;
    let at = format!(" @ {scraped}");
    let moment = prometheus
        .wait_value(&format!(
            "max({family}_age_seconds{at} + {family}_timestamp_seconds{at})"
        ))
        .await;
    assert!(
        (moment - scraped).abs() < 1.0,
        "the moment {moment} is that of the scrape {scraped}"
    );
    let now = Timestamp::now().as_millisecond() as f64 / 1e3;
    let scrape_age = now - moment;
    assert!(
        (-1.0..wait_timeout().as_secs_f64()).contains(&scrape_age),
        "{scrape_age}"
    );
    assert!(number > 0.0);
    let ages = prometheus
        .wait_value(&format!("sum({family}_age_seconds{at})"))
        .await;
    let expected: f64 = used.iter().map(|used| moment - used).sum();
    assert!((ages - expected).abs() < 1.0, "{ages} is {expected}");
    for (query, expected) in [
        (format!("count({family}_age_seconds)"), number),
        ("sum(mongodbatlas_ai_model_api_key_used)".to_owned(), number),
        (
            "count(mongodbatlas_ai_model_api_key_idle_seconds)".to_owned(),
            1200.0,
        ),
    ] {
        assert_eq!(prometheus.wait_value(&query).await, expected, "{query}");
    }
}

async fn assert_names_unchanged(prometheus: &Prometheus, sim: &SimHandle) {
    let shown: BTreeSet<(String, String)> = prometheus
        .wait_samples("mongodbatlas_ai_model_api_key_info")
        .await
        .into_iter()
        .map(|sample| {
            (
                sample.labels["api_key_id"].clone(),
                sample.labels["name"].clone(),
            )
        })
        .collect();
    let named: BTreeSet<(String, String)> = crate::common::expected_sim_keys(sim)
        .into_iter()
        .map(|(id, (name, ..))| (id, name))
        .collect();
    assert_eq!(shown, named);
    for part in ["\"", "\\", "\n", "🔑", "\t"] {
        assert!(
            shown.iter().any(|(_, name)| name.contains(part)),
            "{part:?}"
        );
    }
}

async fn assert_aggregates_match(prometheus: &Prometheus) {
    for (threshold, seconds) in [
        ("7d", 7 * 86_400),
        ("30d", 30 * 86_400),
        ("90d", 90 * 86_400),
    ] {
        let roll_ups = ["idle", "never_used", "disabled"].map(|class| {
            format!("sum(mongodbatlas_ai_model_api_keys_{class}{{threshold=\"{threshold}\"}})")
        });
        let rolled_up = prometheus.wait_value(&roll_ups.join(" + ")).await;
        let counted = prometheus
            .wait_value(&format!(
                "count(mongodbatlas_ai_model_api_key_idle_seconds >= {seconds})"
            ))
            .await;
        assert_eq!(rolled_up, counted, "{threshold}");
        assert!(counted > 0.0, "{threshold}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_reports_no_errors() {
    let sim = crate::common::start_sim(static_sim(3, 300)).await;
    let mut exporter =
        ChildProcess::exporter(&["--web.listen-address=127.0.0.1:0"], &sim_env(&sim));
    let address = exporter.wait_for_output("address=");
    for _ in 0..3 {
        exporter.wait_for_output("poll succeeded");
    }
    let text = eventually("series of every kind", async || {
        let (_, text) = get(&format!("http://{address}/metrics")).await;
        let counts = [
            "_org_up{",
            "keys_dropped{",
            "mongodbatlas_organization_info{",
        ]
        .map(|series| text.matches(series).count());
        let is_complete = counts == [3; 3]
            && text.contains("mongodbatlas_ai_model_rate_limit_requests_per_minute{");
        if is_complete { Ok(text) } else { Err(text) }
    })
    .await;
    let (code, output, error) = run_command(
        Command::new("promtool").args(["check", "metrics"]),
        text.as_bytes(),
    );
    assert_eq!((code, output.as_str(), error.as_str()), (Some(0), "", ""));
    sim.stop().await;
}

/// Selects every series in Prometheus, except the series that Prometheus adds to each target.
const ALL_SERIES: &str = "{__name__=~\"mongodbatlas_.+|atlas_ai_keys_exporter_.+|process_.+\"";

/// Returns the series of a job without the labels of its targets, and asserts that there are no duplicates.
async fn series_of_job(prometheus: &Prometheus, job: &str) -> BTreeSet<BTreeMap<String, String>> {
    let mut unique = BTreeSet::new();
    let query = format!("{ALL_SERIES}, job=\"{job}\"}}");
    for mut sample in prometheus.query(&query).await {
        sample.labels.remove("instance");
        sample.labels.remove("job");
        let labels = sample.labels;
        assert!(unique.insert(labels.clone()), "{job}: twice: {labels:?}");
    }
    unique
}

#[tokio::test(flavor = "multi_thread")]
async fn discovered_targets_have_the_series_of_a_plain_scrape_once() {
    let exporter = TestExporter::start(static_sim(3, 60), &["--atlas.poll-interval=1h"]).await;
    exporter.wait_polled_with_names().await;
    let address = exporter.base_url.strip_prefix("http://").unwrap();
    let discovered = format!("http_sd_configs:\n  - url: http://{address}/sd");
    let plain = format!("static_configs:\n  - targets: ['{address}']");
    let jobs = [("discovered", &*discovered), ("plain", &*plain)];
    let prometheus = Prometheus::start(&jobs, &[]);
    prometheus
        .wait_samples("count(up{job=\"discovered\"} == 1) == 4")
        .await;
    prometheus.wait_samples("up{job=\"plain\"} == 1").await;
    // A series that is created between the scrapes of both jobs is in one of them first.
    let series = eventually("the same series", async || {
        let discovered = series_of_job(&prometheus, "discovered").await;
        let plain = series_of_job(&prometheus, "plain").await;
        if discovered == plain {
            Ok(plain)
        } else {
            let differs: Vec<_> = discovered.symmetric_difference(&plain).collect();
            Err(format!("{differs:?}"))
        }
    })
    .await;
    assert!(series.len() > 400, "{} series", series.len());
    let own = prometheus
        .wait_samples("up{job=\"discovered\", instance!~\".+/.+\"}")
        .await;
    assert_eq!(own.len(), 1);
    assert_eq!(own[0].labels["instance"], address);
    for family in [
        "atlas_ai_keys_exporter_build_info",
        "process_start_time_seconds",
    ] {
        let query = format!("{family}{{job=\"discovered\"}}");
        let samples = prometheus.wait_samples(&query).await;
        assert_eq!(samples.len(), 1, "{family}");
        assert_eq!(samples[0].labels["instance"], address, "{family}");
    }
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn target_labels_of_the_operator_collide_with_no_label() {
    let arguments = ["demo", "--web.listen-address=127.0.0.1:0"];
    let mut exporter = ChildProcess::exporter(&arguments, &[]);
    let address = exporter.wait_for_output("address=");
    // Relabelling from metadata, as the operator does for a PodMonitor and a ServiceMonitor.
    let attached = ["container", "endpoint", "namespace", "pod", "service"];
    let rules = attached
        .map(|label| format!("  - {{source_labels: [__meta_{label}], target_label: {label}}}\n"));
    let metadata = attached.map(|label| format!("__meta_{label}: the-{label}"));
    let job = format!(
        "honor_labels: false\n  static_configs:\n  - targets: ['{address}']\n    labels: {{instance: pod:10064, {}}}\n  relabel_configs:\n{}",
        metadata.join(", "),
        rules.concat()
    );
    let prometheus = Prometheus::start(&[("monitoring/atlas-ai-keys", &job)], &[]);
    for family in [
        "mongodbatlas_ai_model_api_key_info",
        "mongodbatlas_ai_model_rate_limit_requests_per_minute",
        "mongodbatlas_project_info",
        "atlas_ai_keys_exporter_api_rate_limit_remaining",
        "atlas_ai_keys_exporter_token_expiry_timestamp_seconds",
    ] {
        prometheus.wait_samples(family).await;
    }
    let all = prometheus.query("{__name__=~\".+\"}").await;
    let own = all.iter().filter(|it| it.labels["__name__"].contains('_'));
    assert!(own.count() > 1000, "{} series", all.len());
    for sample in &all {
        let labels = &sample.labels;
        let mut names = labels.keys();
        assert!(
            !names.any(|name| name.starts_with("exported_")),
            "{labels:?}"
        );
        for label in attached {
            assert_eq!(labels[label], format!("the-{label}"), "{labels:?}");
        }
        assert_eq!(labels["job"], "monitoring/atlas-ai-keys");
        assert_eq!(labels["instance"], "pod:10064");
    }
}
