//! One pass over all pages of an organization.
//!
//! Page 1 comes first, since only it tells how many there may be; then a few at a time. A pass
//! ends at the page that [`Pagination`] takes for the last one.

use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use tokio::time::Instant;

use super::collect::bug;
use crate::inventory::{Draft, KeyKind, KeyRecord, Moment, Put};
use mongodb_atlas_client::{
    ApiKey, Endpoint, Error, KeyPage, Malformed, NextPage, PageSummary, Pagination, Problem, When,
};
use mongodb_atlas_client::{KeyId, ProjectId};

/// Where something stood: page from 1, place on the page from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// `pageNum`.
    pub page: u32,
    /// What could not be used, and its place on the page.
    pub malformed: Malformed,
}

/// A complete pass.
#[derive(Debug, Default)]
pub struct Walk {
    /// Every key once; of a key that came twice, what the later page said.
    pub keys: Draft,
    /// What could not be used; only the first few.
    pub malformed: Vec<Place>,
    /// How much could not be used.
    pub malformed_count: u64,
    /// Keys that could not be used, wholly or in part.
    pub dropped: u64,
    /// Pages read.
    pub pages: u32,
    /// Whether the keys add up: none came twice, `totalCount` stood still, and no page but the
    /// last was short.
    pub settled: bool,
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
const ADD_OFF_THREAD_FROM: usize = 20_000;
/// Places of malformed keys that are remembered; the others are counted.
const MAX_PLACES: usize = 5;

/// Reads every page with `fetch`, which is given the number of a page; `size` is what it asks
/// for, and at most `at_once` pages are under way at a time. The walk is given up when it has taken longer than
/// `timeout`; time in which requests wait for their rate limit does not count.
///
/// # Errors
/// [`WalkError`] when a page fails or the pages do not come to an end; there is no partial walk.
pub async fn walk<F, P>(
    fetch: F,
    size: u32,
    at_once: usize,
    timeout: Duration,
) -> Result<Walk, WalkError>
where
    F: Fn(u32) -> P,
    P: Future<Output = Result<KeyPage, Error>>,
{
    let mut collector = PageCollector::new(size);
    let mut flight = FuturesOrdered::new();
    let mut next = 1;
    let (mut busy, mut previous_at) = (Duration::ZERO, Instant::now());
    while !collector.complete {
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
        busy += previous_at.elapsed().saturating_sub(answer.throttled);
        previous_at = Instant::now();
        let added = if collector.keys.len() < ADD_OFF_THREAD_FROM {
            collector.add(page, answer)
        } else {
            let add = move || (collector.add(page, answer), collector);
            let (added, returned) = tokio::task::spawn_blocking(add).await.map_err(|_| bug())?;
            collector = returned;
            added
        };
        let error = match added {
            Err(why) => Some(why),
            Ok(()) if !collector.complete && busy > timeout => Some(format!(
                "{} pages were read within {}, and there is still a next one",
                collector.pages,
                humantime::format_duration(timeout)
            )),
            Ok(()) => None,
        };
        if let Some(why) = error {
            return Err(WalkError {
                page,
                error: Problem::Incomplete(why).at(Endpoint::AiModelApiKeys),
            });
        }
    }
    let walk = collector.finish();
    match walk.shortfall {
        // a count drifts, but not from many keys to none: an empty answer would look like deleted keys
        Some(Shortfall { read: 0, total }) if total > 1 => Err(WalkError {
            page: walk.pages,
            error: Problem::Incomplete(format!("no keys, although totalCount is {total}"))
                .at(Endpoint::AiModelApiKeys),
        }),
        _ => Ok(walk),
    }
}

/// Collects the keys of the pages so far.
struct PageCollector {
    pagination: Pagination,
    keys: Draft,
    malformed: Vec<Place>,
    malformed_count: u64,
    dropped: u64,
    pages: u32,
    results: u64,
    bytes: u64,
    repeats: bool,
    /// Whether nothing but a count speaks for the page that was asked for last.
    is_attempt: bool,
    page_size: usize,
    complete: bool,
}

impl PageCollector {
    fn new(size: u32) -> Self {
        Self {
            pagination: Pagination::new(size),
            keys: Draft::default(),
            malformed: Vec::new(),
            malformed_count: 0,
            dropped: 0,
            pages: 0,
            results: 0,
            bytes: 0,
            repeats: false,
            is_attempt: false,
            page_size: size.max(1) as usize,
            complete: false,
        }
    }

    fn add(&mut self, page: u32, answer: KeyPage) -> Result<(), String> {
        self.pages += 1;
        self.results += answer.results as u64;
        self.bytes += answer.bytes as u64;
        if self.results > MAX_RESULTS {
            return Err(format!("more than {MAX_RESULTS} keys were read"));
        }
        if self.bytes > MAX_BYTES {
            return Err(format!("more than {} GiB were read", MAX_BYTES >> 30));
        }
        self.add_malformed(page, answer.malformed);
        let usable = answer.keys.len();
        let mut repeated = 0;
        for key in answer.keys {
            repeated += usize::from(self.keys.put(&record(key)) == Put::Again);
        }
        let follows = self.pagination.add(PageSummary {
            results: answer.results,
            repeated,
            next: answer.next,
            total: answer.total,
        });
        if usable > 0 && usable == repeated && follows != NextPage::None {
            if follows == NextPage::Linked || answer.results >= self.page_size {
                return Err(format!(
                    "page {page} repeats keys of the pages before it and is not the last one"
                ));
            }
            if self.is_attempt {
                // a server that does not know of pages gives the same one again, and there is nothing more
                self.complete = true;
                return Ok(());
            }
        }
        if self.pagination.is_endless() {
            return Err(format!(
                "page {page} is empty, as those before it, and still names a next one"
            ));
        }
        self.repeats |= repeated > 0;
        self.is_attempt = follows == NextPage::Possible;
        self.complete = follows == NextPage::None;
        if !self.complete && self.pages >= MAX_PAGES {
            return Err(format!(
                "{MAX_PAGES} pages were read and there is still a next one"
            ));
        }
        Ok(())
    }

    fn add_malformed(&mut self, page: u32, malformed: Vec<Malformed>) {
        self.malformed_count += malformed.len() as u64;
        let mut previous = None;
        for malformed in malformed {
            // a key with two fields that make no sense is one key
            self.dropped += u64::from(previous.replace(malformed.index) != Some(malformed.index));
            if self.malformed.len() < MAX_PLACES {
                self.malformed.push(Place { page, malformed });
            }
        }
    }

    fn finish(self) -> Walk {
        let unmet_total = self.pagination.unmet_total();
        Walk {
            settled: !self.repeats && self.pagination.is_consistent(),
            shortfall: unmet_total.map(|total| Shortfall {
                read: self.pagination.read(),
                total,
            }),
            keys: self.keys,
            malformed: self.malformed,
            malformed_count: self.malformed_count,
            dropped: self.dropped,
            pages: self.pages,
        }
    }
}

/// A key as it goes into an inventory.
pub(super) fn record(key: ApiKey) -> KeyRecord {
    KeyRecord {
        id: KeyId::new(key.id),
        project: ProjectId::new(key.project.unwrap_or_default()),
        name: key.name.unwrap_or_default(),
        name_truncated: key.name_truncated,
        masked_secret: key.masked_secret.unwrap_or_default(),
        kind: KeyKind {
            status: key.status.unwrap_or_default(),
            cloud: key.cloud.unwrap_or_default(),
            geography: key.geography.unwrap_or_default(),
            endpoint: key.endpoint.unwrap_or_default(),
            created_by: key.created_by.unwrap_or_default(),
        },
        created: moment(key.created),
        last_used: moment(key.last_used),
    }
}

fn moment(when: When) -> Moment {
    match when {
        When::At(at) => Moment::At(at),
        When::Missing => Moment::Missing,
        When::Broken => Moment::Unreadable,
    }
}
