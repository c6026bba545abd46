//! Digest authentication with a programmatic API key.

use super::{FAST_POLL_FLAGS, count_requests, digest_env, wait_polls, with_var};
use crate::common::{TestExporter, expected_sim_keys, exposed_keys, static_sim};
use mongodb_atlas_sim::SimEndpoint;

#[tokio::test(flavor = "multi_thread")]
async fn digest_reuses_one_challenge() {
    let sim = crate::common::start_sim(static_sim(1, 395)).await;
    let variables = digest_env(&sim);
    let exporter = TestExporter::start_with(sim, variables, &["--atlas.page-size", "10"]).await;
    let scrape = exporter.wait_polled().await;
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&exporter.sim));
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_poll_pages"), 40.0);
    let requests = exporter.sim.requests();
    let refused = requests.iter().filter(|request| request.status == 401);
    assert_eq!(refused.count(), 1, "one challenge, whatever is asked");
    let pages = requests
        .iter()
        .filter(|request| request.endpoint == SimEndpoint::AiModelApiKeys && request.status == 200);
    assert_eq!(pages.count(), 40);
    let challenges = scrape
        .with_name("atlas_ai_keys_exporter_api_retries_total")
        .filter(|series| series.labels["reason"] == "challenge");
    assert_eq!(challenges.map(|series| series.value).sum::<f64>(), 1.0);
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_nonce_costs_one_extra_request() {
    let sim = crate::common::start_sim(static_sim(2, 60)).await;
    let variables = digest_env(&sim);
    let exporter = TestExporter::start_with(sim, variables, FAST_POLL_FLAGS).await;
    exporter.wait_polled().await;
    exporter.sim.expire_nonces();
    wait_polls(&exporter, 3).await;
    let scrape = exporter.scrape().await;
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
        0.0
    );
    let refused = exporter
        .sim
        .requests()
        .iter()
        .filter(|request| request.status == 401)
        .count();
    assert_eq!(refused, 2, "the first challenge and the stale nonce");
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_private_key_is_unauthorized() {
    let sim = crate::common::start_sim(static_sim(1, 5)).await;
    let org = sim.org_ids()[0].clone();
    let variables = with_var(digest_env(&sim), "MONGODB_ATLAS_PRIVATE_API_KEY", "wrong");
    let exporter = TestExporter::start_with(sim, variables, FAST_POLL_FLAGS).await;
    exporter
        .wait_until("a failure", |scrape| {
            scrape.poll_failures(&org, "unauthorized") >= 1.0
        })
        .await;
    let pages = count_requests(&exporter.sim, SimEndpoint::AiModelApiKeys);
    assert!(pages <= 4, "{:?}", exporter.sim.requests());
    exporter.stop().await.stop().await;
}
