//! The request budget: nobody's quota is burnt, and nothing is lost to a refusal. In simulated time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use atlas_ai_keys_exporter::sim::{
    BodyForm, BucketScope, BucketSize, Effect, Fault, SimConfig, SimEndpoint, SimHandle,
};
use common::simulated::{Simulated, simulated_atlas};
use common::{shown, still, world};
use jiff::Timestamp;

const KEYS: SimEndpoint = SimEndpoint::AiModelApiKeys;
const MINUTE: Duration = Duration::from_mins(1);

fn status(status: u16, retry_after: Option<u32>) -> Effect {
    Effect::Status {
        status,
        body: BodyForm::Json,
        retry_after,
    }
}

/// Seconds between the answers to requests for keys.
fn pauses(exporter: &Simulated) -> Vec<i64> {
    let at: Vec<Timestamp> = exporter.asked(KEYS).iter().map(|asked| asked.at).collect();
    at.windows(2)
        .map(|pair| pair[1].duration_since(pair[0]).as_secs())
        .collect()
}

fn small(orgs: usize, keys: usize, scope: BucketScope) -> SimConfig {
    SimConfig {
        org_bucket: BucketSize::SMALLEST,
        bucket_scope: scope,
        ..still(orgs, keys)
    }
}

/// Atlas does not tell its rate limits but by refusing.
fn tells_nothing(sim: &SimHandle) {
    sim.add_fault(Fault::new(SimEndpoint::RateLimits, status(403, None)));
    sim.add_fault(Fault::new(KEYS, Effect::NoRateLimitHeaders));
    sim.add_fault(Fault::new(KEYS, Effect::BareRefusals));
    sim.add_fault(Fault::new(
        SimEndpoint::AiModelApiRateLimits,
        status(404, None),
    ));
}

#[tokio::test(start_paused = true)]
async fn refusals_are_waited_for_longer_each_time_and_cost_no_walk() {
    for code in [429, 503] {
        let sim = simulated_atlas(&still(1, 5));
        sim.add_fault(Fault::new(KEYS, status(code, None)).times(if code == 429 { 4 } else { 1 }));
        let exporter = Simulated::watching(&sim, &[]).await;
        let scrape = exporter.walked(1).await;
        assert_eq!(
            scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
            0.0
        );
        let pauses = pauses(&exporter);
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
async fn retry_after_is_the_least_that_is_waited() {
    for code in [429, 503] {
        let sim = simulated_atlas(&still(1, 5));
        sim.add_fault(Fault::new(KEYS, status(code, Some(25))).times(1));
        let exporter = Simulated::watching(&sim, &[]).await;
        exporter.walked(1).await;
        let pauses = pauses(&exporter);
        assert!((25..=32).contains(&pauses[0]), "{pauses:?}");
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_not_waited_out_but_told() {
    let sim = simulated_atlas(&still(1, 5));
    let org = sim.org_ids()[0].clone();
    let exporter = Simulated::watching(&sim, &[]).await;
    exporter.walked(1).await;
    sim.add_fault(Fault::new(KEYS, status(503, None)));
    exporter
        .until("the outage to be told", |scrape| {
            scrape.failures(&org, "server_error") > 0.0
        })
        .await;
    let last_good = exporter
        .asked(KEYS)
        .iter()
        .rfind(|asked| asked.status == 200)
        .unwrap()
        .at;
    let first_bad = exporter
        .asked(KEYS)
        .iter()
        .find(|asked| asked.status == 503)
        .unwrap()
        .at;
    let told = sim.clock().now();
    assert!(told.duration_since(first_bad).as_secs() < 60);
    assert!(told.duration_since(last_good).as_secs() < 600);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_is_known_never_refuses_anything() {
    for scope in [BucketScope::Organization, BucketScope::User] {
        // three organizations of three to six pages, five requests a minute: it does not fit
        let sim = simulated_atlas(&small(3, 120, scope));
        let exporter =
            Simulated::watching(&sim, &["--atlas.page-size=10", "--atlas.poll-interval=1m"]).await;
        exporter.walked(3).await;
        exporter.pass(Duration::from_hours(8)).await;
        assert_eq!(exporter.answered(429), 0, "{scope:?}");
        let scrape = exporter.scrape();
        assert_eq!(
            scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
            0.0
        );
        assert_eq!(shown(&scrape), world(&sim));
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
async fn a_share_is_left_to_the_accounts_other_tools() {
    let sim = simulated_atlas(&small(1, 100, BucketScope::Organization));
    let org = sim.org_ids()[0].clone();
    let exporter =
        Simulated::watching(&sim, &["--atlas.page-size=10", "--atlas.poll-interval=1m"]).await;
    exporter.walked(1).await;
    let name = "atlas_ai_keys_exporter_api_rate_limit_remaining";
    let labels: &[(&str, &str)] = &[("endpoint", "ai_model_api_keys"), ("org_id", &org)];
    for _ in 0..600 {
        exporter.pass(Duration::from_secs(7)).await;
        let remaining = exporter.scrape().get(name, labels).unwrap();
        assert!(
            remaining >= 2.0,
            "two of ten are somebody else's: {remaining}"
        );
    }
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn it_works_where_atlas_tells_nothing_at_all() {
    for scope in [BucketScope::Organization, BucketScope::User] {
        let sim = simulated_atlas(&small(8, 160, scope));
        tells_nothing(&sim);
        let exporter = Simulated::watching(&sim, &["--atlas.page-size=10"]).await;
        let scrape = exporter.walked(8).await;
        assert_eq!(shown(&scrape), world(&sim), "{scope:?}");
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_teaches_what_the_headers_did_not() {
    let sim = simulated_atlas(&small(1, 200, BucketScope::Organization));
    // nor that the limits of the models draw on the same bucket, once an hour
    for endpoint in [SimEndpoint::RateLimits, SimEndpoint::AiModelApiRateLimits] {
        sim.add_fault(Fault::new(endpoint, status(404, None)));
    }
    sim.add_fault(Fault::new(KEYS, Effect::NoRateLimitHeaders));
    let exporter =
        Simulated::watching(&sim, &["--atlas.page-size=10", "--atlas.poll-interval=1m"]).await;
    exporter.walked(1).await;
    let learning = exporter.answered(429);
    assert!(
        (1..=4).contains(&learning),
        "{learning} pages under way at once"
    );
    exporter.pass(Duration::from_hours(6)).await;
    assert_eq!(
        exporter.answered(429),
        learning,
        "once learnt, none any more"
    );
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn others_who_use_the_same_bucket_are_noticed() {
    let sim = simulated_atlas(&small(1, 60, BucketScope::Organization));
    let org = sim.org_ids()[0].clone();
    let exporter =
        Simulated::watching(&sim, &["--atlas.page-size=10", "--atlas.poll-interval=2m"]).await;
    exporter.walked(1).await;
    let exporter = Arc::new(exporter);
    // another tool takes two a minute
    for _ in 0..120 {
        sim.take_tokens(&org, 2);
        exporter.pass(MINUTE).await;
    }
    assert!(exporter.answered(429) <= 2, "{}", exporter.answered(429));
    assert_eq!(
        exporter
            .scrape()
            .sum("atlas_ai_keys_exporter_org_poll_failures_total"),
        0.0
    );
}
