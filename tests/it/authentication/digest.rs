//! Digest authentication with a programmatic API key.

use super::{FAILURES, FAST_POLL_FLAGS, digest_env, with_var};
use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{expected_sim_keys, exposed_keys, static_sim, unlimited_sim};
use mongodb_atlas_sim::{SimConfig, SimEndpoint};

const KEYS: SimEndpoint = SimEndpoint::AiModelApiKeys;

#[tokio::test(start_paused = true)]
async fn digest_reuses_one_challenge() {
    let sim = in_process_sim(&static_sim(1, 395));
    let variables = digest_env(&sim);
    let exporter = SimHarness::start_with(&sim, variables, &["--atlas.page-size=10"]).await;
    let scrape = exporter.wait_polled(1).await;
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_poll_pages"), 40.0);
    assert_eq!(
        exporter.count_responses(401),
        1,
        "one challenge for all requests"
    );
    let requests = exporter.requests_to(KEYS);
    let pages = requests.iter().filter(|request| request.status == 200);
    assert_eq!(pages.count(), 40);
    let challenges = scrape
        .with_name("atlas_ai_keys_exporter_api_retries_total")
        .filter(|series| series.labels["reason"] == "challenge");
    assert_eq!(challenges.map(|series| series.value).sum::<f64>(), 1.0);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn stale_nonce_costs_one_extra_request() {
    // Nonces expire only on demand.
    let sim = in_process_sim(&SimConfig {
        nonce_lifetime_seconds: 86_400,
        ..unlimited_sim(2, 60)
    });
    let variables = digest_env(&sim);
    let exporter = SimHarness::start_with(&sim, variables, FAST_POLL_FLAGS).await;
    exporter.wait_polled(2).await;
    for challenges in 1..=3 {
        for _ in 0..3 {
            exporter.wait_polled_again().await;
        }
        assert_eq!(
            exporter.count_responses(401),
            challenges,
            "the first challenge, and one for each stale nonce"
        );
        sim.expire_nonces();
    }
    assert_eq!(exporter.scrape().sum(FAILURES), 0.0);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn invalid_private_key_is_unauthorized() {
    let sim = in_process_sim(&static_sim(1, 5));
    let org = sim.org_ids()[0].clone();
    let variables = with_var(digest_env(&sim), "MONGODB_ATLAS_PRIVATE_API_KEY", "invalid");
    let exporter = SimHarness::start_with(&sim, variables, FAST_POLL_FLAGS).await;
    let scrape = exporter
        .wait_until("five failures", |scrape| {
            scrape.poll_failures(&org, "unauthorized") >= 5.0
        })
        .await;
    let failures = scrape.poll_failures(&org, "unauthorized");
    let requests = exporter.requests_to(KEYS).len();
    // The first request gets the challenge; each later poll sends one request.
    assert!(
        [failures, failures + 1.0].contains(&f64::from(u32::try_from(requests).unwrap())),
        "{requests} requests, {failures} failures"
    );
    exporter.stop().await;
}
