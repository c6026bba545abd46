//! Population and events.

use std::collections::BTreeSet;

use jiff::Timestamp;
use mongodb_atlas_sim::{ChangeKind, LoggedChange, SimConfig, SimHandle};

use crate::{TestClock, static_config};

fn key_ids(sim: &SimHandle) -> BTreeSet<String> {
    sim.with_world(|world| {
        let orgs = world.org_ids();
        let keys = orgs.iter().flat_map(|org| world.keys(org));
        keys.map(|key| key.id.clone()).collect()
    })
}

fn changed_ids(changes: &[LoggedChange], kind: ChangeKind) -> BTreeSet<String> {
    let changes = changes.iter().filter(|change| change.change == kind);
    changes.map(|change| change.key.clone()).collect()
}

#[test]
fn events_change_the_world_and_are_logged() {
    let clock = TestClock::default();
    let read = clock.clone();
    let sim = SimHandle::in_process(&SimConfig::default(), move || read.now());
    let before = key_ids(&sim);
    clock.set_minutes(72 * 60);
    let after = key_ids(&sim);
    let changes = sim.with_world(|world| world.changes().to_vec());
    for kind in [
        ChangeKind::Created,
        ChangeKind::Deleted,
        ChangeKind::Renamed,
        ChangeKind::StatusChanged,
        ChangeKind::FirstUsed,
    ] {
        assert!(!changed_ids(&changes, kind).is_empty(), "{kind:?}");
    }
    assert!(
        changes.windows(2).all(|pair| pair[0].at <= pair[1].at),
        "changes are in order of time"
    );
    let created = changed_ids(&changes, ChangeKind::Created);
    let deleted = changed_ids(&changes, ChangeKind::Deleted);
    for id in after.difference(&before) {
        assert!(created.contains(id), "{id} appeared without a change");
    }
    for id in before.difference(&after) {
        assert!(deleted.contains(id), "{id} disappeared without a change");
    }
}

#[test]
fn population_contains_hostile_names() {
    let sim = SimHandle::in_process(&static_config(3, 1200), || Timestamp::UNIX_EPOCH);
    let mut names: Vec<String> = sim.with_world(|world| {
        let orgs = world.org_ids();
        let keys = orgs.iter().flat_map(|org| world.keys(org));
        keys.map(|key| key.name.clone()).collect()
    });
    for part in ["\"", "\\", "\n", "🔑", "מ", "<script>", "{{7*7}}"] {
        assert!(names.iter().any(|name| name.contains(part)), "{part:?}");
    }
    assert!(names.iter().any(|name| name.len() == 250));
    let count = names.len();
    names.sort();
    names.dedup();
    assert!(names.len() < count, "some names are not unique");
}
