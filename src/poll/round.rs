//! A walk, once more if the keys do not add up, made into an inventory.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use super::walk::{Place, Walk, WalkError, walk};
use crate::atlas::{ApiKey, Client, When};
use crate::clock::Clock;
use crate::ids::{KeyId, OrgId, ProjectId};
use crate::inventory::{Inventory, KeyRecord, Moment};

/// Pages of one walk that are under way at once.
const PAGES_AT_ONCE: usize = 4;
/// Malformed keys that are logged one by one; the rest are a number.
const MALFORMED_LOGGED: usize = 5;

/// What a complete round has found.
#[derive(Debug)]
pub struct Report {
    /// The new inventory.
    pub inventory: Inventory,
    /// Pages read, those of a first walk that did not add up included.
    pub pages: u32,
    /// From the first request to the last answer.
    pub took: Duration,
}

/// Reads every key of `org`, `size` a page. `previous` is the inventory that the new one replaces.
///
/// # Errors
/// [`WalkError`] when a page failed; then nothing is known.
pub async fn read(
    client: &Client,
    org: &OrgId,
    size: u32,
    clock: &Clock,
    previous: Option<&Inventory>,
) -> Result<Report, WalkError> {
    let begun = Instant::now();
    let pass = || walk(|page| client.keys(org, page, size), size, PAGES_AT_ONCE);
    let mut found = pass().await?;
    let mut pages = found.pages;
    if !found.settled {
        debug!(%org, pages, "the keys do not add up, most likely because some were created or deleted on the way; once more");
        found = pass().await?;
        pages += found.pages;
        if !found.settled {
            warn!(%org, pages, "the keys do not add up in a second walk either; showing what it says, repeats merged");
        }
    }
    log_malformed(org, &found);
    let dropped = dropped(&found.malformed);
    let records = found.keys.into_iter().map(record).collect();
    Ok(Report {
        inventory: Inventory::new(org.clone(), clock.now(), records, dropped, previous),
        pages,
        took: begun.elapsed(),
    })
}

fn log_malformed(org: &OrgId, found: &Walk) {
    for Place { page, malformed } in found.malformed.iter().take(MALFORMED_LOGGED) {
        warn!(%org, page, index = malformed.index, what = malformed.what, "a key cannot be read wholly");
    }
    if let Some(more) = found
        .malformed
        .len()
        .checked_sub(MALFORMED_LOGGED)
        .filter(|more| *more > 0)
    {
        warn!(%org, more, "more keys cannot be read wholly");
    }
}

/// Places, not complaints: a key with two members that make no sense is one key.
fn dropped(malformed: &[Place]) -> u64 {
    let places: HashSet<_> = malformed
        .iter()
        .map(|place| (place.page, place.malformed.index))
        .collect();
    places.len() as u64
}

fn record(key: ApiKey) -> KeyRecord {
    KeyRecord {
        id: KeyId::new(key.id),
        project: ProjectId::new(key.project.unwrap_or_default()),
        name: key.name.unwrap_or_default(),
        status: key.status.unwrap_or_default(),
        cloud: key.cloud.unwrap_or_default(),
        geography: key.geography.unwrap_or_default(),
        endpoint: key.endpoint.unwrap_or_default(),
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
