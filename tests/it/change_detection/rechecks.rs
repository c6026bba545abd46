//! Keys that are missing in a poll: individual requests, further walks, and deleted keys.

use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{expected_sim_keys, exposed_keys, static_sim};
use mongodb_atlas_sim::{Effect, ErrorBodyFormat, Fault, SimEndpoint, World};

use super::{KEYS, change_counters};

const KEY: SimEndpoint = SimEndpoint::AiModelApiKey;

/// Deletes the first keys of an organization.
fn delete_keys(world: &mut World, org: &str, count: usize) {
    for _ in 0..count {
        let first = world.keys(org)[0].id.clone();
        assert!(world.delete_key(org, &first));
    }
}

#[tokio::test(start_paused = true)]
async fn missing_key_is_rechecked_before_it_counts_as_deleted() {
    let sim = in_process_sim(&static_sim(1, 100));
    let org = sim.org_ids()[0].clone();
    let exporter = SimHarness::start(&sim, &["--atlas.page-size=20"]).await;
    exporter.wait_polled(1).await;
    // Pages lose a key and remain consistent: no total, and one page less.
    sim.add_fault(Fault::new(KEYS, Effect::NoTotalCount));
    sim.set_page_hook({
        let org = org.clone();
        let mut done = false;
        move |_, page, world| {
            if page == 3 && !done {
                done = true;
                let first = world.keys(&org)[0].id.clone();
                world.delete_key(&org, &first);
            }
        }
    });
    let scrape = exporter.wait_polled_again().await;
    assert_eq!(
        exposed_keys(&scrape).len(),
        100,
        "the key that moved to page 2 still exists, and the deleted key was on page 1"
    );
    assert_eq!(exporter.requests_to(SimEndpoint::AiModelApiKey).len(), 1);
    let scrape = exporter.wait_polled_again().await;
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    let counts = change_counters(&scrape);
    assert_eq!((counts["deleted"], counts["created"]), (1, 0));
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn many_missing_keys_trigger_a_rescan() {
    let sim = in_process_sim(&static_sim(1, 100));
    let org = sim.org_ids()[0].clone();
    let exporter = SimHarness::start(&sim, &["--atlas.page-size=20"]).await;
    exporter.wait_polled(1).await;
    let pages = exporter.requests_to(KEYS).len();
    sim.with_world(|world| {
        for _ in 0..50 {
            let first = world.keys(&org)[0].id.clone();
            world.delete_key(&org, &first);
        }
    });
    let scrape = exporter.wait_polled_again().await;
    assert_eq!(
        exporter.requests_to(KEYS).len() - pages,
        6,
        "two walks of three pages"
    );
    assert_eq!(exporter.requests_to(SimEndpoint::AiModelApiKey).len(), 0);
    assert_eq!(change_counters(&scrape)["deleted"], 50);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn unavailable_key_endpoint_triggers_a_rescan() {
    let sim = in_process_sim(&static_sim(1, 100));
    let org = sim.org_ids()[0].clone();
    let forbidden = Effect::Status {
        status: 403,
        body: ErrorBodyFormat::Json,
        retry_after: None,
    };
    sim.add_fault(Fault::new(SimEndpoint::AiModelApiKey, forbidden));
    let exporter = SimHarness::start(&sim, &["--atlas.page-size=20"]).await;
    exporter.wait_polled(1).await;
    sim.with_world(|world| {
        let first = world.keys(&org)[0].id.clone();
        world.delete_key(&org, &first)
    });
    let scrape = exporter.wait_polled_again().await;
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    assert_eq!(change_counters(&scrape)["deleted"], 1);
    exporter.stop().await;
}

/// A page shift hides a key from the second walk, which searches for keys that the first walk has missed.
#[tokio::test(start_paused = true)]
async fn page_shift_during_a_rescan_hides_no_key() {
    let sim = in_process_sim(&static_sim(1, 100));
    let org = sim.org_ids()[0].clone();
    let exporter = SimHarness::start(&sim, &["--atlas.page-size=20"]).await;
    exporter.wait_polled(1).await;
    let pages = exporter.requests_to(KEYS).len();
    // Without a total, the walks remain consistent despite the shift.
    sim.add_fault(Fault::new(KEYS, Effect::NoTotalCount));
    sim.with_world(|world| delete_keys(world, &org, 50));
    sim.set_page_hook({
        let org = org.clone();
        let mut walk = 0;
        move |_, page, world| {
            walk += u32::from(page == 1);
            if (walk, page) == (2, 3) {
                delete_keys(world, &org, 1);
            }
        }
    });
    let scrape = exporter.wait_polled_again().await;
    assert_eq!(exporter.requests_to(KEYS).len() - pages, 6, "two walks");
    assert_eq!(
        exposed_keys(&scrape).len(),
        50,
        "one key moved, one key was deleted during the walk"
    );
    assert_eq!(change_counters(&scrape)["deleted"], 50);
    let scrape = exporter.wait_polled_again().await;
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    let counts = change_counters(&scrape);
    assert_eq!((counts["deleted"], counts["created"]), (51, 0));
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn key_missed_by_two_walks_is_deleted_without_an_individual_request() {
    let sim = in_process_sim(&static_sim(1, 100));
    let org = sim.org_ids()[0].clone();
    let exporter = SimHarness::start(&sim, &["--atlas.page-size=20"]).await;
    exporter.wait_polled(1).await;
    let pages = exporter.requests_to(KEYS).len();
    sim.with_world(|world| delete_keys(world, &org, 1));
    // A different total on one page makes the first walk inconsistent.
    let total = Fault::new(KEYS, Effect::TotalCount { value: 98 });
    sim.add_fault(total.for_page(2).times(1));
    let scrape = exporter.wait_polled_again().await;
    assert_eq!(exporter.requests_to(KEYS).len() - pages, 10, "two walks");
    assert_eq!(exporter.requests_to(KEY).len(), 0);
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    assert_eq!(change_counters(&scrape)["deleted"], 1);
    exporter.stop().await;
}

/// A missing key costs one request, up to 16 keys, and never more than another walk.
#[tokio::test(start_paused = true)]
async fn missing_keys_are_requested_individually_if_cheaper() {
    for (page_size, missing, walked, single) in [
        (5, 16, 17, 16),
        (5, 17, 2 * 17, 0),
        // 98 or 97 keys are left, on 2 pages.
        (50, 2, 2, 2),
        (50, 3, 2 * 2, 0),
    ] {
        let name = format!("{missing} missing, {page_size} a page");
        let sim = in_process_sim(&static_sim(1, 100));
        let org = sim.org_ids()[0].clone();
        let flag = format!("--atlas.page-size={page_size}");
        let exporter = SimHarness::start(&sim, &[&flag]).await;
        exporter.wait_polled(1).await;
        let pages = exporter.requests_to(KEYS).len();
        sim.with_world(|world| delete_keys(world, &org, missing));
        let scrape = exporter.wait_polled_again().await;
        assert_eq!(exporter.requests_to(KEYS).len() - pages, walked, "{name}");
        assert_eq!(exporter.requests_to(KEY).len(), single, "{name}");
        assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim), "{name}");
        let deleted = change_counters(&scrape)["deleted"];
        assert_eq!(usize::try_from(deleted), Ok(missing), "{name}");
        exporter.stop().await;
    }
}
