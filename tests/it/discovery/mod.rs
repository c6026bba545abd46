//! Discovery, shards, several credentials, and organization names.
//! In simulated time.

mod listing;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::common::log_capture::LogCapture;
use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{Scrape, expected_sim_keys, exposed_keys, sim_env, static_sim};
use mongodb_atlas_sim::{Effect, Fault, SimEndpoint, SimHandle};

const INTERVAL: Duration = Duration::from_mins(5);

/// Returns the environment of an exporter with discovery.
fn env_without_orgs(sim: &SimHandle) -> Vec<(String, String)> {
    let mut variables = sim_env(sim);
    variables.retain(|(name, _)| name != "MONGODB_ATLAS_ORG_ID");
    variables
}

async fn start_discovery(sim: &Arc<SimHandle>) -> SimHarness {
    SimHarness::start_with(sim, env_without_orgs(sim), &["--atlas.discover-orgs"]).await
}

/// Returns the organizations with series of a family.
fn org_ids_in(scrape: &Scrape, name: &str) -> BTreeSet<String> {
    scrape
        .with_name(name)
        .map(|series| series.labels["org_id"].clone())
        .collect()
}

const UP: &str = "atlas_ai_keys_exporter_org_up";

#[tokio::test(start_paused = true)]
async fn all_visible_organizations_are_discovered() {
    let sim = in_process_sim(&static_sim(7, 70));
    let exporter = start_discovery(&sim).await;
    let scrape = exporter.wait_polled(7).await;
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    let new = sim.with_world(|world| world.add_org(3));
    exporter.advance(INTERVAL).await;
    let scrape = exporter.wait_polled(8).await;
    assert!(org_ids_in(&scrape, UP).contains(&new));
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn multi_page_organization_lists_are_read_completely() {
    let sim = in_process_sim(&static_sim(501, 501));
    let exporter = start_discovery(&sim).await;
    exporter.advance(Duration::from_mins(2)).await;
    assert_eq!(exporter.requests_to(SimEndpoint::Orgs).len(), 2);
    assert_eq!(org_ids_in(&exporter.scrape(), UP).len(), 501);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn missing_organization_is_removed_after_two_lists_and_deleted_one_immediately() {
    let sim = in_process_sim(&static_sim(3, 30));
    let orgs = sim.org_ids();
    let exporter = start_discovery(&sim).await;
    exporter.wait_polled(3).await;
    sim.with_world(|world| {
        world.set_org_visible(&orgs[0], false);
        world.mark_org_deleted(&orgs[1]);
    });
    exporter.advance(INTERVAL + Duration::from_secs(5)).await;
    let scrape = exporter.scrape();
    let both = BTreeSet::from([orgs[0].clone(), orgs[2].clone()]);
    assert_eq!(
        org_ids_in(&scrape, UP),
        both,
        "the deleted organization is removed immediately"
    );
    exporter.advance(INTERVAL).await;
    let scrape = exporter.scrape();
    let left = BTreeSet::from([orgs[2].clone()]);
    assert_eq!(org_ids_in(&scrape, UP), left);
    for org in [&orgs[0], &orgs[1]] {
        assert!(
            !scrape.text.contains(org.as_str()),
            "no series of the organization remain"
        );
    }
    // An organization that returns is polled again.
    sim.with_world(|world| world.set_org_visible(&orgs[0], true));
    exporter.advance(INTERVAL + Duration::from_secs(5)).await;
    assert_eq!(org_ids_in(&exporter.wait_polled(2).await, UP), both);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn shards_cover_every_organization_exactly_once() {
    let sim = in_process_sim(&static_sim(60, 120));
    let mut watched = Vec::new();
    for flags in [
        &["--atlas.shard=1/3"][..],
        &["--atlas.shard=2/3"],
        &["--atlas.shard=auto/3"],
    ] {
        let mut variables = env_without_orgs(&sim);
        variables.push(("HOSTNAME".into(), "exporter-2".into()));
        let flags = [flags, &["--atlas.discover-orgs"]].concat();
        let exporter = SimHarness::start_with(&sim, variables, &flags).await;
        exporter.advance(Duration::from_mins(1)).await;
        watched.extend(org_ids_in(&exporter.scrape(), UP));
        exporter.stop().await;
    }
    watched.sort();
    let mut all = sim.org_ids();
    all.sort();
    assert_eq!(watched, all);
}

#[tokio::test(start_paused = true)]
async fn organization_names_are_refreshed_hourly() {
    let sim = in_process_sim(&static_sim(2, 300));
    let exporter = SimHarness::start(&sim, &[]).await;
    exporter.wait_polled(2).await;
    let name = "mongodbatlas_project_info";
    let scrape = exporter
        .wait_until("the names", |scrape| scrape.with_name(name).count() > 2)
        .await;
    let named: BTreeSet<String> = scrape
        .with_name("mongodbatlas_organization_info")
        .map(|series| series.labels["org_name"].clone())
        .collect();
    assert_eq!(
        named,
        BTreeSet::from(["Example Retail", "Example Media"].map(str::to_owned))
    );
    let projects: BTreeSet<String> = scrape
        .with_name(name)
        .map(|series| series.labels["project_id"].clone())
        .collect();
    for series in scrape.with_name("mongodbatlas_ai_model_api_keys") {
        assert!(projects.contains(&series.labels["project_id"]));
    }
    let limits = scrape.with_name("mongodbatlas_ai_model_rate_limit_requests_per_minute");
    assert_eq!(limits.count(), 4, "two groups of models per organization");
    let tokens = "mongodbatlas_ai_model_rate_limit_tokens_per_minute";
    let labels: &[(&str, &str)] = &[
        ("org_id", &sim.org_ids()[0]),
        ("model_group", "voyage-embeddings"),
        ("cloud", "ANY"),
        ("geography", "ANY"),
    ];
    assert_eq!(scrape.get(tokens, labels), Some(8_000_000.0));
    for info in [name, "mongodbatlas_organization_info"] {
        let values = scrape.values(info);
        assert!(
            values.iter().all(|value| *value == 1.0),
            "{info}: {values:?}"
        );
    }
    let polls = exporter.count_polls();
    exporter.advance(Duration::from_hours(10)).await;
    polls.assert_polled(119);
    for endpoint in [
        SimEndpoint::Org,
        SimEndpoint::Groups,
        SimEndpoint::AiModelApiRateLimits,
    ] {
        let sent = exporter.requests_to(endpoint).len();
        assert!((20..=22).contains(&sent), "{endpoint:?}: {sent}");
    }
    exporter.assert_in_sync(INTERVAL * 2).await;
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn forbidden_names_and_limits_do_not_fail_polls() {
    for code in [401, 403, 404, 500] {
        let sim = in_process_sim(&static_sim(2, 60));
        for endpoint in [
            SimEndpoint::Org,
            SimEndpoint::Groups,
            SimEndpoint::AiModelApiRateLimits,
            SimEndpoint::RateLimits,
        ] {
            sim.add_fault(Fault::new(endpoint, Effect::error_status(code)));
        }
        let exporter = SimHarness::start(&sim, &[]).await;
        exporter.wait_polled(2).await;
        let polls = exporter.count_polls();
        exporter.advance(Duration::from_hours(3)).await;
        polls.assert_polled(35);
        let sent = exporter.requests_to(SimEndpoint::Groups).len();
        assert!(
            (2..=2 * 4 * 2).contains(&sent),
            "forbidden requests are repeated rarely: {sent}"
        );
        let scrape = exporter.assert_in_sync(INTERVAL * 2).await;
        assert_eq!(scrape.sum(UP), 2.0, "{code}");
        assert_eq!(
            scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
            0.0
        );
        for name in [
            "organization_info",
            "project_info",
            "ai_model_rate_limit_requests_per_minute",
        ] {
            assert_eq!(scrape.with_name(&format!("mongodbatlas_{name}")).count(), 0);
        }
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn known_names_are_retained_when_unavailable() {
    let sim = in_process_sim(&static_sim(1, 30));
    let exporter = SimHarness::start(&sim, &[]).await;
    let name = "mongodbatlas_organization_info";
    exporter
        .wait_until("the name", |scrape| scrape.with_name(name).count() == 1)
        .await;
    for endpoint in [
        SimEndpoint::Org,
        SimEndpoint::Groups,
        SimEndpoint::AiModelApiRateLimits,
    ] {
        sim.add_fault(Fault::new(endpoint, Effect::error_status(403)));
    }
    let polls = exporter.count_polls();
    exporter.advance(Duration::from_hours(3)).await;
    polls.assert_polled(35);
    let scrape = exporter.assert_in_sync(INTERVAL * 2).await;
    assert_eq!(scrape.with_name(name).count(), 1);
    assert_eq!(
        scrape
            .with_name("mongodbatlas_ai_model_rate_limit_tokens_per_minute")
            .count(),
        2
    );
    exporter.stop().await;
}

/// Discovered organizations over the limit are ignored, but never configured or already polled ones.
#[tokio::test(start_paused = true)]
async fn discovery_stops_at_the_organization_limit() {
    let logs = LogCapture::start();
    let sim = in_process_sim(&static_sim(5, 50));
    let all = sim.org_ids();
    let mut variables = env_without_orgs(&sim);
    variables.push(("MONGODB_ATLAS_ORG_ID".into(), all[4].clone()));
    let flags = ["--atlas.discover-orgs", "--atlas.max-orgs=3"];
    let exporter = SimHarness::start_with(&sim, variables, &flags).await;
    let before = org_ids_in(&exporter.wait_polled(4).await, UP);
    assert!(before.contains(&all[4]), "the configured organization");
    assert_eq!(
        exporter.readiness().0,
        200,
        "readiness does not wait for ignored organizations"
    );
    // New organizations do not replace others, for any position in the list.
    let polls = exporter.count_polls();
    for _ in 0..5 {
        sim.with_world(|world| world.add_org(1));
        exporter.advance(INTERVAL).await;
        assert_eq!(org_ids_in(&exporter.scrape(), UP), before);
    }
    polls.assert_polled(4);
    assert!(exporter.requests_to(SimEndpoint::Orgs).len() >= 5);
    assert_eq!(logs.count("WARN", "too many organizations"), 1);
    // A free place is used by an ignored organization.
    let deleted = before.iter().find(|org| **org != all[4]).unwrap();
    sim.with_world(|world| world.mark_org_deleted(deleted));
    exporter.advance(INTERVAL * 2).await;
    let after = org_ids_in(&exporter.scrape(), UP);
    assert!(after.len() == 4 && !after.contains(deleted), "{after:?}");
    exporter.assert_in_sync(INTERVAL * 2).await;
    exporter.stop().await;
}
