//! Owners, exemptions and the classes of keys, as a Prometheus sees them.

use std::collections::BTreeMap;

use crate::common::prometheus::Prometheus;
use crate::common::{ChildProcess, sim_env, static_sim};

const INFO: &str = "on (org_id, project_id) group_left (owner) mongodbatlas_project_info";

/// Returns the values of a query by owner; the key of series without an owner is empty.
async fn by_owner(prometheus: &Prometheus, query: &str) -> BTreeMap<String, f64> {
    let samples = prometheus.wait_samples(query).await;
    let owner =
        |labels: &BTreeMap<String, String>| labels.get("owner").cloned().unwrap_or_default();
    samples
        .iter()
        .map(|it| (owner(&it.labels), it.value))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_counts_each_key_once_by_class_and_owner() {
    let sim = crate::common::start_sim(static_sim(3, 1200)).await;
    let keys: Vec<_> = sim.with_world(|world| {
        let orgs = world.org_ids().into_iter();
        orgs.flat_map(|org| world.keys(&org).to_vec()).collect()
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yml");
    let text = format!(
        "owners:\n- {{projects: ['search-*'], owner: team-of-rule}}\n\
         exemptions:\n\
         - {{key: {}, reason: a, until: 2999-12-31}}\n\
         - {{name: '*-backfill-*', reason: b, until: 2999-12-30}}\n\
         - {{name: 'none of them', reason: c, until: 2999-12-31}}\n\
         - {{name: '*', reason: ended, until: 2020-01-01}}\n",
        keys[0].id
    );
    std::fs::write(&file, text).unwrap();
    let flags = [
        "--web.listen-address=127.0.0.1:0".to_owned(),
        "--metrics.idle-thresholds=1s,30d".to_owned(),
        format!("--config.file={}", file.display()),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut exporter = ChildProcess::exporter(&flags, &sim_env(&sim));
    let prometheus = Prometheus::scraping(&exporter.wait_for_output("address="));
    let orgs_named = "count(count by (org_id) (mongodbatlas_project_info)) == 3";
    prometheus.wait_samples(orgs_named).await;

    let is_exempt =
        |key: &mongodb_atlas_sim::SimKey| key.id == keys[0].id || key.name.contains("-backfill-");
    let exempt = keys.iter().filter(|key| is_exempt(key)).count();
    let never_used = keys
        .iter()
        .filter(|key| !is_exempt(key) && key.status == "ACTIVE" && key.last_used.is_none());
    #[allow(clippy::cast_precision_loss, reason = "numbers of keys")]
    let [all, exempt, never_used] =
        [keys.len(), exempt, never_used.count()].map(|keys| keys as f64);
    assert!(exempt > 10.0 && never_used > 10.0);
    let sum =
        |class: &str| format!("sum(mongodbatlas_ai_model_api_keys_{class}{{threshold=\"1s\"}})");
    let classes = ["idle", "never_used", "disabled"].map(sum).join(" + ");
    let exempt_keys = "sum(mongodbatlas_ai_model_api_keys_exempt)";
    for (query, expected) in [
        (format!("{classes} + {exempt_keys}"), all),
        (exempt_keys.to_owned(), exempt),
        (
            "count(mongodbatlas_ai_model_api_key_exempt_until_timestamp_seconds > time())"
                .to_owned(),
            exempt,
        ),
        (sum("never_used"), never_used),
        (
            "atlas_ai_keys_exporter_exemptions_unmatched".to_owned(),
            1.0,
        ),
    ] {
        assert_eq!(prometheus.wait_value(&query).await, expected, "{query}");
    }

    let query =
        format!("sum by (owner) (sum without (status) (mongodbatlas_ai_model_api_keys) * {INFO})");
    let owned = by_owner(&prometheus, &query).await;
    let projects = by_owner(&prometheus, "count by (owner) (mongodbatlas_project_info)").await;
    assert_eq!(owned.values().sum::<f64>(), all, "{owned:?}");
    assert!(
        owned.contains_key("team-of-rule") && owned.contains_key(""),
        "{owned:?}"
    );
    assert!(
        owned.keys().eq(projects.keys()) && owned.len() > 3,
        "{owned:?}"
    );
    sim.stop().await;
}
