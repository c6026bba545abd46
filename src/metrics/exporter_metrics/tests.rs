use std::time::Duration;

use super::*;
use crate::inventory::Inventory;
use crate::poll::{PollEvent, PollObserver as _};
use mongodb_atlas_client::ClientObserver as _;

fn org(n: u32) -> OrgId {
    OrgId::parse(&format!("{n:024x}")).expect("an id")
}

/// Returns the families that have a series with this label value.
fn families_with(metrics: &ExporterMetrics, value: &str) -> Vec<String> {
    let has_value = |metric: &prometheus::proto::Metric| {
        let mut labels = metric.get_label().iter();
        labels.any(|label| label.value() == value)
    };
    let families = metrics.gather().0.into_iter();
    families
        .filter(|family| family.get_metric().iter().any(has_value))
        .map(|family| family.name().to_owned())
        .collect()
}

/// Returns the names of the exporter's own families with this label; those of the inventory are not registered.
fn families_by_label(label: &str) -> Vec<String> {
    let of_inventory = [&families::KEYS_DROPPED, &families::NAMES_TRUNCATED];
    let own = families::ALL.iter().filter(|family| {
        let is_own = family.name.starts_with("atlas_ai_keys_exporter_")
            || family.name == families::KEY_CHANGES.name;
        is_own && !of_inventory.contains(family) && family.labels.contains(&label)
    });
    let mut names: Vec<String> = own.map(|family| family.name.to_owned()).collect();
    names.sort();
    names
}

#[test]
fn remove_org_removes_every_series_of_one_organization() {
    let metrics = ExporterMetrics::new().expect("the list of families is valid");
    let at = Timestamp::UNIX_EPOCH;
    for org in [&org(1), &org(2)] {
        let inventory = Inventory::from_records(org.clone(), at, []);
        let (inventory, interval) = (&inventory, Duration::from_secs(1));
        metrics.on_event(PollEvent::OrgAdded(org));
        metrics.on_event(PollEvent::IntervalChanged {
            org,
            interval,
            configured: interval,
        });
        metrics.on_event(PollEvent::InventoryRestored {
            inventory,
            up: true,
        });
        metrics.on_event(PollEvent::PollSucceeded {
            inventory,
            pages: 1,
            duration: Duration::ZERO,
        });
        metrics.rate_limit_updated(Endpoint::AiModelApiKeys, Some(org), Some(2), Some(1));
    }
    let expected = families_by_label("org_id");
    assert_eq!(expected.len(), 14, "{expected:?}");
    for org in [org(1), org(2)] {
        assert_eq!(families_with(&metrics, org.as_str()), expected, "{org}");
    }
    metrics.on_event(PollEvent::OrgRemoved(&org(1)));
    // A request that was in progress during the removal creates no series.
    let (endpoint, removed) = (Endpoint::AiModelApiKeys, org(1));
    metrics.rate_limit_updated(endpoint, Some(&removed), Some(2), Some(1));
    metrics.request_throttled(endpoint, Some(&removed), Duration::from_secs(1));
    let none = Vec::<String>::new();
    assert_eq!(families_with(&metrics, org(1).as_str()), none);
    assert_eq!(families_with(&metrics, org(2).as_str()), expected);
}

fn client_secret(n: u32) -> ClientSecret {
    ClientSecret {
        id: format!("{n:024x}"),
        expires_at: Timestamp::UNIX_EPOCH,
        last_used_at: Some(Timestamp::UNIX_EPOCH),
    }
}

#[test]
fn client_secrets_of_a_credential_are_replaced_completely() {
    let metrics = ExporterMetrics::new().expect("the list of families is valid");
    for credential in ["c1", "c2"] {
        metrics.init_credential(credential);
    }
    let set = |credential, secrets: &[ClientSecret]| {
        metrics.on_event(PollEvent::ClientSecretsChanged {
            credential,
            secrets,
        });
    };
    let never_used = ClientSecret {
        last_used_at: None,
        ..client_secret(2)
    };
    let both = families_by_label("secret_id");
    assert_eq!(both.len(), 2, "{both:?}");
    let families = |n| families_with(&metrics, &client_secret(n).id);
    set("c1", &[client_secret(1)]);
    set("c2", &[client_secret(3)]);
    set("c1", &[client_secret(1), client_secret(2)]);
    assert_eq!((families(1), families(2)), (both.clone(), both.clone()));
    set("c1", &[never_used]);
    assert_eq!(families(1), Vec::<String>::new(), "removed secret");
    assert_eq!(families(2), [families::CLIENT_SECRET_EXPIRY.name]);
    set("c1", &[]);
    assert_eq!(families(2), Vec::<String>::new());
    assert_eq!(families(3), both, "of another credential");
}

#[test]
fn remove_credential_removes_every_series_of_one_credential() {
    let metrics = ExporterMetrics::new().expect("the list of families is valid");
    for credential in ["c1", "c2"] {
        metrics.init_credential(credential);
        metrics.token_expiry_changed(credential, Timestamp::UNIX_EPOCH);
        metrics.on_event(PollEvent::ClientSecretsChanged {
            credential,
            secrets: &[client_secret(1)],
        });
    }
    let expected = families_by_label("credential");
    assert_eq!(expected.len(), 4, "{expected:?}");
    metrics.remove_credential("c1");
    metrics.token_expiry_changed("c1", Timestamp::UNIX_EPOCH);
    metrics.token_requested("c1", TokenOutcome::ALL[0]);
    metrics.on_event(PollEvent::ClientSecretsChanged {
        credential: "c1",
        secrets: &[client_secret(1)],
    });
    assert_eq!(families_with(&metrics, "c1"), Vec::<String>::new());
    assert_eq!(families_with(&metrics, "c2"), expected);
}

#[test]
fn last_poll_failed_is_set_for_at_most_one_reason() {
    let metrics = ExporterMetrics::new().expect("the list of families is valid");
    let org = org(1);
    metrics.init_org(&org);
    let failed = || -> Vec<String> {
        let families = metrics.org_last_poll_failed.collect();
        let series = families.iter().flat_map(MetricFamily::get_metric);
        let failed = series.filter(|metric| metric.get_gauge().get_value() == 1.0);
        failed
            .map(|metric| metric.get_label()[1].value().to_owned())
            .collect()
    };
    assert!(failed().is_empty(), "before the first poll");
    for reason in [FailureReason::Forbidden, FailureReason::Timeout] {
        metrics.set_last_poll_failure(org.as_str(), Some(reason));
        assert_eq!(failed(), [reason.as_str()]);
    }
    metrics.set_last_poll_failure(org.as_str(), None);
    assert!(failed().is_empty());
    metrics.remove_org(&org);
    let families = metrics.org_last_poll_failed.collect();
    assert!(families[0].get_metric().is_empty());
}
