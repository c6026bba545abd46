//! A full disk, a read-only disk, and a file system that never responds, in a separate mount namespace:
//! the exporter logs a warning, counts failures, and continues; it stores everything once the disk is repaired.
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::{
    ChildProcess, Scrape, expected_sim_keys, exposed_keys, run_command, sim_env, static_sim,
    unlimited_sim,
};
use rustix::process::Signal;

/// Returns a command that runs `mount` and then the exporter in a new mount namespace, with `$DIR` set.
fn exporter_after(mount: &str, flags: &str, dir: &Path) -> Command {
    let script = format!(
        "set -e\n{mount}\nexec '{}' --web.listen-address=127.0.0.1:0 --atlas.poll-interval=1s {flags}",
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
        .env("DIR", dir);
    command
}

/// Runs a shell command in the mount namespace of the exporter.
fn run_in_namespace(program: &ChildProcess, script: &str, dir: &Path) {
    let mut command = Command::new("nsenter");
    command.arg(format!("--target={}", program.pid()));
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--preserve-credentials"]);
    }
    command
        .args(["--mount", "sh", "-c", script])
        .env("DIR", dir);
    let (code, output, error) = run_command(&mut command, &[]);
    assert_eq!(code, Some(0), "{output}{error}");
}

/// Runs the exporter with its state on a file system that `mount` creates at `$DIR`, and that `repair` repairs.
async fn run_on_failing_disk(mount: &str, repair: &str) {
    let sim = crate::common::start_sim(static_sim(1, 600)).await;
    let dir = tempfile::tempdir().unwrap();
    let mut command = exporter_after(mount, "--storage.path=\"$DIR\"", dir.path());
    command.envs(sim_env(&sim));
    let mut program = ChildProcess::start(command);
    let address = program.wait_for_output("address=");
    let last_failed = "atlas_ai_keys_exporter_storage_last_write_failed";
    let failed =
        |scrape: &Scrape| scrape.sum("atlas_ai_keys_exporter_storage_failures_total") >= 3.0;
    let scrape = program.wait_scrape(&address, "failures", failed).await;
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_up"), 1.0);
    assert_eq!(scrape.values(last_failed), [1.0]);
    run_in_namespace(&program, repair, dir.path());
    program
        .wait_scrape(&address, "every file is written", |scrape| {
            scrape.values(last_failed) == [0.0]
        })
        .await;
    let org = &sim.org_ids()[0];
    let files = format!("test -s \"$DIR/{org}.inventory\" && ls \"$DIR\"/credential-*.json");
    run_in_namespace(&program, &files, dir.path());
    program.signal(Signal::TERM);
    let (code, output, _) = program.wait_exit();
    assert_eq!(code, Some(0), "{output}");
    let warning = "failed to save state";
    assert_eq!(output.matches(warning).count(), 1, "logged once:\n{output}");
    let recovered = "saving state recovered";
    assert_eq!(output.matches(recovered).count(), 1, "{output}");
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_does_not_stop_the_exporter() {
    run_on_failing_disk(
        "mount -t tmpfs -o size=64k tmpfs \"$DIR\"",
        "mount -o remount,size=16m \"$DIR\"",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_disk_does_not_stop_the_exporter() {
    run_on_failing_disk(
        "mount -t tmpfs tmpfs \"$DIR\"\nmount -o remount,ro \"$DIR\"",
        "mount -o remount,rw \"$DIR\"",
    )
    .await;
}

/// Points a symbolic link to `target` atomically.
fn swap_symlink(link: &Path, target: &Path) {
    let new = link.with_extension("new");
    std::os::unix::fs::symlink(target, &new).unwrap();
    std::fs::rename(new, link).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_file_system_does_not_stop_the_exporter() {
    const UP: &str = "atlas_ai_keys_exporter_org_up";
    const SUCCESS: &str = "atlas_ai_keys_exporter_org_last_success_timestamp_seconds";
    let sim = crate::common::start_sim(unlimited_sim(2, 50)).await;
    let (orgs, account) = (sim.org_ids(), sim.credentials());
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["hung", "good"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    for name in ["token", "good/token"] {
        std::fs::write(at(name), &account.access_token).unwrap();
    }
    // The working directory is replaced by the hanging one while the exporter runs.
    swap_symlink(&at("link"), &at("good"));
    swap_symlink(&at("state"), &at("good"));
    let config = format!(
        "credentials:\n  - {{name: a, access_token_file: link/token, org_ids: ['{}']}}\n  - {{name: b, access_token_file: token, org_ids: ['{}']}}\n",
        orgs[0], orgs[1]
    );
    std::fs::write(at("config.yml"), config).unwrap();
    // No process serves this file system; it is unmounted when the descriptor is closed.
    let mount = "exec 3<>/dev/fuse\nmount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 hung \"$DIR/hung\"";
    let flags = "--config.file=\"$DIR/config.yml\" --storage.path=\"$DIR/state\"";
    let mut command = exporter_after(mount, flags, dir.path());
    command.env("MONGODB_ATLAS_BASE_URL", sim.base_url());
    let mut program = ChildProcess::start(command);
    let address = program.wait_for_output("address=");
    program
        .wait_scrape(&address, "both organizations", |scrape| {
            scrape.sum(UP) == 2.0
        })
        .await;
    swap_symlink(&at("link"), &at("hung"));
    let (hung, condition) = (
        [("org_id", orgs[0].as_str())],
        [("org_id", orgs[1].as_str())],
    );
    let failed = |scrape: &Scrape| scrape.get(UP, &hung) == Some(0.0);
    let before = program
        .wait_scrape(&address, "the credential cannot be read", failed)
        .await
        .get(SUCCESS, &condition)
        .expect("a success before");
    let later = |scrape: &Scrape| {
        let at = scrape.get(SUCCESS, &condition);
        at.is_some_and(|at| at > before + 2.0)
    };
    program
        .wait_scrape(&address, "polls continue with the other credential", later)
        .await;
    swap_symlink(&at("link"), &at("good"));
    program
        .wait_scrape(&address, "the credential can be read again", |scrape| {
            scrape.sum(UP) == 2.0
        })
        .await;
    swap_symlink(&at("link"), &at("hung"));
    swap_symlink(&at("state"), &at("hung"));
    tokio::time::sleep(Duration::from_millis(500)).await;
    program
        .wait_scrape(&address, "pages are served", |_| true)
        .await;
    program.signal(Signal::TERM);
    let (code, output, elapsed) = program.wait_exit();
    assert_eq!(code, Some(0), "{output}");
    // The shutdown takes at most five seconds, although the file system never responds.
    assert!(elapsed < Duration::from_secs(15), "{elapsed:?}: {output}");
    sim.stop().await;
}
