//! Last known good, honestly: what stays, what is withdrawn, and what happened to keys. In
//! simulated time.
use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::sim_harness::{Simulated, simulated_atlas};
use crate::common::{Scrape, shown, still, world};
use jiff::{SignedDuration, Timestamp};
use mongodb_atlas_sim::{
    BodyForm, BucketSize, Change, ChangeKind, Effect, Fault, SimConfig, SimEndpoint, World,
};

const KEYS: SimEndpoint = SimEndpoint::AiModelApiKeys;
const CHANGES: &str = "mongodbatlas_ai_model_api_key_changes_total";

fn outage() -> Fault {
    Fault::new(
        KEYS,
        Effect::Status {
            status: 503,
            body: BodyForm::Json,
            retry_after: None,
        },
    )
}

/// How often each change was counted, over all organizations.
fn counted(scrape: &Scrape) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for series in scrape.all(CHANGES) {
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
async fn every_change_begins_at_zero_and_is_counted_once() {
    let sim = simulated_atlas(&still(1, 40));
    let org = sim.org_ids()[0].clone();
    let exporter = Simulated::watching(&sim, &["--metrics.idle-thresholds=7d,90d"]).await;
    let scrape = exporter.walked(1).await;
    let before = counted(&scrape);
    assert_eq!(before.len(), 6);
    assert!(
        before.values().all(|count| *count == 0),
        "the first walk finds no change"
    );
    let id = |world: &World, good: &dyn Fn(Option<Timestamp>) -> bool| {
        let mut keys = world.keys(&org).iter();
        keys.find(|key| good(key.last_used)).unwrap().id.clone()
    };
    let long_ago = sim.clock().now() - SignedDuration::from_hours(91 * 24);
    sim.with_world(|world| {
        world.create(&org, "new").unwrap();
        let unused = id(world, &|used| used.is_none());
        world.use_key(&org, &unused);
        let stale = id(world, &|used| used.is_some_and(|used| used < long_ago));
        world.use_key(&org, &stale);
        let ids: Vec<String> = world.keys(&org).iter().map(|key| key.id.clone()).collect();
        let rest: Vec<&String> = ids
            .iter()
            .filter(|id| **id != unused && **id != stale)
            .collect();
        world.rename(&org, rest[0], "another name");
        world.set_status(&org, rest[1], "REVOKED");
        world.delete(&org, rest[2]);
    });
    let after = counted(&exporter.walked_again().await);
    assert!(after.values().all(|count| *count == 1), "{after:?}");
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_key_is_asked_for_before_it_is_believed_deleted() {
    let sim = simulated_atlas(&still(1, 100));
    let org = sim.org_ids()[0].clone();
    let exporter = Simulated::watching(&sim, &["--atlas.page-size=20"]).await;
    exporter.walked(1).await;
    // pages lose a key without a sign that they did: no total, and a full page less
    sim.add_fault(Fault::new(KEYS, Effect::NoTotalCount));
    sim.before_each_page({
        let org = org.clone();
        let mut done = false;
        move |_, page, world| {
            if page == 3 && !done {
                done = true;
                let first = world.keys(&org)[0].id.clone();
                world.delete(&org, &first);
            }
        }
    });
    let scrape = exporter.walked_again().await;
    assert_eq!(
        shown(&scrape).len(),
        100,
        "the key that moved to page 2 is still there, and the deleted one was seen on page 1"
    );
    assert_eq!(exporter.asked(SimEndpoint::AiModelApiKey).len(), 1);
    let scrape = exporter.walked_again().await;
    assert_eq!(shown(&scrape), world(&sim));
    let counts = counted(&scrape);
    assert_eq!((counts["deleted"], counts["created"]), (1, 0));
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn for_many_missing_keys_there_is_another_walk() {
    let sim = simulated_atlas(&still(1, 100));
    let org = sim.org_ids()[0].clone();
    let exporter = Simulated::watching(&sim, &["--atlas.page-size=20"]).await;
    exporter.walked(1).await;
    let pages = exporter.asked(KEYS).len();
    sim.with_world(|world| {
        for _ in 0..50 {
            let first = world.keys(&org)[0].id.clone();
            world.delete(&org, &first);
        }
    });
    let scrape = exporter.walked_again().await;
    assert_eq!(exporter.asked(KEYS).len() - pages, 6, "twice three pages");
    assert_eq!(exporter.asked(SimEndpoint::AiModelApiKey).len(), 0);
    assert_eq!(counted(&scrape)["deleted"], 50);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn where_single_keys_cannot_be_asked_for_there_is_another_walk() {
    let sim = simulated_atlas(&still(1, 100));
    let org = sim.org_ids()[0].clone();
    let forbidden = Effect::Status {
        status: 403,
        body: BodyForm::Json,
        retry_after: None,
    };
    sim.add_fault(Fault::new(SimEndpoint::AiModelApiKey, forbidden));
    let exporter = Simulated::watching(&sim, &["--atlas.page-size=20"]).await;
    exporter.walked(1).await;
    sim.with_world(|world| {
        let first = world.keys(&org)[0].id.clone();
        world.delete(&org, &first)
    });
    let scrape = exporter.walked_again().await;
    assert_eq!(shown(&scrape), world(&sim));
    assert_eq!(counted(&scrape)["deleted"], 1);
    exporter.stop().await;
}

/// Keys that were created and deleted before anybody could have seen them for sure.
fn short_lived(log: &[Change], less_than: SignedDuration) -> u64 {
    let created: BTreeMap<&String, Timestamp> = log
        .iter()
        .filter(|change| change.change == ChangeKind::Created)
        .map(|change| (&change.key, change.at))
        .collect();
    log.iter()
        .filter(|change| change.change == ChangeKind::Deleted)
        .filter(|change| {
            let begun = created.get(&change.key);
            begun.is_some_and(|begun| change.at.duration_since(*begun) < less_than)
        })
        .count() as u64
}

#[tokio::test(start_paused = true)]
async fn over_a_month_with_page_shifts_the_counts_are_the_truth() {
    let sim = simulated_atlas(&SimConfig {
        org_bucket: BucketSize::new(5000, 5000),
        ..SimConfig {
            orgs: 2,
            keys: 300,
            speed: 2.0,
            ..SimConfig::default()
        }
    });
    let orgs = sim.org_ids();
    let exporter =
        Simulated::watching(&sim, &["--atlas.page-size=20", "--atlas.poll-interval=40m"]).await;
    exporter.walked(2).await;
    let before = sim.with_world(|world| world.log().len());
    // in the middle of many a walk an old key goes, which shifts every later page
    sim.before_each_page(move |call, page, world| {
        if page > 1 && call % 19 == 0 {
            for org in &orgs {
                let old = world.keys(org).first().map(|key| key.id.clone());
                if let Some(old) = old.filter(|_| world.keys(org).len() > 60) {
                    world.delete(org, &old);
                }
            }
        }
    });
    exporter.pass(Duration::from_hours(30 * 24)).await;
    sim.before_each_page(|_, _, _| {});
    sim.with_world(World::freeze);
    exporter.pass(Duration::from_hours(1)).await;
    let log = sim.with_world(|world| world.log()[before..].to_vec());
    let happened = |kind| log.iter().filter(|change| change.change == kind).count() as u64;
    let unseen = short_lived(&log, SignedDuration::from_mins(90));
    let scrape = exporter.scrape();
    assert_eq!(shown(&scrape), world(&sim));
    let counts = counted(&scrape);
    for (change, kind) in [
        ("created", ChangeKind::Created),
        ("deleted", ChangeKind::Deleted),
        ("first_used", ChangeKind::FirstUsed),
    ] {
        let (counted, truth) = (counts[change], happened(kind));
        assert!(truth > 100, "{change}: a month without much: {truth}");
        assert!(
            (truth - unseen..=truth).contains(&counted),
            "{change}: {counted} counted, {truth} happened, {unseen} of short life"
        );
    }
    assert!(unseen < 40, "{unseen}");
    let second_looks = exporter.asked(SimEndpoint::AiModelApiKey).len();
    assert!(
        second_looks > 100,
        "there was something to be misled by: {second_looks}"
    );
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_renewed_stays_with_its_age_until_it_is_too_old() {
    let sim = simulated_atlas(&still(2, 40));
    let orgs = sim.org_ids();
    let exporter = Simulated::watching(&sim, &["--atlas.max-staleness=2h"]).await;
    exporter.walked(2).await;
    exporter.pass(Duration::from_secs(30)).await;
    let before = exporter.scrape();
    sim.add_fault(outage().on_org(&orgs[0]));
    let label: &[(&str, &str)] = &[("org_id", &orgs[0])];
    let success = "atlas_ai_keys_exporter_org_last_success_timestamp_seconds";
    exporter.pass(Duration::from_mins(90)).await;
    let scrape = exporter.scrape();
    assert_eq!(scrape.inventory(), before.inventory());
    assert_eq!(
        scrape.get("atlas_ai_keys_exporter_org_up", label),
        Some(0.0)
    );
    let last = scrape.get(success, label).unwrap();
    exporter.pass(Duration::from_mins(40)).await;
    let scrape = exporter.scrape();
    let of_org = |scrape: &Scrape, name: &str| {
        scrape
            .all(name)
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
            scrape.all(&name).count() > 0,
            "the other organization's stays"
        );
    }
    assert_eq!(
        scrape.get(success, label),
        Some(last),
        "the organization's own stay"
    );
    assert_eq!(
        scrape.get("atlas_ai_keys_exporter_org_up", label),
        Some(0.0)
    );
    assert_eq!(of_org(&scrape, CHANGES), 6);
    assert_eq!(of_org(&scrape, "mongodbatlas_organization_info"), 1);
    sim.clear_faults();
    let healed = exporter.walked(2).await;
    assert_eq!(shown(&healed), world(&sim));
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_it_stays_for_ever() {
    let sim = simulated_atlas(&still(1, 40));
    let exporter = Simulated::watching(&sim, &[]).await;
    exporter.walked(1).await;
    sim.add_fault(outage());
    exporter.pass(Duration::from_hours(30 * 24)).await;
    let scrape = exporter.scrape();
    assert_eq!(shown(&scrape), world(&sim));
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_up"), 0.0);
    exporter.stop().await;
}
