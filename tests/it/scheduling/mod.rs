//! Poll schedule: sequential polls, at fixed times, and less often after persistent failures.
//! In simulated time.

mod due_times;
mod rate_limits;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{Scrape, expected_sim_keys, exposed_keys, static_sim};
use jiff::Timestamp;
use mongodb_atlas_sim::{
    BucketConfig, BucketScope, Effect, ErrorBodyFormat, Fault, SimConfig, SimEndpoint,
};

const KEYS: SimEndpoint = SimEndpoint::AiModelApiKeys;

/// Returns the poll times of each organization.
fn walk_times(exporter: &SimHarness) -> BTreeMap<String, Vec<Timestamp>> {
    let mut walks: BTreeMap<String, Vec<Timestamp>> = BTreeMap::new();
    for request in exporter
        .requests_to(KEYS)
        .iter()
        .filter(|request| request.status == 200)
    {
        walks
            .entry(request.org.clone().unwrap())
            .or_default()
            .push(request.at);
    }
    walks
}

fn seconds_between(from: Timestamp, to: Timestamp) -> i64 {
    to.duration_since(from).as_secs()
}

#[tokio::test(start_paused = true)]
async fn polls_of_a_day_are_spread_and_minimal() {
    let sim = in_process_sim(&static_sim(5, 100));
    let exporter = SimHarness::start(&sim, &[]).await;
    exporter.wait_polled(5).await;
    let first = exporter.requests_to(KEYS).len();
    assert_eq!(first, 5, "one page each");
    exporter.advance(Duration::from_hours(24)).await;
    let all = exporter.requests_to(KEYS).len() - first;
    assert!((5 * 287..=5 * 289).contains(&all), "{all} in a day");
    for (org, times) in walk_times(&exporter) {
        let regular = times.windows(2).skip(1);
        for pair in regular {
            let pause = seconds_between(pair[0], pair[1]);
            assert!((299..=301).contains(&pause), "{org}: {pause}");
        }
    }
    let later = exporter.requests_to(KEYS).into_iter().skip(5);
    let instants: BTreeSet<i64> = later.map(|request| request.at.as_second()).collect();
    assert_eq!(instants.len(), all, "no two in the same second");
    // Hourly requests in addition to the keys: name, projects and limits of each organization, rate limits, client secrets, token.
    let hourly = exporter.sim.requests().len() - exporter.requests_to(KEYS).len();
    assert!(hourly <= 25 * (5 * 3 + 1 + 1 + 2), "{hourly}");
    exporter.assert_in_sync(Duration::from_mins(10)).await;
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn five_hundred_organizations_share_the_smallest_bucket() {
    let sim = in_process_sim(&SimConfig {
        org_bucket: BucketConfig::SMALLEST,
        bucket_scope: BucketScope::User,
        ..static_sim(500, 2000)
    });
    let exporter = SimHarness::start(&sim, &[]).await;
    // 500 polls at 4 per minute take 125 minutes, and the model limits take the same time.
    for _ in 0..250 {
        if walk_times(&exporter).len() == 500 {
            break;
        }
        exporter.advance(Duration::from_mins(1)).await;
    }
    exporter.advance(Duration::from_mins(1)).await;
    let scrape = exporter.scrape();
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_up"), 500.0);
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    let interval = scrape
        .values("atlas_ai_keys_exporter_org_poll_interval_seconds")
        .into_iter()
        .fold(0.0, f64::max);
    assert!(
        (7400.0..7700.0).contains(&interval),
        "500 at 4 a minute: {interval}"
    );
    let polls = exporter.count_polls();
    exporter.advance(Duration::from_hours(12)).await;
    polls.assert_polled(5);
    assert_eq!(exporter.count_responses(429), 0);
    let walks = walk_times(&exporter);
    assert_eq!(walks.len(), 500, "no organization starves");
    for (org, times) in &walks {
        for pair in times.windows(2) {
            let pause = seconds_between(pair[0], pair[1]);
            #[allow(clippy::cast_possible_truncation, reason = "an interval")]
            let most = (interval * 1.6) as i64;
            assert!(pause < most, "{org} waited {pause} s");
        }
    }
    let now = sim.now();
    let ages: Vec<i64> = walks
        .values()
        .map(|times| seconds_between(*times.last().unwrap(), now))
        .collect();
    assert!(
        *ages.iter().max().unwrap() < 12_000,
        "{:?}",
        ages.iter().max()
    );
    exporter.assert_in_sync(Duration::from_mins(200)).await;
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn oldest_inventory_is_polled_first() {
    let sim = in_process_sim(&SimConfig {
        org_bucket: BucketConfig::SMALLEST,
        bucket_scope: BucketScope::User,
        ..static_sim(40, 40)
    });
    let exporter = SimHarness::start(&sim, &["--atlas.poll-interval=1m"]).await;
    exporter.wait_polled(40).await;
    let polls = exporter.count_polls();
    exporter.advance(Duration::from_hours(3)).await;
    polls.assert_polled(16);
    let order: Vec<String> = exporter
        .requests_to(KEYS)
        .into_iter()
        .map(|request| request.org.unwrap())
        .collect();
    // Each organization is polled within two poll intervals; 4 per minute are 720 polls.
    assert!(order.len() > 680, "{}", order.len());
    for stretch in order.windows(80) {
        let seen: BTreeSet<&String> = stretch.iter().collect();
        assert_eq!(seen.len(), 40);
    }
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn persistent_authorization_failure_reduces_the_poll_rate() {
    for (code, reason) in [
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "not_found"),
    ] {
        let sim = in_process_sim(&static_sim(3, 30));
        let orgs = sim.org_ids();
        let exporter = SimHarness::start(&sim, &[]).await;
        exporter.wait_polled(3).await;
        sim.add_fault(Fault::new(KEYS, Effect::error_status(code)).for_org(&orgs[1]));
        exporter.advance(Duration::from_hours(8)).await;
        let scrape = exporter.scrape();
        let failures = scrape.poll_failures(&orgs[1], reason);
        assert!(
            (8.0..24.0).contains(&failures),
            "{reason}: {failures} in eight hours"
        );
        assert_eq!(
            scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
            failures,
            "other organizations are not affected"
        );
        assert_eq!(
            exposed_keys(&scrape),
            expected_sim_keys(&sim),
            "the last inventory is retained"
        );
        for org in [&orgs[0], &orgs[2]] {
            let times = &walk_times(&exporter)[org];
            assert!(times.len() >= 96, "{}", times.len());
        }
        sim.clear_faults();
        let healed = exporter.wait_polled(3).await;
        assert_eq!(healed.sum("atlas_ai_keys_exporter_org_up"), 3.0);
        exporter.assert_in_sync(Duration::from_mins(10)).await;
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn exhausted_credential_does_not_block_others() {
    // Two credentials with different names access the same simulated Atlas.
    let sim = in_process_sim(&static_sim(40, 400));
    let orgs = sim.org_ids();
    let account = sim.credentials();
    let dir = tempfile::tempdir().unwrap();
    let list = |orgs: &[String]| {
        format!(
            "[{}]",
            orgs.iter()
                .map(|org| format!("'{org}'"))
                .collect::<Vec<_>>()
                .join(", ")
        )
    };
    let secret = dir.path().join("secret");
    std::fs::write(&secret, &account.client_secret).unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, &account.access_token).unwrap();
    let file = dir.path().join("config.yml");
    std::fs::write(
        &file,
        format!(
            "credentials:\n- name: slow\n  client_id: {}\n  client_secret_file: secret\n  org_ids: {}\n- name: quick\n  access_token_file: token\n  org_ids: {}\n",
            account.client_id,
            list(&orgs[..30]),
            list(&orgs[30..]),
        ),
    )
    .unwrap();
    for org in &orgs[..30] {
        let limited = Effect::Status {
            status: 429,
            body: ErrorBodyFormat::Json,
            retry_after: Some(3000),
        };
        sim.add_fault(Fault::new(KEYS, limited).for_org(org));
    }
    let variables = vec![("MONGODB_ATLAS_BASE_URL".to_owned(), sim.base_url())];
    let flag = format!("--config.file={}", file.display());
    let exporter = SimHarness::start_with(&sim, variables, &[&flag]).await;
    exporter.wait_polled(10).await;
    exporter.advance(Duration::from_hours(1)).await;
    let rejected = exporter.count_responses(429);
    assert!((30..=60).contains(&rejected), "{rejected}");
    for org in &orgs[30..] {
        assert!(walk_times(&exporter)[org].len() >= 12);
    }
    exporter.stop().await;
}

/// Observations of three days, scraped every five minutes.
#[derive(Default)]
struct ObservedState {
    oldest: f64,
    oldest_while_up: f64,
    down: u32,
}

impl ObservedState {
    fn record(&mut self, scrape: &Scrape, now: f64) {
        for series in scrape.with_name("atlas_ai_keys_exporter_org_last_success_timestamp_seconds")
        {
            let org = &series.labels["org_id"];
            let up = scrape.get("atlas_ai_keys_exporter_org_up", &[("org_id", org)]);
            let age = now - series.value;
            self.oldest = self.oldest.max(age);
            if up == Some(1.0) {
                self.oldest_while_up = self.oldest_while_up.max(age);
            } else {
                self.down += 1;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
#[allow(clippy::cast_precision_loss, reason = "seconds since 1970")]
async fn outages_within_three_days_waste_no_quota() {
    let sim = in_process_sim(&SimConfig {
        org_bucket: BucketConfig::new(60, 30),
        ..static_sim(4, 60)
    });
    let orgs = sim.org_ids();
    let hour = 3600.0;
    let outage = |after: f64, length: f64, effect: Effect| Fault {
        after_seconds: after * hour,
        for_seconds: Some(length * hour),
        ..Fault::new(KEYS, effect)
    };
    for fault in [
        outage(6.0, 3.0, Effect::error_status(503)),
        outage(16.0, 1.0, Effect::Reset),
        outage(24.0, 12.0, Effect::error_status(403)).for_org(&orgs[2]),
        outage(44.0, 2.0, Effect::InvalidJson),
        outage(54.0, 6.0, Effect::error_status(500)),
    ] {
        sim.add_fault(fault);
    }
    let exporter = SimHarness::start(&sim, &[]).await;
    exporter.wait_polled(4).await;
    let mut seen = ObservedState::default();
    for _ in 0..3 * 24 * 12 {
        exporter.advance(Duration::from_mins(5)).await;
        let now = sim.now().as_second() as f64;
        seen.record(&exporter.scrape(), now);
    }
    assert_eq!(exporter.count_responses(429), 0);
    let requests = exporter.requests_to(KEYS).len();
    let regular = 4 * 3 * 288;
    assert!(
        (regular * 9 / 10..regular * 13 / 10).contains(&requests),
        "{requests} requests, {regular} walks of one page"
    );
    assert!(
        seen.oldest_while_up < 900.0,
        "{} s old and called up",
        seen.oldest_while_up
    );
    assert!(
        (11.0 * hour..14.0 * hour).contains(&seen.oldest),
        "the longest outage of one organization was twelve hours: {}",
        seen.oldest
    );
    // Hours in which an organization was not up: 4 × (3 + 1 + 2 + 6), and 12 of one organization.
    let hours = f64::from(seen.down) / 12.0;
    assert!((50.0..66.0).contains(&hours), "{hours} hours down");
    let scrape = exporter.assert_in_sync(Duration::from_mins(10)).await;
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_up"), 4.0);
    exporter.stop().await;
}
