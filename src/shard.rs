//! Shards: subsets of the organizations, for several instances with the same configuration.

use std::fmt;

use mongodb_atlas_client::OrgId;

/// The `index`-th of `count` shards.
///
/// Each organization belongs to the shard with the highest hash (rendezvous hashing). Every organization is therefore in
/// exactly one shard, and a new shard takes an equal part of every other shard without moves between these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    count: u32,
}

impl Shard {
    /// The only shard, with all organizations.
    pub const ALL: Self = Self { index: 1, count: 1 };
    /// Maximum number of shards.
    pub const MAX_COUNT: u32 = 10_000;

    /// Returns the `index`-th (from 1) of `count` shards; `None` if either is out of range.
    pub fn new(index: u32, count: u32) -> Option<Self> {
        (count <= Self::MAX_COUNT && (1..=count).contains(&index)).then_some(Self { index, count })
    }

    /// Returns whether `org` is in this shard.
    pub fn contains(self, org: &OrgId) -> bool {
        let owner = (1..=self.count).max_by_key(|index| org.stable_hash(u64::from(*index)));
        owner == Some(self.index)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orgs() -> Vec<OrgId> {
        (0..2000_u32)
            .map(|n| OrgId::parse(&format!("{:024x}", u128::from(n) * 7919)).expect("an id"))
            .collect()
    }

    fn shard_of(org: &OrgId, count: u32) -> u32 {
        let owners: Vec<u32> = (1..=count)
            .filter(|index| Shard::new(*index, count).expect("a shard").contains(org))
            .collect();
        assert_eq!(owners.len(), 1, "{org} is in one shard");
        owners[0]
    }

    #[test]
    fn every_org_is_in_exactly_one_even_shard() {
        for count in [1, 2, 3, 7] {
            let mut sizes = vec![0_usize; count as usize + 1];
            for org in orgs() {
                sizes[shard_of(&org, count) as usize] += 1;
            }
            let even = 2000 / count as usize;
            assert!(
                sizes[1..]
                    .iter()
                    .all(|size| size.abs_diff(even) < even / 4 + 1),
                "{sizes:?}"
            );
        }
    }

    #[test]
    fn added_shard_moves_only_its_own_orgs() {
        for count in 1..6 {
            for org in orgs() {
                let (before, after) = (shard_of(&org, count), shard_of(&org, count + 1));
                assert!(before == after || after == count + 1, "{org}");
            }
        }
    }

    #[test]
    fn shard_index_starts_at_one() {
        assert!(
            Shard::new(0, 3).is_none() && Shard::new(4, 3).is_none() && Shard::new(1, 0).is_none()
        );
        assert_eq!(
            Shard::new(3, 3).map(|shard| shard.to_string()).as_deref(),
            Some("3/3")
        );
    }
}
