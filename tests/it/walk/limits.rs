//! Limits of a walk: pages, bytes, keys, time, and the size of one key.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{TIMEOUT, keys_page, numbered_key, walk_pages};
use atlas_ai_keys_exporter::inventory::InventoryInfo;
use atlas_ai_keys_exporter::poll::{self, WalkError};
use jiff::Timestamp;
use mongodb_atlas_client::{ApiKey, KeyPage, NextLink, OrgId};

/// Walks endless pages, each full and different from the others.
async fn walk_endless_pages(size: u32, bytes: usize, answers_in: Duration) -> (WalkError, u32) {
    let asked = AtomicU32::new(0);
    let fetch = |number: u32| {
        asked.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(answers_in).await;
            let ids = number * size..(number + 1) * size;
            Ok(KeyPage {
                body_bytes: bytes,
                ..keys_page(ids, NextLink::Present, None)
            })
        }
    };
    let error = poll::walk_pages(fetch, size, 4, TIMEOUT).await.unwrap_err();
    (error, asked.into_inner())
}

#[tokio::test]
async fn endless_pages_stop_at_key_and_byte_limits() {
    for (size, bytes, pages) in [
        // 2 GiB of responses.
        (2, 30 << 20, 69),
        (500, 30 << 20, 69),
        // 20,000 pages.
        (1, 100, 20_000),
    ] {
        let (error, asked) = walk_endless_pages(size, bytes, Duration::ZERO).await;
        assert_eq!(error.error.kind.reason().as_str(), "incomplete");
        assert_eq!((error.page, asked), (pages, pages), "{bytes} bytes");
    }
    // 2,000,000 keys, most of them malformed to save time.
    let fetch = |number: u32| async move {
        let one = keys_page([number], NextLink::Present, None);
        Ok(KeyPage {
            results: 500,
            ..one
        })
    };
    let error = poll::walk_pages(fetch, 500, 4, TIMEOUT).await.unwrap_err();
    let text = error.to_string();
    assert!(
        error.page == 4001 && text.contains("2000000 keys"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn slow_walk_times_out() {
    let minute = Duration::from_mins(1);
    let (error, asked) = walk_endless_pages(2, 100, minute).await;
    assert_eq!(error.error.kind.reason().as_str(), "incomplete");
    assert_eq!(asked, 61, "within the hour that it may take");
    assert!(error.to_string().contains("within 1h"), "{error}");
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
    assert_eq!(
        poll::walk_pages(fetch, 2, 4, TIMEOUT).await.unwrap().pages,
        200
    );
}

/// Texts of more than 64 KiB, as they are or with escapes, cannot be stored. Such a key is left out, and counted.
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
