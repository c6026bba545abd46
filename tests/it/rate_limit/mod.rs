//! Rate limits in simulated time: the available rate is used, and no data is lost after a 429.

mod headers;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{expected_sim_keys, exposed_keys, static_sim, unlimited_sim};
use jiff::Timestamp;
use mongodb_atlas_sim::{
    BucketConfig, BucketScope, Effect, ErrorBodyFormat, Fault, LoggedRequest, SimConfig,
    SimEndpoint, SimHandle,
};

const KEYS: SimEndpoint = SimEndpoint::AiModelApiKeys;

const MINUTE: Duration = Duration::from_mins(1);

const FAILURES: &str = "atlas_ai_keys_exporter_org_poll_failures_total";

/// Flags with which the smallest bucket is too small for more than 40 keys.
const SMALL_PAGE_FLAGS: &[&str] = &["--atlas.page-size=10", "--atlas.poll-interval=1m"];

/// Requests per minute that the smallest bucket sustains, without the fifth that is reserved for other clients.
const SUPPLY_PER_MINUTE: usize = 4;

fn status_effect(status: u16, retry_after: Option<u32>) -> Effect {
    Effect::Status {
        status,
        body: ErrorBodyFormat::Json,
        retry_after,
    }
}

/// Returns the seconds between the responses to requests for keys.
fn request_gaps(exporter: &SimHarness) -> Vec<i64> {
    let at: Vec<Timestamp> = exporter
        .requests_to(KEYS)
        .iter()
        .map(|request| request.at)
        .collect();
    at.windows(2)
        .map(|pair| pair[1].duration_since(pair[0]).as_secs())
        .collect()
}

/// Returns the number of requests for keys after `from`, by organization.
fn requests_since(exporter: &SimHarness, from: Timestamp) -> BTreeMap<String, usize> {
    let mut requests = BTreeMap::new();
    for request in exporter.requests_to(KEYS) {
        if request.at > from {
            *requests.entry(request.org.unwrap()).or_default() += 1;
        }
    }
    requests
}

/// Asserts that a saturated bucket is used: at least nine tenths of its supply, at most the supply and one full bucket.
fn assert_saturated(requests: usize, supply: usize, what: &str) {
    let range = supply * 9 / 10..=supply + 10;
    assert!(range.contains(&requests), "{what}: {requests} of {supply}");
}

/// Renames a key of each organization, so that old inventories are outdated.
fn rename_keys(sim: &SimHandle) {
    sim.with_world(|world| {
        for org in world.org_ids() {
            let id = world.keys(&org)[0].id.clone();
            assert!(world.rename_key(&org, &id, "renamed"));
        }
    });
}

fn small_bucket_sim(orgs: usize, keys: usize, scope: BucketScope) -> SimConfig {
    SimConfig {
        org_bucket: BucketConfig::SMALLEST,
        bucket_scope: scope,
        ..static_sim(orgs, keys)
    }
}

/// Hides the rate limits. Requests over the limit are still rejected.
fn hide_rate_limits(sim: &SimHandle) {
    sim.add_fault(Fault::new(
        SimEndpoint::RateLimits,
        status_effect(403, None),
    ));
    sim.add_fault(Fault::new(KEYS, Effect::NoRateLimitHeaders));
    sim.add_fault(Fault::new(KEYS, Effect::BareRejections));
    sim.add_fault(Fault::new(
        SimEndpoint::AiModelApiRateLimits,
        status_effect(404, None),
    ));
}

#[tokio::test(start_paused = true)]
async fn repeated_429s_back_off_without_failing_the_poll() {
    for code in [429, 503] {
        let sim = in_process_sim(&static_sim(1, 5));
        sim.add_fault(
            Fault::new(KEYS, status_effect(code, None)).times(if code == 429 { 4 } else { 1 }),
        );
        let exporter = SimHarness::start(&sim, &[]).await;
        let scrape = exporter.wait_polled(1).await;
        assert_eq!(scrape.sum(FAILURES), 0.0);
        let waits = request_gaps(&exporter);
        let least: &[i64] = if code == 429 {
            &[10, 20, 40, 80]
        } else {
            &[10]
        };
        assert_eq!(waits.len(), least.len(), "{waits:?}");
        for (wait, least) in waits.iter().zip(least) {
            assert!((*least..=least * 5 / 4 + 1).contains(wait), "{waits:?}");
        }
        let throttled = scrape.sum("atlas_ai_keys_exporter_api_throttled_seconds_total");
        let waited: i64 = waits.iter().sum();
        #[allow(clippy::cast_precision_loss, reason = "seconds")]
        let difference = (throttled - waited as f64).abs();
        assert!(
            difference < 5.0,
            "the waits are exported: {throttled} of {waited}"
        );
        exporter.stop().await;
    }
}

/// Rejects one request with `Retry-After: 20`, while six organizations are polled every 30 s. Returns the seconds from the
/// rejection to the next request, and to the next request of another organization.
async fn waits_after_rejection(status: u16, scope: BucketScope) -> (i64, i64) {
    let sim = in_process_sim(&SimConfig {
        bucket_scope: scope,
        ..unlimited_sim(6, 30)
    });
    let exporter = SimHarness::start(&sim, &["--atlas.poll-interval=30s"]).await;
    exporter.wait_polled(6).await;
    exporter.advance(MINUTE).await;
    sim.add_fault(Fault::new(KEYS, status_effect(status, Some(20))).times(1));
    exporter.advance(Duration::from_mins(3)).await;
    let requests = exporter.requests_to(KEYS);
    let is_rejected = |request: &&LoggedRequest| request.status == status;
    let rejected = requests.iter().find(is_rejected).unwrap();
    let later = || requests.iter().filter(|request| request.at > rejected.at);
    let seconds_to =
        |request: Option<&LoggedRequest>| request.unwrap().at.duration_since(rejected.at).as_secs();
    let next = seconds_to(later().next());
    let next_other = seconds_to(later().find(|request| request.org != rejected.org));
    // No poll failed, and all organizations are still polled.
    assert_eq!(exporter.scrape().sum(FAILURES), 0.0);
    let since = rejected.at + Duration::from_secs(30);
    let later = requests_since(&exporter, since);
    assert_eq!(later.len(), 6);
    assert!(later.values().all(|requests| *requests >= 3), "{later:?}");
    exporter.stop().await;
    (next, next_other)
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_the_minimum_wait() {
    for status in [429, 503] {
        let (next, next_other) = waits_after_rejection(status, BucketScope::User).await;
        assert!((20..=26).contains(&next), "{status}: {next}");
        assert!((20..=26).contains(&next_other), "{status}: {next_other}");
        // Organizations with a separate bucket are polled in the meantime.
        let (next, next_other) = waits_after_rejection(status, BucketScope::Organization).await;
        assert!(next == next_other && next < 20, "{status}: {next}");
    }
}

#[tokio::test(start_paused = true)]
async fn outage_fails_the_poll_instead_of_waiting() {
    let sim = in_process_sim(&static_sim(1, 5));
    let org = sim.org_ids()[0].clone();
    let exporter = SimHarness::start(&sim, &[]).await;
    exporter.wait_polled(1).await;
    sim.add_fault(Fault::new(KEYS, status_effect(503, None)));
    exporter
        .wait_until("the failed poll", |scrape| {
            scrape.poll_failures(&org, "server_error") > 0.0
        })
        .await;
    let last_success = exporter
        .requests_to(KEYS)
        .iter()
        .rfind(|request| request.status == 200)
        .unwrap()
        .at;
    let first_error = exporter
        .requests_to(KEYS)
        .iter()
        .find(|request| request.status == 503)
        .unwrap()
        .at;
    let failed_at = sim.now();
    assert!(failed_at.duration_since(first_error).as_secs() < 60);
    assert!(failed_at.duration_since(last_success).as_secs() < 600);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn known_bucket_is_never_exceeded() {
    for scope in [BucketScope::Organization, BucketScope::User] {
        // Three organizations with three to six pages each: five requests per minute are not sufficient.
        let sim = in_process_sim(&small_bucket_sim(3, 120, scope));
        let exporter = SimHarness::start(&sim, SMALL_PAGE_FLAGS).await;
        exporter.wait_polled(3).await;
        let started_at = sim.now();
        exporter.advance(Duration::from_hours(4)).await;
        rename_keys(&sim);
        exporter.advance(Duration::from_hours(4)).await;
        assert_eq!(exporter.count_responses(429), 0, "{scope:?}");
        let scrape = exporter.scrape();
        assert_eq!(scrape.sum(FAILURES), 0.0);
        assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
        assert_eq!(
            scrape.values("atlas_ai_keys_exporter_api_rate_limit_capacity")[0],
            10.0
        );
        assert!(
            scrape
                .values("atlas_ai_keys_exporter_org_poll_interval_seconds")
                .iter()
                .any(|interval| *interval > 60.0),
            "and the effective poll interval is longer"
        );
        let requests = requests_since(&exporter, started_at);
        let minutes = 8 * 60;
        if scope == BucketScope::User {
            let sum = requests.values().sum();
            assert_saturated(sum, SUPPLY_PER_MINUTE * minutes, "all");
        } else {
            for org in sim.org_ids() {
                let pages = sim.with_world(|world| world.keys(&org).len()).div_ceil(10);
                let supply = SUPPLY_PER_MINUTE.min(pages) * minutes;
                assert_saturated(requests[&org], supply, &format!("{org}, {pages} pages"));
            }
        }
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn part_of_the_bucket_is_reserved_for_other_clients() {
    let sim = in_process_sim(&small_bucket_sim(1, 100, BucketScope::Organization));
    let org = sim.org_ids()[0].clone();
    let exporter = SimHarness::start(&sim, SMALL_PAGE_FLAGS).await;
    exporter.wait_polled(1).await;
    let started_at = sim.now();
    let mut lowest = u32::MAX;
    for _ in 0..2 * 3600 {
        exporter.advance(Duration::from_secs(1)).await;
        lowest = lowest.min(sim.available_tokens(&org));
    }
    assert_eq!(lowest, 2, "exactly two of ten are left");
    let requests = requests_since(&exporter, started_at)[&org];
    assert_saturated(requests, SUPPLY_PER_MINUTE * 120, "two hours");
    assert_eq!(exporter.count_responses(429), 0);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn polls_succeed_without_rate_limit_headers() {
    for scope in [BucketScope::Organization, BucketScope::User] {
        let sim = in_process_sim(&small_bucket_sim(8, 160, scope));
        hide_rate_limits(&sim);
        let exporter = SimHarness::start(&sim, &["--atlas.page-size=10"]).await;
        exporter.wait_polled(8).await;
        rename_keys(&sim);
        exporter.wait_polled_again().await;
        let scrape = exporter.wait_polled_again().await;
        assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim), "{scope:?}");
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn rate_limit_body_updates_bucket_parameters() {
    let sim = in_process_sim(&small_bucket_sim(1, 200, BucketScope::Organization));
    let org = sim.org_ids()[0].clone();
    // Without headers the client does not learn from the hourly model limits, which use the same bucket, either.
    for endpoint in [SimEndpoint::RateLimits, SimEndpoint::AiModelApiRateLimits] {
        sim.add_fault(Fault::new(endpoint, status_effect(404, None)));
    }
    sim.add_fault(Fault::new(KEYS, Effect::NoRateLimitHeaders));
    let exporter = SimHarness::start(&sim, SMALL_PAGE_FLAGS).await;
    exporter.wait_polled(1).await;
    let started_at = sim.now();
    let learning = exporter.count_responses(429);
    assert!((1..=4).contains(&learning), "{learning} concurrent pages");
    exporter.advance(Duration::from_hours(3)).await;
    rename_keys(&sim);
    exporter.advance(Duration::from_hours(3)).await;
    assert_eq!(
        exporter.count_responses(429),
        learning,
        "no request is rejected after the bucket is known"
    );
    let requests = requests_since(&exporter, started_at)[&org];
    assert_saturated(requests, SUPPLY_PER_MINUTE * 360, "six hours");
    assert_eq!(
        exposed_keys(&exporter.scrape()),
        expected_sim_keys(&sim),
        "renamed keys are exported"
    );
    exporter.stop().await;
}

/// Polls for four hours while another client takes three of the five tokens per minute. Returns the exporter, and the
/// numbers of accepted and rejected requests for keys.
async fn poll_beside_another_client(hide_headers: bool) -> (SimHarness, usize, usize) {
    let sim = in_process_sim(&small_bucket_sim(1, 60, BucketScope::Organization));
    let org = sim.org_ids()[0].clone();
    if hide_headers {
        sim.add_fault(Fault::new(KEYS, Effect::NoRateLimitHeaders));
    }
    let exporter =
        SimHarness::start(&sim, &["--atlas.page-size=10", "--atlas.poll-interval=2m"]).await;
    exporter.wait_polled(1).await;
    let started_at = sim.now();
    for minute in 0..240 {
        sim.take_tokens(&org, 3);
        if minute == 120 {
            rename_keys(&sim);
        }
        exporter.advance(MINUTE).await;
    }
    let rejected = exporter.count_responses(429);
    let accepted = requests_since(&exporter, started_at)[&org] - rejected;
    (exporter, accepted, rejected)
}

#[tokio::test(start_paused = true)]
async fn consumption_by_other_clients_is_detected() {
    let (exporter, accepted, rejected) = poll_beside_another_client(false).await;
    let scrape = exporter.scrape();
    assert_eq!(scrape.sum(FAILURES), 0.0);
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&exporter.sim));
    // Two tokens per minute are left.
    assert_saturated(accepted, 2 * 240, "beside another client");
    exporter.stop().await;
    let (unaware, _, unaware_rejected) = poll_beside_another_client(true).await;
    unaware.stop().await;
    assert!(
        rejected <= 2 && unaware_rejected > 10,
        "{rejected}; without the headers {unaware_rejected}"
    );
}
