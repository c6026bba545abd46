//! Lists of organizations: pages, failures and missing entries.

use std::time::Duration;

use super::{INTERVAL, UP, env_without_orgs, org_ids_in, start_discovery};
use crate::common::log_capture::LogCapture;
use crate::common::sim_harness::{SimHarness, in_process_sim, live_sim};
use crate::common::{expected_sim_keys, exposed_keys, static_sim};
use mongodb_atlas_sim::{Effect, Fault, SimEndpoint};

#[tokio::test(start_paused = true)]
async fn intermittently_listed_organization_is_retained() {
    let sim = in_process_sim(&static_sim(2, 20));
    let orgs = sim.org_ids();
    let exporter = start_discovery(&sim).await;
    exporter.wait_polled(2).await;
    let before = exposed_keys(&exporter.scrape());
    let polls = exporter.count_polls();
    for round in 0..10 {
        let one = orgs[round % 2].as_str();
        let text = format!(r#"{{"results":[{{"id":"{one}","name":"x"}}]}}"#);
        sim.add_fault(Fault::new(SimEndpoint::Orgs, Effect::Body { text }));
        exporter.advance(INTERVAL).await;
        assert_eq!(exposed_keys(&exporter.scrape()), before, "round {round}");
        sim.clear_faults();
    }
    polls.assert_polled(9);
    exporter.assert_in_sync(INTERVAL * 2).await;
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn discovery_failure_retains_known_organizations() {
    let sim = in_process_sim(&live_sim(2, 20));
    sim.add_fault(Fault::new(SimEndpoint::Orgs, Effect::error_status(500)));
    let exporter = start_discovery(&sim).await;
    exporter.advance(Duration::from_secs(30)).await;
    assert!(org_ids_in(&exporter.scrape(), UP).is_empty());
    let (code, text) = exporter.readiness();
    assert!(
        code == 503 && text.contains("organizations of credential default"),
        "{text}"
    );
    sim.clear_faults();
    exporter.wait_polled(2).await;
    assert_eq!(exporter.readiness().0, 200);
    sim.add_fault(Fault::new(SimEndpoint::Orgs, Effect::error_status(500)));
    let polls = exporter.count_polls();
    exporter.advance(Duration::from_hours(5)).await;
    polls.assert_polled(59);
    let scrape = exporter.assert_in_sync(INTERVAL * 2).await;
    assert_eq!(scrape.sum(UP), 2.0);
    exporter.stop().await;
}

/// Lists with capped pages or invalid links are read completely, like the keys.
#[tokio::test(start_paused = true)]
async fn list_pagination_ignores_incorrect_totals() {
    for (effects, requests) in [
        (vec![], 1),
        (vec![Effect::PageCap { size: 3 }, Effect::NoLinks], 3),
        (vec![Effect::PageCap { size: 3 }, Effect::NoNextLink], 3),
        (vec![Effect::TotalCount { value: 99 }], 2),
    ] {
        let sim = in_process_sim(&static_sim(7, 70));
        for effect in &effects {
            sim.add_fault(Fault::new(SimEndpoint::Orgs, effect.clone()));
            sim.add_fault(Fault::new(SimEndpoint::Groups, effect.clone()));
        }
        let exporter = start_discovery(&sim).await;
        assert_eq!(
            exposed_keys(&exporter.wait_polled(7).await),
            expected_sim_keys(&sim),
            "{effects:?}"
        );
        let sent = exporter.requests_to(SimEndpoint::Orgs).len();
        assert_eq!(sent, requests, "{effects:?}");
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn incomplete_list_removes_no_organization() {
    let sim = in_process_sim(&static_sim(3, 30));
    let exporter = start_discovery(&sim).await;
    exporter.wait_polled(3).await;
    let one = sim.org_ids()[0].clone();
    let logs = LogCapture::start();
    for total in [",\"totalCount\":3", ""] {
        let text = format!("{{\"results\":[{{\"id\":\"{one}\",\"name\":\"x\"}}]{total}}}");
        sim.add_fault(Fault::new(SimEndpoint::Orgs, Effect::Body { text }));
        let polls = exporter.count_polls();
        exporter.advance(INTERVAL * 5).await;
        polls.assert_polled(4);
        let scrape = exporter.assert_in_sync(INTERVAL * 2).await;
        let watched = org_ids_in(&scrape, UP).len();
        assert_eq!(watched, if total.is_empty() { 1 } else { 3 });
        sim.clear_faults();
    }
    assert_eq!(logs.count("WARN", "incomplete organization list"), 1);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn failed_listing_is_retried_once_a_minute() {
    let sim = in_process_sim(&live_sim(2, 20));
    let exporter = start_discovery(&sim).await;
    exporter.wait_polled(2).await;
    sim.add_fault(Fault::new(SimEndpoint::Orgs, Effect::error_status(500)));
    exporter.advance(INTERVAL).await;
    let (polls, before) = (
        exporter.count_polls(),
        exporter.requests_to(SimEndpoint::Orgs).len(),
    );
    exporter.advance(Duration::from_hours(1)).await;
    polls.assert_polled(11);
    // A request that fails with 500 is retried immediately.
    let requests = exporter.requests_to(SimEndpoint::Orgs).len() - before;
    assert!((2 * 55..=2 * 60).contains(&requests), "{requests}");
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn failed_listing_is_retried_before_a_long_interval_ends() {
    let sim = in_process_sim(&static_sim(2, 20));
    sim.add_fault(Fault::new(SimEndpoint::Orgs, Effect::error_status(500)).times(2));
    let flags = ["--atlas.discover-orgs", "--atlas.poll-interval=1h"];
    let exporter = SimHarness::start_with(&sim, env_without_orgs(&sim), &flags).await;
    exporter.advance(Duration::from_secs(30)).await;
    assert_eq!(exporter.count_responses(500), 2, "one failed list request");
    assert!(org_ids_in(&exporter.scrape(), UP).is_empty());
    exporter.advance(Duration::from_secs(90)).await;
    let scrape = exporter.scrape();
    assert_eq!(scrape.values(UP), [1.0, 1.0]);
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    exporter.stop().await;
}
