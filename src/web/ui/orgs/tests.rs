use super::*;
use crate::inventory::{ApiKey, ApiTime};
use crate::status::PollFailure;
use mongodb_atlas_client::{KeyId, ProjectId};
use std::sync::Arc;

#[test]
fn health_follows_the_last_poll_and_its_age() {
    let minute = Duration::from_mins(1);
    for (up, restored, age, expected) in [
        (None, false, None, OrgHealth::NotPolled),
        (Some(true), false, Some(minute), OrgHealth::Fresh),
        (Some(true), false, Some(2 * minute), OrgHealth::Fresh),
        (Some(true), false, Some(3 * minute), OrgHealth::Stale),
        (Some(true), true, Some(minute), OrgHealth::Restored),
        (Some(true), true, Some(3 * minute), OrgHealth::Restored),
        (Some(false), true, Some(minute), OrgHealth::Failing),
        (Some(false), false, Some(minute), OrgHealth::Failing),
        (Some(false), false, None, OrgHealth::Failing),
    ] {
        let status = OrgStatus {
            up,
            restored,
            poll_interval: minute,
            ..OrgStatus::default()
        };
        let health = OrgHealth::from_status(&status, age);
        assert_eq!(health, expected, "{up:?} {restored} {age:?}");
        let is_obvious = health == OrgHealth::Fresh;
        assert_eq!(health.explain(&status).is_none(), is_obvious, "{health:?}");
    }
    let unknown_interval = OrgStatus {
        up: Some(true),
        ..OrgStatus::default()
    };
    let health = OrgHealth::from_status(&unknown_interval, Some(minute));
    assert_eq!(
        health,
        OrgHealth::Fresh,
        "before the first interval is known"
    );
    let failed = OrgStatus {
        failure: Some(PollFailure {
            reason: FailureReason::Forbidden,
            since: Timestamp::UNIX_EPOCH,
        }),
        ..OrgStatus::default()
    };
    let notice = OrgHealth::Failing.explain(&failed).expect("a notice");
    assert_eq!(notice.runbook, Some("AtlasOrgAccessDenied"));
}

/// Returns a snapshot of one organization. Each key was last used the given number of seconds before `now`.
fn snapshot(now: i64, idle: &[Option<i64>]) -> InventorySnapshot {
    let records = (0..).zip(idle).map(|(n, idle)| ApiKey {
        id: KeyId::new(format!("key{n}")),
        project: ProjectId::new("p"),
        created: ApiTime::Valid(Timestamp::UNIX_EPOCH),
        last_used: idle.map_or(ApiTime::Invalid, |idle| {
            ApiTime::Valid(Timestamp::from_second(now - idle).expect("a time"))
        }),
        ..ApiKey::default()
    });
    let org = OrgId::parse("0000000000000000000000aa").expect("an id");
    let inventory = Inventory::from_records(org, Timestamp::UNIX_EPOCH, records);
    InventorySnapshot {
        inventories: vec![Arc::new(inventory).into()],
        details: Vec::new(),
    }
}

#[test]
fn chart_counts_each_key_in_one_bar() {
    let now = 1_000_000;
    let idle = [0, 59, 60, 3599, 3600, 90_000].map(Some);
    let snapshot = snapshot(now, &[&idle[..], &[None]].concat());
    let thresholds = [1, 60].map(|minutes| IdleThreshold::new(Duration::from_mins(minutes)));
    for (thresholds, expected) in [
        (
            &thresholds[..],
            &[
                ("under 1m", "2", "young"),
                ("1m to 1h", "2", "young"),
                ("1h or more", "2", "old"),
                ("unknown", "1", "young"),
            ][..],
        ),
        (&[], &[("any", "6", "old"), ("unknown", "1", "young")]),
    ] {
        let presenter = OrgPresenter {
            snapshot: &snapshot,
            thresholds,
            now: Timestamp::from_second(now).expect("a time"),
        };
        let chart = presenter.idle_chart(&snapshot.inventories[0]);
        let bars = chart.bars.iter();
        let bars: Vec<_> = bars
            .map(|bar| (bar.label.as_str(), bar.keys.as_str(), bar.class))
            .collect();
        assert_eq!(bars, expected);
        let rows = chart.bars.len() as u64;
        assert_eq!(chart.height, rows * ROW_HEIGHT);
        let widest = chart.bars.iter().map(|bar| bar.width).max();
        assert_eq!(widest, Some(BAR_WIDTH));
        // The roll-up includes the key of unknown age as well.
        let idle = if thresholds.is_empty() { 0 } else { 3 };
        let totals = presenter.totals();
        assert_eq!((totals.keys, totals.never_used, totals.idle), (7, 0, idle));
    }
}
