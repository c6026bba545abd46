//! What could not be kept on the disk, so that trouble is told once, and its end once.

use std::collections::HashSet;

use crate::storage::StateFile;
use mongodb_atlas_client::OrgId;

/// The files that are not what they should be. A full disk takes the small ones and not the large
/// ones: it is well again only when all of them are written.
#[derive(Debug, Default)]
pub(super) struct SaveFailures(HashSet<StateFile>);

impl SaveFailures {
    /// True where nothing failed before.
    pub(super) fn record_failure(&mut self, paper: &StateFile) -> bool {
        let first = self.0.is_empty();
        self.0.insert(paper.clone());
        first
    }

    /// True where this was the last that had failed.
    pub(super) fn record_success(&mut self, paper: &StateFile) -> bool {
        let mut was = self.0.remove(paper);
        if let StateFile::Inventory(org) = paper {
            // a complete walk leaves nothing to defer
            was |= self.0.remove(&StateFile::Backoff(org.clone()));
        }
        was && self.0.is_empty()
    }

    /// The organization is no longer watched, and nothing of it is to be kept.
    pub(super) fn remove_org(&mut self, org: &OrgId) {
        self.0.retain(|paper| match paper {
            StateFile::Inventory(of) | StateFile::Backoff(of) | StateFile::Details(of) => of != org,
            StateFile::Credential(_) => true,
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
        let mut unkept = SaveFailures::default();
        let account = StateFile::Credential("default".into());
        assert!(unkept.record_failure(&StateFile::Inventory(org(1))));
        assert!(!unkept.record_success(&account));
        assert!(
            !unkept.record_failure(&StateFile::Inventory(org(2))),
            "told already"
        );
        assert!(
            !unkept.record_success(&StateFile::Inventory(org(1))),
            "one is left"
        );
        assert!(unkept.record_success(&StateFile::Inventory(org(2))));
        assert!(
            !unkept.record_success(&StateFile::Inventory(org(2))),
            "told once"
        );
    }

    #[test]
    fn saved_inventory_and_removed_org_clear_their_failures() {
        let mut unkept = SaveFailures::default();
        assert!(unkept.record_failure(&StateFile::Backoff(org(1))));
        assert!(unkept.record_success(&StateFile::Inventory(org(1))));
        assert!(unkept.record_failure(&StateFile::Details(org(1))));
        unkept.remove_org(&org(1));
        assert!(
            unkept.record_failure(&StateFile::Inventory(org(2))),
            "a trouble of its own"
        );
    }
}
