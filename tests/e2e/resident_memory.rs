//! Memory of the static release binary, which the environment variable `EXPORTER` names. `make memory` builds it, and `make release`
//! measures the packaged one.
use std::process::Command;

use crate::common::{ChildProcess, eventually, get, sim_env};
use mongodb_atlas_sim::SimConfig;

/// Maximum resident memory with 1,200 keys, in KiB.
const MAX_RESIDENT_KIB: u64 = 16 << 10;

fn memory_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the static binary, which takes minutes to build; run by `make memory`"]
async fn memory_for_1200_keys_is_below_16_mib() {
    let sim = crate::common::start_sim(SimConfig::default()).await;
    let binary = std::env::var_os("EXPORTER").expect("EXPORTER, the binary to measure");
    let mut command = Command::new(binary);
    command
        .args([
            "--web.listen-address=127.0.0.1:0",
            "--atlas.poll-interval=1s",
            "--log.level=debug",
        ])
        .env_clear()
        .envs(sim_env(&sim));
    let mut exporter = ChildProcess::start(command);
    let address = exporter.wait_for_output("address=");
    for _ in 0..200 {
        get(&format!("http://{address}/metrics")).await;
    }
    eventually("nine polls", async || {
        let polls = exporter.output().matches("poll succeeded").count();
        (polls >= 9).then_some(()).ok_or(polls)
    })
    .await;
    let (now, max) = (
        memory_kib(exporter.pid(), "VmRSS:"),
        memory_kib(exporter.pid(), "VmHWM:"),
    );
    assert!(now > 0 && max >= now, "{now} KiB now, {max} KiB at most");
    assert!(max < MAX_RESIDENT_KIB, "{now} KiB now, {max} KiB at most");
    sim.stop().await;
}
