//! Each ending of a walk, on the client itself: how many requests it costs, and what it brings.
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::common::{Lab, shown, still, world};
use atlas_ai_keys_exporter::poll::{Walk, WalkError, walk};
use mongodb_atlas_client::{ApiKey, Endpoint, Error, KeyPage, Next, Problem};
use mongodb_atlas_sim::{Effect, Fault, SimEndpoint};

/// How many requests for pages a walk of `keys` keys costs, 10 a page, and whether all came.
async fn cost(keys: usize, effect: Option<Effect>) -> usize {
    cost_with(keys, effect.into_iter().collect()).await
}

async fn cost_with(keys: usize, effects: Vec<Effect>) -> usize {
    let sim = crate::common::sim(still(1, keys)).await;
    for effect in effects {
        sim.add_fault(Fault::new(SimEndpoint::AiModelApiKeys, effect));
    }
    let variables = crate::common::sim_variables(&sim);
    let lab = Lab::watching(sim, variables, &["--atlas.page-size", "10"]).await;
    let scrape = lab.walked().await;
    assert_eq!(shown(&scrape), world(&lab.sim), "{keys} keys");
    let sim = lab.stop().await;
    let requests = sim.requests();
    sim.stop().await;
    requests
        .iter()
        .filter(|request| request.endpoint == SimEndpoint::AiModelApiKeys)
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_costs_the_fewest_requests_possible() {
    for (keys, requests) in [
        (0, 1),
        (1, 1),
        (10, 1),
        (11, 2),
        (20, 2),
        (95, 10),
        (100, 10),
    ] {
        assert_eq!(cost(keys, None).await, requests, "{keys} keys");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_links_a_full_page_is_no_end() {
    for (keys, requests) in [(0, 1), (9, 1), (10, 2), (15, 2), (20, 3)] {
        assert_eq!(
            cost(keys, Some(Effect::NoLinks)).await,
            requests,
            "{keys} keys"
        );
    }
}

/// Atlas gives less on a page than was asked for, or links without a next one: where `totalCount` promises more, or a
/// page is full, the walk goes on to the end, and costs no request more than that.
#[tokio::test(flavor = "multi_thread")]
async fn pages_that_are_capped_or_lead_nowhere_are_walked_to_the_end() {
    let cap = |size| Effect::PageCap { size };
    for (keys, effects, requests) in [
        (35, vec![cap(4), Effect::NoLinks], 9),
        (36, vec![cap(4), Effect::NoLinks], 9),
        (35, vec![cap(4), Effect::NoNextLink], 9),
        (35, vec![cap(4)], 9),
        (35, vec![Effect::NoNextLink], 4),
        (30, vec![Effect::NoNextLink], 3),
        (35, vec![Effect::NoNextLink, Effect::NoTotalCount], 4),
        // only a page without results proves the end
        (30, vec![Effect::NoNextLink, Effect::NoTotalCount], 4),
    ] {
        let name = format!("{keys} keys with {effects:?}");
        assert_eq!(cost_with(keys, effects).await, requests, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_total_that_is_missing_or_too_low_costs_nothing_more() {
    assert_eq!(cost(35, Some(Effect::NoTotalCount)).await, 4);
    assert_eq!(cost(35, Some(Effect::TotalCount { value: 1 })).await, 4);
}

fn key(id: u32) -> ApiKey {
    ApiKey {
        id: id.to_string(),
        ..ApiKey::default()
    }
}

fn page(ids: impl IntoIterator<Item = u32>, next: Next, total: Option<u64>) -> KeyPage {
    let keys: Vec<_> = ids.into_iter().map(key).collect();
    KeyPage {
        results: keys.len(),
        keys,
        malformed: Vec::new(),
        next,
        total,
        bytes: 1000,
        throttled: Duration::ZERO,
    }
}

/// Longer than any walk here takes.
const TIMEOUT: Duration = Duration::from_hours(1);

async fn scripted(pages: Vec<Result<KeyPage, Error>>, size: u32) -> (Result<Walk, WalkError>, u32) {
    let asked = AtomicU32::new(0);
    let fetch = |number: u32| {
        asked.fetch_add(1, Ordering::Relaxed);
        let last = page([], Next::NotLinked, None);
        let answer = pages.get(number as usize - 1).cloned().unwrap_or(Ok(last));
        async move { answer }
    };
    let result = walk(fetch, size, 4, TIMEOUT).await;
    (result, asked.into_inner())
}

#[tokio::test]
async fn a_failed_page_leaves_nothing() {
    let refused = Problem::Timeout {
        limit: std::time::Duration::from_secs(1),
        proxy: None,
    }
    .at(Endpoint::AiModelApiKeys);
    let pages = vec![
        Ok(page([1, 2], Next::Linked, Some(6))),
        Err(refused.clone()),
        Ok(page([5, 6], Next::NotLinked, Some(6))),
    ];
    let (result, _) = scripted(pages, 2).await;
    assert_eq!(
        result.unwrap_err(),
        WalkError {
            page: 2,
            error: refused
        }
    );
}

#[tokio::test]
async fn pages_that_repeat_for_ever_are_incomplete() {
    let same = || Ok(page([1, 2], Next::Linked, None));
    let (result, asked) = scripted(vec![same(), same(), same(), same()], 2).await;
    let error = result.unwrap_err();
    assert_eq!(
        (error.page, error.error.problem.reason().as_str()),
        (2, "incomplete")
    );
    assert_eq!(asked, 2, "and it is told at once");
}

#[tokio::test]
async fn of_a_key_that_comes_twice_the_later_page_is_believed() {
    let mut renamed = key(2);
    renamed.name = Some("new".into());
    let mut second = page([3], Next::NotLinked, Some(3));
    second.keys.push(renamed);
    let (result, _) = scripted(vec![Ok(page([1, 2], Next::Linked, Some(3))), Ok(second)], 2).await;
    let walk = result.unwrap();
    assert!(!walk.settled);
    let keys: Vec<(String, String)> = walk
        .keys
        .records()
        .map(|record| (record.id.to_string(), record.name))
        .collect();
    let named = |id: &str, name: &str| (id.to_owned(), name.to_owned());
    assert_eq!(keys, [named("1", ""), named("2", "new"), named("3", "")]);
}

#[tokio::test]
async fn a_total_that_moves_is_not_settled_and_one_that_is_wrong_is() {
    let walk_with = async |first, second| {
        let pages = vec![
            Ok(page([1, 2], Next::Linked, first)),
            Ok(page([3], Next::NotLinked, second)),
        ];
        scripted(pages, 2).await.0.unwrap().settled
    };
    assert!(!walk_with(Some(3), Some(2)).await);
    assert!(walk_with(Some(99), Some(99)).await);
    assert!(walk_with(None, None).await);
    assert!(walk_with(Some(3), None).await);
}

#[tokio::test]
async fn no_more_than_four_pages_are_under_way() {
    let (now, most) = (AtomicU32::new(0), AtomicU32::new(0));
    let fetch = |number: u32| {
        let (now, most) = (&now, &most);
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            now.fetch_sub(1, Ordering::Relaxed);
            let next = if number == 20 {
                Next::NotLinked
            } else {
                Next::Linked
            };
            Ok(page([number], next, Some(20)))
        }
    };
    let walk = walk(fetch, 1, 4, TIMEOUT).await.unwrap();
    assert_eq!((walk.pages, walk.keys.len(), walk.settled), (20, 20, true));
    assert_eq!(most.into_inner(), 4);
}

/// What a walk says that has pages without end, each full and different from the others.
async fn without_end(size: u32, bytes: usize, answers_in: Duration) -> (WalkError, u32) {
    let asked = AtomicU32::new(0);
    let fetch = |number: u32| {
        asked.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(answers_in).await;
            let ids = number * size..(number + 1) * size;
            Ok(KeyPage {
                bytes,
                ..page(ids, Next::Linked, None)
            })
        }
    };
    let error = walk(fetch, size, 4, TIMEOUT).await.unwrap_err();
    (error, asked.into_inner())
}

#[tokio::test]
async fn pages_without_end_stop_at_a_fixed_number_of_keys_and_of_bytes() {
    for (size, bytes, pages) in [
        // 2 GiB of answers
        (2, 30 << 20, 69),
        (500, 30 << 20, 69),
        // 20,000 pages
        (1, 100, 20_000),
    ] {
        let (error, asked) = without_end(size, bytes, Duration::ZERO).await;
        assert_eq!(error.error.problem.reason().as_str(), "incomplete");
        assert_eq!((error.page, asked), (pages, pages), "{bytes} bytes");
    }
    // 2,000,000 keys, most of them malformed so that the test is cheap
    let fetch = |number: u32| async move {
        let one = page([number], Next::Linked, None);
        Ok(KeyPage {
            results: 500,
            ..one
        })
    };
    let error = walk(fetch, 500, 4, TIMEOUT).await.unwrap_err();
    let text = error.to_string();
    assert!(
        error.page == 4001 && text.contains("2000000 keys"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_walk_that_answers_slowly_for_ever_is_given_up() {
    let minute = Duration::from_mins(1);
    let (error, asked) = without_end(2, 100, minute).await;
    assert_eq!(error.error.problem.reason().as_str(), "incomplete");
    assert_eq!(asked, 61, "within the hour that it may take");
    assert!(error.to_string().contains("within 1h"), "{error}");
    // to wait for the rate limit is no fault of Atlas' answers
    let fetch = |number: u32| async move {
        tokio::time::sleep(minute).await;
        let next = if number == 200 {
            Next::NotLinked
        } else {
            Next::Linked
        };
        Ok(KeyPage {
            throttled: minute,
            ..page([number], next, None)
        })
    };
    assert_eq!(walk(fetch, 2, 4, TIMEOUT).await.unwrap().pages, 200);
}

#[tokio::test]
async fn a_total_that_is_not_met_is_told_and_the_walk_is_complete() {
    for (pages, total, shortfall) in [
        (vec![vec![1, 2], vec![3]], 99, true),
        (vec![vec![1, 2], vec![3]], 3, false),
        (vec![vec![1, 2], vec![3]], 4, false),
        (vec![vec![1]], 42, true),
        // the same page again, whatever number is asked for
        (vec![vec![1], vec![1], vec![1], vec![1]], 42, true),
    ] {
        let name = format!("{pages:?} of {total}");
        let all: std::collections::BTreeSet<u32> = pages.iter().flatten().copied().collect();
        let answers = pages
            .into_iter()
            .map(|ids| Ok(page(ids, Next::Unknown, Some(total))));
        let (result, asked) = scripted(answers.collect(), 2).await;
        let walk = result.expect(&name);
        assert_eq!(walk.keys.len(), all.len(), "{name}");
        assert!(walk.settled, "{name}");
        assert_eq!(walk.shortfall.is_some(), shortfall, "{name}");
        // three pages more are under way after one that was full
        assert!(asked <= 5, "{name}: {asked} requests");
    }
}

#[tokio::test]
async fn a_full_page_that_comes_again_is_no_end() {
    for next in [Next::Unknown, Next::NotLinked] {
        let same = || Ok(page([1, 2], next, Some(6)));
        let (result, _) = scripted(vec![same(), same(), same()], 2).await;
        let reason = result.unwrap_err().error.problem.reason();
        assert_eq!(reason.as_str(), "incomplete", "{next:?}");
    }
}

#[tokio::test]
async fn an_empty_page_that_names_a_next_one_is_no_end() {
    let linked = |ids: std::ops::Range<u32>| Ok(page(ids, Next::Linked, None));
    let last = Ok(page(20..25, Next::NotLinked, None));
    let (walk, requests) = scripted(vec![linked(0..10), linked(0..0), last.clone()], 10).await;
    assert_eq!((walk.unwrap().keys.len(), requests), (15, 3));
    let mut pages = vec![linked(0..10)];
    pages.extend((0..20).map(|_| linked(0..0)));
    let (walk, requests) = scripted(pages, 10).await;
    assert!(
        walk.unwrap_err()
            .to_string()
            .contains("still names a next one")
    );
    assert!(requests < 10, "{requests}");
}

#[tokio::test]
async fn no_keys_are_no_answer_where_many_are_promised() {
    for next in [Next::NotLinked, Next::Unknown] {
        let (walk, _) = scripted(vec![Ok(page([], next, Some(655)))], 10).await;
        assert!(walk.unwrap_err().to_string().contains("totalCount is 655"));
        let (walk, _) = scripted(vec![Ok(page([], next, Some(0)))], 10).await;
        assert_eq!(walk.unwrap().keys.len(), 0);
    }
}

#[tokio::test]
async fn a_total_below_what_was_read_is_no_total() {
    let pages = (0..12).map(|number| {
        let total = if number == 0 { 115 } else { 0 };
        let ids = number * 10..(number * 10 + 10).min(115);
        Ok(page(ids, Next::Unknown, Some(total)))
    });
    let (walk, _) = scripted(pages.collect(), 500).await;
    assert_eq!(walk.unwrap().keys.len(), 115);
}
