//! The task that lets walks happen. It decides when an organization is walked and nothing else.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::round::{self, Report};
use super::schedule::{Backoff, Schedule};
use super::walk::WalkError;
use crate::atlas::{Client, Endpoint, Problem};
use crate::clock::Clock;
use crate::ids::OrgId;
use crate::inventory::Shelf;

/// Organizations that are walked at the same time; the others wait for their turn.
const WALKS_AT_ONCE: usize = 4;

/// An organization to watch, and who asks for it.
pub struct Org {
    /// Its id.
    pub id: OrgId,
    /// The credential's client.
    pub client: Arc<Client>,
}

/// Who is told of walks. Implemented where the rooms are put together.
pub trait Watcher: Send + Sync {
    /// A walk begins.
    fn begun(&self, org: &OrgId, at: Timestamp);
    /// A walk was complete; its inventory stands on the shelf already.
    fn succeeded(&self, org: &OrgId, at: Timestamp, pages: u32, took: Duration, dropped: u64);
    /// A walk failed; what stood on the shelf still stands.
    fn failed(&self, org: &OrgId, error: &WalkError, took: Duration);
}

/// Walks every organization at its times, one walk of an organization at a time.
pub struct Scheduler {
    orgs: Vec<Planned>,
    queue: BinaryHeap<Reverse<(Instant, usize)>>,
    page_size: u32,
    shelf: Arc<Shelf>,
    watcher: Arc<dyn Watcher>,
    clock: Clock,
}

struct Planned {
    org: Org,
    schedule: Schedule,
    backoff: Backoff,
}

struct Ended {
    index: usize,
    took: Duration,
    result: Result<Report, WalkError>,
}

impl Scheduler {
    /// Plans a first walk of each of `orgs` at once, and then one every `interval`.
    pub fn new(
        orgs: Vec<Org>,
        interval: Duration,
        page_size: u32,
        shelf: Arc<Shelf>,
        watcher: Arc<dyn Watcher>,
        clock: Clock,
    ) -> Self {
        let schedules = Schedule::spread(orgs.iter().map(|org| &org.id), interval);
        let orgs: Vec<_> = orgs
            .into_iter()
            .zip(schedules)
            .map(|(org, schedule)| Planned {
                org,
                schedule,
                backoff: Backoff::default(),
            })
            .collect();
        let now = Instant::now();
        // a moment apart, so that even the first walks do not begin in the same instant
        let queue = (0..orgs.len())
            .map(|index| Reverse((now + Duration::from_millis(index as u64), index)))
            .collect();
        Self {
            orgs,
            queue,
            page_size,
            shelf,
            watcher,
            clock,
        }
    }

    /// Runs until `shutdown`; walks that are under way then are dropped, and nothing of them is
    /// published.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut walks = JoinSet::new();
        loop {
            let due = self.queue.peek().map(|Reverse((at, _))| *at);
            let free = walks.len() < WALKS_AT_ONCE;
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(ended) = walks.join_next() => self.ended(ended),
                () = until(due), if free && due.is_some() => self.begin(&mut walks),
            }
        }
        walks.shutdown().await;
    }

    fn begin(&mut self, walks: &mut JoinSet<Ended>) {
        let Some(Reverse((_, index))) = self.queue.pop() else {
            return;
        };
        let Some(planned) = self.orgs.get(index) else {
            return;
        };
        let (org, client) = (planned.org.id.clone(), Arc::clone(&planned.org.client));
        let (clock, size, previous) = (self.clock.clone(), self.page_size, self.shelf.get(&org));
        self.watcher.begun(&org, clock.now());
        walks.spawn(async move {
            let begun = Instant::now();
            let read = round::read(&client, &org, size, &clock, previous.as_deref());
            // a bug that strikes one organization must not end the watch over it
            let result = AssertUnwindSafe(read)
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Err(bug()));
            Ended {
                index,
                took: begun.elapsed(),
                result,
            }
        });
    }

    fn ended(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        // a walk catches its own panics, so this is one that was cancelled at the shutdown
        let Ok(ended) = ended else {
            return;
        };
        let Some(planned) = self.orgs.get_mut(ended.index) else {
            return;
        };
        let regular = planned.schedule.next_after(self.clock.now());
        let org = &planned.org.id;
        let wait = match ended.result {
            Ok(report) => {
                planned.backoff.reset();
                publish(org, report, &self.shelf, &*self.watcher);
                regular
            }
            Err(error) => {
                let wait = planned
                    .backoff
                    .after_failure(regular, error.error.problem.retry_after());
                warn!(
                    %org,
                    endpoint = %error.error.endpoint,
                    page = error.page,
                    reason = %error.error.problem.reason(),
                    error = %error.error.problem,
                    again_in = %humantime::format_duration(Duration::from_secs(wait.as_secs())),
                    "walk failed; what the last complete one said still stands"
                );
                self.watcher.failed(org, &error, ended.took);
                wait
            }
        };
        self.queue
            .push(Reverse((Instant::now() + wait, ended.index)));
    }
}

fn publish(org: &OrgId, report: Report, shelf: &Shelf, watcher: &dyn Watcher) {
    let Report {
        inventory,
        pages,
        took,
    } = report;
    let (at, keys, dropped) = (inventory.read_at(), inventory.len(), inventory.dropped());
    shelf.put(Arc::new(inventory));
    watcher.succeeded(org, at, pages, took, dropped);
    info!(%org, keys, pages, dropped, took = %humantime::format_duration(Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(0))), "walk complete");
}

fn bug() -> WalkError {
    WalkError {
        page: 0,
        error: Problem::Invalid(
            "reading it panicked, which is a bug in this exporter; please report it".to_owned(),
        )
        .at(Endpoint::AiModelApiKeys),
    }
}

async fn until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
}
