//! Walks of the client: number of requests, result, and termination.

mod limits;

use std::future::ready;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::common::{TestExporter, expected_sim_keys, exposed_keys, static_sim};
use atlas_ai_keys_exporter::poll::{self, KeyWalk, WalkError};
use mongodb_atlas_client::{ApiKey, Endpoint, Error, ErrorKind, KeyId, KeyPage, NextLink};
use mongodb_atlas_sim::{Effect, Fault, SimEndpoint};
use tokio::sync::Notify;

/// Returns the number of page requests of a walk of `keys` keys, 10 per page; all keys must be read.
async fn walk_requests(keys: usize, effect: Option<Effect>) -> usize {
    walk_requests_with(keys, effect.into_iter().collect()).await
}

async fn walk_requests_with(keys: usize, effects: Vec<Effect>) -> usize {
    let sim = crate::common::start_sim(static_sim(1, keys)).await;
    for effect in effects {
        sim.add_fault(Fault::new(SimEndpoint::AiModelApiKeys, effect));
    }
    let variables = crate::common::sim_env(&sim);
    let exporter = TestExporter::start_with(sim, variables, &["--atlas.page-size", "10"]).await;
    let scrape = exporter.wait_polled().await;
    assert_eq!(
        exposed_keys(&scrape),
        expected_sim_keys(&exporter.sim),
        "{keys} keys"
    );
    let sim = exporter.stop().await;
    let requests = sim.requests();
    sim.stop().await;
    requests
        .iter()
        .filter(|request| request.endpoint == SimEndpoint::AiModelApiKeys)
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn walk_sends_the_minimum_of_requests() {
    for (keys, requests) in [
        (0, 1),
        (1, 1),
        (10, 1),
        (11, 2),
        (20, 2),
        (95, 10),
        (100, 10),
    ] {
        assert_eq!(walk_requests(keys, None).await, requests, "{keys} keys");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_page_without_links_continues_the_walk() {
    for (keys, requests) in [(0, 1), (9, 1), (10, 2), (15, 2), (20, 3)] {
        assert_eq!(
            walk_requests(keys, Some(Effect::NoLinks)).await,
            requests,
            "{keys} keys"
        );
    }
}

/// Pages with fewer keys than requested, or links without a next one: if `totalCount` exceeds the keys read, or a
/// page is full, the walk continues to the end, with the minimum of requests.
#[tokio::test(flavor = "multi_thread")]
async fn capped_pages_are_walked_to_the_end() {
    let cap = |size| Effect::PageCap { size };
    for (keys, effects, requests) in [
        (35, vec![cap(4), Effect::NoLinks], 9),
        (36, vec![cap(4), Effect::NoLinks], 9),
        (35, vec![cap(4), Effect::NoNextLink], 9),
        (35, vec![cap(4)], 9),
        (35, vec![Effect::NoNextLink], 4),
        (30, vec![Effect::NoNextLink], 3),
        (35, vec![Effect::NoNextLink, Effect::NoTotalCount], 4),
        // Only an empty page proves the end.
        (30, vec![Effect::NoNextLink, Effect::NoTotalCount], 4),
    ] {
        let name = format!("{keys} keys with {effects:?}");
        assert_eq!(walk_requests_with(keys, effects).await, requests, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_or_low_total_costs_no_extra_request() {
    assert_eq!(walk_requests(35, Some(Effect::NoTotalCount)).await, 4);
    assert_eq!(
        walk_requests(35, Some(Effect::TotalCount { value: 1 })).await,
        4
    );
}

fn numbered_key(id: u32) -> ApiKey {
    ApiKey {
        id: KeyId::new(id.to_string()),
        ..ApiKey::default()
    }
}

fn keys_page(ids: impl IntoIterator<Item = u32>, next: NextLink, total: Option<u64>) -> KeyPage {
    let keys: Vec<_> = ids.into_iter().map(numbered_key).collect();
    KeyPage {
        results: keys.len(),
        keys,
        invalid_items: Vec::new(),
        next_link: next,
        total_count: total,
        body_bytes: 1000,
        rate_limit_wait: Duration::ZERO,
    }
}

/// Longer than any walk in these tests.
const TIMEOUT: Duration = Duration::from_hours(1);

/// Walks the pages that `fetch` returns, with four concurrent requests.
async fn walk_fetched<R>(fetch: impl Fn(u32) -> R, size: u32) -> Result<KeyWalk, WalkError>
where
    R: Future<Output = Result<KeyPage, Error>>,
{
    let request = |number| {
        let response = fetch(number);
        async move { response.await.map(|page| ready(Ok(page))) }
    };
    poll::walk_pages(request, size, 4, TIMEOUT).await
}

async fn walk_pages(
    pages: Vec<Result<KeyPage, Error>>,
    size: u32,
) -> (Result<KeyWalk, WalkError>, u32) {
    let sent = AtomicU32::new(0);
    let fetch = |number: u32| {
        sent.fetch_add(1, Ordering::Relaxed);
        let last = keys_page([], NextLink::Absent, None);
        let response = pages.get(number as usize - 1).cloned().unwrap_or(Ok(last));
        async move { response }
    };
    let result = walk_fetched(fetch, size).await;
    let sent = sent.into_inner();
    if let Ok(walk) = &result {
        assert_eq!(walk.requests, sent);
    }
    (result, sent)
}

#[tokio::test]
async fn failed_page_discards_the_walk() {
    let failure = ErrorKind::Timeout {
        limit: std::time::Duration::from_secs(1),
        proxy: None,
    }
    .with_endpoint(Endpoint::AiModelApiKeys);
    let pages = vec![
        Ok(keys_page([1, 2], NextLink::Present, Some(6))),
        Err(failure.clone()),
        Ok(keys_page([5, 6], NextLink::Absent, Some(6))),
    ];
    let (result, _) = walk_pages(pages, 2).await;
    assert_eq!(
        result.unwrap_err(),
        WalkError {
            page: 2,
            error: failure
        }
    );
}

#[tokio::test]
async fn endlessly_repeating_pages_are_incomplete() {
    let same = || Ok(keys_page([1, 2], NextLink::Present, None));
    let (result, sent) = walk_pages(vec![same(), same(), same(), same()], 2).await;
    let error = result.unwrap_err();
    assert_eq!(
        (error.page, error.error.kind.reason().as_str()),
        (2, "incomplete")
    );
    assert_eq!(sent, 2, "detected immediately");
}

#[tokio::test]
async fn later_page_wins_for_duplicate_keys() {
    let mut renamed = numbered_key(2);
    renamed.name = "new".into();
    let mut second = keys_page([3], NextLink::Absent, Some(3));
    second.keys.push(renamed);
    let (result, _) = walk_pages(
        vec![
            Ok(keys_page([1, 2], NextLink::Present, Some(3))),
            Ok(second),
        ],
        2,
    )
    .await;
    let walk = result.unwrap();
    assert!(!walk.consistent);
    let keys: Vec<(String, String)> = walk
        .keys
        .records()
        .map(|record| (record.id.to_string(), record.name))
        .collect();
    let named = |id: &str, name: &str| (id.to_owned(), name.to_owned());
    assert_eq!(keys, [named("1", ""), named("2", "new"), named("3", "")]);
}

#[tokio::test]
async fn changing_total_is_inconsistent_and_constant_incorrect_total_is_not() {
    let walk_with = async |first, second| {
        let pages = vec![
            Ok(keys_page([1, 2], NextLink::Present, first)),
            Ok(keys_page([3], NextLink::Absent, second)),
        ];
        walk_pages(pages, 2).await.0.unwrap().consistent
    };
    assert!(!walk_with(Some(3), Some(2)).await);
    assert!(walk_with(Some(99), Some(99)).await);
    assert!(walk_with(None, None).await);
    assert!(walk_with(Some(3), None).await);
}

#[tokio::test]
async fn at_most_four_pages_are_requested_concurrently_and_in_order() {
    let (now, max) = (AtomicU32::new(0), AtomicU32::new(0));
    let requested = Mutex::new(Vec::new());
    let fetch = |number: u32| {
        let (now, max, requested) = (&now, &max, &requested);
        async move {
            requested.lock().unwrap().push(number);
            max.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            now.fetch_sub(1, Ordering::Relaxed);
            let next = if number == 20 {
                NextLink::Absent
            } else {
                NextLink::Present
            };
            Ok(keys_page([number], next, Some(20)))
        }
    };
    let walk = walk_fetched(fetch, 1).await.unwrap();
    assert_eq!(
        (walk.pages, walk.keys.len(), walk.consistent),
        (20, 20, true)
    );
    assert_eq!(max.into_inner(), 4);
    assert_eq!(
        requested.into_inner().unwrap(),
        (1..=20).collect::<Vec<_>>()
    );
}

/// With one request at a time, the parser of page 2 waits for the request of page 3.
#[tokio::test(start_paused = true)]
async fn next_page_is_requested_while_a_page_is_parsed() {
    let requested = Notify::new();
    let request = |number: u32| {
        let requested = &requested;
        async move {
            if number == 3 {
                requested.notify_one();
            }
            Ok(async move {
                if number == 2 {
                    requested.notified().await;
                }
                let next = if number == 4 {
                    NextLink::Absent
                } else {
                    NextLink::Present
                };
                Ok(keys_page([number], next, Some(4)))
            })
        }
    };
    let walk = poll::walk_pages(request, 1, 1, TIMEOUT);
    let walk = tokio::time::timeout(TIMEOUT, walk).await.unwrap().unwrap();
    assert_eq!((walk.pages, walk.consistent), (4, true));
}

#[tokio::test]
async fn unmet_total_is_reported_and_the_walk_completes() {
    for (pages, total, shortfall) in [
        (vec![vec![1, 2], vec![3]], 99, true),
        (vec![vec![1, 2], vec![3]], 3, false),
        (vec![vec![1, 2], vec![3]], 4, false),
        (vec![vec![1]], 42, true),
        // The same page for every page number.
        (vec![vec![1], vec![1], vec![1], vec![1]], 42, true),
    ] {
        let name = format!("{pages:?} of {total}");
        let all: std::collections::BTreeSet<u32> = pages.iter().flatten().copied().collect();
        let responses = pages
            .into_iter()
            .map(|ids| Ok(keys_page(ids, NextLink::Unknown, Some(total))));
        let (result, sent) = walk_pages(responses.collect(), 2).await;
        let walk = result.expect(&name);
        assert_eq!(walk.keys.len(), all.len(), "{name}");
        assert!(walk.consistent, "{name}");
        assert_eq!(walk.shortfall.is_some(), shortfall, "{name}");
        // At most seven more pages have been requested when a page that is not full ends the walk.
        assert!(sent <= 9, "{name}: {sent} requests");
    }
}

#[tokio::test]
async fn repeated_full_page_does_not_end_the_walk() {
    for next in [NextLink::Unknown, NextLink::Absent] {
        let same = || Ok(keys_page([1, 2], next, Some(6)));
        let (result, _) = walk_pages(vec![same(), same(), same()], 2).await;
        let reason = result.unwrap_err().error.kind.reason();
        assert_eq!(reason.as_str(), "incomplete", "{next:?}");
    }
}

#[tokio::test]
async fn empty_page_with_next_link_continues_the_walk() {
    let linked = |ids: std::ops::Range<u32>| Ok(keys_page(ids, NextLink::Present, None));
    let last = Ok(keys_page(20..25, NextLink::Absent, None));
    let (walk, requests) = walk_pages(vec![linked(0..10), linked(0..0), last.clone()], 10).await;
    assert_eq!((walk.unwrap().keys.len(), requests), (15, 3));
    let mut pages = vec![linked(0..10)];
    pages.extend((0..20).map(|_| linked(0..0)));
    let (walk, requests) = walk_pages(pages, 10).await;
    assert!(
        walk.unwrap_err()
            .to_string()
            .contains("but there is a next page")
    );
    assert!(requests < 10, "{requests}");
}

/// A page without a valid key repeats no key, and does not end the walk.
#[tokio::test]
async fn page_of_invalid_keys_continues_the_walk() {
    for (next, requests) in [(NextLink::Present, 3), (NextLink::Unknown, 4)] {
        let invalid = KeyPage {
            keys: Vec::new(),
            ..keys_page(10..20, next, None)
        };
        let linked = Ok(keys_page(0..10, next, None));
        let last = Ok(keys_page(20..25, NextLink::Absent, None));
        let (walk, sent) = walk_pages(vec![linked, Ok(invalid), last], 10).await;
        assert_eq!(walk.unwrap().keys.len(), 15, "{next:?}");
        assert!(sent <= requests, "{next:?}: {sent}");
    }
}

#[tokio::test]
async fn empty_pages_with_a_positive_total_fail() {
    for next in [NextLink::Absent, NextLink::Unknown] {
        for total in [2, 655] {
            let (walk, _) = walk_pages(vec![Ok(keys_page([], next, Some(total)))], 10).await;
            let error = walk.unwrap_err().to_string();
            assert!(error.contains(&format!("totalCount is {total}")), "{error}");
        }
        // A key may have been deleted during the walk.
        for total in [0, 1] {
            let (walk, _) = walk_pages(vec![Ok(keys_page([], next, Some(total)))], 10).await;
            assert_eq!(walk.unwrap().keys.len(), 0, "{total}");
        }
    }
}

#[tokio::test]
async fn total_below_read_count_is_ignored() {
    let pages = (0..12).map(|number| {
        let total = if number == 0 { 115 } else { 0 };
        let ids = number * 10..(number * 10 + 10).min(115);
        Ok(keys_page(ids, NextLink::Unknown, Some(total)))
    });
    let (walk, _) = walk_pages(pages.collect(), 500).await;
    assert_eq!(walk.unwrap().keys.len(), 115);
}
