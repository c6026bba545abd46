//! The boundary times of counted changes.

use std::time::Duration;

use atlas_ai_keys_exporter::inventory::{
    ApiKey, ApiTime, Inventory, InventoryBuilder, InventoryInfo,
};
use atlas_ai_keys_exporter::poll::{Change, diff};
use jiff::{SignedDuration, Timestamp};
use mongodb_atlas_client::{KeyId, OrgId};

const REVIVED_AFTER: Duration = Duration::from_hours(90 * 24);

fn poll_start() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

/// Returns the inventory of a poll that takes ten minutes.
fn inventory(started_at: Timestamp, keys: &[ApiKey]) -> Inventory {
    let mut builder = InventoryBuilder::default();
    for key in keys {
        builder.insert(key);
    }
    let info = InventoryInfo {
        org: OrgId::parse("32b6e34b3d91647abb20e7b8").unwrap(),
        started_at,
        completed_at: started_at + SignedDuration::from_mins(10),
        invalid_keys: 0,
    };
    builder.build(info, &[])
}

fn changes(before: &[ApiKey], after: &[ApiKey]) -> Vec<Change> {
    let before = inventory(poll_start(), before);
    let after = inventory(poll_start() + SignedDuration::from_hours(2), after);
    let changes = diff(&before, &after, REVIVED_AFTER);
    changes.into_iter().map(|change| change.change).collect()
}

/// A key that was created up to an hour before the start of the last poll is new: the clocks may differ by up to an hour. An
/// older key was missed by that poll.
#[test]
fn key_created_more_than_an_hour_before_the_last_poll_is_not_new() {
    for (before_poll, is_new) in [
        (SignedDuration::from_hours(-1), true),
        (SignedDuration::ZERO, true),
        (SignedDuration::from_mins(59), true),
        (SignedDuration::from_hours(1), true),
        (SignedDuration::from_micros(3_600_000_001), false),
        (SignedDuration::from_secs(3601), false),
        (SignedDuration::from_mins(70), false),
        (SignedDuration::from_hours(2), false),
    ] {
        let key = ApiKey {
            id: KeyId::new("k"),
            created: ApiTime::Valid(poll_start() - before_poll),
            ..ApiKey::default()
        };
        let expected: &[Change] = if is_new { &[Change::Created] } else { &[] };
        assert_eq!(changes(&[], &[key]), expected, "{before_poll}");
    }
}

#[test]
fn key_used_after_exactly_the_idle_threshold_is_revived() {
    let used = |last_used| ApiKey {
        id: KeyId::new("k"),
        last_used: ApiTime::Valid(last_used),
        ..ApiKey::default()
    };
    let threshold = SignedDuration::try_from(REVIVED_AFTER).unwrap();
    for (idle, is_revived) in [
        (threshold - SignedDuration::from_micros(1), false),
        (threshold, true),
        (threshold + SignedDuration::from_micros(1), true),
    ] {
        let before = used(poll_start() - SignedDuration::from_hours(1));
        let after = used(poll_start() - SignedDuration::from_hours(1) + idle);
        let expected: &[Change] = if is_revived { &[Change::Revived] } else { &[] };
        assert_eq!(changes(&[before], &[after]), expected, "{idle}");
    }
}
