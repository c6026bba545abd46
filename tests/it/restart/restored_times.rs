//! Restored state that is old, or was stored with an incorrect clock.

use std::time::Duration;

use super::{KEYS, RESTORED, UP, outage_fault, start_exporter};
use crate::common::sim_harness::in_process_sim;
use crate::common::{expected_sim_keys, exposed_keys, static_sim};
use atlas_ai_keys_exporter::inventory::{ApiKey, Inventory, OrgDetails};
use atlas_ai_keys_exporter::poll::{BackoffState, PollBackoff};
use atlas_ai_keys_exporter::storage::{ChangeCounts, StateFile, Storage, StoredInventory};
use jiff::SignedDuration;
use mongodb_atlas_client::{KeyId, OrgId};
use mongodb_atlas_sim::{BucketConfig, Effect, Fault, SimConfig, SimEndpoint};

const FAILURES: &str = "atlas_ai_keys_exporter_org_poll_failures_total";

/// The default `--atlas.poll-interval`.
const INTERVAL: Duration = Duration::from_mins(5);

#[tokio::test(start_paused = true)]
async fn overdue_inventory_is_restored_as_down() {
    for (age, up) in [(INTERVAL, 1.0), (Duration::from_hours(2), 0.0)] {
        let (sim, dir) = (
            in_process_sim(&static_sim(1, 20)),
            tempfile::tempdir().unwrap(),
        );
        let exporter = start_exporter(&sim, &dir, &[]).await;
        exporter.wait_polled(1).await;
        exporter.advance(Duration::from_secs(5)).await;
        exporter.kill().await;
        let polled = expected_sim_keys(&sim);
        tokio::time::sleep(age).await;
        // Atlas does not respond: only the age is known.
        for endpoint in [KEYS, SimEndpoint::Token] {
            sim.add_fault(Fault::new(endpoint, Effect::Delay { seconds: 3000.0 }));
        }
        let exporter = start_exporter(&sim, &dir, &[]).await;
        let scrape = exporter.scrape();
        assert_eq!(scrape.values(RESTORED), [1.0], "{age:?}");
        assert_eq!(scrape.sum(FAILURES), 0.0, "no poll has ended");
        assert_eq!(scrape.values(UP), [up], "{age:?}");
        assert_eq!(exposed_keys(&scrape), polled, "{age:?}");
        exporter.kill().await;
    }
}

/// The age at the start of the exporter counts.
#[tokio::test(start_paused = true)]
async fn restored_inventory_is_withdrawn_at_max_staleness() {
    let (sim, dir) = (
        in_process_sim(&static_sim(1, 20)),
        tempfile::tempdir().unwrap(),
    );
    let exporter = start_exporter(&sim, &dir, &[]).await;
    exporter.wait_polled(1).await;
    exporter.advance(Duration::from_secs(5)).await;
    exporter.kill().await;
    sim.add_fault(outage_fault(503));
    tokio::time::sleep(Duration::from_mins(90)).await;
    let exporter = start_exporter(&sim, &dir, &["--atlas.max-staleness=2h"]).await;
    exporter.advance(Duration::from_mins(29)).await;
    assert_eq!(exposed_keys(&exporter.scrape()).len(), 20);
    exporter.advance(Duration::from_mins(2)).await;
    let scrape = exporter.scrape();
    assert_eq!(exposed_keys(&scrape).len(), 0);
    assert_eq!(
        scrape.values(RESTORED).len(),
        1,
        "the exporter's series of the organization remain"
    );
    assert!(exporter.count_responses(503) > 2);
    sim.clear_faults();
    assert_eq!(exposed_keys(&exporter.wait_polled(1).await).len(), 20);
    exporter.stop().await;
}

/// The cost of a poll is known from the start: 14 requests at 4 per minute.
#[tokio::test(start_paused = true)]
async fn restored_request_count_extends_the_interval() {
    let config = SimConfig {
        org_bucket: BucketConfig::SMALLEST,
        ..static_sim(1, 40)
    };
    let (sim, dir) = (in_process_sim(&config), tempfile::tempdir().unwrap());
    let flags = ["--atlas.poll-interval=1m", "--atlas.page-size=3"];
    let intervals = "atlas_ai_keys_exporter_org_poll_interval_seconds";
    let exporter = start_exporter(&sim, &dir, &flags).await;
    exporter.wait_polled(1).await;
    exporter.wait_polled_again().await;
    let interval = exporter.scrape().values(intervals);
    assert!(interval[0] > 120.0, "{interval:?}");
    exporter.kill().await;
    for endpoint in [KEYS, SimEndpoint::Token, SimEndpoint::RateLimits] {
        sim.add_fault(Fault::new(endpoint, Effect::Delay { seconds: 3000.0 }));
    }
    let exporter = start_exporter(&sim, &dir, &flags).await;
    assert_eq!(exporter.scrape().values(intervals), interval);
    exporter.kill().await;
}

#[tokio::test(start_paused = true)]
async fn state_from_the_future_delays_no_poll() {
    let sim = in_process_sim(&static_sim(1, 20));
    let org = OrgId::parse(&sim.org_ids()[0]).unwrap();
    for backing_off in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let ahead = sim.now() + SignedDuration::from_hours(365 * 24);
        let key = ApiKey {
            id: KeyId::new("old"),
            ..ApiKey::default()
        };
        let stored = StoredInventory {
            inventory: Inventory::from_records(org.clone(), ahead, [key]).into(),
            requests: 1,
            change_counts: ChangeCounts::new(),
        };
        storage.save_inventory(&stored).unwrap();
        let details = OrgDetails {
            fetched_at: Some(ahead),
            ..OrgDetails::default()
        };
        storage
            .save(&StateFile::Details(org.clone()), &details)
            .unwrap();
        if backing_off {
            let state = BackoffState {
                until: ahead,
                backoff: PollBackoff::default(),
            };
            storage
                .save(&StateFile::Backoff(org.clone()), &state)
                .unwrap();
        }
        let before = sim.requests().len();
        let exporter = start_exporter(&sim, &dir, &[]).await;
        assert_eq!(exporter.scrape().values(RESTORED), [1.0]);
        // One and a half intervals, or one hour for a backoff.
        let max = if backing_off {
            Duration::from_hours(1)
        } else {
            INTERVAL * 3 / 2
        };
        exporter.advance(max + Duration::from_secs(1)).await;
        let scrape = exporter.scrape();
        assert_eq!(scrape.values(RESTORED), [0.0], "backing off: {backing_off}");
        assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
        assert_eq!(scrape.values(UP), [1.0]);
        exporter.advance(Duration::from_hours(1)).await;
        let names = &sim.requests()[before..];
        let names = names
            .iter()
            .filter(|request| request.endpoint == SimEndpoint::Groups);
        assert!(names.count() >= 1, "names are refreshed within an hour");
        exporter.stop().await;
    }
}
