//! Limits of a walk: pages, bytes, keys, time, and the size of one key.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::static_sim;

use super::{keys_page, numbered_key, walk_fetched, walk_pages};
use atlas_ai_keys_exporter::inventory::InventoryInfo;
use atlas_ai_keys_exporter::poll::{self, WalkError};
use jiff::Timestamp;
use mongodb_atlas_client::{ApiKey, InvalidItem, KeyPage, NextLink, OrgId};
use mongodb_atlas_sim::{BucketConfig, Effect, Fault, SimConfig, SimEndpoint};

/// Walks pages that never end, each full and different from the others.
async fn walk_endless_pages(size: u32, bytes: usize, response_delay: Duration) -> (WalkError, u32) {
    let sent = AtomicU32::new(0);
    let fetch = |number: u32| {
        sent.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(response_delay).await;
            let ids = number * size..(number + 1) * size;
            Ok(KeyPage {
                body_bytes: bytes,
                ..keys_page(ids, NextLink::Present, None)
            })
        }
    };
    let error = walk_fetched(fetch, size).await.unwrap_err();
    (error, sent.into_inner())
}

#[tokio::test]
async fn endless_pages_stop_at_key_and_byte_limits() {
    for (size, bytes, pages) in [
        // 2 GiB of responses.
        (2, 30 << 20, 69),
        (500, 30 << 20, 69),
        (2, 32 << 20, 65),
        // 20,000 pages.
        (1, 100, 20_000),
    ] {
        let (error, sent) = walk_endless_pages(size, bytes, Duration::ZERO).await;
        assert_eq!(error.error.kind.reason().as_str(), "incomplete");
        assert_eq!((error.page, sent), (pages, pages), "{bytes} bytes");
    }
    // 2,000,000 keys, most of them invalid to save time.
    let fetch = |number: u32| async move {
        let one = keys_page([number], NextLink::Present, None);
        Ok(KeyPage {
            results: 500,
            ..one
        })
    };
    let error = walk_fetched(fetch, 500).await.unwrap_err();
    let text = error.to_string();
    assert!(
        error.page == 4001 && text.contains("2000000 keys"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn slow_walk_times_out() {
    let minute = Duration::from_mins(1);
    let (error, sent) = walk_endless_pages(2, 100, minute).await;
    assert_eq!(error.error.kind.reason().as_str(), "incomplete");
    assert_eq!(sent, 61, "within the timeout of an hour");
    assert!(error.to_string().contains("timeout after 1h"), "{error}");
    // Waiting for the rate limit is not a slow response.
    let fetch = |number: u32| async move {
        tokio::time::sleep(minute).await;
        let next = if number == 200 {
            NextLink::Absent
        } else {
            NextLink::Present
        };
        Ok(KeyPage {
            rate_limit_wait: minute,
            ..keys_page([number], next, None)
        })
    };
    assert_eq!(walk_fetched(fetch, 2).await.unwrap().pages, 200);
}

/// Texts of more than 64 KiB, with or without escapes, cannot be stored. The key is omitted and counted.
#[tokio::test]
async fn oversized_keys_are_counted_as_invalid() {
    let named = |id, name: String| ApiKey {
        name,
        ..numbered_key(id)
    };
    let mut page = keys_page([1], NextLink::Absent, Some(5));
    page.keys.extend([
        named(2, "x".repeat(65_535)),
        named(3, "x".repeat(65_536)),
        named(4, "\"".repeat(32_767)),
        named(5, "\"".repeat(32_768)),
    ]);
    page.results = page.keys.len();
    let (walk, requests) = walk_pages(vec![Ok(page)], 10).await;
    let walk = walk.unwrap();
    assert_eq!((requests, walk.shortfall), (1, None));
    let info = InventoryInfo {
        org: OrgId::parse("32b6e34b3d91647abb20e7b8").unwrap(),
        started_at: Timestamp::UNIX_EPOCH,
        completed_at: Timestamp::UNIX_EPOCH,
        invalid_keys: walk.invalid_keys,
    };
    let inventory = walk.keys.build(info, &[]);
    let ids: Vec<&str> = inventory.keys().map(|key| key.id()).collect();
    assert_eq!(ids, ["1", "2", "4"]);
    assert_eq!(inventory.invalid_keys(), 2);
}

#[test]
fn walk_timeout_is_ten_intervals_and_at_least_ten_minutes() {
    for (interval, timeout) in [
        (1, 600),
        (60, 600),
        (61, 610),
        (300, 3000),
        (86_400, 864_000),
    ] {
        let timeout = Duration::from_secs(timeout);
        assert_eq!(poll::walk_timeout(Duration::from_secs(interval)), timeout);
    }
    assert_eq!(poll::walk_timeout(Duration::MAX), Duration::MAX);
}

/// Each page takes 9 seconds, and pages are sequential: 400 pages take an hour.
#[tokio::test(start_paused = true)]
async fn slow_poll_fails_after_ten_intervals() {
    for (interval, up) in [("5m", 0.0), ("10m", 1.0)] {
        let sim = in_process_sim(&static_sim(1, 400));
        let keys = SimEndpoint::AiModelApiKeys;
        for effect in [Effect::Delay { seconds: 9.0 }, Effect::NoTotalCount] {
            sim.add_fault(Fault::new(keys, effect));
        }
        let flags = ["--atlas.page-size=1", "--atlas.poll-interval", interval];
        let exporter = SimHarness::start(&sim, &flags).await;
        exporter.advance(Duration::from_mins(61)).await;
        let scrape = exporter.scrape();
        let org = &sim.org_ids()[0];
        assert_eq!(
            scrape.poll_failures(org, "incomplete"),
            1.0 - up,
            "{interval}"
        );
        assert_eq!(
            scrape.values("atlas_ai_keys_exporter_org_up"),
            [up],
            "{interval}"
        );
        exporter.kill().await;
    }
}

/// The rate limit extends the interval from one minute to 25, and with it the timeout of ten minutes. 100 pages take 15
/// minutes, not counting the waits for the rate limit.
#[tokio::test(start_paused = true)]
async fn walk_timeout_follows_the_extended_interval() {
    let config = SimConfig {
        org_bucket: BucketConfig::SMALLEST,
        ..static_sim(1, 100)
    };
    let sim = in_process_sim(&config);
    let keys = SimEndpoint::AiModelApiKeys;
    sim.add_fault(Fault::new(keys, Effect::NoTotalCount));
    let flags = ["--atlas.page-size=1", "--atlas.poll-interval=1m"];
    let exporter = SimHarness::start(&sim, &flags).await;
    let polled = exporter.wait_polled(1).await;
    sim.add_fault(Fault::new(keys, Effect::Delay { seconds: 9.0 }));
    exporter.advance(Duration::from_mins(70)).await;
    let scrape = exporter.scrape();
    let org = &sim.org_ids()[0];
    assert_eq!(scrape.poll_failures(org, "incomplete"), 0.0);
    let success = "atlas_ai_keys_exporter_org_last_success_timestamp_seconds";
    assert!(scrape.values(success) > polled.values(success));
    exporter.kill().await;
}

#[tokio::test]
async fn key_with_two_invalid_fields_counts_once() {
    let item = |index| InvalidItem {
        index,
        reason: "a reason",
    };
    let page = |ids: std::ops::Range<u32>, indexes: &[usize]| {
        let next = if ids.start == 0 {
            NextLink::Present
        } else {
            NextLink::Absent
        };
        Ok(KeyPage {
            invalid_items: indexes.iter().copied().map(item).collect(),
            ..keys_page(ids, next, None)
        })
    };
    let pages = vec![page(0..10, &[0, 0, 3, 9]), page(10..15, &[0, 1, 1])];
    let walk = walk_pages(pages, 10).await.0.unwrap();
    assert_eq!((walk.invalid_keys, walk.invalid_item_count), (5, 7));
    let located = walk.invalid_items.iter();
    let located: Vec<_> = located
        .map(|located| (located.page, located.item.index))
        .collect();
    assert_eq!(
        located,
        [(1, 0), (1, 0), (1, 3), (1, 9), (2, 0)],
        "the first five"
    );
}
