//! One pass over all pages of an organization.
//!
//! Page 1 is fetched first, because it contains the expected number of pages; then a few pages concurrently. A walk is
//! complete with the page that [`Pagination`] considers the last one.
//!
//! Requests do not wait for the pages before them: while a page is parsed and added, the next requests are in flight.

use std::future::Future;
use std::mem::take;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::humanize::exact;
use crate::inventory::{Inserted, InventoryBuilder};
use mongodb_atlas_client::{
    Endpoint, Error, ErrorKind, InvalidItem, KeyPage, NextPage, PageSummary, Pagination,
};

/// An invalid item, and the number of its page, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocatedItem {
    /// `pageNum`.
    pub page: u32,
    /// The item, with its index on the page.
    pub item: InvalidItem,
}

/// The result of a complete walk.
#[derive(Debug, Default)]
pub struct KeyWalk {
    /// Every key once; for duplicates, the version of the later page.
    pub keys: InventoryBuilder,
    /// The first invalid items, at most a few.
    pub invalid_items: Vec<LocatedItem>,
    /// Number of invalid items.
    pub invalid_item_count: u64,
    /// Number of keys that are invalid, entirely or in part.
    pub invalid_keys: u64,
    /// Number of pages.
    pub pages: u32,
    /// Number of requested pages: more than [`KeyWalk::pages`] if the expected number of pages was too large.
    pub requests: u32,
    /// Whether the pages are consistent: no duplicates, the same `totalCount`, and no short page except the last one.
    pub consistent: bool,
    /// Set when there are fewer keys than `totalCount`.
    pub shortfall: Option<Shortfall>,
}

/// Fewer keys than `totalCount`, by more than the usual deviation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortfall {
    /// Number of keys.
    pub read: u64,
    /// `totalCount`, an estimate.
    pub total: u64,
}

/// The error of a walk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("page {page}: {error}")]
pub struct WalkError {
    /// The page that failed.
    pub page: u32,
    /// The error.
    pub error: Error,
}

impl WalkError {
    fn incomplete(page: u32, reason: String) -> Self {
        Self {
            page,
            error: ErrorKind::PaginationIncomplete(reason).with_endpoint(Endpoint::AiModelApiKeys),
        }
    }

    /// Returns the error of a poll that panicked.
    pub(super) fn panicked() -> Self {
        let reason =
            "panic while reading the page; this is a bug in the exporter, please report it";
        Self {
            page: 0,
            error: ErrorKind::InvalidResponse(reason.to_owned())
                .with_endpoint(Endpoint::AiModelApiKeys),
        }
    }
}

/// Runs `work`, which processes every key of an organization, on a blocking thread: a million keys would stall a thread
/// that serves scrapes.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WalkError> {
    let task = tokio::task::spawn_blocking(work);
    task.await.map_err(|_| WalkError::panicked())
}

/// Maximum number of pages.
const MAX_PAGES: u32 = 20_000;
/// Maximum number of results, independent of `--metrics.max-keys`, which limits series only.
const MAX_RESULTS: u64 = 2_000_000;
/// Maximum size of all responses.
const MAX_BYTES: u64 = 2 << 30;
/// Minimum number of keys with which pages are added on a blocking thread: growing a large hash table would stall a thread
/// that serves scrapes.
const BLOCKING_ADD_MIN_KEYS: usize = 20_000;
/// Maximum number of invalid items that are logged; the others are counted.
const MAX_LOGGED_ITEMS: usize = 5;

/// Maximum number of pages that are requested, parsed, or waiting for an earlier page, as a multiple of the concurrency:
/// while one half is requested, the other half is parsed.
const QUEUED_PAGES_PER_REQUEST: usize = 2;

/// Fetches every page. `request` takes a page number, and its output parses the response; `page_size` is the size that it
/// requests. At most `concurrency` requests are in flight. Time in which requests wait for their rate limit does not count
/// for `timeout`.
///
/// # Errors
/// [`WalkError`] when a page fails, the pages do not end, or the timeout expires; a partial result is never returned.
pub async fn walk_pages<F, R, P>(
    request: F,
    page_size: u32,
    concurrency: usize,
    timeout: Duration,
) -> Result<KeyWalk, WalkError>
where
    F: Fn(u32) -> R,
    R: Future<Output = Result<P, Error>>,
    P: Future<Output = Result<KeyPage, Error>>,
{
    let mut state = WalkState::new(page_size);
    let slots = Semaphore::new(concurrency);
    let mut queued = FuturesOrdered::new();
    let mut next = 1;
    let (mut elapsed, mut previous_at) = (Duration::ZERO, Instant::now());
    while !state.is_complete {
        // Past the expected last page, fetch sequentially, to avoid spending rate limit on pages that may not exist.
        let may_request = queued.is_empty()
            || (queued.len() < QUEUED_PAGES_PER_REQUEST * concurrency
                && state.walk.pages > 0
                && next <= state.pagination.expected_pages());
        let (page, response) = tokio::select! {
            biased;
            Ok(slot) = slots.acquire(), if may_request => {
                queued.push_back(fetch_page(next, request(next), slot));
                state.walk.requests += 1;
                next += 1;
                continue;
            }
            Some(fetched) = queued.next() => fetched,
            else => continue,
        };
        let response = response.map_err(|error| WalkError { page, error })?;
        elapsed += previous_at
            .elapsed()
            .saturating_sub(response.rate_limit_wait);
        previous_at = Instant::now();
        let added = if state.walk.keys.len() < BLOCKING_ADD_MIN_KEYS {
            state.add_page(page, response)
        } else {
            let added;
            (added, state) = run_blocking(move || (state.add_page(page, response), state)).await?;
            added
        };
        added.map_err(|reason| WalkError::incomplete(page, reason))?;
        if !state.is_complete && elapsed > timeout {
            let (pages, timeout) = (state.walk.pages, exact(timeout));
            let reason = format!("timeout after {timeout} and {pages} pages");
            return Err(WalkError::incomplete(page, reason));
        }
    }
    state.finish()
}

/// Sends the request of `page`, frees its slot, and parses the response.
async fn fetch_page<P>(
    page: u32,
    request: impl Future<Output = Result<P, Error>>,
    slot: SemaphorePermit<'_>,
) -> (u32, Result<KeyPage, Error>)
where
    P: Future<Output = Result<KeyPage, Error>>,
{
    let response = request.await;
    drop(slot);
    let parsed = match response {
        Ok(parse) => parse.await,
        Err(error) => Err(error),
    };
    (page, parsed)
}

/// The pages so far.
struct WalkState {
    pagination: Pagination,
    walk: KeyWalk,
    results: u64,
    body_bytes: u64,
    has_duplicates: bool,
    /// Whether the next page was requested only because of a count.
    is_speculative: bool,
    page_size: usize,
    is_complete: bool,
}

impl WalkState {
    fn new(page_size: u32) -> Self {
        Self {
            pagination: Pagination::new(page_size),
            walk: KeyWalk::default(),
            results: 0,
            body_bytes: 0,
            has_duplicates: false,
            is_speculative: false,
            page_size: page_size.max(1) as usize,
            is_complete: false,
        }
    }

    fn add_page(&mut self, page: u32, response: KeyPage) -> Result<(), String> {
        self.walk.pages += 1;
        self.results += response.results as u64;
        self.body_bytes += response.body_bytes as u64;
        if self.results > MAX_RESULTS {
            return Err(format!("more than {MAX_RESULTS} keys"));
        }
        if self.body_bytes > MAX_BYTES {
            return Err(format!("more than {} GiB of responses", MAX_BYTES >> 30));
        }
        self.add_invalid_items(page, response.invalid_items);
        let keys = response.keys.len();
        let mut duplicates = 0;
        for key in &response.keys {
            let inserted = self.walk.keys.insert(key);
            duplicates += usize::from(inserted == Inserted::Replaced);
        }
        let next = self.pagination.add(PageSummary {
            results: response.results,
            duplicates,
            next_link: response.next_link,
            total_count: response.total_count,
        });
        if keys > 0 && keys == duplicates && next != NextPage::None {
            if next == NextPage::Linked || response.results >= self.page_size {
                return Err(format!(
                    "page {page} contains only repeated keys and is not the last page"
                ));
            }
            if self.is_speculative {
                // A server without pagination returns the same page again.
                self.is_complete = true;
                return Ok(());
            }
        }
        if self.pagination.is_endless() {
            return Err(format!(
                "page {page} and the pages before it are empty, but there is a next page"
            ));
        }
        self.has_duplicates |= duplicates > 0;
        self.is_speculative = next == NextPage::Possible;
        self.is_complete = next == NextPage::None;
        if !self.is_complete && self.walk.pages >= MAX_PAGES {
            return Err(format!("more than {MAX_PAGES} pages"));
        }
        Ok(())
    }

    fn add_invalid_items(&mut self, page: u32, items: Vec<InvalidItem>) {
        self.walk.invalid_item_count += items.len() as u64;
        let mut previous = None;
        for item in items {
            // A key with two invalid fields is counted once.
            self.walk.invalid_keys += u64::from(previous.replace(item.index) != Some(item.index));
            if self.walk.invalid_items.len() < MAX_LOGGED_ITEMS {
                self.walk.invalid_items.push(LocatedItem { page, item });
            }
        }
    }

    fn finish(mut self) -> Result<KeyWalk, WalkError> {
        let read = self.pagination.read_count();
        let walk = KeyWalk {
            consistent: !self.has_duplicates && self.pagination.is_consistent(),
            shortfall: self
                .pagination
                .unmet_total()
                .map(|total| Shortfall { read, total }),
            ..take(&mut self.walk)
        };
        match walk.shortfall {
            // A count can deviate, but not from many keys to none: an empty list would look like deleted keys.
            Some(Shortfall { read: 0, total }) if total > 1 => Err(WalkError::incomplete(
                walk.pages,
                format!("no keys, but totalCount is {total}"),
            )),
            _ => Ok(walk),
        }
    }
}
