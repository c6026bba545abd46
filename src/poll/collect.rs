//! Collects one organization: walks all pages, again if they were inconsistent, rechecks missing keys, and builds the
//! inventory.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::diff::{KeyChange, diff};
use super::walk::{KeyWalk, LocatedItem, Shortfall, WalkError, run_blocking, walk_pages};
use crate::inventory::{ClassifiedInventory, Inventory, InventoryBuilder, InventoryInfo, unescape};
use mongodb_atlas_client::{ApiKey, Client, Clock, KeyId, OptionalFields, OrgId};

/// Maximum number of concurrent requests of one walk.
const MAX_CONCURRENT_PAGES: usize = 4;
/// Maximum number of missing keys that are requested individually. For more keys, another walk is cheaper.
const MAX_SINGLE_LOOKUPS: usize = 16;
/// The timeout of a walk, in poll intervals; at least [`MIN_WALK_TIMEOUT`].
const WALK_TIMEOUT_INTERVALS: u32 = 10;
/// The minimum timeout of a walk.
const MIN_WALK_TIMEOUT: Duration = Duration::from_mins(10);

/// Returns the timeout of a walk for a poll interval. Without a timeout, slow responses could extend a walk for days.
pub fn walk_timeout(interval: Duration) -> Duration {
    interval
        .saturating_mul(WALK_TIMEOUT_INTERVALS)
        .max(MIN_WALK_TIMEOUT)
}

/// The options of a poll.
#[derive(Clone)]
pub struct PollOptions {
    /// Keys per page, 1 to 500.
    pub page_size: u32,
    /// A key that is used after having been idle for this long counts as revived.
    pub revived_after: Duration,
    /// Fields that are requested only if they are exported.
    pub optional_fields: OptionalFields,
    /// Whether the audit log contains the names of keys.
    pub log_key_names: bool,
    /// Timeout of one walk; see [`walk_timeout`].
    pub walk_timeout: Duration,
    /// The wall clock.
    pub clock: Clock,
    /// Called with each inventory before it is published.
    pub prepare_inventory: PrepareInventory,
}

/// Classifies the keys of an inventory, and precomputes data for scrapes. Called on a blocking thread.
pub type PrepareInventory = Arc<dyn Fn(Arc<Inventory>) -> ClassifiedInventory + Send + Sync>;

/// The result of a successful poll.
#[derive(Debug)]
pub struct PollReport {
    /// The new inventory.
    pub inventory: ClassifiedInventory,
    /// Changes since the previous inventory; none if there was no previous one.
    pub changes: Vec<KeyChange>,
    /// Number of pages, of all walks.
    pub pages: u32,
    /// Number of requests, including those for individual keys.
    pub requests: u32,
    /// Duration of the poll.
    pub duration: Duration,
    /// Set when there are fewer keys than `totalCount`.
    pub shortfall: Option<Shortfall>,
}

/// Collects every key of `org`. A missing key of `previous`, the inventory to replace, counts as deleted only after a
/// recheck.
///
/// # Errors
/// [`WalkError`] when a page fails; there is no partial result.
pub async fn collect(
    client: &Client,
    org: &OrgId,
    options: &PollOptions,
    previous: Option<Arc<Inventory>>,
) -> Result<PollReport, WalkError> {
    let (started, started_at) = (Instant::now(), options.clock.now());
    let mut collector = Collector {
        client,
        org,
        options,
        pages: 0,
        requests: 0,
        earlier_keys: InventoryBuilder::default(),
    };
    let mut walk = collector.walk_until_consistent().await?;
    if let Some(previous) = &previous {
        walk = collector.recheck_missing(walk, previous).await?;
    }
    let (pages, requests) = (collector.pages, collector.requests);
    log_invalid_items(org, &walk);
    let shortfall = walk.shortfall;
    let info = InventoryInfo {
        org: org.clone(),
        started_at,
        completed_at: options.clock.now(),
        invalid_keys: walk.invalid_keys,
    };
    let prepare_inventory = Arc::clone(&options.prepare_inventory);
    let revived_after = options.revived_after;
    let (inventory, changes) = run_blocking(move || {
        let previous = previous.as_deref();
        let previous_counts = previous.map_or(&[][..], Inventory::status_counts);
        let inventory = Arc::new(walk.keys.build(info, previous_counts));
        let changes = previous.map(|previous| diff(previous, &inventory, revived_after));
        (prepare_inventory(inventory), changes.unwrap_or_default())
    })
    .await?;
    Ok(PollReport {
        inventory,
        changes,
        pages,
        requests,
        duration: started.elapsed(),
        shortfall,
    })
}

struct Collector<'a> {
    client: &'a Client,
    org: &'a OrgId,
    options: &'a PollOptions,
    pages: u32,
    requests: u32,
    /// The keys of an earlier, inconsistent walk.
    earlier_keys: InventoryBuilder,
}

impl Collector<'_> {
    async fn walk_once(&mut self) -> Result<KeyWalk, WalkError> {
        let (page_size, fields) = (self.options.page_size, self.options.optional_fields);
        let request = |page| {
            self.client
                .request_keys_page(self.org, page, page_size, fields)
        };
        let timeout = self.options.walk_timeout;
        let walk = walk_pages(request, page_size, MAX_CONCURRENT_PAGES, timeout).await?;
        self.pages += walk.pages;
        self.requests += walk.requests;
        Ok(walk)
    }

    /// Walks again if the pages are inconsistent, and uses the result of the second walk.
    async fn walk_until_consistent(&mut self) -> Result<KeyWalk, WalkError> {
        let (org, first) = (self.org, self.walk_once().await?);
        if first.consistent {
            return Ok(first);
        }
        debug!(%org, pages = first.pages, "inconsistent pages; repeating the walk");
        self.earlier_keys = first.keys;
        let second = self.walk_once().await?;
        if !second.consistent {
            warn!(%org, pages = self.pages, "pages still inconsistent; using the second walk");
        }
        Ok(second)
    }

    /// Requests the keys of `previous` that are missing in `walk`, and adds those that still exist.
    async fn recheck_missing(
        &mut self,
        mut walk: KeyWalk,
        previous: &Arc<Inventory>,
    ) -> Result<KeyWalk, WalkError> {
        let (earlier_keys, previous) = (take(&mut self.earlier_keys), Arc::clone(previous));
        let missing;
        (missing, walk) = run_blocking(move || {
            let missing = find_missing(&walk, &previous, &earlier_keys);
            (missing, walk)
        })
        .await?;
        if missing.is_empty() {
            return Ok(walk);
        }
        let is_few = missing.len() <= MAX_SINGLE_LOOKUPS.min(walk.pages as usize);
        debug!(org = %self.org, keys = missing.len(), individually = is_few, "keys missing; rechecking");
        if is_few && let Some(existing) = self.fetch_keys(missing).await {
            for key in existing {
                walk.keys.insert(&key);
            }
            return Ok(walk);
        }
        let mut second = self.walk_once().await?;
        // A key in either walk exists; the version of the later walk is newer.
        run_blocking(move || {
            second.keys.merge_missing(&walk.keys);
            second
        })
        .await
    }

    /// Returns the missing keys that still exist; `None` if a request fails.
    async fn fetch_keys(&mut self, missing: Vec<KeyId>) -> Option<Vec<ApiKey>> {
        let (client, org, fields) = (self.client, self.org, self.options.optional_fields);
        let mut responses = stream::iter(missing)
            .map(|id| async move { client.get_key(org, &id, fields).await })
            .buffer_unordered(MAX_CONCURRENT_PAGES);
        let mut existing = Vec::new();
        while let Some(response) = responses.next().await {
            self.requests += 1;
            match response {
                Ok(key) => existing.extend(key),
                Err(error) => {
                    debug!(%org, %error, "key recheck failed; repeating the walk");
                    return None;
                }
            }
        }
        Some(existing)
    }
}

/// Returns the keys of `previous` that are missing in `walk`, except keys that are also missing in an earlier walk.
fn find_missing(
    walk: &KeyWalk,
    previous: &Inventory,
    earlier_keys: &InventoryBuilder,
) -> Vec<KeyId> {
    // An inconsistent walk that did contain the key is no evidence that the key is deleted.
    let is_deleted = |id: &str| !earlier_keys.is_empty() && !earlier_keys.contains(id);
    previous
        .keys()
        .map(|key| unescape(key.id()))
        .filter(|id| !walk.keys.contains(id) && !is_deleted(id))
        .map(|id| KeyId::new(id.into_owned()))
        .collect()
}

fn log_invalid_items(org: &OrgId, walk: &KeyWalk) {
    for LocatedItem { page, item } in &walk.invalid_items {
        warn!(%org, page, index = item.index, error = item.reason, "invalid key in response");
    }
    let more = walk.invalid_item_count - walk.invalid_items.len() as u64;
    if more > 0 {
        warn!(%org, keys = more, "more invalid keys in response");
    }
}
