//! Restarts: state that survives, and no extra requests.

mod crash_loops;
mod interrupted_write;
mod quarantine;
mod restored_times;
mod state_files;

use std::sync::Arc;
use std::time::Duration;

use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::static_sim;
use crate::common::{
    ChildProcess, Scrape, eventually, expected_sim_keys, exposed_keys, get, sim_env,
};
use mongodb_atlas_sim::{Effect, ErrorBodyFormat, Fault, SimEndpoint, SimHandle};
use rustix::process::Signal;
use tempfile::TempDir;

const ORG: &str = "32b6e34b3d91647abb20e7b8";

const KEYS: SimEndpoint = SimEndpoint::AiModelApiKeys;

const SUCCESS: &str = "atlas_ai_keys_exporter_org_last_success_timestamp_seconds";

const RESTORED: &str = "atlas_ai_keys_exporter_org_inventory_restored";

const UP: &str = "atlas_ai_keys_exporter_org_up";

fn outage_fault(status: u16) -> Fault {
    let effect = Effect::Status {
        status,
        body: ErrorBodyFormat::Json,
        retry_after: None,
    };
    Fault::new(KEYS, effect)
}

async fn start_exporter(sim: &Arc<SimHandle>, dir: &TempDir, flags: &[&str]) -> SimHarness {
    let storage = format!("--storage.path={}", dir.path().display());
    SimHarness::start(sim, &[flags, &[&storage]].concat()).await
}

#[tokio::test(start_paused = true)]
async fn stored_inventory_is_served_with_its_own_timestamp() {
    let (sim, dir) = (
        in_process_sim(&static_sim(3, 300)),
        tempfile::tempdir().unwrap(),
    );
    let exporter = start_exporter(&sim, &dir, &[]).await;
    exporter.wait_polled(3).await;
    sim.with_world(|world| {
        let org = world.org_ids()[0].clone();
        world.create_key(&org, "new").unwrap();
    });
    let before = exporter.wait_polled_again().await;
    exporter.advance(Duration::from_mins(1)).await;
    exporter.kill().await;
    // Atlas is down while the exporter restarts.
    for endpoint in [
        KEYS,
        SimEndpoint::Token,
        SimEndpoint::Orgs,
        SimEndpoint::RateLimits,
    ] {
        sim.add_fault(Fault {
            endpoint,
            ..outage_fault(503)
        });
    }
    let exporter = start_exporter(&sim, &dir, &[]).await;
    let after = exporter.scrape();
    assert_eq!(after.values(RESTORED), [1.0, 1.0, 1.0]);
    assert_eq!(after.values(SUCCESS), before.values(SUCCESS));
    assert_eq!(exposed_keys(&after), exposed_keys(&before));
    assert_eq!(
        exporter.readiness().0,
        200,
        "ready with the stored inventory"
    );
    let changes = "mongodbatlas_ai_model_api_key_changes_total";
    assert_eq!(after.sum(changes), 1.0);
    assert_eq!(after.sum(changes), before.sum(changes));
    for name in [
        "organization_info",
        "project_info",
        "ai_model_rate_limit_tokens_per_minute",
    ] {
        let name = format!("mongodbatlas_{name}");
        assert_eq!(
            after.with_name(&name).count(),
            before.with_name(&name).count(),
            "{name}"
        );
        assert!(after.with_name(&name).count() > 0);
    }
    exporter.advance(Duration::from_hours(1)).await;
    let failed = exporter.count_responses(503);
    assert!(failed > 10, "{failed} failed requests");
    let later = exporter.scrape();
    assert_eq!(later.values(RESTORED), [1.0, 1.0, 1.0]);
    assert_eq!(later.values(UP), [0.0, 0.0, 0.0]);
    assert_eq!(
        later.values(SUCCESS),
        before.values(SUCCESS),
        "the age of the data is exported"
    );
    sim.clear_faults();
    let healed = exporter.wait_polled(3).await;
    assert_eq!(healed.values(RESTORED), [0.0, 0.0, 0.0]);
    assert_eq!(
        healed.sum(changes),
        1.0,
        "changes are counted since the stored inventory"
    );
    assert_eq!(exposed_keys(&healed), expected_sim_keys(&sim));
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn poll_schedule_survives_restart() {
    let (sim, dir) = (
        in_process_sim(&static_sim(1, 10)),
        tempfile::tempdir().unwrap(),
    );
    let exporter = start_exporter(&sim, &dir, &[]).await;
    exporter.wait_polled(1).await;
    exporter.wait_polled_again().await;
    let last = exporter.requests_to(KEYS).last().unwrap().at;
    exporter.advance(Duration::from_secs(100)).await;
    exporter.stop().await;
    let exporter = start_exporter(&sim, &dir, &[]).await;
    exporter.wait_polled_again().await;
    let next = exporter.requests_to(KEYS).last().unwrap().at;
    let pause = next.duration_since(last).as_secs();
    assert!((299..=301).contains(&pause), "{pause}");
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn revoked_token_is_not_loaded() {
    let (sim, dir) = (
        in_process_sim(&static_sim(1, 10)),
        tempfile::tempdir().unwrap(),
    );
    let exporter = start_exporter(&sim, &dir, &[]).await;
    exporter.wait_polled(1).await;
    let tokens = || {
        let names = std::fs::read_dir(dir.path()).unwrap();
        names
            .filter(|entry| {
                entry
                    .as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .starts_with("token")
            })
            .count()
    };
    assert_eq!(tokens(), 1);
    exporter.stop().await;
    assert_eq!((tokens(), sim.live_token_count()), (0, 0));
    // A token that Atlas revoked during the restart costs one more request, and no failed poll.
    let exporter = start_exporter(&sim, &dir, &[]).await;
    exporter.wait_polled_again().await;
    exporter.kill().await;
    let issued = count_token_requests(&sim);
    sim.revoke_all_tokens();
    let exporter = start_exporter(&sim, &dir, &[]).await;
    let scrape = exporter.wait_polled_again().await;
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
        0.0
    );
    assert_eq!(exporter.count_responses(401), 1);
    assert_eq!(count_token_requests(&sim), issued + 1);
    exporter.stop().await;
}

/// Returns the number of token requests.
fn count_token_requests(sim: &SimHandle) -> usize {
    let requests = sim.requests();
    requests
        .iter()
        .filter(|request| request.endpoint == SimEndpoint::Token)
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_process_restores_its_state() {
    let sim = crate::common::start_sim(static_sim(2, 200)).await;
    let dir = tempfile::tempdir().unwrap();
    let mut variables = sim_env(&sim);
    // As set by systemd.
    variables.push((
        "STATE_DIRECTORY".into(),
        dir.path().to_str().unwrap().into(),
    ));
    let line = [
        "--web.listen-address=127.0.0.1:0",
        "--atlas.poll-interval=1s",
    ];
    let mut program = ChildProcess::exporter(&line, &variables);
    let address = program.wait_for_output("address=");
    let restorable = |scrape: &Scrape| scrape.values(UP) == [1.0, 1.0];
    program.wait_scrape(&address, "two polls", restorable).await;
    let stored = || {
        let exists = |org: &String| dir.path().join(format!("{org}.inventory")).exists();
        sim.org_ids().iter().filter(|org| exists(org)).count()
    };
    eventually("two state files", async || match stored() {
        2 => Ok(()),
        files => Err(files),
    })
    .await;
    program.signal(Signal::KILL);
    program.wait_exit();
    let expected = expected_sim_keys(&sim);
    sim.stop().await;
    let mut program = ChildProcess::exporter(&line, &variables);
    let address = program.wait_for_output("address=");
    let scrape = Scrape::parse(&get(&format!("http://{address}/metrics")).await.1);
    assert_eq!(scrape.values(RESTORED), [1.0, 1.0]);
    assert_eq!(exposed_keys(&scrape), expected);
    assert_eq!(get(&format!("http://{address}/-/ready")).await.0, 200);
    program.signal(Signal::TERM);
    let (code, output, _) = program.wait_exit();
    assert_eq!(code, Some(0), "{output}");
}
