//! One pass over all pages of an organization.
//!
//! Page 1 comes first, since only it tells how many there may be; then a few at a time. A pass
//! ends at the page that [`Pagination`] takes for the last one.

use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use tokio::time::Instant;

use super::collect::panic_error;
use crate::inventory::{Inserted, InventoryBuilder};
use mongodb_atlas_client::{
    Endpoint, Error, ErrorKind, InvalidItem, KeyPage, NextPage, PageSummary, Pagination,
};

/// Where something stood: page from 1, place on the page from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocatedItem {
    /// `pageNum`.
    pub page: u32,
    /// What could not be used, and its place on the page.
    pub item: InvalidItem,
}

/// A complete pass.
#[derive(Debug, Default)]
pub struct KeyWalk {
    /// Every key once; of a key that came twice, what the later page said.
    pub keys: InventoryBuilder,
    /// What could not be used; only the first few.
    pub invalid_items: Vec<LocatedItem>,
    /// How much could not be used.
    pub invalid_item_count: u64,
    /// Keys that could not be used, wholly or in part.
    pub invalid_keys: u64,
    /// Pages read.
    pub pages: u32,
    /// Whether the keys add up: none came twice, `totalCount` stood still, and no page but the
    /// last was short.
    pub consistent: bool,
    /// Keys that `totalCount` promised and that did not come.
    pub shortfall: Option<Shortfall>,
}

/// Fewer keys than `totalCount` says, by more than it drifts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortfall {
    /// Keys that were read.
    pub read: u64,
    /// `totalCount`, an estimate.
    pub total: u64,
}

/// A pass that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("page {page}: {error}")]
pub struct WalkError {
    /// The page that failed.
    pub page: u32,
    /// What went wrong.
    pub error: Error,
}

/// Pages past which a walk is given up.
const MAX_PAGES: u32 = 20_000;
/// Results past which a walk is given up, whatever `--metrics.max-keys` says: that flag only cuts series.
const MAX_RESULTS: u64 = 2_000_000;
/// Bytes of answers past which a walk is given up.
const MAX_BYTES: u64 = 2 << 30;
/// Number of keys from which on a page is added on a thread that may be kept busy: a table of a million keys that
/// grows is no work for one that serves.
const BLOCKING_ADD_MIN_KEYS: usize = 20_000;
/// Places of malformed keys that are remembered; the others are counted.
const MAX_LOGGED_ITEMS: usize = 5;

/// Reads every page with `fetch`, which is given the number of a page; `size` is what it asks
/// for, and at most `at_once` pages are under way at a time. The walk is given up when it has taken longer than
/// `timeout`; time in which requests wait for their rate limit does not count.
///
/// # Errors
/// [`WalkError`] when a page fails or the pages do not come to an end; there is no partial walk.
pub async fn walk_pages<F, P>(
    fetch: F,
    size: u32,
    at_once: usize,
    timeout: Duration,
) -> Result<KeyWalk, WalkError>
where
    F: Fn(u32) -> P,
    P: Future<Output = Result<KeyPage, Error>>,
{
    let mut collector = WalkState::new(size);
    let mut flight = FuturesOrdered::new();
    let mut next = 1;
    let (mut busy, mut previous_at) = (Duration::ZERO, Instant::now());
    while !collector.is_complete {
        // beyond the last page that is expected, one at a time: a request too many is paid for
        while flight.is_empty()
            || (flight.len() < at_once
                && collector.pages > 0
                && next <= collector.pagination.expected_pages())
        {
            let (page, answer) = (next, fetch(next));
            flight.push_back(async move { (page, answer.await) });
            next += 1;
        }
        let Some((page, answer)) = flight.next().await else {
            continue;
        };
        let answer = answer.map_err(|error| WalkError { page, error })?;
        busy += previous_at.elapsed().saturating_sub(answer.rate_limit_wait);
        previous_at = Instant::now();
        let added = if collector.keys.len() < BLOCKING_ADD_MIN_KEYS {
            collector.add_page(page, answer)
        } else {
            let add = move || (collector.add_page(page, answer), collector);
            let (added, returned) = tokio::task::spawn_blocking(add)
                .await
                .map_err(|_| panic_error())?;
            collector = returned;
            added
        };
        let error = match added {
            Err(why) => Some(why),
            Ok(()) if !collector.is_complete && busy > timeout => Some(format!(
                "{} pages were read within {}, and there is still a next one",
                collector.pages,
                humantime::format_duration(timeout)
            )),
            Ok(()) => None,
        };
        if let Some(why) = error {
            return Err(WalkError {
                page,
                error: ErrorKind::PaginationIncomplete(why).with_endpoint(Endpoint::AiModelApiKeys),
            });
        }
    }
    let walk = collector.finish();
    match walk.shortfall {
        // a count drifts, but not from many keys to none: an empty answer would look like deleted keys
        Some(Shortfall { read: 0, total }) if total > 1 => Err(WalkError {
            page: walk.pages,
            error: ErrorKind::PaginationIncomplete(format!(
                "no keys, although totalCount is {total}"
            ))
            .with_endpoint(Endpoint::AiModelApiKeys),
        }),
        _ => Ok(walk),
    }
}

/// Collects the keys of the pages so far.
struct WalkState {
    pagination: Pagination,
    keys: InventoryBuilder,
    invalid_items: Vec<LocatedItem>,
    invalid_item_count: u64,
    invalid_keys: u64,
    pages: u32,
    results: u64,
    body_bytes: u64,
    has_duplicates: bool,
    /// Whether nothing but a count speaks for the page that was asked for last.
    is_speculative: bool,
    page_size: usize,
    is_complete: bool,
}

impl WalkState {
    fn new(size: u32) -> Self {
        Self {
            pagination: Pagination::new(size),
            keys: InventoryBuilder::default(),
            invalid_items: Vec::new(),
            invalid_item_count: 0,
            invalid_keys: 0,
            pages: 0,
            results: 0,
            body_bytes: 0,
            has_duplicates: false,
            is_speculative: false,
            page_size: size.max(1) as usize,
            is_complete: false,
        }
    }

    fn add_page(&mut self, page: u32, answer: KeyPage) -> Result<(), String> {
        self.pages += 1;
        self.results += answer.results as u64;
        self.body_bytes += answer.body_bytes as u64;
        if self.results > MAX_RESULTS {
            return Err(format!("more than {MAX_RESULTS} keys were read"));
        }
        if self.body_bytes > MAX_BYTES {
            return Err(format!("more than {} GiB were read", MAX_BYTES >> 30));
        }
        self.add_invalid_items(page, answer.invalid_items);
        let usable = answer.keys.len();
        let mut repeated = 0;
        for key in &answer.keys {
            repeated += usize::from(self.keys.insert(key) == Inserted::Replaced);
        }
        let follows = self.pagination.add(PageSummary {
            results: answer.results,
            duplicates: repeated,
            next_link: answer.next_link,
            total_count: answer.total_count,
        });
        if usable > 0 && usable == repeated && follows != NextPage::None {
            if follows == NextPage::Linked || answer.results >= self.page_size {
                return Err(format!(
                    "page {page} repeats keys of the pages before it and is not the last one"
                ));
            }
            if self.is_speculative {
                // a server that does not know of pages gives the same one again, and there is nothing more
                self.is_complete = true;
                return Ok(());
            }
        }
        if self.pagination.is_endless() {
            return Err(format!(
                "page {page} is empty, as those before it, and still names a next one"
            ));
        }
        self.has_duplicates |= repeated > 0;
        self.is_speculative = follows == NextPage::Possible;
        self.is_complete = follows == NextPage::None;
        if !self.is_complete && self.pages >= MAX_PAGES {
            return Err(format!(
                "{MAX_PAGES} pages were read and there is still a next one"
            ));
        }
        Ok(())
    }

    fn add_invalid_items(&mut self, page: u32, malformed: Vec<InvalidItem>) {
        self.invalid_item_count += malformed.len() as u64;
        let mut previous = None;
        for malformed in malformed {
            // a key with two fields that make no sense is one key
            self.invalid_keys +=
                u64::from(previous.replace(malformed.index) != Some(malformed.index));
            if self.invalid_items.len() < MAX_LOGGED_ITEMS {
                self.invalid_items.push(LocatedItem {
                    page,
                    item: malformed,
                });
            }
        }
    }

    fn finish(self) -> KeyWalk {
        let unmet_total = self.pagination.unmet_total();
        KeyWalk {
            consistent: !self.has_duplicates && self.pagination.is_consistent(),
            shortfall: unmet_total.map(|total| Shortfall {
                read: self.pagination.read_count(),
                total,
            }),
            keys: self.keys,
            invalid_items: self.invalid_items,
            invalid_item_count: self.invalid_item_count,
            invalid_keys: self.invalid_keys,
            pages: self.pages,
        }
    }
}
