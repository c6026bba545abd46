//! A walk, once more if the keys do not add up, a second look at keys that are missing, and an
//! inventory made of it.

use std::fmt;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::diff::{self, KeyChange};
use super::walk::{Place, Shortfall, Walk, WalkError, record, walk};
use crate::inventory::{Draft, Inventory, unescape};
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::{ApiKey, Client, Endpoint, Members, Problem};
use mongodb_atlas_client::{KeyId, OrgId};

/// Requests of one walk that are under way at once.
const PAGES_AT_ONCE: usize = 4;
/// Missing keys that are asked for one by one; for more, another walk is cheaper.
const FEW: usize = 16;
/// A walk is given up after so many intervals, or after [`MIN_WALK_TIMEOUT`] where that is longer.
const WALK_TIMEOUT_INTERVALS: u32 = 10;
/// See [`WALK_TIMEOUT_INTERVALS`].
const MIN_WALK_TIMEOUT: Duration = Duration::from_mins(10);

/// How long a walk may take where `interval` is in force: Atlas could answer slowly for days, page after page.
pub fn walk_timeout(interval: Duration) -> Duration {
    interval
        .saturating_mul(WALK_TIMEOUT_INTERVALS)
        .max(MIN_WALK_TIMEOUT)
}

/// How a round is done.
#[derive(Debug, Clone)]
pub struct Manner {
    /// Keys a page, 1 to 500.
    pub page_size: u32,
    /// A key that is used after not having been for so long counts as revived.
    pub revived_after: Duration,
    /// Members that are read only for who exports them.
    pub members: Members,
    /// How long one walk may take; see [`walk_timeout`].
    pub walk_timeout: Duration,
    /// The time of day.
    pub clock: Clock,
    /// Makes of an inventory, before it is shown, what scrapes will need of it.
    pub prepare: Prepare,
}

/// See [`Manner::prepare`]. Called on a thread that may be kept busy.
#[derive(Clone)]
pub struct Prepare(pub Arc<MakeReady>);

/// Makes something of an inventory.
type MakeReady = dyn Fn(&Arc<Inventory>) + Send + Sync;

impl Default for Prepare {
    fn default() -> Self {
        Self(Arc::new(|_| {}))
    }
}

impl fmt::Debug for Prepare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prepare")
    }
}

/// What a complete round has found.
#[derive(Debug)]
pub struct Report {
    /// The new inventory.
    pub inventory: Arc<Inventory>,
    /// What happened since the inventory before; nothing when there was none.
    pub changes: Vec<KeyChange>,
    /// Pages read, those of every walk of the round.
    pub pages: u32,
    /// Requests that it took, single keys included.
    pub requests: u32,
    /// From the first request to the last answer.
    pub took: Duration,
    /// Keys that `totalCount` promised and that did not come.
    pub shortfall: Option<Shortfall>,
}

/// Reads every key of `org`. `previous` is the inventory that the new one replaces: a key of it
/// that is missing now is believed deleted only when a second look agrees.
///
/// # Errors
/// [`WalkError`] when a page failed; then nothing is known.
pub async fn read(
    client: &Client,
    org: &OrgId,
    manner: &Manner,
    previous: Option<Arc<Inventory>>,
) -> Result<Report, WalkError> {
    let (begun, begun_at) = (Instant::now(), manner.clock.now());
    let mut round = Round {
        client,
        org,
        size: manner.page_size,
        members: manner.members,
        walk_timeout: manner.walk_timeout,
        pages: 0,
        requests: 0,
        seen_before: Draft::default(),
    };
    let mut found = round.settled_walk().await?;
    if let Some(previous) = &previous {
        found = round.second_look(found, previous).await?;
    }
    let (pages, requests) = (round.pages, round.requests);
    log_malformed(org, &found);
    let times = (begun_at, manner.clock.now());
    let shortfall = found.shortfall;
    let (owner, manner) = (org.clone(), manner.clone());
    let (inventory, changes) = elsewhere(move || {
        let known = previous
            .as_ref()
            .map_or(&[][..], |previous| previous.counts());
        let inventory = Arc::new(found.keys.finish(owner, times, found.dropped, known));
        (manner.prepare.0)(&inventory);
        let changes = previous.map_or_else(Vec::new, |previous| {
            diff::between(&previous, &inventory, manner.revived_after)
        });
        (inventory, changes)
    })
    .await?;
    Ok(Report {
        inventory,
        changes,
        pages,
        requests,
        took: begun.elapsed(),
        shortfall,
    })
}

/// Does something with every key of an organization: a million of them are no work for a thread
/// that serves scrapes.
async fn elsewhere<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WalkError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| bug())
}

/// The error of a round that panicked.
pub(super) fn bug() -> WalkError {
    WalkError {
        page: 0,
        error: Problem::Invalid(
            "reading it panicked, which is a bug in this exporter; please report it".to_owned(),
        )
        .at(Endpoint::AiModelApiKeys),
    }
}

struct Round<'a> {
    client: &'a Client,
    org: &'a OrgId,
    size: u32,
    members: Members,
    walk_timeout: Duration,
    pages: u32,
    requests: u32,
    /// What a walk before the last one has seen.
    seen_before: Draft,
}

impl Round<'_> {
    async fn walk(&mut self) -> Result<Walk, WalkError> {
        let found = walk(
            |page| self.client.keys(self.org, page, self.size, self.members),
            self.size,
            PAGES_AT_ONCE,
            self.walk_timeout,
        )
        .await?;
        self.pages += found.pages;
        self.requests += found.pages;
        Ok(found)
    }

    /// A walk, and when its keys do not add up one more, which is believed.
    async fn settled_walk(&mut self) -> Result<Walk, WalkError> {
        let (org, first) = (self.org, self.walk().await?);
        if first.settled {
            return Ok(first);
        }
        debug!(%org, pages = first.pages, "the keys do not add up, most likely because some were created or deleted on the way; once more");
        self.seen_before = first.keys;
        let second = self.walk().await?;
        if !second.settled {
            warn!(%org, pages = self.pages, "the keys do not add up in a second walk either; showing what it says, repeats merged");
        }
        Ok(second)
    }

    /// Looks again for keys of `previous` that are not in `found`, and puts those back that are
    /// still there. A key that two walks have not seen has been looked for twice already.
    async fn second_look(
        &mut self,
        found: Walk,
        previous: &Arc<Inventory>,
    ) -> Result<Walk, WalkError> {
        let (seen_before, previous) = (take(&mut self.seen_before), Arc::clone(previous));
        let (mut found, missing) = elsewhere(move || {
            let missing = missing(&found, &previous, &seen_before);
            (found, missing)
        })
        .await?;
        if missing.is_empty() {
            return Ok(found);
        }
        let few = missing.len() <= FEW.min(found.pages as usize);
        debug!(org = %self.org, keys = missing.len(), one_by_one = few, "keys are missing; a second look");
        if few && let Some(still_there) = self.ask_for(&missing).await {
            for key in still_there {
                found.keys.put(&record(key));
            }
            return Ok(found);
        }
        let mut again = self.walk().await?;
        // what either walk has seen is there; the later one knows better what it looks like
        elsewhere(move || {
            again.keys.complete_with(&found.keys);
            again
        })
        .await
    }

    /// Those of `missing` that Atlas still knows; none when it does not say for each of them.
    async fn ask_for(&mut self, missing: &[KeyId]) -> Option<Vec<ApiKey>> {
        let (client, org, members) = (self.client, self.org, self.members);
        let mut answers = stream::iter(missing.to_vec())
            .map(|id| async move { client.key(org, &id, members).await })
            .buffer_unordered(PAGES_AT_ONCE);
        let mut still_there = Vec::new();
        while let Some(answer) = answers.next().await {
            self.requests += 1;
            match answer {
                Ok(key) => still_there.extend(key),
                Err(error) => {
                    debug!(%org, %error, "Atlas does not say whether a key is there; walking once more");
                    return None;
                }
            }
        }
        Some(still_there)
    }
}

/// Keys of `previous` that are not in `found`, but for those that two walks have not seen.
fn missing(found: &Walk, previous: &Inventory, seen_before: &Draft) -> Vec<KeyId> {
    // a walk that was not believed is no look at a key that it has seen
    let looked_twice = |id: &str| !seen_before.is_empty() && !seen_before.contains(id);
    previous
        .keys()
        .map(|key| unescape(key.id()))
        .filter(|id| !found.keys.contains(id) && !looked_twice(id))
        .map(|id| KeyId::new(id.into_owned()))
        .collect()
}

fn log_malformed(org: &OrgId, found: &Walk) {
    for Place { page, malformed } in &found.malformed {
        warn!(%org, page, index = malformed.index, what = malformed.what, "a key cannot be read wholly");
    }
    let more = found.malformed_count - found.malformed.len() as u64;
    if more > 0 {
        warn!(%org, more, "more keys cannot be read wholly");
    }
}
