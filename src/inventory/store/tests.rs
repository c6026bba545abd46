use super::*;
use crate::inventory::ApiKey;
use crate::key_policy::{Exemption, Exemptions, KeySelector, ProjectPattern};
use jiff::Timestamp;
use mongodb_atlas_client::{Project, ProjectId};

fn org(n: u32) -> OrgId {
    OrgId::parse(&format!("{n:024x}")).expect("an id")
}

fn empty(n: u32) -> ClassifiedInventory {
    let at = Timestamp::UNIX_EPOCH;
    Arc::new(Inventory::from_records(org(n), at, vec![])).into()
}

#[tokio::test(start_paused = true)]
async fn snapshot_omits_stale_inventories() {
    let store = InventoryStore::default();
    store.set_targets(vec![org(1), org(2)], vec![]);
    let hour = Duration::from_hours(1);
    store.insert(empty(1), Duration::ZERO);
    store.insert(empty(2), hour);
    assert_eq!(store.snapshot(2 * hour).inventories.len(), 2);
    tokio::time::advance(hour).await;
    assert_eq!(
        store.snapshot(2 * hour).inventories.len(),
        2,
        "at the limit"
    );
    tokio::time::advance(Duration::from_millis(1)).await;
    let snapshot = store.snapshot(2 * hour).inventories;
    assert_eq!(
        snapshot.iter().map(|i| i.org()).collect::<Vec<_>>(),
        [&org(1)]
    );
    assert_eq!(store.snapshot(Duration::ZERO).inventories.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn set_targets_removes_everything_of_other_orgs() {
    let store = InventoryStore::default();
    store.set_targets(vec![org(1), org(2)], vec!["a".into()]);
    store.insert(empty(1), Duration::ZERO);
    store.insert_details(&org(1), &Arc::default());
    assert_eq!(store.not_ready().len(), 2);
    store.set_targets(vec![org(2)], vec![]);
    assert!(store.get(&org(1)).is_none() && store.details(&org(1)).is_none());
    assert_eq!(store.not_ready(), [org(2).to_string()]);
}

#[test]
fn inventory_is_reclassified_when_project_names_arrive() {
    let exemption = Exemption {
        selector: KeySelector::parse_name("*", Some(ProjectPattern::parse("dr").expect("a glob")))
            .expect("a glob"),
        reason: "a test".into(),
        until: "2999-12-31".parse().expect("a date"),
    };
    let policy = Arc::new(KeyPolicy {
        exemptions: Exemptions::new(vec![exemption]).expect("globs"),
        ..KeyPolicy::default()
    });
    let key = ApiKey {
        project: ProjectId::new("p"),
        ..ApiKey::default()
    };
    let store = InventoryStore::default();
    store.set_targets(vec![org(1)], vec![]);
    store.set_policy(policy);
    let inventory = Inventory::from_records(org(1), Timestamp::UNIX_EPOCH, vec![key]);
    let early = store.classify(Arc::new(inventory));
    let details = OrgDetails {
        projects: vec![Project {
            id: ProjectId::new("p"),
            name: "dr".into(),
            tag: None,
        }],
        ..OrgDetails::default()
    };
    store.insert_details(&org(1), &Arc::new(details));
    assert!(!store.insert(early, Duration::ZERO), "outdated");
    assert!(!store.is_classified(&org(1)));
    assert_eq!(store.unmatched_exemptions(), None);
    store.reclassify(&org(1));
    assert!(store.is_classified(&org(1)));
    assert_eq!(store.unmatched_exemptions(), Some(0));
}
