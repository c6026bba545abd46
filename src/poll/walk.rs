//! One pass over all pages of an organization.
//!
//! Page 1 comes first, since only it tells how many there may be; then a few at a time. A pass
//! ends at the page without a `next` link where links are given, else at the page that came back
//! shorter than asked for. A short page that does name a next one is no end: should Atlas ever
//! cut pages shorter than asked for, the rest must not be taken for deleted.

use std::future::Future;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;

use crate::atlas::{ApiKey, Endpoint, Error, KeyPage, Malformed, Next, Problem, When};
use crate::ids::{KeyId, ProjectId};
use crate::inventory::{Draft, KeyKind, KeyRecord, Moment, Put};

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
    /// What could not be used.
    pub malformed: Vec<Place>,
    /// Pages read.
    pub pages: u32,
    /// Whether the keys add up: none came twice, `totalCount` stood still, and no page but the
    /// last was short.
    pub settled: bool,
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

/// Pages past which a walk is given up: 10 million keys at 500 a page.
const MAX_PAGES: u32 = 20_000;

/// Reads every page with `fetch`, which is given the number of a page; `size` is what it asks
/// for, and at most `at_once` pages are under way at a time.
///
/// # Errors
/// [`WalkError`] when a page fails or the pages do not come to an end; there is no partial walk.
pub async fn walk<F, P>(fetch: F, size: u32, at_once: usize) -> Result<Walk, WalkError>
where
    F: Fn(u32) -> P,
    P: Future<Output = Result<KeyPage, Error>>,
{
    let mut book = Book::new(size);
    let mut flight = FuturesOrdered::new();
    let mut next = 1;
    while !book.ended {
        // beyond the last page that is expected, one at a time: a request too many is paid for
        while flight.is_empty()
            || (flight.len() < at_once && book.pages > 0 && next <= book.expected)
        {
            let (page, answer) = (next, fetch(next));
            flight.push_back(async move { (page, answer.await) });
            next += 1;
        }
        if let Some((page, answer)) = flight.next().await {
            let answer = answer.map_err(|error| WalkError { page, error })?;
            book.enter(page, answer).map_err(|why| WalkError {
                page,
                error: Problem::Incomplete(why).at(Endpoint::AiModelApiKeys),
            })?;
        }
    }
    Ok(book.close())
}

/// What the pages so far have said.
struct Book {
    size: u32,
    keys: Draft,
    malformed: Vec<Place>,
    pages: u32,
    expected: u32,
    total: Option<u64>,
    repeats: u64,
    drifted: bool,
    short: bool,
    ended: bool,
}

impl Book {
    fn new(size: u32) -> Self {
        Self {
            size: size.max(1),
            keys: Draft::default(),
            malformed: Vec::new(),
            pages: 0,
            expected: 1,
            total: None,
            repeats: 0,
            drifted: false,
            short: false,
            ended: false,
        }
    }

    fn enter(&mut self, page: u32, answer: KeyPage) -> Result<(), String> {
        self.pages += 1;
        // an earlier page that was short without being the last one
        let short = answer.results < self.size as usize;
        self.ended = match answer.next {
            Next::Linked => answer.results == 0,
            Next::NotLinked => true,
            Next::Unknown => short,
        };
        self.short |= short && !self.ended;
        self.count(answer.total);
        self.malformed.extend(
            answer
                .malformed
                .into_iter()
                .map(|malformed| Place { page, malformed }),
        );
        let known = self.keys.len();
        let usable = answer.keys.len();
        for key in answer.keys {
            self.repeats += u64::from(self.keys.put(&record(key)) == Put::Again);
        }
        if self.ended {
            return Ok(());
        }
        if usable > 0 && self.keys.len() == known {
            return Err(format!(
                "page {page} repeats keys of the pages before it and still names a next one"
            ));
        }
        if self.pages >= MAX_PAGES {
            return Err(format!(
                "{MAX_PAGES} pages were read and there is still a next one"
            ));
        }
        Ok(())
    }

    fn count(&mut self, total: Option<u64>) {
        let Some(total) = total else {
            return;
        };
        self.drifted |= self.total.is_some_and(|before| before != total);
        self.total = Some(total);
        self.expected = u32::try_from(total.div_ceil(u64::from(self.size))).unwrap_or(u32::MAX);
    }

    fn close(self) -> Walk {
        Walk {
            settled: self.repeats == 0 && !self.drifted && !self.short,
            keys: self.keys,
            malformed: self.malformed,
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
