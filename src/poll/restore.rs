//! What an earlier process has left is taken up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::diff::Change;
use super::scheduler::{Scheduler, whole_seconds};
use crate::inventory::Details;
use crate::storage::{Account, Deferred, LOAD_TIMEOUT, Stored};
use exporter_toolkit::bounded_file::READ_TIMEOUT;
use mongodb_atlas_client::OrgId;

impl Scheduler {
    pub(super) async fn load_accounts(&self, names: Vec<Arc<str>>) -> BTreeMap<Arc<str>, Account> {
        let Some(storage) = self.storage.clone() else {
            return BTreeMap::new();
        };
        let load = storage.run(READ_TIMEOUT, |storage| {
            names
                .into_iter()
                .filter_map(|name| {
                    let account = storage.load_account(&name)?;
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
            let load = storage.run(LOAD_TIMEOUT, move |storage| {
                let (stored, details) = (storage.load(&id), storage.load_details(&id));
                (stored, details, storage.load_deferred(&id))
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
        stored: Option<Stored>,
        details: Option<Details>,
        deferred: Option<Deferred>,
    ) {
        let now = self.clock.now();
        let Some(watch) = self.orgs.get_mut(org) else {
            return;
        };
        if let Some(details) = details {
            watch.knows_details(details.asked_at, now);
            self.shelf.put_details(org, Arc::new(details));
        }
        if let Some(stored) = &stored {
            watch.restored(stored.inventory.read_at(), now);
        }
        if let Some(deferred) = deferred {
            watch.defer(deferred, now);
        }
        let up = watch.is_fresh(now);
        if let Some(stored) = stored {
            self.show_restored(org, stored, up);
        }
    }

    pub(super) fn show_restored(&mut self, org: &OrgId, stored: Stored, up: bool) {
        let Some(watch) = self.orgs.get_mut(org) else {
            return;
        };
        watch.requests = stored.requests;
        for change in Change::ALL {
            let keys = stored.counts.get(change.as_str()).copied().unwrap_or(0);
            self.watcher.changed(org, change, keys);
        }
        watch.counts.extend(stored.counts);
        let inventory = Arc::new(stored.inventory);
        let age = self.clock.now().duration_since(inventory.read_at());
        let age = Duration::try_from(age).unwrap_or_default();
        info!(%org, keys = inventory.len(), age = %whole_seconds(age), "showing what an earlier start has read");
        self.watcher.restored(&inventory, up);
        self.shelf.put(inventory, age);
    }
}
