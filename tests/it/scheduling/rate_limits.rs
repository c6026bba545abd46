//! Polls within a small rate limit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::KEYS;
use crate::common::log_capture::LogCapture;
use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{error_fault, static_sim};
use mongodb_atlas_sim::{
    BucketConfig, BucketScope, Effect, Fault, SimConfig, SimEndpoint, SimHandle,
};

const POLL_INTERVAL: &str = "atlas_ai_keys_exporter_org_poll_interval_seconds";

fn small_bucket_sim(orgs: usize, keys: usize, scope: BucketScope) -> Arc<SimHandle> {
    in_process_sim(&SimConfig {
        org_bucket: BucketConfig::SMALLEST,
        bucket_scope: scope,
        ..static_sim(orgs, keys)
    })
}

/// Hides the rate limits, except that requests are rejected.
fn hide_rate_limits(sim: &SimHandle) {
    sim.add_fault(error_fault(SimEndpoint::RateLimits, None, 403));
    hide_rate_limit_details(sim);
}

fn hide_rate_limit_details(sim: &SimHandle) {
    for endpoint in [KEYS, SimEndpoint::AiModelApiRateLimits] {
        sim.add_fault(Fault::new(endpoint, Effect::NoRateLimitHeaders));
        sim.add_fault(Fault::new(endpoint, Effect::BareRejections));
    }
}

/// Requests for keys, grouped by organization as long as no other organization comes between.
fn walks_in_order(exporter: &SimHarness) -> Vec<(String, Vec<u32>)> {
    let mut walks: Vec<(String, Vec<u32>)> = Vec::new();
    for request in exporter.requests_to(KEYS) {
        let (org, page) = (request.org.unwrap(), request.page.unwrap());
        match walks.last_mut() {
            Some((last, pages)) if *last == org => pages.push(page),
            _ => walks.push((org, vec![page])),
        }
    }
    walks
}

#[tokio::test(start_paused = true)]
async fn walks_that_share_an_exceeded_bucket_do_not_overlap() {
    let sim = small_bucket_sim(6, 60, BucketScope::User);
    let flags = ["--atlas.page-size=3", "--atlas.poll-interval=1m"];
    let exporter = SimHarness::start(&sim, &flags).await;
    exporter.wait_polled(6).await;
    let polls = exporter.count_polls();
    exporter.advance(Duration::from_hours(3)).await;
    polls.assert_polled(20);
    let page_counts: BTreeMap<String, u32> = sim.with_world(|world| {
        let pages = |org: &String| u32::try_from(world.keys(org).len().div_ceil(3)).unwrap();
        let orgs = world.org_ids();
        orgs.into_iter()
            .map(|org| (org.clone(), pages(&org)))
            .collect()
    });
    let mut walks = walks_in_order(&exporter);
    walks.pop();
    for (org, mut pages) in walks {
        pages.sort_unstable();
        let all: Vec<u32> = (1..=page_counts[&org]).collect();
        assert_eq!(pages, all, "{org}");
    }
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn poll_interval_follows_the_number_of_pages() {
    let sim = small_bucket_sim(1, 40, BucketScope::Organization);
    let org = sim.org_ids().remove(0);
    let flags = ["--atlas.page-size=10", "--atlas.poll-interval=1m"];
    let exporter = SimHarness::start(&sim, &flags).await;
    exporter.wait_polled(1).await;
    exporter.advance(Duration::from_mins(5)).await;
    assert_eq!(
        exporter.scrape().values(POLL_INTERVAL),
        [60.0],
        "4 pages a minute"
    );
    sim.with_world(|world| {
        for n in 0..360 {
            world.create_key(&org, &format!("new {n}")).unwrap();
        }
    });
    let begun_at = sim.now();
    exporter
        .wait_until("a walk of 40 pages", |scrape| {
            scrape.sum("atlas_ai_keys_exporter_org_poll_pages") == 40.0
        })
        .await;
    // The rate limits are requested once an hour, which corrects the interval as well.
    assert!(sim.now().duration_since(begun_at).as_secs() < 30 * 60);
    let scrape = exporter.scrape();
    assert_eq!(scrape.values(POLL_INTERVAL), [600.0]);
    let configured = "atlas_ai_keys_exporter_org_configured_poll_interval_seconds";
    assert_eq!(scrape.values(configured), [60.0]);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rate_limits_survive_a_restart() {
    let sim = small_bucket_sim(1, 120, BucketScope::Organization);
    let dir = tempfile::tempdir().unwrap();
    let storage = format!("--storage.path={}", dir.path().display());
    let flags = ["--atlas.page-size=10", "--atlas.poll-interval=1m", &storage];
    let exporter = SimHarness::start(&sim, &flags).await;
    exporter.wait_polled(1).await;
    exporter.advance(Duration::from_mins(30)).await;
    assert_eq!(
        exporter.scrape().values(POLL_INTERVAL),
        [180.0],
        "12 pages at 4 a minute"
    );
    exporter.kill().await;
    hide_rate_limits(&sim);
    // The bucket is full again.
    tokio::time::sleep(Duration::from_mins(5)).await;
    let exporter = SimHarness::start(&sim, &flags).await;
    assert_eq!(exporter.scrape().values(POLL_INTERVAL), [180.0]);
    let polls = exporter.count_polls();
    exporter.advance(Duration::from_hours(3)).await;
    polls.assert_polled(50);
    assert_eq!(exporter.count_responses(429), 0);
    exporter.assert_in_sync(Duration::from_mins(6)).await;
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn reported_rate_limits_replace_an_assumed_common_bucket() {
    let logs = LogCapture::start();
    let sim = small_bucket_sim(8, 160, BucketScope::User);
    hide_rate_limits(&sim);
    let flags = ["--atlas.page-size=10", "--atlas.poll-interval=1m"];
    let exporter = SimHarness::start(&sim, &flags).await;
    let scrape = exporter.wait_polled(8).await;
    assert_eq!(scrape.values(POLL_INTERVAL), [60.0; 8]);
    assert!(logs.count("INFO", "organizations rate limited together") > 0);
    // The rate limits are requested again an hour after they were refused.
    sim.clear_faults();
    hide_rate_limit_details(&sim);
    exporter.advance(Duration::from_mins(65)).await;
    let scrape = exporter.scrape();
    let pages = scrape.sum("atlas_ai_keys_exporter_org_poll_pages");
    assert_eq!(
        scrape.values(POLL_INTERVAL),
        [pages * 15.0; 8],
        "4 pages a minute"
    );
    let (polls, rejected) = (exporter.count_polls(), exporter.count_responses(429));
    exporter.advance(Duration::from_hours(3)).await;
    polls.assert_polled(30);
    assert_eq!(exporter.count_responses(429), rejected);
    exporter.assert_in_sync(Duration::from_mins(10)).await;
    exporter.stop().await;
}
