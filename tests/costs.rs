//! What a walk of 100,000 keys costs Atlas.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod common;

use atlas_ai_keys_exporter::sim::{BucketSize, Effect, Fault, SimConfig, SimEndpoint};
use common::{Lab, still};

async fn requests(fault: Option<Effect>) -> usize {
    let config = SimConfig {
        org_bucket: BucketSize::new(10_000, 10_000),
        ..still(1, 100_000)
    };
    let sim = common::sim(config).await;
    if let Some(effect) = fault {
        sim.add_fault(Fault::new(SimEndpoint::AiModelApiKeys, effect));
    }
    let variables = common::sim_variables(&sim);
    let lab = Lab::watching(sim, variables, &[]).await;
    let scrape = lab.walked().await;
    assert_eq!(scrape.sum("mongodbatlas_ai_model_api_keys"), 100_000.0);
    let sim = lab.stop().await;
    let requests = sim.requests();
    sim.stop().await;
    assert_eq!(
        requests
            .iter()
            .filter(|request| request.endpoint == SimEndpoint::Token)
            .count(),
        1
    );
    requests
        .iter()
        .filter(|request| request.endpoint == SimEndpoint::AiModelApiKeys)
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_keys_cost_two_hundred_requests() {
    assert_eq!(requests(None).await, 200, "the last page has no next link");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_links_they_cost_one_more() {
    assert_eq!(
        requests(Some(Effect::NoLinks)).await,
        201,
        "a full page may not be the last"
    );
}
