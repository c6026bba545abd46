//! The events of the scheduler.

use std::time::Duration;

use jiff::Timestamp;

use super::diff::Change;
use super::walk::WalkError;
use crate::inventory::Inventory;
use mongodb_atlas_client::{ClientSecret, Error, OrgId};

/// An event of the scheduler.
#[derive(Debug, Clone, Copy)]
pub enum PollEvent<'a> {
    /// The organizations of a credential were listed.
    OrgsListed {
        /// The credential.
        credential: &'a str,
        /// Set when the request failed.
        error: Option<&'a Error>,
    },
    /// An organization is polled from now on.
    OrgAdded(&'a OrgId),
    /// An organization is no longer polled.
    OrgRemoved(&'a OrgId),
    /// The effective poll interval was computed.
    IntervalChanged {
        /// The organization.
        org: &'a OrgId,
        /// The effective interval.
        interval: Duration,
        /// The configured interval.
        configured: Duration,
    },
    /// The next poll was scheduled.
    DueChanged {
        /// The organization.
        org: &'a OrgId,
        /// Time of the next poll.
        due_at: Timestamp,
    },
    /// A stored inventory is exported until the first successful poll.
    InventoryRestored {
        /// The inventory.
        inventory: &'a Inventory,
        /// Whether the last poll before the restart was successful, and recent.
        up: bool,
    },
    /// A poll started.
    PollStarted {
        /// The organization.
        org: &'a OrgId,
        /// The time.
        started_at: Timestamp,
    },
    /// A poll succeeded; its inventory is exported.
    PollSucceeded {
        /// The new inventory.
        inventory: &'a Inventory,
        /// Number of pages.
        pages: u32,
        /// Duration of the poll.
        duration: Duration,
    },
    /// A poll failed; the previous inventory remains exported.
    PollFailed {
        /// The organization.
        org: &'a OrgId,
        /// The error.
        error: &'a WalkError,
        /// The time.
        failed_at: Timestamp,
        /// Duration of the poll.
        duration: Duration,
    },
    /// Keys have changed.
    KeysChanged {
        /// The organization.
        org: &'a OrgId,
        /// The kind of change.
        change: Change,
        /// Number of keys.
        keys: u64,
    },
    /// The client secrets of a credential's service account were listed, or are no longer known.
    ClientSecretsChanged {
        /// The credential.
        credential: &'a str,
        /// All its secrets; none if they are unknown.
        secrets: &'a [ClientSecret],
    },
    /// A state file could not be written.
    SaveFailed,
    /// Whether the last write of any state file has failed; `None` without a state directory.
    SaveStateChanged(Option<bool>),
}

/// Receives the events of the scheduler, on the task of the scheduler: an implementation must not block.
pub trait PollObserver: Send + Sync {
    /// Handles an event.
    fn on_event(&self, event: PollEvent<'_>);
}
