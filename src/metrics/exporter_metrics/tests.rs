use super::*;

const REASONS: [&str; 2] = ["forbidden", "timeout"];
const CHANGES: [&str; 2] = ["created", "deleted"];
const OUTCOMES: [&str; 2] = ["issued", "unauthorized"];

#[test]
fn all_families_register() {
    ExporterMetrics::new().expect("the catalogue is sound");
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
    let metrics = ExporterMetrics::new().expect("the catalogue is sound");
    let at = Timestamp::UNIX_EPOCH;
    for org in ["o1", "o2"] {
        metrics.init_org(org, "keys", REASONS, CHANGES);
        metrics.set_poll_interval(org, Duration::from_secs(1));
        metrics.inventory_restored(org, at, at, true);
        metrics.poll_succeeded(org, at, 1, Duration::ZERO);
        metrics.set_rate_limit("keys", org, Some(2), Some(1));
    }
    let expected = families_by_label("org_id");
    assert_eq!(expected.len(), 13, "{expected:?}");
    for org in ["o1", "o2"] {
        assert_eq!(families_with(&metrics, org), expected, "{org}");
    }
    metrics.remove_org("o1", &["keys"], &REASONS, &CHANGES);
    assert_eq!(families_with(&metrics, "o1"), Vec::<String>::new());
    assert_eq!(families_with(&metrics, "o2"), expected);
}

#[test]
fn remove_credential_removes_every_series_of_one_credential() {
    let metrics = ExporterMetrics::new().expect("the catalogue is sound");
    for credential in ["c1", "c2"] {
        metrics.init_credential(credential, OUTCOMES);
        metrics.set_token_expiry(credential, Timestamp::UNIX_EPOCH);
    }
    let expected = families_by_label("credential");
    assert_eq!(expected.len(), 2, "{expected:?}");
    metrics.remove_credential("c1", OUTCOMES);
    assert_eq!(families_with(&metrics, "c1"), Vec::<String>::new());
    assert_eq!(families_with(&metrics, "c2"), expected);
}

#[test]
fn last_poll_failed_is_set_for_at_most_one_reason() {
    let metrics = ExporterMetrics::new().expect("the catalogue is sound");
    let reasons = ["forbidden", "timeout"];
    metrics.init_org("o1", "keys", reasons, []);
    let failed = || -> Vec<String> {
        let families = metrics.org_last_poll_failed.collect();
        let series = families.iter().flat_map(MetricFamily::get_metric);
        let failed = series.filter(|metric| metric.get_gauge().get_value() == 1.0);
        failed
            .map(|metric| metric.get_label()[1].value().to_owned())
            .collect()
    };
    assert!(failed().is_empty(), "before the first poll");
    for reason in reasons {
        metrics.set_last_poll_failure("o1", &reasons, Some(reason));
        assert_eq!(failed(), [reason]);
    }
    metrics.set_last_poll_failure("o1", &reasons, None);
    assert!(failed().is_empty());
    metrics.remove_org("o1", &[], &reasons, &[]);
    let families = metrics.org_last_poll_failed.collect();
    assert!(families[0].get_metric().is_empty());
}
