//! Rate limits: no quota is wasted, and no data is lost after a 429. In simulated time.

mod headers;

use std::sync::Arc;
use std::time::Duration;

use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{expected_sim_keys, exposed_keys, static_sim};
use jiff::Timestamp;
use mongodb_atlas_sim::{
    BucketConfig, BucketScope, Effect, ErrorBodyFormat, Fault, SimConfig, SimEndpoint, SimHandle,
};

const KEYS: SimEndpoint = SimEndpoint::AiModelApiKeys;

const MINUTE: Duration = Duration::from_mins(1);

fn status_effect(status: u16, retry_after: Option<u32>) -> Effect {
    Effect::Status {
        status,
        body: ErrorBodyFormat::Json,
        retry_after,
    }
}

/// Returns the seconds between the responses to requests for keys.
fn request_gaps(exporter: &SimHarness) -> Vec<i64> {
    let at: Vec<Timestamp> = exporter
        .requests_to(KEYS)
        .iter()
        .map(|asked| asked.at)
        .collect();
    at.windows(2)
        .map(|pair| pair[1].duration_since(pair[0]).as_secs())
        .collect()
}

fn small_bucket_sim(orgs: usize, keys: usize, scope: BucketScope) -> SimConfig {
    SimConfig {
        org_bucket: BucketConfig::SMALLEST,
        bucket_scope: scope,
        ..static_sim(orgs, keys)
    }
}

/// Hides the rate limits, except that requests are rejected.
fn hide_rate_limits(sim: &SimHandle) {
    sim.add_fault(Fault::new(
        SimEndpoint::RateLimits,
        status_effect(403, None),
    ));
    sim.add_fault(Fault::new(KEYS, Effect::NoRateLimitHeaders));
    sim.add_fault(Fault::new(KEYS, Effect::BareRefusals));
    sim.add_fault(Fault::new(
        SimEndpoint::AiModelApiRateLimits,
        status_effect(404, None),
    ));
}

#[tokio::test(start_paused = true)]
async fn repeated_429s_back_off_without_failing_the_poll() {
    for code in [429, 503] {
        let sim = in_process_sim(&static_sim(1, 5));
        sim.add_fault(
            Fault::new(KEYS, status_effect(code, None)).times(if code == 429 { 4 } else { 1 }),
        );
        let exporter = SimHarness::start(&sim, &[]).await;
        let scrape = exporter.wait_polled(1).await;
        assert_eq!(
            scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
            0.0
        );
        let pauses = request_gaps(&exporter);
        let least: &[i64] = if code == 429 {
            &[10, 20, 40, 80]
        } else {
            &[10]
        };
        assert_eq!(pauses.len(), least.len(), "{pauses:?}");
        for (pause, least) in pauses.iter().zip(least) {
            assert!((*least..=least * 5 / 4 + 1).contains(pause), "{pauses:?}");
        }
        let throttled = scrape.sum("atlas_ai_keys_exporter_api_throttled_seconds_total");
        let waited: i64 = pauses.iter().sum();
        #[allow(clippy::cast_precision_loss, reason = "seconds")]
        let difference = (throttled - waited as f64).abs();
        assert!(
            difference < 5.0,
            "the waiting is visible: {throttled} of {waited}"
        );
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_the_minimum_wait() {
    for code in [429, 503] {
        let sim = in_process_sim(&static_sim(1, 5));
        sim.add_fault(Fault::new(KEYS, status_effect(code, Some(25))).times(1));
        let exporter = SimHarness::start(&sim, &[]).await;
        exporter.wait_polled(1).await;
        let pauses = request_gaps(&exporter);
        assert!((25..=32).contains(&pauses[0]), "{pauses:?}");
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn outage_fails_the_poll_instead_of_waiting() {
    let sim = in_process_sim(&static_sim(1, 5));
    let org = sim.org_ids()[0].clone();
    let exporter = SimHarness::start(&sim, &[]).await;
    exporter.wait_polled(1).await;
    sim.add_fault(Fault::new(KEYS, status_effect(503, None)));
    exporter
        .wait_until("the outage to be told", |scrape| {
            scrape.poll_failures(&org, "server_error") > 0.0
        })
        .await;
    let last_good = exporter
        .requests_to(KEYS)
        .iter()
        .rfind(|asked| asked.status == 200)
        .unwrap()
        .at;
    let first_bad = exporter
        .requests_to(KEYS)
        .iter()
        .find(|asked| asked.status == 503)
        .unwrap()
        .at;
    let told = sim.now();
    assert!(told.duration_since(first_bad).as_secs() < 60);
    assert!(told.duration_since(last_good).as_secs() < 600);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn known_bucket_is_never_exceeded() {
    for scope in [BucketScope::Organization, BucketScope::User] {
        // Three organizations with three to six pages, five requests per minute: too little.
        let sim = in_process_sim(&small_bucket_sim(3, 120, scope));
        let exporter =
            SimHarness::start(&sim, &["--atlas.page-size=10", "--atlas.poll-interval=1m"]).await;
        exporter.wait_polled(3).await;
        exporter.advance(Duration::from_hours(8)).await;
        assert_eq!(exporter.count_responses(429), 0, "{scope:?}");
        let scrape = exporter.scrape();
        assert_eq!(
            scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
            0.0
        );
        assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
        assert_eq!(
            scrape.values("atlas_ai_keys_exporter_api_rate_limit_capacity")[0],
            10.0
        );
        assert!(
            scrape
                .values("atlas_ai_keys_exporter_org_poll_interval_seconds")
                .iter()
                .any(|interval| *interval > 60.0),
            "and the interval in force says so"
        );
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn part_of_the_bucket_is_reserved_for_other_clients() {
    let sim = in_process_sim(&small_bucket_sim(1, 100, BucketScope::Organization));
    let org = sim.org_ids()[0].clone();
    let exporter =
        SimHarness::start(&sim, &["--atlas.page-size=10", "--atlas.poll-interval=1m"]).await;
    exporter.wait_polled(1).await;
    let name = "atlas_ai_keys_exporter_api_rate_limit_remaining";
    let labels: &[(&str, &str)] = &[("endpoint", "ai_model_api_keys"), ("org_id", &org)];
    for _ in 0..600 {
        exporter.advance(Duration::from_secs(7)).await;
        let remaining = exporter.scrape().get(name, labels).unwrap();
        assert!(
            remaining >= 2.0,
            "two of ten are somebody else's: {remaining}"
        );
    }
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn polls_without_rate_limit_headers() {
    for scope in [BucketScope::Organization, BucketScope::User] {
        let sim = in_process_sim(&small_bucket_sim(8, 160, scope));
        hide_rate_limits(&sim);
        let exporter = SimHarness::start(&sim, &["--atlas.page-size=10"]).await;
        let scrape = exporter.wait_polled(8).await;
        assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim), "{scope:?}");
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn rate_limit_body_updates_bucket_parameters() {
    let sim = in_process_sim(&small_bucket_sim(1, 200, BucketScope::Organization));
    // The headers do not say that the hourly model limits use the same bucket, either.
    for endpoint in [SimEndpoint::RateLimits, SimEndpoint::AiModelApiRateLimits] {
        sim.add_fault(Fault::new(endpoint, status_effect(404, None)));
    }
    sim.add_fault(Fault::new(KEYS, Effect::NoRateLimitHeaders));
    let exporter =
        SimHarness::start(&sim, &["--atlas.page-size=10", "--atlas.poll-interval=1m"]).await;
    exporter.wait_polled(1).await;
    let learning = exporter.count_responses(429);
    assert!(
        (1..=4).contains(&learning),
        "{learning} pages under way at once"
    );
    exporter.advance(Duration::from_hours(6)).await;
    assert_eq!(
        exporter.count_responses(429),
        learning,
        "once learnt, none any more"
    );
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn consumption_by_other_clients_is_detected() {
    let sim = in_process_sim(&small_bucket_sim(1, 60, BucketScope::Organization));
    let org = sim.org_ids()[0].clone();
    let exporter =
        SimHarness::start(&sim, &["--atlas.page-size=10", "--atlas.poll-interval=2m"]).await;
    exporter.wait_polled(1).await;
    let exporter = Arc::new(exporter);
    // Another client takes two per minute.
    for _ in 0..120 {
        sim.take_tokens(&org, 2);
        exporter.advance(MINUTE).await;
    }
    assert!(
        exporter.count_responses(429) <= 2,
        "{}",
        exporter.count_responses(429)
    );
    assert_eq!(
        exporter
            .scrape()
            .sum("atlas_ai_keys_exporter_org_poll_failures_total"),
        0.0
    );
}
