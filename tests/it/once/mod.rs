//! `once`: one poll, for cron and the textfile collector. Also tests help, manual page and completions.

mod help;
mod output_file;

use std::fs;
use std::process::Output;
use std::sync::Arc;

use crate::common::sim_harness::{client_clock, in_process_sim};
use crate::common::sim_transport::SimTransport;
use crate::common::{
    ChildProcess, Scrape, TestExporter, error_fault, expected_sim_keys, exposed_keys, run_exporter,
    sim_env, static_sim,
};
use atlas_ai_keys_exporter::app::{ConfigLoader, Dependencies, Exporter};
use atlas_ai_keys_exporter::cli::Args;
use atlas_ai_keys_exporter::config::Config;
use atlas_ai_keys_exporter::credentials::Environment;
use atlas_ai_keys_exporter::failure::Explanation;
use mongodb_atlas_client::{FailureReason, Transport};
use mongodb_atlas_sim::{BucketConfig, Effect, Fault, SimConfig, SimEndpoint, SimHandle};
use tokio_util::sync::CancellationToken;

fn parse_stdout(output: &Output) -> Scrape {
    Scrape::parse(&String::from_utf8(output.stdout.clone()).unwrap())
}

async fn start_sim_with_orgs(orgs: usize) -> SimHandle {
    crate::common::start_sim(static_sim(orgs, 60)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn once_writes_metrics_and_exits() {
    let sim = start_sim_with_orgs(3).await;
    let output = run_exporter(&["once"], sim_env(&sim)).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{error}");
    let scrape = parse_stdout(&output);
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    assert_eq!(scrape.values("atlas_ai_keys_exporter_org_up"), [1.0; 3]);
    assert_eq!(scrape.values("mongodbatlas_organization_info"), [1.0; 3]);
    assert!(
        !scrape.text.contains("process_"),
        "process metrics are not written"
    );
    assert_eq!(sim.live_token_count(), 0, "the token is revoked");
    sim.stop().await;
}

fn stderr_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Returns the environment of an exporter with discovery.
fn discovery_env(sim: &SimHandle) -> Vec<(String, String)> {
    let mut variables = sim_env(sim);
    variables.retain(|(name, _)| name != "MONGODB_ATLAS_ORG_ID");
    let discover = "ATLAS_AI_KEYS_EXPORTER_ATLAS_DISCOVER_ORGS";
    variables.push((discover.to_owned(), "true".to_owned()));
    variables
}

#[tokio::test(flavor = "multi_thread")]
async fn once_writes_nothing_without_data_for_every_organization() {
    let sim = start_sim_with_orgs(3).await;
    let org = sim.org_ids().remove(1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.prom");
    let before = "mongodbatlas_ai_model_api_keys 1200\n";
    fs::write(&path, before).unwrap();
    let flag = format!("--output={}", path.display());
    let keys = SimEndpoint::AiModelApiKeys;
    let cases = [
        (
            org.as_str(),
            error_fault(keys, Some(&org), 403),
            sim_env(&sim),
        ),
        (org.as_str(), error_fault(keys, None, 500), sim_env(&sim)),
        (
            org.as_str(),
            error_fault(SimEndpoint::Token, None, 401),
            sim_env(&sim),
        ),
        (
            org.as_str(),
            Fault::new(keys, Effect::InvalidJson),
            sim_env(&sim),
        ),
        (
            "the organizations of credential default",
            error_fault(SimEndpoint::Orgs, None, 403),
            discovery_env(&sim),
        ),
    ];
    for (missing, fault, variables) in cases {
        sim.add_fault(fault.clone());
        let to_file = run_exporter(&["once", &flag], variables.clone()).await;
        let to_stdout = run_exporter(&["once"], variables).await;
        sim.clear_faults();
        for (output, words) in [
            (&to_file, "was not changed"),
            (&to_stdout, "nothing was written"),
        ] {
            let error = stderr_text(output);
            assert_eq!(output.status.code(), Some(1), "{fault:?}: {error}");
            assert!(output.stdout.is_empty(), "{fault:?}");
            for words in ["no data for", missing, words] {
                assert!(error.contains(words), "{fault:?}: {words}: {error}");
            }
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), before, "{fault:?}");
    }
    // A credential without access gets an empty list, which is not an error.
    for org in sim.org_ids() {
        sim.with_world(|world| world.set_org_visible(&org, false));
    }
    for command in [vec!["once", &flag], vec!["once"], vec!["keys"]] {
        let output = run_exporter(&command, discovery_env(&sim)).await;
        let error = stderr_text(&output);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {error}");
        assert!(error.contains("no organizations found"), "{error}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn once_writes_stored_data_when_a_poll_fails() {
    let storage = tempfile::tempdir().unwrap();
    let path = storage.path().display().to_string();
    let exporter = TestExporter::start(static_sim(2, 60), &["--storage.path", &path]).await;
    exporter.wait_polled_with_names().await;
    let sim = exporter.stop().await;
    let org = sim.org_ids().remove(0);
    sim.add_fault(error_fault(SimEndpoint::AiModelApiKeys, Some(&org), 403));
    // The test uses a copy, because the stopped exporter can still complete a write to the state directory.
    let copy = tempfile::tempdir().unwrap();
    let mut state = Vec::new();
    for entry in fs::read_dir(storage.path()).unwrap() {
        let entry = entry.unwrap();
        let path = copy.path().join(entry.file_name());
        fs::copy(entry.path(), &path).unwrap();
        state.push((path.clone(), fs::read(path).unwrap()));
    }
    let path = copy.path().display().to_string();
    let output = run_exporter(&["once", "--storage.path", &path], sim_env(&sim)).await;
    let error = stderr_text(&output);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("wrote stored data for") && error.contains(&org),
        "{error}"
    );
    let scrape = parse_stdout(&output);
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    assert_eq!(scrape.poll_failures(&org, "forbidden"), 1.0);
    let of_org = |name: &str| {
        let name = format!("atlas_ai_keys_exporter_org_{name}");
        scrape.get(&name, &[("org_id", &org)]).unwrap()
    };
    assert_eq!((of_org("up"), of_org("inventory_restored")), (0.0, 1.0));
    assert!(of_org("last_success_timestamp_seconds") < of_org("last_attempt_timestamp_seconds"));
    assert!(state.len() >= 2, "an inventory of each organization");
    let files = state.len();
    state.retain(|(path, content)| fs::read(path).is_ok_and(|now| now == *content));
    assert_eq!(state.len(), files, "a file was changed");
    assert_eq!(
        fs::read_dir(copy.path()).unwrap().count(),
        files,
        "unchanged"
    );
    // Data older than the staleness limit is not exported.
    let flags = ["once", "--storage.path", &path, "--atlas.max-staleness=1ms"];
    let output = run_exporter(&flags, sim_env(&sim)).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty() && stderr_text(&output).contains("nothing was written"));
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_shot_commands_log_no_retry() {
    let config = SimConfig {
        org_bucket: BucketConfig::new(10, 5),
        ..static_sim(3, 60)
    };
    let sim = crate::common::start_sim(config).await;
    let promises = [
        "retry_in",
        "again",
        "walking less often",
        "still stands",
        "watched on",
    ];
    for (endpoint, message, variables) in [
        (SimEndpoint::AiModelApiKeys, "poll failed", sim_env(&sim)),
        (
            SimEndpoint::Orgs,
            "organization discovery failed",
            discovery_env(&sim),
        ),
    ] {
        let org = sim.org_ids().remove(0);
        let of_org = (endpoint == SimEndpoint::AiModelApiKeys).then_some(org.as_str());
        sim.add_fault(error_fault(endpoint, of_org, 403));
        for command in ["once", "keys"] {
            let interval = "--atlas.poll-interval=1s";
            let error = stderr_text(&run_exporter(&[command, interval], variables.clone()).await);
            let line = error.lines().find(|line| line.contains(message));
            let line = line.unwrap_or_else(|| panic!("{command}: {error}"));
            assert!(line.contains("reason=forbidden"), "{line}");
            let remedy = Explanation::for_reason(FailureReason::Forbidden).remedy;
            assert!(line.replace("\\'", "'").contains(remedy), "{line}");
            assert_eq!(error.matches(message).count(), 1, "{command}: {error}");
            for promise in promises {
                assert!(!error.contains(promise), "{command}: {promise}: {error}");
            }
        }
        // The exporter without a command retries, and logs the delay.
        let address = "--web.listen-address=127.0.0.1:0";
        let mut program = ChildProcess::exporter(&[address], &variables);
        assert!(
            program.wait_for_output(message).contains("retry_in="),
            "{}",
            program.output()
        );
        drop(program);
        sim.clear_faults();
    }
    sim.stop().await;
}

#[tokio::test(start_paused = true)]
async fn once_polls_each_organization_exactly_once() {
    let sim = in_process_sim(&static_sim(2, 20));
    let mut orgs = sim.org_ids();
    orgs.sort();
    let keys = SimEndpoint::AiModelApiKeys;
    sim.add_fault(error_fault(keys, Some(&orgs[0]), 403));
    let slow = Fault::new(keys, Effect::Delay { seconds: 900.0 });
    let org = Some(orgs[1].clone());
    sim.add_fault(Fault { org, ..slow });
    let environment = Environment::from_vars(sim_env(&sim));
    let args = Args::parse(["x", "--atlas.timeout=10m"]).unwrap();
    let load: ConfigLoader =
        Arc::new(move || Config::load(&args, &environment).map(Config::for_one_shot));
    let config = load().unwrap();
    let wire = Arc::clone(&sim);
    let dependencies = Dependencies {
        clock: client_clock(&sim),
        transport_factory: Arc::new(move |_| {
            Ok(Arc::new(SimTransport(Arc::clone(&wire))) as Arc<dyn Transport>)
        }),
        load_config: load,
    };
    let exporter = Exporter::start(config, dependencies).await.unwrap();
    let started_at = tokio::time::Instant::now();
    let result = exporter.run_once(CancellationToken::new(), |_| {}).await;
    assert!(
        started_at.elapsed() >= std::time::Duration::from_mins(10),
        "{:?}",
        started_at.elapsed()
    );
    assert_eq!(result.failed_targets, orgs);
    assert_eq!(result.orgs_without_data(), orgs);
    // Neither the error nor the timeout is retried. The simulated Atlas does not record a request that times out.
    assert!(
        started_at.elapsed() < std::time::Duration::from_mins(11),
        "{:?}",
        started_at.elapsed()
    );
    let requests = sim.requests().into_iter().filter(|it| it.endpoint == keys);
    let requested: Vec<_> = requests.map(|it| it.org).collect();
    assert_eq!(requested, [Some(orgs[0].clone())]);
}
