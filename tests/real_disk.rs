//! A disk that is full, and one that is read-only, in a mount of the process' own: the exporter
//! warns, counts, and goes on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod common;

use std::process::Command;
use std::time::Instant;

use common::{Program, Scrape, get, shown, sim_variables, still, world};
use rustix::process::Signal;

/// The exporter with its state on a file system that `mount` makes at `$DIR`.
async fn on_a_disk(mount: &str) {
    let sim = common::sim(still(1, 600)).await;
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "set -e\n{mount}\nexec '{}' --web.listen-address=127.0.0.1:0 --atlas.poll-interval=1s --storage.path=\"$DIR\"",
        env!("CARGO_BIN_EXE_atlas-ai-keys-exporter")
    );
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command
        .args(["--mount", "sh", "-c", &script])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("DIR", dir.path())
        .envs(sim_variables(&sim));
    let mut program = Program::start(command);
    let address = program.wait_for("address=");
    let begun = Instant::now();
    let scrape = loop {
        let scrape = Scrape::parse(&get(&format!("http://{address}/metrics")).await.1);
        if scrape.sum("atlas_ai_keys_exporter_storage_failures_total") >= 3.0 {
            break scrape;
        }
        assert!(begun.elapsed() < common::PATIENCE, "{}", program.output());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    assert_eq!(shown(&scrape), world(&sim));
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_up"), 1.0);
    program.signal(Signal::TERM);
    let (code, output, _) = program.finish();
    assert_eq!(code, Some(0), "{output}");
    let warning = "what is read is not kept for the next start";
    assert_eq!(output.matches(warning).count(), 1, "told once:\n{output}");
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_no_outage() {
    on_a_disk("mount -t tmpfs -o size=64k tmpfs \"$DIR\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_is_no_outage() {
    on_a_disk("mount -t tmpfs tmpfs \"$DIR\"\nmount -o remount,ro \"$DIR\"").await;
}
