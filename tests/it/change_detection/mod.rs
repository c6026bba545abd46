//! Stale data and change counters: retained data, withdrawn data, and counted changes. In
//! simulated time.

mod borders;
mod rechecks;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{Scrape, expected_sim_keys, exposed_keys, static_sim};
use jiff::{SignedDuration, Timestamp};
use mongodb_atlas_sim::{
    BucketConfig, ChangeKind, Effect, ErrorBodyFormat, Fault, LoggedChange, SimConfig, SimEndpoint,
    World,
};

const KEYS: SimEndpoint = SimEndpoint::AiModelApiKeys;
const CHANGES: &str = "mongodbatlas_ai_model_api_key_changes_total";

fn outage_fault() -> Fault {
    Fault::new(
        KEYS,
        Effect::Status {
            status: 503,
            body: ErrorBodyFormat::Json,
            retry_after: None,
        },
    )
}

/// Returns the change counters, summed over all organizations.
fn change_counters(scrape: &Scrape) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for series in scrape.with_name(CHANGES) {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count"
        )]
        let value = series.value as u64;
        *counts.entry(series.labels["change"].clone()).or_default() += value;
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn change_counters_start_at_zero_and_count_once() {
    let sim = in_process_sim(&static_sim(1, 40));
    let org = sim.org_ids()[0].clone();
    let exporter = SimHarness::start(&sim, &["--metrics.idle-thresholds=7d,90d"]).await;
    let scrape = exporter.wait_polled(1).await;
    let before = change_counters(&scrape);
    assert_eq!(before.len(), 6);
    assert!(
        before.values().all(|count| *count == 0),
        "the first walk finds no change"
    );
    let id = |world: &World, condition: &dyn Fn(Option<Timestamp>) -> bool| {
        let mut keys = world.keys(&org).iter();
        keys.find(|key| condition(key.last_used))
            .unwrap()
            .id
            .clone()
    };
    let long_ago = sim.now() - SignedDuration::from_hours(91 * 24);
    sim.with_world(|world| {
        world.create_key(&org, "new").unwrap();
        let unused = id(world, &|used| used.is_none());
        world.mark_used(&org, &unused);
        let stale = id(world, &|used| used.is_some_and(|used| used < long_ago));
        world.mark_used(&org, &stale);
        let ids: Vec<String> = world.keys(&org).iter().map(|key| key.id.clone()).collect();
        let rest: Vec<&String> = ids
            .iter()
            .filter(|id| **id != unused && **id != stale)
            .collect();
        world.rename_key(&org, rest[0], "another name");
        world.set_key_status(&org, rest[1], "REVOKED");
        world.delete_key(&org, rest[2]);
    });
    let after = change_counters(&exporter.wait_polled_again().await);
    assert!(after.values().all(|count| *count == 1), "{after:?}");
    exporter.stop().await;
}

/// The number of keys that were created and deleted between two polls.
fn count_short_lived(log: &[LoggedChange], less_than: SignedDuration) -> u64 {
    let created: BTreeMap<&String, Timestamp> = log
        .iter()
        .filter(|change| change.change == ChangeKind::Created)
        .map(|change| (&change.key, change.at))
        .collect();
    log.iter()
        .filter(|change| change.change == ChangeKind::Deleted)
        .filter(|change| {
            let started_at = created.get(&change.key);
            started_at.is_some_and(|started_at| change.at.duration_since(*started_at) < less_than)
        })
        .count() as u64
}

#[tokio::test(start_paused = true)]
async fn change_counts_match_the_sim_over_ten_days() {
    let sim = in_process_sim(&SimConfig {
        org_bucket: BucketConfig::new(5000, 5000),
        ..SimConfig {
            orgs: 2,
            keys: 300,
            speed: 2.0,
            ..SimConfig::default()
        }
    });
    let orgs = sim.org_ids();
    let exporter =
        SimHarness::start(&sim, &["--atlas.page-size=20", "--atlas.poll-interval=40m"]).await;
    exporter.wait_polled(2).await;
    let before = sim.with_world(|world| world.changes().len());
    // An old key is deleted during many walks, which shifts every later page.
    sim.set_page_hook(move |call, page, world| {
        if page > 1 && call % 19 == 0 {
            for org in &orgs {
                let old = world.keys(org).first().map(|key| key.id.clone());
                if let Some(old) = old.filter(|_| world.keys(org).len() > 60) {
                    world.delete_key(org, &old);
                }
            }
        }
    });
    exporter.advance(Duration::from_hours(10 * 24)).await;
    sim.set_page_hook(|_, _, _| {});
    sim.with_world(World::stop_events);
    exporter.advance(Duration::from_hours(1)).await;
    let log = sim.with_world(|world| world.changes()[before..].to_vec());
    let happened = |kind| log.iter().filter(|change| change.change == kind).count() as u64;
    let unseen = count_short_lived(&log, SignedDuration::from_mins(90));
    let scrape = exporter.scrape();
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    let counts = change_counters(&scrape);
    for (change, kind) in [
        ("created", ChangeKind::Created),
        ("deleted", ChangeKind::Deleted),
        ("first_used", ChangeKind::FirstUsed),
    ] {
        let (counted, actual) = (counts[change], happened(kind));
        assert!(actual > 30, "{change}: only {actual} changes in ten days");
        assert!(
            (actual - unseen..=actual).contains(&counted),
            "{change}: {counted} counted, {actual} happened, {unseen} of short life"
        );
    }
    assert!(unseen < 40, "{unseen}");
    let second_looks = exporter.requests_to(SimEndpoint::AiModelApiKey).len();
    assert!(
        second_looks > 100,
        "pages were shifted: {second_looks} rechecks"
    );
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn stale_inventory_is_served_until_max_staleness() {
    let sim = in_process_sim(&static_sim(2, 40));
    let orgs = sim.org_ids();
    let exporter = SimHarness::start(&sim, &["--atlas.max-staleness=2h"]).await;
    exporter.wait_polled(2).await;
    exporter.advance(Duration::from_secs(30)).await;
    let before = exporter.scrape();
    sim.add_fault(outage_fault().for_org(&orgs[0]));
    let outage_start = sim.now();
    let label: &[(&str, &str)] = &[("org_id", &orgs[0])];
    let success = "atlas_ai_keys_exporter_org_last_success_timestamp_seconds";
    exporter.advance(Duration::from_mins(90)).await;
    let scrape = exporter.scrape();
    assert_eq!(scrape.inventory_series(), before.inventory_series());
    assert_eq!(
        scrape.get("atlas_ai_keys_exporter_org_up", label),
        Some(0.0)
    );
    let last = scrape.get(success, label).unwrap();
    exporter.advance(Duration::from_mins(40)).await;
    let scrape = exporter.scrape();
    let of_org = |scrape: &Scrape, name: &str| {
        scrape
            .with_name(name)
            .filter(|series| series.labels["org_id"] == orgs[0])
            .count()
    };
    for name in [
        "api_keys",
        "api_key_info",
        "api_keys_idle",
        "api_key_used",
        "api_key_idle_seconds",
    ] {
        let name = format!("mongodbatlas_ai_model_{name}");
        assert_eq!(of_org(&scrape, &name), 0, "{name} is withdrawn");
        assert!(
            scrape.with_name(&name).count() > 0,
            "the series of the other organization remain"
        );
    }
    assert_eq!(
        scrape.get(success, label),
        Some(last),
        "the exporter's series of the organization remain"
    );
    assert_eq!(
        scrape.get("atlas_ai_keys_exporter_org_up", label),
        Some(0.0)
    );
    assert_eq!(of_org(&scrape, CHANGES), 6);
    assert_eq!(of_org(&scrape, "mongodbatlas_organization_info"), 1);
    // The number of attempts depends on the random factor of the backoff, the longest wait does not: 10 minutes after
    // repeated responses with 503, times at most 1.25.
    let attempts = exporter.requests_to(KEYS).into_iter();
    let failed = attempts
        .filter(|request| request.org.as_ref() == Some(&orgs[0]) && request.status == 503)
        .map(|request| request.at);
    let times: Vec<Timestamp> = [outage_start].into_iter().chain(failed).collect();
    let longest = SignedDuration::from_mins(13);
    let ends = times.iter().skip(1).copied().chain([sim.now()]);
    for (start, end) in times.iter().zip(ends) {
        let wait = end.duration_since(*start);
        assert!(wait < longest, "{wait} without an attempt: {times:?}");
    }
    sim.clear_faults();
    let healed = exporter.wait_polled(2).await;
    assert_eq!(exposed_keys(&healed), expected_sim_keys(&sim));
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn stale_inventory_is_served_indefinitely_without_a_limit() {
    let sim = in_process_sim(&static_sim(1, 40));
    let exporter = SimHarness::start(&sim, &[]).await;
    exporter.wait_polled(1).await;
    let polled = expected_sim_keys(&sim);
    let before = exporter.requests_to(KEYS).len();
    sim.add_fault(outage_fault());
    sim.with_world(|world| {
        let org = world.org_ids()[0].clone();
        let first = world.keys(&org)[0].id.clone();
        assert!(world.rename_key(&org, &first, "renamed during the outage"));
    });
    let days = 10;
    exporter.advance(Duration::from_hours(days * 24)).await;
    let scrape = exporter.scrape();
    assert_eq!(exposed_keys(&scrape), polled);
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_up"), 0.0);
    // Waits after each 503 reduce twelve polls per hour to nine.
    let attempts = exporter.requests_to(KEYS).len() - before;
    let least = 8 * 24 * usize::try_from(days).unwrap();
    assert!(attempts >= least, "{attempts} attempts");
    sim.clear_faults();
    let healed = exporter.wait_polled(1).await;
    assert_eq!(exposed_keys(&healed), expected_sim_keys(&sim));
    exporter.stop().await;
}
