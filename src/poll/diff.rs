//! The changes between two inventories.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::inventory::{Inventory, KeyView, unescape};
use mongodb_atlas_client::ProjectId;

crate::closed_list::closed_list! {
    /// A kind of change of a key: the values of the `change` label.
    #[derive(Hash)]
    pub enum Change {
        /// The key is new.
        Created = "created",
        /// The key no longer exists.
        Deleted = "deleted",
        /// The name has changed.
        Renamed = "renamed",
        /// The status has changed.
        StatusChanged = "status_changed",
        /// The key was used for the first time.
        FirstUsed = "first_used",
        /// The key was used after having been idle for the largest idle threshold.
        Revived = "revived",
    }
}

/// A change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// The project.
    pub project: ProjectId,
    /// The id of the key.
    pub key: String,
    /// The name of the key; for a deleted key, the last name.
    pub name: String,
    /// The change.
    pub change: Change,
}

impl KeyChange {
    fn new(key: &KeyView<'_>, change: Change) -> Self {
        Self {
            project: key.project.clone(),
            key: unescape(key.id()).into_owned(),
            name: unescape(key.name()).into_owned(),
            change,
        }
    }
}

/// A key that was created more than this time before the last poll is not new: an earlier poll has missed the key. The
/// tolerance covers the difference between two clocks.
const CREATED_TOLERANCE: SignedDuration = SignedDuration::from_hours(1);

/// Returns the changes from `previous` to `new`. A key that is used after having been idle for `revived_after` counts as
/// revived.
pub fn diff(previous: &Inventory, new: &Inventory, revived_after: Duration) -> Vec<KeyChange> {
    let mut missing: HashMap<&str, KeyView<'_>> =
        previous.keys().map(|key| (key.id(), key)).collect();
    let oldest = previous
        .started_at()
        .saturating_sub(CREATED_TOLERANCE)
        .unwrap_or(Timestamp::MIN)
        .as_microsecond();
    let mut changes = Vec::new();
    for key in new.keys() {
        match missing.remove(key.id()) {
            Some(old) => diff_key(&old, &key, revived_after, &mut changes),
            None if key.created().is_none_or(|created| created >= oldest) => {
                changes.push(KeyChange::new(&key, Change::Created));
            }
            None => {}
        }
    }
    let mut deleted: Vec<_> = missing.into_values().collect();
    deleted.sort_unstable_by_key(|key| (key.project, key.id()));
    let deleted = deleted.iter();
    changes.extend(deleted.map(|key| KeyChange::new(key, Change::Deleted)));
    changes
}

fn diff_key(
    old: &KeyView<'_>,
    new: &KeyView<'_>,
    revived_after: Duration,
    changes: &mut Vec<KeyChange>,
) {
    let mut add = |change| changes.push(KeyChange::new(new, change));
    if old.name() != new.name() {
        add(Change::Renamed);
    }
    if old.attributes.status != new.attributes.status {
        add(Change::StatusChanged);
    }
    match (old.last_used(), new.last_used()) {
        (None, Some(_)) if old.was_used() == Some(false) => add(Change::FirstUsed),
        (Some(before), Some(now)) => {
            let idle = u64::try_from(now.saturating_sub(before)).unwrap_or(0);
            if idle > 0 && Duration::from_micros(idle) >= revived_after {
                add(Change::Revived);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{ApiKey, ApiTime, KeyAttributes};
    use mongodb_atlas_client::{KeyId, OrgId};

    const DAY: i64 = 86_400;
    const THRESHOLD: Duration = Duration::from_hours(90 * 24);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn status(status: &str) -> KeyAttributes {
        KeyAttributes {
            status: status.into(),
            ..KeyAttributes::default()
        }
    }

    fn record(id: &str, created: i64, last_used: Option<i64>) -> ApiKey {
        ApiKey {
            id: KeyId::new(id),
            project: ProjectId::new("p"),
            name: "n".into(),
            attributes: status("ACTIVE"),
            created: ApiTime::Valid(at(created)),
            last_used: last_used.map_or(ApiTime::Missing, |used| ApiTime::Valid(at(used))),
            ..ApiKey::default()
        }
    }

    fn inventory(read_at: i64, records: Vec<ApiKey>) -> Inventory {
        let org = OrgId::parse("32b6e34b3d91647abb20e7b8").expect("an id");
        Inventory::from_records(org, at(read_at), records)
    }

    fn found(before: Vec<ApiKey>, after: Vec<ApiKey>) -> Vec<(String, &'static str)> {
        let (before, after) = (inventory(1000 * DAY, before), inventory(1001 * DAY, after));
        diff(&before, &after, THRESHOLD)
            .into_iter()
            .map(|change| (change.key, change.change.as_str()))
            .collect()
    }

    fn one(key: &str, change: &'static str) -> Vec<(String, &'static str)> {
        vec![(key.to_owned(), change)]
    }

    #[test]
    fn diff_reports_every_kind_of_change() {
        let k = || record("k", 0, Some(999 * DAY));
        assert_eq!(found(vec![k()], vec![k()]), []);
        assert_eq!(
            found(vec![k()], vec![k(), record("new", 1000 * DAY + 5, None)]),
            one("new", "created")
        );
        assert_eq!(found(vec![k()], vec![]), one("k", "deleted"));
        let renamed = ApiKey {
            name: "m".into(),
            ..k()
        };
        assert_eq!(found(vec![k()], vec![renamed]), one("k", "renamed"));
        let inactive = ApiKey {
            attributes: status("INACTIVE"),
            ..k()
        };
        assert_eq!(found(vec![k()], vec![inactive]), one("k", "status_changed"));
        let used = || record("k", 0, Some(1000 * DAY + 7));
        assert_eq!(
            found(vec![record("k", 0, None)], vec![used()]),
            one("k", "first_used")
        );
        assert_eq!(found(vec![k()], vec![used()]), [], "used again soon");
        let stale = record("k", 0, Some(1000 * DAY + 7 - 90 * DAY));
        assert_eq!(
            found(vec![stale], vec![used()]),
            one("k", "revived"),
            "exactly the threshold"
        );
    }

    #[test]
    fn invalid_last_use_is_not_reported_as_change() {
        let mut invalid = record("k", 0, None);
        invalid.last_used = ApiTime::Invalid;
        assert_eq!(
            found(vec![invalid.clone()], vec![record("k", 0, Some(5))]),
            []
        );
        assert_eq!(found(vec![record("k", 0, Some(5))], vec![invalid]), []);
    }

    #[test]
    fn key_missed_by_an_earlier_walk_is_not_reported_as_created() {
        assert_eq!(found(vec![], vec![record("old", 999 * DAY, None)]), []);
        assert_eq!(
            found(vec![], vec![record("new", 1000 * DAY - 60, None)]),
            one("new", "created")
        );
        let undated = ApiKey {
            created: ApiTime::Missing,
            ..record("k", 0, None)
        };
        assert_eq!(found(vec![], vec![undated]), one("k", "created"));
    }

    #[test]
    fn last_use_moving_backwards_is_not_reported_as_change() {
        // A contradiction in the data of Atlas is ignored.
        assert_eq!(
            found(vec![record("k", 0, Some(5))], vec![record("k", 0, None)]),
            []
        );
        assert_eq!(
            found(vec![record("k", 0, Some(5))], vec![record("k", 0, Some(4))]),
            []
        );
    }
}
