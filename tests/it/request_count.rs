//! What a walk of 100,000 keys costs Atlas.
use std::time::Duration;

use crate::common::sim_harness::{Simulated, simulated_atlas};
use crate::common::still;
use mongodb_atlas_sim::{BucketSize, Effect, Fault, SimConfig, SimEndpoint};

async fn requests(fault: Option<Effect>) -> usize {
    let config = SimConfig {
        org_bucket: BucketSize::new(10_000, 10_000),
        ..still(1, 100_000)
    };
    let sim = simulated_atlas(&config);
    if let Some(effect) = fault {
        sim.add_fault(Fault::new(SimEndpoint::AiModelApiKeys, effect));
    }
    let exporter = Simulated::watching(&sim, &[]).await;
    while exporter.ready().0 != 200 {
        exporter.pass(Duration::from_millis(100)).await;
    }
    let scrape = exporter.scrape();
    assert_eq!(scrape.sum("mongodbatlas_ai_model_api_keys"), 100_000.0);
    exporter.stop().await;
    let requests = sim.requests();
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

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_keys_cost_two_hundred_requests() {
    assert_eq!(requests(None).await, 200, "the last page has no next link");
}

#[tokio::test(start_paused = true)]
async fn without_links_they_cost_one_more() {
    assert_eq!(
        requests(Some(Effect::NoLinks)).await,
        201,
        "a full page may not be the last"
    );
}
