//! Log messages.

use std::time::{Duration, Instant};

use super::SHUTDOWN_TIMEOUT;
use crate::common::{ChildProcess, Scrape, error_fault, get, sim_env, static_sim};
use mongodb_atlas_sim::{BucketConfig, SimConfig, SimEndpoint};
use rustix::process::Signal;

#[tokio::test(flavor = "multi_thread")]
async fn key_changes_are_logged() {
    let sim = crate::common::start_sim(static_sim(1, 40)).await;
    let org = sim.org_ids()[0].clone();
    let line = [
        "--web.listen-address=127.0.0.1:0",
        "--atlas.poll-interval=1s",
    ];
    let mut program = ChildProcess::exporter(&line, &sim_env(&sim));
    program.wait_for_output("walk complete");
    let (key, project) = sim.with_world(|world| {
        let key = world.keys(&org)[5].clone();
        world.rename_key(&org, &key.id, "a name that is nobody's business");
        (key.id, key.project)
    });
    let line = program.wait_for_output("message=\"key changed\"");
    for part in [
        format!("org={org}"),
        format!("project={project}"),
        format!("key={key}"),
        "change=renamed".to_owned(),
    ] {
        assert!(line.contains(&part), "{part} in {line}");
    }
    assert!(!program.output().contains("nobody's business"), "ids alone");
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn extended_poll_interval_is_logged_once() {
    let sim = crate::common::start_sim(SimConfig {
        org_bucket: BucketConfig::SMALLEST,
        ..static_sim(2, 20)
    })
    .await;
    let line = [
        "--web.listen-address=127.0.0.1:0",
        "--atlas.poll-interval=2s",
        "--atlas.page-size=3",
    ];
    let mut program = ChildProcess::exporter(&line, &sim_env(&sim));
    let line = program.wait_for_output("walking less often");
    assert!(line.contains("asked=2s"), "{line}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    program.signal(Signal::TERM);
    let (code, output, _) = program.wait_exit();
    assert_eq!(code, Some(0), "{output}");
    assert_eq!(output.matches("walking less often").count(), 1, "{output}");
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routine_polls_are_logged_at_debug_and_changes_at_info() {
    let sim = crate::common::start_sim(static_sim(2, 20)).await;
    let line = [
        "--web.listen-address=127.0.0.1:0",
        "--atlas.poll-interval=1s",
    ];
    let mut quiet = ChildProcess::exporter(&line, &sim_env(&sim));
    let mut verbose = ChildProcess::exporter(
        &[&line[..], &["--log.level=debug"]].concat(),
        &sim_env(&sim),
    );
    let polls = |program: &ChildProcess| program.output().matches("walk complete").count();
    quiet.wait_for_output("walk complete");
    let wait_for_polls = async |program: &ChildProcess, least: usize| {
        let started_at = std::time::Instant::now();
        while polls(program) < least {
            assert!(
                started_at.elapsed() < crate::common::wait_timeout(),
                "{}",
                program.output()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // Three polls of each organization by one exporter, and as much time for the other.
    wait_for_polls(&verbose, 6).await;
    wait_for_polls(&quiet, 2).await;
    assert_eq!(polls(&quiet), 2, "the first of each: {}", quiet.output());
    let org = sim.org_ids().remove(0);
    sim.add_fault(error_fault(SimEndpoint::AiModelApiKeys, Some(&org), 500));
    quiet.wait_for_output("poll failed");
    verbose.wait_for_output("poll failed");
    sim.clear_faults();
    wait_for_polls(&quiet, 3).await;
    let recovered = quiet.output();
    let last = recovered
        .lines()
        .rfind(|line| line.contains("walk complete"));
    assert!(last.is_some_and(|line| line.contains(&org)), "{recovered}");
    let before = polls(&verbose);
    wait_for_polls(&verbose, before + 4).await;
    assert_eq!(polls(&quiet), 3, "{}", quiet.output());
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_stderr_does_not_stop_the_exporter() {
    let sim = crate::common::start_sim(static_sim(2, 20)).await;
    let (_unread, mut full) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&full, true).unwrap();
    while std::io::Write::write(&mut full, &[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&full, false).unwrap();
    let address = format!("127.0.0.1:{}", crate::common::free_port());
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"));
    command
        .args(["--web.listen-address", &address, "--log.level=debug"])
        .arg("--atlas.poll-interval=1s")
        .env_clear()
        .envs(sim_env(&sim))
        .stderr(full);
    let mut child = command.spawn().unwrap();
    let started_at = Instant::now();
    let metrics = format!("http://{address}/metrics");
    let polled = async || {
        crate::common::try_get_status(&metrics).await?;
        let (_, text) = get(&metrics).await;
        let scrape = Scrape::parse(&text);
        Some(scrape.values("atlas_ai_keys_exporter_org_up") == [1.0; 2])
    };
    while polled().await != Some(true) {
        assert!(started_at.elapsed() < crate::common::wait_timeout());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let signalled = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(
            signalled.elapsed() < crate::common::wait_timeout(),
            "it does not end"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        signalled.elapsed() < SHUTDOWN_TIMEOUT,
        "{:?}",
        signalled.elapsed()
    );
    sim.stop().await;
}
