//! The state files that could not be written, so that a failure and its end are logged once each.

use std::collections::HashSet;

use crate::storage::StateFile;
use mongodb_atlas_client::OrgId;

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
            // A successful poll removes the back-off
            had_failed |= self.0.remove(&StateFile::Backoff(org.clone()));
        }
        had_failed && self.0.is_empty()
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
            "reported already"
        );
        assert!(
            !failures.record_success(&StateFile::Inventory(org(1))),
            "one is left"
        );
        assert!(failures.record_success(&StateFile::Inventory(org(2))));
        assert!(
            !failures.record_success(&StateFile::Inventory(org(2))),
            "reported once"
        );
    }

    #[test]
    fn saved_inventory_and_removed_org_clear_their_failures() {
        let mut failures = SaveFailures::default();
        assert!(failures.record_failure(&StateFile::Backoff(org(1))));
        assert!(failures.record_success(&StateFile::Inventory(org(1))));
        assert!(failures.record_failure(&StateFile::Details(org(1))));
        failures.remove_org(&org(1));
        assert!(
            failures.record_failure(&StateFile::Inventory(org(2))),
            "a new failure"
        );
    }
}
