//! Processes that are killed and restarted repeatedly.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{KEYS, UP, outage_fault, start_exporter};
use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{sim_env, static_sim};
use mongodb_atlas_sim::SimHandle;

const HOUR: Duration = Duration::from_hours(1);

/// Returns the number of requests by endpoint.
fn count_requests(sim: &SimHandle) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in sim.requests() {
        *counts.entry(format!("{:?}", request.endpoint)).or_default() += 1;
    }
    counts
}

/// Runs an exporter for an hour, killed and restarted `starts` times. Returns the number of requests by endpoint.
async fn run_for_an_hour(starts: u32) -> BTreeMap<String, usize> {
    let (sim, dir) = (
        in_process_sim(&static_sim(4, 40)),
        tempfile::tempdir().unwrap(),
    );
    let mut variables = sim_env(&sim);
    variables.retain(|(name, _)| name != "MONGODB_ATLAS_ORG_ID");
    let storage = format!("--storage.path={}", dir.path().display());
    for start in 0..starts {
        let flags = ["--atlas.discover-orgs", &storage];
        let exporter = SimHarness::start_with(&sim, variables.clone(), &flags).await;
        exporter.advance(HOUR / starts).await;
        assert_eq!(exporter.scrape().values(UP), [1.0; 4], "start {start}");
        assert_eq!(exporter.count_responses(401), 0);
        exporter.kill().await;
    }
    assert!(sim.live_token_count() <= 2);
    count_requests(&sim)
}

#[tokio::test(start_paused = true)]
async fn crash_loop_sends_no_extra_requests() {
    let continuous = run_for_an_hour(1).await;
    let restarted = run_for_an_hour(200).await;
    assert!(continuous["AiModelApiKeys"] >= 4 * 12, "{continuous:?}");
    for (endpoint, requests) in &restarted {
        let allowed = continuous.get(endpoint).copied().unwrap_or(0);
        assert!(
            *requests <= allowed,
            "{endpoint}: {requests}, not {allowed}"
        );
    }
    // The organizations are still polled.
    let polls = restarted["AiModelApiKeys"];
    assert!(polls >= 4 * 11, "{polls} polls in an hour");
}

/// Polls once, then runs an exporter during an outage of an hour, killed and restarted `starts` times. Returns the
/// number of failed requests.
async fn run_through_outage(status: u16, starts: u32) -> usize {
    let (sim, dir) = (
        in_process_sim(&static_sim(2, 20)),
        tempfile::tempdir().unwrap(),
    );
    let exporter = start_exporter(&sim, &dir, &[]).await;
    exporter.wait_polled(2).await;
    exporter.kill().await;
    sim.add_fault(outage_fault(status));
    let before = sim.requests().len();
    for _ in 0..starts {
        let exporter = start_exporter(&sim, &dir, &[]).await;
        exporter.advance(HOUR / starts).await;
        exporter.kill().await;
    }
    let requests = &sim.requests()[before..];
    let failed = requests.iter().filter(|request| request.endpoint == KEYS);
    failed.count()
}

#[tokio::test(start_paused = true)]
async fn crash_loop_during_outage_backs_off() {
    for status in [403, 429, 503] {
        let continuous = run_through_outage(status, 1).await;
        let restarted = run_through_outage(status, 120).await;
        // The number of polls is the same; delays between the requests of one poll restart with each process. Jitter
        // changes the number by a few.
        assert!(
            continuous > 5 && (continuous / 2..=5 * continuous).contains(&restarted),
            "{status}: {continuous} requests in an hour, and {restarted} with 120 starts"
        );
    }
}
