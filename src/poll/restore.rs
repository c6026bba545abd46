//! Restores the state of an earlier process.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::{info, warn};

use super::diff::Change;
use super::event::PollEvent;
use super::schedule::BackoffState;
use super::scheduler::Scheduler;
use crate::humanize::{elapsed, whole_seconds};
use crate::inventory::OrgDetails;
use crate::storage::{CredentialSnapshot, LOAD_TIMEOUT, StateFile, Storage, StoredInventory};
use exporter_toolkit::bounded_file::READ_TIMEOUT;
use mongodb_atlas_client::OrgId;

/// The stored state of an organization.
struct StoredOrg {
    inventory: Option<StoredInventory>,
    details: Option<OrgDetails>,
    backoff: Option<BackoffState>,
}

impl StoredOrg {
    fn load(storage: &Storage, org: &OrgId) -> Self {
        Self {
            inventory: storage.load_inventory(org),
            details: storage.load(&StateFile::Details(org.clone())),
            backoff: storage.load(&StateFile::Backoff(org.clone())),
        }
    }
}

impl Scheduler {
    /// Loads what the credentials could access.
    pub(super) async fn load_credentials(
        &self,
        names: Vec<Arc<str>>,
    ) -> BTreeMap<Arc<str>, CredentialSnapshot> {
        let Some(storage) = &self.storage else {
            return BTreeMap::new();
        };
        let load = |storage: &Storage| {
            let names = names.into_iter();
            let stored =
                names.filter_map(|name| Some((name.clone(), storage.load_credential(&name)?)));
            stored.collect()
        };
        let loaded = storage.run_blocking(READ_TIMEOUT, load).await;
        loaded.unwrap_or_else(|error| {
            warn!(%error, "failed to load state of credentials");
            BTreeMap::new()
        })
    }

    /// Restores the stored state of `orgs`.
    pub(super) async fn restore(&mut self, orgs: Vec<OrgId>) {
        let Some(storage) = self.storage.clone().filter(|_| !orgs.is_empty()) else {
            return;
        };
        if let Err(error) = storage.await_response().await {
            warn!(%error, "failed to load state");
            return;
        }
        for org in orgs {
            let id = org.clone();
            let load = move |storage: &Storage| StoredOrg::load(storage, &id);
            match storage.run_blocking(LOAD_TIMEOUT, load).await {
                Ok(stored) => self.restore_org(&org, stored),
                Err(error) => {
                    warn!(%org, %error, "failed to load state");
                    // The others would time out as well
                    if error.is_timeout() {
                        return;
                    }
                }
            }
        }
    }

    fn restore_org(&mut self, org: &OrgId, stored: StoredOrg) {
        let now = self.clock.now();
        let Some(state) = self.orgs.get_mut(org) else {
            return;
        };
        if let Some(details) = stored.details {
            if let Some(fetched_at) = details.fetched_at {
                state.restore_details(fetched_at, now);
            }
            self.store.insert_details(org, Arc::new(details));
        }
        if let Some(stored) = &stored.inventory {
            state.restore_inventory(stored.inventory.completed_at(), now);
        }
        if let Some(backoff) = stored.backoff {
            state.restore_backoff(backoff, now);
        }
        let up = state.is_fresh(now);
        let Some(StoredInventory {
            inventory,
            requests,
            change_counts,
        }) = stored.inventory
        else {
            return;
        };
        state.requests_per_poll = requests;
        for change in Change::ALL {
            let keys = change_counts.get(change.as_str()).copied().unwrap_or(0);
            self.observer
                .on_event(PollEvent::KeysChanged { org, change, keys });
        }
        state.change_counts.extend(change_counts);
        let age = elapsed(inventory.completed_at(), now);
        info!(%org, keys = inventory.len(), age = %whole_seconds(age), "showing what an earlier start has read");
        self.observer.on_event(PollEvent::InventoryRestored {
            inventory: &inventory,
            up,
        });
        self.store.insert(inventory, age);
    }
}
