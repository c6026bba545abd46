//! The state of the last poll by reason. In simulated time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::keys_fault;
use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{Scrape, error_fault, sim_env, static_sim};
use mongodb_atlas_client::FailureReason;
use mongodb_atlas_sim::{Effect, Fault, SimEndpoint, SimHandle};

const LAST_POLL_FAILED: &str = "atlas_ai_keys_exporter_org_last_poll_failed";

/// Returns the reason of the last poll of `org`, if it failed, and asserts that there is a series for every reason.
fn failed_reason(scrape: &Scrape, org: &str) -> Option<String> {
    let series = scrape.with_name(LAST_POLL_FAILED);
    let series: Vec<_> = series.filter(|it| it.labels["org_id"] == org).collect();
    let reasons: BTreeSet<&str> = series.iter().map(|it| &*it.labels["reason"]).collect();
    let all: BTreeSet<&str> = FailureReason::ALL.iter().map(|it| it.as_str()).collect();
    assert_eq!(reasons, all, "{org}");
    assert_eq!(series.len(), all.len(), "{org}");
    let failed: Vec<_> = series.iter().filter(|it| it.value != 0.0).collect();
    assert!(failed.len() <= 1, "{failed:?}");
    let failed = failed.first()?;
    assert_eq!(failed.value, 1.0, "{failed:?}");
    Some(failed.labels["reason"].clone())
}

/// Starts an exporter with discovery and a state directory.
async fn start(sim: &Arc<SimHandle>, dir: &tempfile::TempDir) -> SimHarness {
    let mut variables = sim_env(sim);
    variables.retain(|(name, _)| name != "MONGODB_ATLAS_ORG_ID");
    let storage = format!("--storage.path={}", dir.path().display());
    SimHarness::start_with(sim, variables, &["--atlas.discover-orgs", &storage]).await
}

#[tokio::test(start_paused = true)]
async fn last_poll_failed_follows_the_reason_of_each_poll() {
    let (sim, dir) = (
        in_process_sim(&static_sim(2, 20)),
        tempfile::tempdir().unwrap(),
    );
    let exporter = start(&sim, &dir).await;
    let scrape = exporter
        .wait_until("organizations", |scrape| {
            scrape.with_name(LAST_POLL_FAILED).count() > 0
        })
        .await;
    let orgs = sim.org_ids();
    for org in &orgs {
        assert_eq!(failed_reason(&scrape, org), None, "before the first poll");
    }
    exporter.wait_polled(2).await;
    for (effect, reason) in [
        (Effect::error_status(403), "forbidden"),
        (Effect::error_status(500), "server_error"),
        (Effect::error_status(404), "not_found"),
        (
            Effect::Body {
                text: "<html>".to_owned(),
            },
            "invalid_response",
        ),
    ] {
        sim.clear_faults();
        sim.add_fault(Fault {
            org: Some(orgs[0].clone()),
            ..keys_fault(effect)
        });
        let scrape = exporter
            .wait_until(reason, |scrape| {
                failed_reason(scrape, &orgs[0]).as_deref() == Some(reason)
            })
            .await;
        assert_eq!(failed_reason(&scrape, &orgs[1]), None);
        assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_up"), 1.0);
    }
    sim.clear_faults();
    let scrape = exporter.wait_polled(2).await;
    assert_eq!(failed_reason(&scrape, &orgs[0]), None, "after a success");
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn last_poll_failed_starts_at_0_after_a_restart_and_is_removed_with_the_organization() {
    let (sim, dir) = (
        in_process_sim(&static_sim(2, 20)),
        tempfile::tempdir().unwrap(),
    );
    let exporter = start(&sim, &dir).await;
    exporter.wait_polled(2).await;
    let orgs = sim.org_ids();
    let keys = SimEndpoint::AiModelApiKeys;
    sim.add_fault(error_fault(keys, Some(&orgs[0]), 500));
    let is_failed = |scrape: &Scrape| failed_reason(scrape, &orgs[0]).is_some();
    exporter.wait_until("a failed poll", is_failed).await;
    exporter.kill().await;
    let exporter = start(&sim, &dir).await;
    let scrape = exporter.scrape();
    let restored = scrape.sum("atlas_ai_keys_exporter_org_inventory_restored");
    assert_eq!(restored, 2.0);
    assert_eq!(failed_reason(&scrape, &orgs[0]), None, "not polled yet");
    exporter.wait_until("a failed poll", is_failed).await;
    // A removed organization no longer fails.
    sim.with_world(|world| world.mark_org_deleted(&orgs[0]));
    exporter.advance(Duration::from_mins(6)).await;
    let scrape = exporter.scrape();
    let left = scrape.with_name(LAST_POLL_FAILED);
    let left: BTreeSet<String> = left.map(|it| it.labels["org_id"].clone()).collect();
    assert_eq!(left, BTreeSet::from([orgs[1].clone()]));
    assert_eq!(failed_reason(&scrape, &orgs[1]), None);
    exporter.stop().await;
}
