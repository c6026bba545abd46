//! What an earlier process has left is taken up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::diff::Change;
use super::scheduler::{Scheduler, format_seconds};
use crate::inventory::OrgDetails;
use crate::storage::{BackoffState, CredentialSnapshot, LOAD_TIMEOUT, StoredInventory};
use exporter_toolkit::bounded_file::READ_TIMEOUT;
use mongodb_atlas_client::OrgId;

impl Scheduler {
    pub(super) async fn load_credentials(
        &self,
        names: Vec<Arc<str>>,
    ) -> BTreeMap<Arc<str>, CredentialSnapshot> {
        let Some(storage) = self.storage.clone() else {
            return BTreeMap::new();
        };
        let load = storage.run_blocking(READ_TIMEOUT, |storage| {
            names
                .into_iter()
                .filter_map(|name| {
                    let account = storage.load_credential(&name)?;
                    Some((name, account))
                })
                .collect()
        });
        load.await.unwrap_or_else(|error| {
            warn!(%error, "failed to load state of credentials");
            BTreeMap::new()
        })
    }

    /// Takes up what an earlier process has left of these organizations.
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
            let load = storage.run_blocking(LOAD_TIMEOUT, move |storage| {
                let (stored, details) = (storage.load_inventory(&id), storage.load_details(&id));
                (stored, details, storage.load_backoff(&id))
            });
            match load.await {
                Ok((stored, details, deferred)) => {
                    self.restore_org(&org, stored, details, deferred);
                }
                Err(error) => {
                    warn!(%org, %error, "failed to load state");
                    // each of the others would take as long
                    if error.is_timeout() {
                        return;
                    }
                }
            }
        }
    }

    fn restore_org(
        &mut self,
        org: &OrgId,
        stored: Option<StoredInventory>,
        details: Option<OrgDetails>,
        deferred: Option<BackoffState>,
    ) {
        let now = self.clock.now();
        let Some(watch) = self.orgs.get_mut(org) else {
            return;
        };
        if let Some(details) = details {
            watch.restore_details(details.asked_at, now);
            self.store.insert_details(org, Arc::new(details));
        }
        if let Some(stored) = &stored {
            watch.restore_inventory(stored.inventory.completed_at(), now);
        }
        if let Some(deferred) = deferred {
            watch.restore_backoff(deferred, now);
        }
        let up = watch.is_fresh(now);
        if let Some(stored) = stored {
            self.publish_restored(org, stored, up);
        }
    }

    pub(super) fn publish_restored(&mut self, org: &OrgId, stored: StoredInventory, up: bool) {
        let Some(watch) = self.orgs.get_mut(org) else {
            return;
        };
        watch.requests_per_poll = stored.requests;
        for change in Change::ALL {
            let keys = stored
                .change_counts
                .get(change.as_str())
                .copied()
                .unwrap_or(0);
            self.observer.keys_changed(org, change, keys);
        }
        watch.change_counts.extend(stored.change_counts);
        let inventory = Arc::new(stored.inventory);
        let age = self.clock.now().duration_since(inventory.completed_at());
        let age = Duration::try_from(age).unwrap_or_default();
        info!(%org, keys = inventory.len(), age = %format_seconds(age), "showing what an earlier start has read");
        self.observer.inventory_restored(&inventory, up);
        self.store.insert(inventory, age);
    }
}
