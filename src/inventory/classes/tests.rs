use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::inventory::{ApiKey, ApiTime, KeyAttributes};
use crate::key_policy::{Exemptions, KeySelector};
use mongodb_atlas_client::{KeyId, OrgId};

const DAY: i64 = 86_400_000_000;

/// The description of a key: times in days since the Unix epoch.
#[derive(Debug, Clone)]
struct TestKey {
    project: u8,
    name: u8,
    status: &'static str,
    created: Option<i64>,
    last_used: Option<i64>,
    invalid_use: bool,
}

impl TestKey {
    fn to_api_key(&self, index: usize) -> ApiKey {
        let time = |days: Option<i64>| {
            let at = days.map(|days| Timestamp::from_microsecond(days * DAY).expect("a time"));
            at.map_or(ApiTime::Missing, ApiTime::Valid)
        };
        ApiKey {
            id: KeyId::new(format!("k{index:04}")),
            project: ProjectId::new(self.project.to_string()),
            name: format!("name-{}", self.name),
            attributes: KeyAttributes {
                status: self.status.into(),
                ..KeyAttributes::default()
            },
            created: time(self.created),
            last_used: if self.invalid_use {
                ApiTime::Invalid
            } else {
                time(self.last_used)
            },
            ..ApiKey::default()
        }
    }

    /// Returns the class as the documentation defines it.
    fn class(&self) -> KeyClass {
        match self.status.to_uppercase().as_str() {
            "DELETED" => KeyClass::Deleted,
            "INACTIVE" | "DISABLED" | "REVOKED" | "SUSPENDED" | "EXPIRED" => KeyClass::Disabled,
            _ if self.last_used.is_none() && !self.invalid_use => KeyClass::NeverUsed,
            _ => KeyClass::Used,
        }
    }

    fn idle_since(&self) -> Option<i64> {
        match self.class() {
            _ if self.invalid_use => None,
            _ => self.last_used.or(self.created).map(|days| days * DAY),
        }
    }
}

fn inventory(keys: &[TestKey]) -> Inventory {
    let org = OrgId::parse("32b6e34b3d91647abb20e7b8").expect("an id");
    let records = keys.iter().enumerate();
    let records: Vec<_> = records.map(|(index, key)| key.to_api_key(index)).collect();
    Inventory::from_records(org, Timestamp::UNIX_EPOCH, records)
}

/// Returns exemptions of keys with the name `name-N` until a day of 1970.
fn policy(exemptions: &[(u8, i16)]) -> Arc<KeyPolicy> {
    let exemptions = exemptions.iter().map(|(name, day)| Exemption {
        selector: KeySelector::parse_name(&format!("*-{name}"), None).expect("a glob"),
        reason: String::new(),
        until: jiff::civil::date(1970, 1, 1).saturating_add(jiff::Span::new().days(*day)),
    });
    Arc::new(KeyPolicy {
        exemptions: Exemptions::new(exemptions.collect()).expect("globs"),
        ..KeyPolicy::default()
    })
}

fn any_key() -> impl Strategy<Value = TestKey> {
    let status = prop::sample::select(vec![
        "ACTIVE",
        "",
        "active",
        "Revoked",
        "INACTIVE",
        "DISABLED",
        "SUSPENDED",
        "expired",
        "DELETED",
        "deleted",
        "UNDOCUMENTED",
    ]);
    let day = || prop::option::weighted(0.8, 0_i64..40);
    let invalid_use = prop::bool::weighted(0.1);
    (0_u8..3, 0_u8..6, status, day(), day(), invalid_use).prop_map(
        |(project, name, status, created, last_used, invalid_use)| TestKey {
            project,
            name,
            status,
            created,
            last_used,
            invalid_use,
        },
    )
}

proptest! {
    #[test]
    fn each_key_is_in_exactly_one_class(
        keys in prop::collection::vec(any_key(), 0..60),
        exemptions in prop::collection::vec((0_u8..6, 0_i16..40), 0..5),
        now_days in 0_i64..45,
        threshold_days in 0_i64..20,
    ) {
        let now = now_days * DAY;
        let cutoff = now - threshold_days * DAY;
        let inventory = inventory(&keys);
        let classes = KeyClasses::new(&inventory, &policy(&exemptions), None);
        let is_exempt = |key: &TestKey| exemptions.iter().any(|(name, last_day)| {
            *name == key.name && (i64::from(*last_day) + 1) * DAY > now
        });
        let mut total = 0;
        for project in classes.projects() {
            let in_project = || keys.iter().filter(|key| key.project.to_string() == project.project.as_str());
            let exempt = in_project().filter(|key| is_exempt(key)).count() as u64;
            prop_assert_eq!(project.count_exempt(now), exempt);
            total += exempt;
            for class in [KeyClass::Used, KeyClass::NeverUsed, KeyClass::Disabled, KeyClass::Deleted] {
                let expected = |cutoff: i64| in_project()
                    .filter(|key| !is_exempt(key) && key.class() == class)
                    .filter(|key| key.idle_since().is_none_or(|since| since <= cutoff))
                    .count() as u64;
                prop_assert_eq!(project.count(class, cutoff, now), expected(cutoff));
                total += project.count(class, i64::MAX, now);
            }
        }
        prop_assert_eq!(total, keys.len() as u64, "each key is counted once");
        let idle = keys.iter().filter_map(TestKey::idle_since).filter(|since| *since <= cutoff);
        prop_assert_eq!(classes.count_idle_since(cutoff), idle.count() as u64);
        for (index, key) in inventory.keys().enumerate() {
            let n: usize = key.id()[1..].parse().expect("a number");
            prop_assert_eq!(classes.exemption(index, now).is_some(), is_exempt(&keys[n]));
        }
    }
}

fn key(name: u8) -> TestKey {
    TestKey {
        project: 0,
        name,
        status: "ACTIVE",
        created: Some(0),
        last_used: Some(1),
        invalid_use: false,
    }
}

#[test]
fn exemption_that_ends_last_counts_until_its_last_microsecond() {
    let inventory = inventory(&[key(1), key(2)]);
    let classes = KeyClasses::new(&inventory, &policy(&[(1, 9), (1, 4), (3, 9)]), None);
    let project = &classes.projects()[0];
    let counts = |now: i64| {
        let used = project.count(KeyClass::Used, now, now);
        (
            project.count_exempt(now),
            used,
            classes
                .exempt_keys(0)
                .filter(|it| it.1 > now)
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(counts(10 * DAY - 1), (1, 1, vec![(0, 10 * DAY)]));
    assert_eq!(counts(10 * DAY), (0, 2, vec![]));
    let exemption = classes.exemption(0, 5 * DAY).expect("an active exemption");
    assert_eq!(exemption.until.to_string(), "1970-01-10");
    assert!(classes.exemption(0, 10 * DAY).is_none() && classes.exemption(1, 0).is_none());
    assert_eq!(classes.matched_exemptions(), [true, true, false]);
}

#[test]
fn project_without_keys_retains_its_roll_ups_at_zero() {
    let before = inventory(&[key(1)]);
    let info = crate::inventory::InventoryInfo {
        org: before.org().clone(),
        started_at: Timestamp::UNIX_EPOCH,
        completed_at: Timestamp::UNIX_EPOCH,
        invalid_keys: 0,
    };
    let builder = crate::inventory::InventoryBuilder::default();
    let after = builder.build(info, before.status_counts());
    let classes = KeyClasses::new(&after, &policy(&[]), None);
    assert_eq!(classes.projects().len(), 1);
    assert_eq!(classes.projects()[0].count(KeyClass::Used, i64::MAX, 0), 0);
}
