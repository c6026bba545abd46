//! Stores the state that survives a restart, and restores the state of an earlier process.

use std::collections::{BTreeMap, HashSet};
use std::mem::replace;
use std::sync::Arc;

use tracing::{info, warn};

use super::completion::insert_inventory;
use super::diff::Change;
use super::event::PollEvent;
use super::schedule::BackoffState;
use super::scheduler::Scheduler;
use super::targets::SaveState;
use super::tasks;
use crate::humanize::{elapsed, whole_seconds};
use crate::inventory::{ClassifiedInventory, InventoryStore, OrgDetails};
use crate::storage::{
    CredentialSnapshot, LOAD_TIMEOUT, StateFile, Storage, StorageError, StoredInventory,
};
use exporter_toolkit::bounded_file::READ_TIMEOUT;
use mongodb_atlas_client::OrgId;

/// The stored state of an organization.
struct StoredOrg {
    inventory: Option<StoredInventory>,
    details: Option<Arc<OrgDetails>>,
    backoff: Option<BackoffState>,
}

impl StoredOrg {
    fn load(storage: &Storage, org: &OrgId) -> Self {
        let details = storage.load(&StateFile::Details(org.clone()));
        Self {
            inventory: storage.load_inventory(org),
            details: details.map(Arc::new),
            backoff: storage.load(&StateFile::Backoff(org.clone())),
        }
    }
}

/// Inserts stored details, and classifies the keys of a stored inventory with them.
async fn classify_stored(
    store: &Arc<InventoryStore>,
    org: &OrgId,
    stored: &StoredOrg,
) -> Option<ClassifiedInventory> {
    let (store, org, details) = (Arc::clone(store), org.clone(), stored.details.clone());
    let inventory = stored.inventory.as_ref();
    let inventory = inventory.map(|stored| Arc::clone(&stored.inventory));
    let classify = move || {
        if let Some(details) = details {
            store.insert_details(&org, &details);
        }
        inventory.map(|inventory| store.classify(inventory))
    };
    // A panic has been logged.
    tokio::task::spawn_blocking(classify).await.ok().flatten()
}

impl Scheduler {
    /// Loads the stored organizations and rate limits of the credentials.
    pub(super) async fn load_credentials(
        &self,
        names: Vec<Arc<str>>,
    ) -> BTreeMap<Arc<str>, CredentialSnapshot> {
        let Some(storage) = &self.plan.storage else {
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
        let Some(storage) = self.plan.storage.clone().filter(|_| !orgs.is_empty()) else {
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
                Ok(stored) => {
                    let inventory = classify_stored(&self.store, &org, &stored).await;
                    self.restore_org(&org, stored, inventory);
                }
                Err(error) => {
                    warn!(%org, %error, "failed to load state");
                    // Further files would time out as well.
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
        stored: StoredOrg,
        inventory: Option<ClassifiedInventory>,
    ) {
        let now = self.clock.now();
        let Some(state) = self.orgs.get_mut(org) else {
            return;
        };
        // Values of another tag are replaced immediately.
        if let Some(details) = stored.details
            && details.owner_tag == self.plan.owner_tag
            && let Some(fetched_at) = details.fetched_at
        {
            state.restore_details(fetched_at, now);
        }
        if let Some(stored) = &stored.inventory {
            state.restore_inventory(stored.inventory.completed_at(), now);
        }
        if let Some(backoff) = stored.backoff {
            state.restore_backoff(backoff, now);
        }
        let up = state.is_fresh(now);
        let (Some(stored), Some(inventory)) = (stored.inventory, inventory) else {
            return;
        };
        let change_counts = stored.change_counts;
        state.requests_per_poll = stored.requests;
        for change in Change::ALL {
            let keys = change_counts.get(change.as_str()).copied().unwrap_or(0);
            self.observer
                .on_event(PollEvent::KeysChanged { org, change, keys });
        }
        state.change_counts.extend(change_counts);
        let age = elapsed(inventory.completed_at(), now);
        info!(%org, keys = inventory.len(), age = %whole_seconds(age), "using stored inventory");
        self.observer.on_event(PollEvent::InventoryRestored {
            inventory: &inventory,
            up,
        });
        insert_inventory(&self.store, inventory, age);
    }

    pub(super) fn save_credential(&mut self, credential: &str) {
        let Some(state) = self.targets.credential_mut(credential) else {
            return;
        };
        // With two concurrent writes, the older one could end last.
        if state.save_state != SaveState::Idle {
            state.save_state = SaveState::Dirty;
            return;
        }
        let name = Arc::clone(state.target.client.credential_name());
        let snapshot = state.snapshot();
        let file = StateFile::Credential(Arc::clone(&name));
        let is_saving = self.start_save(file, move |storage, _| {
            storage.save_credential(&name, snapshot)
        });
        if is_saving && let Some(state) = self.targets.credential_mut(credential) {
            state.save_state = SaveState::Saving;
        }
    }

    /// Starts to write `file`. Returns `false` without a state directory.
    pub(super) fn start_save(
        &mut self,
        file: StateFile,
        write: impl FnOnce(&Storage, &StateFile) -> Result<(), StorageError> + Send + 'static,
    ) -> bool {
        let Some(storage) = self.plan.storage.clone() else {
            return false;
        };
        self.tasks.spawn(tasks::save(storage, file, write));
        true
    }

    pub(super) fn log_save_result(&mut self, file: &StateFile, result: Result<(), StorageError>) {
        match result {
            Ok(()) => {
                if self.save_failures.record_success(file) {
                    info!("saving state recovered");
                }
            }
            Err(error) => {
                self.observer.on_event(PollEvent::SaveFailed);
                // Logged once, not at each poll.
                if self.save_failures.record_failure(file) {
                    warn!(
                        %error,
                        hint = "check permissions and free space of --storage.path",
                        "failed to save state"
                    );
                }
            }
        }
    }

    /// Reports whether the last write of any state file has failed.
    pub(super) fn report_save_state(&self) {
        let storage = self.plan.storage.as_ref();
        let failed = storage.map(|_| !self.save_failures.0.is_empty());
        self.observer.on_event(PollEvent::SaveStateChanged(failed));
    }

    /// Writes the files of `org` with a failed write, after the write of another file succeeded. Otherwise these files
    /// would be outdated for up to an hour after the state directory has recovered.
    fn retry_failed_saves(&mut self, org: &OrgId) {
        let Some(state) = self.orgs.get(org) else {
            return;
        };
        let credential = Arc::clone(state.client.credential_name());
        if self.save_failures.has(&StateFile::Details(org.clone()))
            && let Some(details) = self.store.details(org)
        {
            self.save_details(org.clone(), details);
        }
        if self
            .save_failures
            .has(&StateFile::Credential(Arc::clone(&credential)))
        {
            self.save_credential(&credential);
        }
    }

    pub(super) fn save_details(&mut self, org: OrgId, details: Arc<OrgDetails>) {
        self.start_save(StateFile::Details(org), move |storage, file| {
            storage.save(file, &*details)
        });
    }

    /// Continues the operations that have waited for `file`.
    pub(super) fn on_save_done(&mut self, file: &StateFile) {
        if let StateFile::Inventory(org) = file
            && !self.save_failures.has(file)
        {
            self.retry_failed_saves(org);
        }
        match file {
            StateFile::Inventory(org) | StateFile::Backoff(org) | StateFile::Details(org) => {
                let Some(state) = self.orgs.get_mut(org) else {
                    // The organization was removed during the write.
                    self.save_failures.remove_org(org);
                    return;
                };
                if !matches!(file, StateFile::Details(_)) {
                    state.in_progress = false;
                }
            }
            StateFile::Credential(credential) => {
                let Some(state) = self.targets.credential_mut(credential) else {
                    // The credential was removed during the write.
                    self.save_failures.0.remove(file);
                    return;
                };
                if replace(&mut state.save_state, SaveState::Idle) == SaveState::Dirty {
                    self.save_credential(credential);
                }
            }
            StateFile::Token(_) => {}
        }
    }
}

/// The state files that are outdated. A nearly full disk can accept small files while large ones fail: recovery is
/// reported only after every failed file was written.
#[derive(Debug, Default)]
pub(super) struct SaveFailures(HashSet<StateFile>);

impl SaveFailures {
    /// Records a failure. Returns whether it is the first one.
    pub(super) fn record_failure(&mut self, file: &StateFile) -> bool {
        let is_first = self.0.is_empty();
        self.0.insert(file.clone());
        is_first
    }

    /// Records a success. Returns whether it ends the last failure.
    pub(super) fn record_success(&mut self, file: &StateFile) -> bool {
        let mut had_failed = self.0.remove(file);
        if let StateFile::Inventory(org) = file {
            // A successful poll removes the backoff.
            had_failed |= self.0.remove(&StateFile::Backoff(org.clone()));
        }
        had_failed && self.0.is_empty()
    }

    /// Returns whether the last write of `file` has failed.
    fn has(&self, file: &StateFile) -> bool {
        self.0.contains(file)
    }

    /// Removes the files of credentials that are no longer used.
    pub(super) fn retain_credentials(&mut self, is_used: impl Fn(&str) -> bool) {
        self.0.retain(|file| match file {
            StateFile::Credential(credential) => is_used(credential),
            _ => true,
        });
    }

    /// Removes the files of an organization that is no longer polled.
    pub(super) fn remove_org(&mut self, removed: &OrgId) {
        self.0.retain(|file| match file {
            StateFile::Inventory(org) | StateFile::Backoff(org) | StateFile::Details(org) => {
                org != removed
            }
            StateFile::Credential(_) | StateFile::Token(_) => true,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn org(n: u32) -> OrgId {
        OrgId::parse(&format!("{n:024x}")).expect("an id")
    }

    #[test]
    fn success_of_another_file_does_not_clear_a_failure() {
        let mut failures = SaveFailures::default();
        let credential = StateFile::Credential("default".into());
        assert!(failures.record_failure(&StateFile::Inventory(org(1))));
        assert!(!failures.record_success(&credential));
        assert!(
            !failures.record_failure(&StateFile::Inventory(org(2))),
            "already reported"
        );
        assert!(
            !failures.record_success(&StateFile::Inventory(org(1))),
            "one failure remains"
        );
        assert!(failures.record_success(&StateFile::Inventory(org(2))));
        assert!(
            !failures.record_success(&StateFile::Inventory(org(2))),
            "reported once"
        );
    }

    #[test]
    fn saved_inventory_and_removed_targets_clear_their_failures() {
        let mut failures = SaveFailures::default();
        assert!(failures.record_failure(&StateFile::Backoff(org(1))));
        assert!(failures.record_success(&StateFile::Inventory(org(1))));
        assert!(failures.record_failure(&StateFile::Details(org(1))));
        failures.remove_org(&org(1));
        let credentials = ["used", "removed"].map(|name| StateFile::Credential(name.into()));
        for file in &credentials {
            failures.record_failure(file);
        }
        failures.retain_credentials(|name| name == "used");
        assert!(failures.has(&credentials[0]) && !failures.has(&credentials[1]));
        assert!(failures.record_success(&credentials[0]));
        assert!(
            failures.record_failure(&StateFile::Inventory(org(2))),
            "a new failure"
        );
    }
}
