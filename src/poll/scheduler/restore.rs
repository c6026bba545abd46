//! What an earlier process has left is taken up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use super::super::changes::Change;
use super::super::storage::{Account, Stored};
use super::{Scheduler, whole_seconds};
use crate::ids::OrgId;

impl Scheduler {
    pub(super) async fn load_accounts(&self, names: Vec<Arc<str>>) -> BTreeMap<Arc<str>, Account> {
        let Some(storage) = self.storage.clone() else {
            return BTreeMap::new();
        };
        tokio::task::spawn_blocking(move || {
            names
                .into_iter()
                .filter_map(|name| {
                    let account = storage.load_account(&name)?;
                    Some((name, account))
                })
                .collect()
        })
        .await
        .unwrap_or_default()
    }

    /// Takes up what an earlier process has left of these organizations.
    pub(super) async fn restore(&mut self, orgs: Vec<OrgId>) {
        let Some(storage) = self.storage.clone().filter(|_| !orgs.is_empty()) else {
            return;
        };
        let load = tokio::task::spawn_blocking(move || {
            orgs.into_iter()
                .map(|org| {
                    let (stored, details) = (storage.load(&org), storage.load_details(&org));
                    let deferred = storage.load_deferred(&org);
                    (org, stored, details, deferred)
                })
                .collect::<Vec<_>>()
        });
        for (org, stored, details, deferred) in load.await.unwrap_or_default() {
            let now = self.clock.now();
            let Some(watch) = self.orgs.get_mut(&org) else {
                continue;
            };
            if let Some(details) = details {
                watch.knows_details(details.asked_at, now);
                self.shelf.put_details(&org, Arc::new(details));
            }
            if let Some(stored) = &stored {
                watch.restored(stored.inventory.read_at(), now);
            }
            if let Some(deferred) = deferred {
                watch.defer(deferred, now);
            }
            let up = watch.is_fresh(now);
            if let Some(stored) = stored {
                self.show_restored(&org, stored, up);
            }
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
