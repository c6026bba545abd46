//! The main promise, end to end: the exporter's binary polls the simulated Atlas, a Prometheus
//! scrapes it, and the query results match the simulator's state.
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::common::prometheus::Prometheus;
use crate::common::{
    ChildProcess, eventually, get, run_command, sim_env, static_sim, wait_timeout,
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

/// Sum of the ages at one scrape: age plus time of last use is the time of the scrape.
#[allow(
    clippy::cast_precision_loss,
    reason = "numbers of keys, and microseconds of this era"
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
        let rolled_up = prometheus
            .wait_value(&format!(
                "sum(mongodbatlas_ai_model_api_keys_idle{{threshold=\"{threshold}\"}})"
            ))
            .await;
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
async fn promtool_reports_no_problems() {
    let sim = crate::common::start_sim(static_sim(3, 300)).await;
    let mut exporter =
        ChildProcess::exporter(&["--web.listen-address=127.0.0.1:0"], &sim_env(&sim));
    let address = exporter.wait_for_output("address=");
    for _ in 0..3 {
        exporter.wait_for_output("walk complete");
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
