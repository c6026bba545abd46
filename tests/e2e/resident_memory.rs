//! Memory of the release binary. `make memory` runs this, and so does `make release`.
use std::process::Command;

use crate::common::{Program, get, sim_variables};
use mongodb_atlas_sim::SimConfig;

/// The most that 1,200 keys may take, in KiB.
const BOUND: u64 = 16 << 10;

fn resident(pid: u32, member: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with(member))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a bound of the release binary, which takes minutes to build; `make memory` runs it"]
async fn twelve_hundred_keys_fit_into_sixteen_mebibytes() {
    let sim = crate::common::sim(SimConfig::default()).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"));
    command
        .args([
            "--web.listen-address=127.0.0.1:0",
            "--atlas.poll-interval=1s",
            "--log.level=debug",
        ])
        .env_clear()
        .envs(sim_variables(&sim));
    let mut exporter = Program::start(command);
    let address = exporter.wait_for("address=");
    for _ in 0..200 {
        get(&format!("http://{address}/metrics")).await;
    }
    let begun = std::time::Instant::now();
    while exporter.output().matches("walk complete").count() < 9 {
        assert!(begun.elapsed() < crate::common::PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let (now, most) = (
        resident(exporter.pid(), "VmRSS:"),
        resident(exporter.pid(), "VmHWM:"),
    );
    assert!(most < BOUND, "{now} KiB now, {most} KiB at most");
    sim.stop().await;
}
