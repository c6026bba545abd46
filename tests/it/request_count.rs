//! Number of requests for a walk of 100,000 keys, for names, and for client secrets.
use std::time::Duration;

use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::static_sim;
use mongodb_atlas_sim::{BucketConfig, Effect, Fault, SimConfig, SimEndpoint};

async fn count_walk_requests(keys: u32, fault: Option<Effect>) -> usize {
    let config = SimConfig {
        org_bucket: BucketConfig::new(10_000, 10_000),
        ..static_sim(1, usize::try_from(keys).unwrap())
    };
    let sim = in_process_sim(&config);
    if let Some(effect) = fault {
        sim.add_fault(Fault::new(SimEndpoint::AiModelApiKeys, effect));
    }
    let exporter = SimHarness::start(&sim, &[]).await;
    // Scraping 100,000 keys would be slow.
    for _ in 0..600 {
        if exporter.readiness().0 == 200 {
            break;
        }
        exporter.advance(Duration::from_millis(100)).await;
    }
    assert_eq!(exporter.readiness().0, 200, "not polled within a minute");
    let scrape = exporter.scrape();
    assert_eq!(
        scrape.sum("mongodbatlas_ai_model_api_keys"),
        f64::from(keys)
    );
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
async fn walk_of_100k_keys_takes_200_requests() {
    assert_eq!(
        count_walk_requests(100_000, None).await,
        200,
        "the last page has no next link"
    );
}

#[tokio::test(start_paused = true)]
async fn walk_without_links_takes_one_extra_request() {
    assert_eq!(
        count_walk_requests(20_000, Some(Effect::NoLinks)).await,
        41,
        "a full page may not be the last one"
    );
}

/// Names are requested once per hour, but at most with every tenth poll.
#[tokio::test(start_paused = true)]
async fn names_are_requested_hourly_or_with_every_tenth_poll() {
    for (interval, requests) in [
        ("1m", 24..=25),
        ("6m", 24..=25),
        ("30m", 5..=6),
        ("1h", 3..=4),
    ] {
        let sim = in_process_sim(&static_sim(1, 10));
        let exporter = SimHarness::start(&sim, &["--atlas.poll-interval", interval]).await;
        exporter.wait_polled(1).await;
        exporter.advance(Duration::from_hours(24)).await;
        let groups = exporter.requests_to(SimEndpoint::Groups).len();
        // The requests of 24 hours, and those at the start.
        assert!(requests.contains(&groups), "{interval}: {groups}");
        exporter.stop().await;
    }
}

/// Client secrets are requested once per hour, independent of the poll interval and the number of organizations.
#[tokio::test(start_paused = true)]
async fn client_secrets_are_requested_once_per_hour() {
    for (orgs, interval) in [(1, "1m"), (5, "5m"), (1, "6h")] {
        let sim = in_process_sim(&static_sim(orgs, 10 * orgs));
        let home = sim.org_ids().into_iter().min();
        sim.with_service_account(|account| account.org = home);
        let exporter = SimHarness::start(&sim, &["--atlas.poll-interval", interval]).await;
        exporter.wait_polled(orgs).await;
        exporter.advance(Duration::from_hours(24)).await;
        let requests = exporter.requests_to(SimEndpoint::ServiceAccount).len();
        assert!((24..=25).contains(&requests), "{interval}: {requests}");
        exporter.stop().await;
    }
}
