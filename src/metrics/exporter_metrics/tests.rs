use super::*;

#[test]
fn last_poll_failed_is_set_for_at_most_one_reason() {
    let metrics = ExporterMetrics::new().expect("the catalogue is sound");
    let org = OrgId::parse("0000000000000000000000aa").expect("an id");
    metrics.init_org(org.as_str());
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
