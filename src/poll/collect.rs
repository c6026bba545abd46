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
use super::walk::{KeyWalk, LocatedItem, Shortfall, WalkError, walk_pages};
use crate::inventory::{Inventory, InventoryBuilder, unescape};
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::{ApiKey, Client, Endpoint, ErrorKind, OptionalFields};
use mongodb_atlas_client::{KeyId, OrgId};

/// Requests of one walk that are under way at once.
const MAX_CONCURRENT_PAGES: usize = 4;
/// Missing keys that are asked for one by one; for more, another walk is cheaper.
const MAX_SINGLE_LOOKUPS: usize = 16;
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
pub struct PollOptions {
    /// Keys a page, 1 to 500.
    pub page_size: u32,
    /// A key that is used after not having been for so long counts as revived.
    pub revived_after: Duration,
    /// Members that are read only for who exports them.
    pub optional_fields: OptionalFields,
    /// How long one walk may take; see [`walk_timeout`].
    pub walk_timeout: Duration,
    /// The time of day.
    pub clock: Clock,
    /// Makes of an inventory, before it is shown, what scrapes will need of it.
    pub inventory_hook: InventoryHook,
}

/// See [`PollOptions::inventory_hook`]. Called on a thread that may be kept busy.
#[derive(Clone)]
pub struct InventoryHook(pub Arc<InventoryHookFn>);

/// Makes something of an inventory.
type InventoryHookFn = dyn Fn(&Arc<Inventory>) + Send + Sync;

impl Default for InventoryHook {
    fn default() -> Self {
        Self(Arc::new(|_| {}))
    }
}

impl fmt::Debug for InventoryHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prepare")
    }
}

/// What a complete round has found.
#[derive(Debug)]
pub struct PollReport {
    /// The new inventory.
    pub inventory: Arc<Inventory>,
    /// What happened since the inventory before; nothing when there was none.
    pub changes: Vec<KeyChange>,
    /// Pages read, those of every walk of the round.
    pub pages: u32,
    /// Requests that it took, single keys included.
    pub requests: u32,
    /// From the first request to the last answer.
    pub duration: Duration,
    /// Keys that `totalCount` promised and that did not come.
    pub shortfall: Option<Shortfall>,
}

/// Reads every key of `org`. `previous` is the inventory that the new one replaces: a key of it
/// that is missing now is believed deleted only when a second look agrees.
///
/// # Errors
/// [`WalkError`] when a page failed; then nothing is known.
pub async fn collect(
    client: &Client,
    org: &OrgId,
    manner: &PollOptions,
    previous: Option<Arc<Inventory>>,
) -> Result<PollReport, WalkError> {
    let (begun, begun_at) = (Instant::now(), manner.clock.now());
    let mut round = Collector {
        client,
        org,
        page_size: manner.page_size,
        optional_fields: manner.optional_fields,
        walk_timeout: manner.walk_timeout,
        pages: 0,
        requests: 0,
        earlier_keys: InventoryBuilder::default(),
    };
    let mut found = round.walk_until_consistent().await?;
    if let Some(previous) = &previous {
        found = round.recheck_missing(found, previous).await?;
    }
    let (pages, requests) = (round.pages, round.requests);
    log_invalid_items(org, &found);
    let times = (begun_at, manner.clock.now());
    let shortfall = found.shortfall;
    let (owner, manner) = (org.clone(), manner.clone());
    let (inventory, changes) = run_blocking(move || {
        let known = previous
            .as_ref()
            .map_or(&[][..], |previous| previous.status_counts());
        let inventory = Arc::new(found.keys.build(owner, times, found.invalid_keys, known));
        (manner.inventory_hook.0)(&inventory);
        let changes = previous.map_or_else(Vec::new, |previous| {
            diff::diff(&previous, &inventory, manner.revived_after)
        });
        (inventory, changes)
    })
    .await?;
    Ok(PollReport {
        inventory,
        changes,
        pages,
        requests,
        duration: begun.elapsed(),
        shortfall,
    })
}

/// Does something with every key of an organization: a million of them are no work for a thread
/// that serves scrapes.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WalkError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| panic_error())
}

/// The error of a round that panicked.
pub(super) fn panic_error() -> WalkError {
    WalkError {
        page: 0,
        error: ErrorKind::InvalidResponse(
            "reading it panicked, which is a bug in this exporter; please report it".to_owned(),
        )
        .with_endpoint(Endpoint::AiModelApiKeys),
    }
}

struct Collector<'a> {
    client: &'a Client,
    org: &'a OrgId,
    page_size: u32,
    optional_fields: OptionalFields,
    walk_timeout: Duration,
    pages: u32,
    requests: u32,
    /// What a walk before the last one has seen.
    earlier_keys: InventoryBuilder,
}

impl Collector<'_> {
    async fn walk_once(&mut self) -> Result<KeyWalk, WalkError> {
        let found = walk_pages(
            |page| {
                self.client
                    .list_keys_page(self.org, page, self.page_size, self.optional_fields)
            },
            self.page_size,
            MAX_CONCURRENT_PAGES,
            self.walk_timeout,
        )
        .await?;
        self.pages += found.pages;
        self.requests += found.pages;
        Ok(found)
    }

    /// A walk, and when its keys do not add up one more, which is believed.
    async fn walk_until_consistent(&mut self) -> Result<KeyWalk, WalkError> {
        let (org, first) = (self.org, self.walk_once().await?);
        if first.consistent {
            return Ok(first);
        }
        debug!(%org, pages = first.pages, "the keys do not add up, most likely because some were created or deleted on the way; once more");
        self.earlier_keys = first.keys;
        let second = self.walk_once().await?;
        if !second.consistent {
            warn!(%org, pages = self.pages, "the keys do not add up in a second walk either; showing what it says, repeats merged");
        }
        Ok(second)
    }

    /// Looks again for keys of `previous` that are not in `found`, and puts those back that are
    /// still there. A key that two walks have not seen has been looked for twice already.
    async fn recheck_missing(
        &mut self,
        found: KeyWalk,
        previous: &Arc<Inventory>,
    ) -> Result<KeyWalk, WalkError> {
        let (seen_before, previous) = (take(&mut self.earlier_keys), Arc::clone(previous));
        let (mut found, missing) = run_blocking(move || {
            let missing = find_missing(&found, &previous, &seen_before);
            (found, missing)
        })
        .await?;
        if missing.is_empty() {
            return Ok(found);
        }
        let few = missing.len() <= MAX_SINGLE_LOOKUPS.min(found.pages as usize);
        debug!(org = %self.org, keys = missing.len(), one_by_one = few, "keys are missing; a second look");
        if few && let Some(still_there) = self.fetch_keys(&missing).await {
            for key in still_there {
                found.keys.insert(&key);
            }
            return Ok(found);
        }
        let mut again = self.walk_once().await?;
        // what either walk has seen is there; the later one knows better what it looks like
        run_blocking(move || {
            again.keys.merge_missing(&found.keys);
            again
        })
        .await
    }

    /// Those of `find_missing` that Atlas still knows; none when it does not say for each of them.
    async fn fetch_keys(&mut self, missing: &[KeyId]) -> Option<Vec<ApiKey>> {
        let (client, org, members) = (self.client, self.org, self.optional_fields);
        let mut answers = stream::iter(missing.to_vec())
            .map(|id| async move { client.get_key(org, &id, members).await })
            .buffer_unordered(MAX_CONCURRENT_PAGES);
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
fn find_missing(
    found: &KeyWalk,
    previous: &Inventory,
    seen_before: &InventoryBuilder,
) -> Vec<KeyId> {
    // a walk that was not believed is no look at a key that it has seen
    let looked_twice = |id: &str| !seen_before.is_empty() && !seen_before.contains(id);
    previous
        .keys()
        .map(|key| unescape(key.id()))
        .filter(|id| !found.keys.contains(id) && !looked_twice(id))
        .map(|id| KeyId::new(id.into_owned()))
        .collect()
}

fn log_invalid_items(org: &OrgId, found: &KeyWalk) {
    for LocatedItem {
        page,
        item: malformed,
    } in &found.invalid_items
    {
        warn!(%org, page, index = malformed.index, what = malformed.reason, "a key cannot be read wholly");
    }
    let more = found.invalid_item_count - found.invalid_items.len() as u64;
    if more > 0 {
        warn!(%org, more, "more keys cannot be read wholly");
    }
}
