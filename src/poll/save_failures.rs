//! What could not be kept on the disk, so that trouble is told once, and its end once.

use std::collections::HashSet;

use crate::storage::Paper;
use mongodb_atlas_client::OrgId;

/// The files that are not what they should be. A full disk takes the small ones and not the large
/// ones: it is well again only when all of them are written.
#[derive(Debug, Default)]
pub(super) struct Unkept(HashSet<Paper>);

impl Unkept {
    /// True where nothing failed before.
    pub(super) fn failed(&mut self, paper: &Paper) -> bool {
        let first = self.0.is_empty();
        self.0.insert(paper.clone());
        first
    }

    /// True where this was the last that had failed.
    pub(super) fn kept(&mut self, paper: &Paper) -> bool {
        let mut was = self.0.remove(paper);
        if let Paper::Walk(org) = paper {
            // a complete walk leaves nothing to defer
            was |= self.0.remove(&Paper::Deferral(org.clone()));
        }
        was && self.0.is_empty()
    }

    /// The organization is no longer watched, and nothing of it is to be kept.
    pub(super) fn forget(&mut self, org: &OrgId) {
        self.0.retain(|paper| match paper {
            Paper::Walk(of) | Paper::Deferral(of) | Paper::Details(of) => of != org,
            Paper::Account(_) => true,
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
    fn a_small_file_that_fits_ends_no_trouble() {
        let mut unkept = Unkept::default();
        let account = Paper::Account("default".into());
        assert!(unkept.failed(&Paper::Walk(org(1))));
        assert!(!unkept.kept(&account));
        assert!(!unkept.failed(&Paper::Walk(org(2))), "told already");
        assert!(!unkept.kept(&Paper::Walk(org(1))), "one is left");
        assert!(unkept.kept(&Paper::Walk(org(2))));
        assert!(!unkept.kept(&Paper::Walk(org(2))), "told once");
    }

    #[test]
    fn a_complete_walk_and_a_forgotten_organization_leave_nothing_to_defer() {
        let mut unkept = Unkept::default();
        assert!(unkept.failed(&Paper::Deferral(org(1))));
        assert!(unkept.kept(&Paper::Walk(org(1))));
        assert!(unkept.failed(&Paper::Details(org(1))));
        unkept.forget(&org(1));
        assert!(unkept.failed(&Paper::Walk(org(2))), "a trouble of its own");
    }
}
