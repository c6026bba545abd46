//! Which organizations are watched: discovery, shards, several credentials, and their names.
//! In simulated time.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::common::sim_harness::{Simulated, simulated_atlas};
use crate::common::{Scrape, shown, sim_variables, still, world};
use mongodb_atlas_sim::{BodyForm, Effect, Fault, SimEndpoint, SimHandle};

const INTERVAL: Duration = Duration::from_mins(5);

fn status(status: u16) -> Effect {
    Effect::Status {
        status,
        body: BodyForm::Json,
        retry_after: None,
    }
}

/// What an exporter is told that finds its organizations itself.
fn without_orgs(sim: &SimHandle) -> Vec<(String, String)> {
    let mut variables = sim_variables(sim);
    variables.retain(|(name, _)| name != "MONGODB_ATLAS_ORG_ID");
    variables
}

async fn discovering(sim: &Arc<SimHandle>) -> Simulated {
    Simulated::told(sim, without_orgs(sim), &["--atlas.discover-orgs"]).await
}

/// The organizations that a family has series of.
fn orgs_in(scrape: &Scrape, name: &str) -> BTreeSet<String> {
    scrape
        .all(name)
        .map(|series| series.labels["org_id"].clone())
        .collect()
}

const UP: &str = "atlas_ai_keys_exporter_org_up";

#[tokio::test(start_paused = true)]
async fn every_organization_that_the_credential_can_see_is_found() {
    let sim = simulated_atlas(&still(7, 70));
    let exporter = discovering(&sim).await;
    let scrape = exporter.walked(7).await;
    assert_eq!(shown(&scrape), world(&sim));
    let new = sim.with_world(|world| world.found_org(3));
    exporter.pass(INTERVAL).await;
    let scrape = exporter.walked(8).await;
    assert!(orgs_in(&scrape, UP).contains(&new));
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn lists_of_more_than_a_page_are_read_whole() {
    let sim = simulated_atlas(&still(501, 501));
    let exporter = discovering(&sim).await;
    exporter.pass(Duration::from_mins(2)).await;
    assert_eq!(exporter.asked(SimEndpoint::Orgs).len(), 2);
    assert_eq!(orgs_in(&exporter.scrape(), UP).len(), 501);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_disappears_is_watched_for_one_interval_more_and_what_is_deleted_is_not() {
    let sim = simulated_atlas(&still(3, 30));
    let orgs = sim.org_ids();
    let exporter = discovering(&sim).await;
    exporter.walked(3).await;
    sim.with_world(|world| {
        world.show_org(&orgs[0], false);
        world.delete_org(&orgs[1]);
    });
    exporter.pass(INTERVAL + Duration::from_secs(5)).await;
    let scrape = exporter.scrape();
    let both = BTreeSet::from([orgs[0].clone(), orgs[2].clone()]);
    assert_eq!(orgs_in(&scrape, UP), both, "deleted is deleted");
    exporter.pass(INTERVAL).await;
    let scrape = exporter.scrape();
    let left = BTreeSet::from([orgs[2].clone()]);
    assert_eq!(orgs_in(&scrape, UP), left);
    for org in [&orgs[0], &orgs[1]] {
        assert!(
            !scrape.text.contains(org.as_str()),
            "no series of it is left"
        );
    }
    // and when it comes back, it is watched again
    sim.with_world(|world| world.show_org(&orgs[0], true));
    exporter.pass(INTERVAL + Duration::from_secs(5)).await;
    assert_eq!(orgs_in(&exporter.walked(2).await, UP), both);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_organization_that_flickers_is_never_forgotten() {
    let sim = simulated_atlas(&still(2, 20));
    let orgs = sim.org_ids();
    let exporter = discovering(&sim).await;
    exporter.walked(2).await;
    let before = shown(&exporter.scrape());
    for round in 0..10 {
        sim.with_world(|world| world.show_org(&orgs[0], round % 2 == 1));
        exporter.pass(INTERVAL).await;
        assert_eq!(shown(&exporter.scrape()), before, "round {round}");
    }
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn while_the_list_cannot_be_had_what_is_known_is_watched_on() {
    let sim = simulated_atlas(&still(2, 20));
    sim.add_fault(Fault::new(SimEndpoint::Orgs, status(500)));
    let exporter = discovering(&sim).await;
    exporter.pass(Duration::from_secs(30)).await;
    assert!(orgs_in(&exporter.scrape(), UP).is_empty());
    let (code, text) = exporter.ready();
    assert!(
        code == 503 && text.contains("organizations of credential default"),
        "{text}"
    );
    sim.clear_faults();
    exporter.walked(2).await;
    assert_eq!(exporter.ready().0, 200);
    sim.add_fault(Fault::new(SimEndpoint::Orgs, status(500)));
    exporter.pass(Duration::from_hours(5)).await;
    let scrape = exporter.scrape();
    assert_eq!(shown(&scrape), world(&sim));
    assert_eq!(scrape.sum(UP), 2.0);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn several_instances_watch_every_organization_exactly_once() {
    let sim = simulated_atlas(&still(60, 120));
    let mut watched = Vec::new();
    for flags in [
        &["--atlas.shard=1/3"][..],
        &["--atlas.shard=2/3"],
        &["--atlas.shard=auto/3"],
    ] {
        let mut variables = without_orgs(&sim);
        variables.push(("HOSTNAME".into(), "exporter-2".into()));
        let flags = [flags, &["--atlas.discover-orgs"]].concat();
        let exporter = Simulated::told(&sim, variables, &flags).await;
        exporter.pass(Duration::from_mins(1)).await;
        watched.extend(orgs_in(&exporter.scrape(), UP));
        exporter.stop().await;
    }
    watched.sort();
    let mut all = sim.org_ids();
    all.sort();
    assert_eq!(watched, all);
}

#[tokio::test(start_paused = true)]
async fn names_are_told_and_asked_for_once_an_hour() {
    let sim = simulated_atlas(&still(2, 300));
    let exporter = Simulated::watching(&sim, &[]).await;
    exporter.walked(2).await;
    let name = "mongodbatlas_project_info";
    let scrape = exporter
        .until("the names", |scrape| scrape.all(name).count() > 2)
        .await;
    let named: BTreeSet<String> = scrape
        .all("mongodbatlas_organization_info")
        .map(|series| series.labels["org_name"].clone())
        .collect();
    assert_eq!(
        named,
        BTreeSet::from(["Example Retail", "Example Media"].map(str::to_owned))
    );
    let projects: BTreeSet<String> = scrape
        .all(name)
        .map(|series| series.labels["project_id"].clone())
        .collect();
    for series in scrape.all("mongodbatlas_ai_model_api_keys") {
        assert!(projects.contains(&series.labels["project_id"]));
    }
    let limits = scrape.all("mongodbatlas_ai_model_rate_limit_requests_per_minute");
    assert_eq!(limits.count(), 4, "two groups of models each");
    let tokens = "mongodbatlas_ai_model_rate_limit_tokens_per_minute";
    let labels: &[(&str, &str)] = &[
        ("org_id", &sim.org_ids()[0]),
        ("model_group", "voyage-embeddings"),
        ("cloud", "ANY"),
        ("geography", "ANY"),
    ];
    assert_eq!(scrape.get(tokens, labels), Some(8_000_000.0));
    exporter.pass(Duration::from_hours(10)).await;
    for endpoint in [
        SimEndpoint::Org,
        SimEndpoint::Groups,
        SimEndpoint::AiModelApiRateLimits,
    ] {
        let asked = exporter.asked(endpoint).len();
        assert!((20..=22).contains(&asked), "{endpoint:?}: {asked}");
    }
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn where_names_and_limits_are_not_allowed_nothing_breaks() {
    for code in [401, 403, 404, 500] {
        let sim = simulated_atlas(&still(2, 60));
        for endpoint in [
            SimEndpoint::Org,
            SimEndpoint::Groups,
            SimEndpoint::AiModelApiRateLimits,
            SimEndpoint::RateLimits,
        ] {
            sim.add_fault(Fault::new(endpoint, status(code)));
        }
        let exporter = Simulated::watching(&sim, &[]).await;
        exporter.walked(2).await;
        exporter.pass(Duration::from_hours(3)).await;
        let scrape = exporter.scrape();
        assert_eq!(scrape.sum(UP), 2.0, "{code}");
        assert_eq!(
            scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
            0.0
        );
        assert_eq!(shown(&scrape), world(&sim));
        for name in [
            "organization_info",
            "project_info",
            "ai_model_rate_limit_requests_per_minute",
        ] {
            assert_eq!(scrape.all(&format!("mongodbatlas_{name}")).count(), 0);
        }
        let asked = exporter.asked(SimEndpoint::Groups).len();
        assert!(
            asked <= 2 * 4 * 2,
            "not allowed is not asked for all the time: {asked}"
        );
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_can_no_longer_be_had_stay() {
    let sim = simulated_atlas(&still(1, 30));
    let exporter = Simulated::watching(&sim, &[]).await;
    let name = "mongodbatlas_organization_info";
    exporter
        .until("the name", |scrape| scrape.all(name).count() == 1)
        .await;
    for endpoint in [
        SimEndpoint::Org,
        SimEndpoint::Groups,
        SimEndpoint::AiModelApiRateLimits,
    ] {
        sim.add_fault(Fault::new(endpoint, status(403)));
    }
    exporter.pass(Duration::from_hours(3)).await;
    let scrape = exporter.scrape();
    assert_eq!(scrape.all(name).count(), 1);
    assert_eq!(
        scrape
            .all("mongodbatlas_ai_model_rate_limit_tokens_per_minute")
            .count(),
        2
    );
    exporter.stop().await;
}

/// Discovered organizations past the limit are left out, those that are named or watched already never.
#[tokio::test(start_paused = true)]
async fn discovered_organizations_past_the_limit_are_left_out() {
    let sim = simulated_atlas(&still(5, 50));
    let all = sim.org_ids();
    let mut variables = without_orgs(&sim);
    variables.push(("MONGODB_ATLAS_ORG_ID".into(), all[4].clone()));
    let flags = ["--atlas.discover-orgs", "--atlas.max-orgs=3"];
    let exporter = Simulated::told(&sim, variables, &flags).await;
    let before = orgs_in(&exporter.walked(4).await, UP);
    assert!(before.contains(&all[4]), "the one that is named");
    assert_eq!(exporter.ready().0, 200, "nobody waits for those left out");
    // new ones take nobody's place, wherever they stand in the order
    for _ in 0..5 {
        sim.with_world(|world| world.found_org(1));
        exporter.pass(INTERVAL).await;
        assert_eq!(orgs_in(&exporter.scrape(), UP), before);
    }
    // and one that becomes free is taken
    let gone = before.iter().find(|org| **org != all[4]).unwrap();
    sim.with_world(|world| world.delete_org(gone));
    exporter.pass(INTERVAL * 2).await;
    let after = orgs_in(&exporter.scrape(), UP);
    assert!(after.len() == 4 && !after.contains(gone), "{after:?}");
    exporter.stop().await;
}

/// Lists whose pages are capped, or have links that lead nowhere, are read to the end like the keys.
#[tokio::test(start_paused = true)]
async fn lists_are_read_to_their_end_whatever_their_pages_say() {
    for (effects, requests) in [
        (vec![], 1),
        (vec![Effect::PageCap { size: 3 }, Effect::NoLinks], 3),
        (vec![Effect::PageCap { size: 3 }, Effect::NoNextLink], 3),
        (vec![Effect::TotalCount { value: 99 }], 2),
    ] {
        let sim = simulated_atlas(&still(7, 70));
        for effect in &effects {
            sim.add_fault(Fault::new(SimEndpoint::Orgs, effect.clone()));
            sim.add_fault(Fault::new(SimEndpoint::Groups, effect.clone()));
        }
        let exporter = discovering(&sim).await;
        assert_eq!(shown(&exporter.walked(7).await), world(&sim), "{effects:?}");
        let asked = exporter.asked(SimEndpoint::Orgs).len();
        assert_eq!(asked, requests, "{effects:?}");
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_shorter_than_it_says_removes_no_organization() {
    let sim = simulated_atlas(&still(3, 30));
    let exporter = discovering(&sim).await;
    exporter.walked(3).await;
    let one = sim.org_ids()[0].clone();
    for total in [",\"totalCount\":3", ""] {
        let text = format!("{{\"results\":[{{\"id\":\"{one}\",\"name\":\"x\"}}]{total}}}");
        sim.add_fault(Fault::new(SimEndpoint::Orgs, Effect::Body { text }));
        exporter.pass(INTERVAL * 5).await;
        let watched = orgs_in(&exporter.scrape(), UP).len();
        assert_eq!(watched, if total.is_empty() { 1 } else { 3 });
        sim.clear_faults();
    }
    exporter.stop().await;
}
