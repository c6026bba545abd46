//! State files: permissions, corruption, obstacles.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use super::{KEYS, ORG, RESTORED, UP, count_token_requests, start_exporter};
use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{
    ChildProcess, Scrape, expected_sim_keys, exposed_keys, make_fifo, sim_env, static_sim,
};
use atlas_ai_keys_exporter::storage::Storage;
use mongodb_atlas_sim::{Effect, Fault};
use rustix::process::Signal;

#[tokio::test(start_paused = true)]
async fn state_files_are_private_and_contain_only_exported_data() {
    let (sim, dir) = (
        in_process_sim(&static_sim(2, 60)),
        tempfile::tempdir().unwrap(),
    );
    sim.add_fault(Fault::new(KEYS, Effect::Secret));
    let exporter = start_exporter(&sim, &dir, &[]).await;
    exporter.wait_polled(2).await;
    exporter.advance(Duration::from_secs(30)).await;
    exporter.kill().await;
    let account = sim.credentials();
    let mut files = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        let text = std::fs::read_to_string(&path).unwrap();
        for part in [
            "al-",
            "Ada Example",
            "Grace Example",
            "createdBy",
            "maskedSecret",
            &account.client_secret,
            &account.client_id,
            &account.private_key,
        ] {
            assert!(!text.contains(part), "{part} in {}", path.display());
        }
        files += 1;
    }
    assert_eq!(
        files, 6,
        "two files per organization, one of the credential and one of its token"
    );
}

#[tokio::test(start_paused = true)]
async fn corrupt_state_files_are_quarantined() {
    let (sim, dir) = (
        in_process_sim(&static_sim(1, 20)),
        tempfile::tempdir().unwrap(),
    );
    let org = sim.org_ids()[0].clone();
    let exporter = start_exporter(&sim, &dir, &[]).await;
    exporter.wait_polled(1).await;
    exporter.advance(Duration::from_secs(30)).await;
    exporter.kill().await;
    let file = dir.path().join(format!("{org}.inventory"));
    let whole = std::fs::read(&file).unwrap();
    let newer =
        String::from_utf8(whole.clone())
            .unwrap()
            .replacen("\"version\":1", "\"version\":7", 1);
    for invalid in [
        &whole[..whole.len() / 2],
        b"",
        b"something else\n",
        &[0xff; 100],
        newer.as_bytes(),
    ] {
        std::fs::write(&file, invalid).unwrap();
        let exporter = start_exporter(&sim, &dir, &[]).await;
        let quarantined = dir.path().join(format!("{org}.inventory.refused"));
        assert_eq!(std::fs::read(&quarantined).unwrap(), invalid);
        assert_eq!(exporter.readiness().0, 503);
        let scrape = exporter.wait_polled(1).await;
        assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
        assert_eq!(scrape.values(RESTORED), [0.0]);
        exporter.advance(Duration::from_secs(1)).await;
        exporter.kill().await;
        assert!(file.exists(), "the next poll is stored again");
    }
    // Every other file in the directory, valid or not.
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        std::fs::write(entry.unwrap().path(), "{").unwrap();
    }
    let exporter = start_exporter(&sim, &dir, &[]).await;
    exporter.wait_polled(1).await;
    exporter.stop().await;
}

/// Replaces a file with an obstacle.
pub(super) fn place_obstacle(path: &Path, obstacle: &str, outside: &Path) {
    let content = std::fs::read(path).unwrap_or_default();
    let _ = std::fs::remove_file(path);
    match obstacle {
        "a link to a copy of the file" => {
            std::fs::write(outside.with_extension("copy"), content).unwrap();
            std::os::unix::fs::symlink(outside.with_extension("copy"), path).unwrap();
        }
        "a directory" => std::fs::create_dir_all(path.join("not empty")).unwrap(),
        "a pipe" => make_fifo(path),
        "a link to a device" => std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        "a link to another file" => std::os::unix::fs::symlink(outside, path).unwrap(),
        "a link to nothing" => std::os::unix::fs::symlink("nothing", path).unwrap(),
        "a socket" => drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
        "a huge file" => std::fs::File::create(path)
            .unwrap()
            .set_len(1 << 40)
            .unwrap(),
        "a line without end" => std::fs::File::create(path)
            .unwrap()
            .set_len(1 << 30)
            .unwrap(),
        _ => panic!("{obstacle}"),
    }
}

#[tokio::test(start_paused = true)]
async fn obstacles_at_state_file_paths_are_quarantined_and_not_followed() {
    let (sim, dir) = (
        in_process_sim(&static_sim(1, 20)),
        tempfile::tempdir().unwrap(),
    );
    let outside = dir.path().with_extension("outside");
    std::fs::write(&outside, "precious").unwrap();
    let exporter = start_exporter(&sim, &dir, &[]).await;
    exporter.wait_polled(1).await;
    exporter.advance(Duration::from_secs(30)).await;
    exporter.kill().await;
    let org = sim.org_ids()[0].clone();
    let mut files: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(files.len(), 4, "{files:?}");
    // The inventory is obstructed last, so its copy remains.
    files.sort_by_key(|path| path.extension().is_none_or(|end| end != "inventory"));
    files.push(dir.path().join(format!("{org}.deferred")));
    for obstacle in [
        "a directory",
        "a pipe",
        "a link to a device",
        "a link to another file",
        "a link to nothing",
        "a link to a copy of the file",
        "a socket",
        "a huge file",
        "a line without end",
    ] {
        for file in files.iter().rev() {
            place_obstacle(file, obstacle, &outside);
        }
        let exporter = start_exporter(&sim, &dir, &[]).await;
        assert_eq!(
            exporter.readiness().0,
            503,
            "{obstacle}: nothing is restored"
        );
        exporter.wait_polled(1).await;
        exporter.advance(Duration::from_secs(30)).await;
        let scrape = exporter.scrape();
        assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim), "{obstacle}");
        let failures = scrape.sum("atlas_ai_keys_exporter_storage_failures_total");
        assert_eq!(failures, 0.0, "{obstacle}");
        exporter.kill().await;
        for file in &files[..4] {
            let data = std::fs::symlink_metadata(file).unwrap();
            assert!(
                data.is_file() && data.len() < 100_000,
                "{obstacle}: {}",
                file.display()
            );
        }
    }
    assert_eq!(std::fs::read(&outside).unwrap(), b"precious");
    std::fs::remove_file(&outside).unwrap();
    std::fs::remove_file(outside.with_extension("copy")).unwrap();
}

#[test]
fn only_own_temporary_files_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365);
    let write = |name: &str, old: Option<std::time::SystemTime>| {
        let file = std::fs::File::create(dir.path().join(name)).unwrap();
        if let Some(old) = old {
            file.set_modified(old).unwrap();
        }
    };
    let own = [
        format!("{ORG}.0123456789abcdef.tmp"),
        "token-0.0123456789abcdef.tmp".to_owned(),
        "credential-0.0123456789abcdef.tmp".to_owned(),
    ];
    let others = [
        "database.tmp",
        "a.0123456789abcdef.tmp",
        "x.1-0.tmp",
        "notes.txt",
    ];
    for name in &own {
        write(name, Some(old));
    }
    for name in others {
        write(name, Some(old));
    }
    let young = format!("{ORG}.fedcba9876543210.tmp");
    write(&young, None);
    Storage::open(dir.path()).unwrap();
    let exists = |name: &str| dir.path().join(name).exists();
    assert!(
        own.iter().all(|name| !exists(name)),
        "file of a killed process"
    );
    assert!(others.iter().all(|name| exists(name)) && exists(&young));
}

#[tokio::test(start_paused = true)]
async fn accessible_token_file_is_not_used() {
    let (sim, dir) = (
        in_process_sim(&static_sim(1, 10)),
        tempfile::tempdir().unwrap(),
    );
    let mut issued = Vec::new();
    for mode in [0o600, 0o640, 0o604] {
        let exporter = start_exporter(&sim, &dir, &[]).await;
        exporter.advance(Duration::from_mins(6)).await;
        exporter.kill().await;
        issued.push(count_token_requests(&sim));
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.to_string_lossy().contains("token-") {
                let mode = std::fs::Permissions::from_mode(mode);
                std::fs::set_permissions(path, mode).unwrap();
            }
        }
    }
    let exporter = start_exporter(&sim, &dir, &[]).await;
    exporter.advance(Duration::from_mins(6)).await;
    issued.push(count_token_requests(&sim));
    assert_eq!(
        issued,
        [1, 1, 2, 3],
        "0600 is used again, 0640 and 0604 are not"
    );
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn world_writable_state_directory_logs_a_warning() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let dir = tempfile::tempdir().unwrap();
    let storage = format!("--storage.path={}", dir.path().display());
    let warning = "state directory is world-writable";
    for (mode, warned) in [
        (0o777, true),
        (0o1777, true),
        (0o703, true),
        (0o770, false),
        (0o700, false),
    ] {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(dir.path(), mode.clone()).unwrap();
        let line = ["--web.listen-address=127.0.0.1:0", &storage];
        let mut program = ChildProcess::exporter(&line, &sim_env(&sim));
        program.wait_for_output("address=");
        program.signal(Signal::TERM);
        let (code, output, _) = program.wait_exit();
        assert_eq!(code, Some(0), "{output}");
        assert_eq!(output.contains(warning), warned, "{mode:?}: {output}");
        let check = ["check", "--offline", "--output=json", &storage];
        let output = crate::common::run_exporter(&check, sim_env(&sim)).await;
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{text}");
        let found = text.contains("directory is world-writable");
        assert_eq!(found, warned, "{mode:?}: {text}");
    }
    sim.stop().await;
}

#[tokio::test(start_paused = true)]
async fn write_failures_are_counted_until_writes_succeed() {
    let (sim, dir) = (
        in_process_sim(&static_sim(1, 20)),
        tempfile::tempdir().unwrap(),
    );
    let exporter = start_exporter(&sim, &dir, &[]).await;
    exporter.wait_polled(1).await;
    let failures = "atlas_ai_keys_exporter_storage_failures_total";
    let last_failed = "atlas_ai_keys_exporter_storage_last_write_failed";
    assert_eq!(exporter.scrape().sum(failures), 0.0);
    assert_eq!(exporter.scrape().values(last_failed), [0.0]);
    std::fs::remove_dir_all(dir.path()).unwrap();
    std::fs::write(dir.path(), "a file, not a directory").unwrap();
    exporter.advance(Duration::from_mins(30)).await;
    let scrape = exporter.scrape();
    assert!(scrape.sum(failures) >= 5.0, "{}", scrape.sum(failures));
    assert_eq!(scrape.sum(UP), 1.0);
    assert_eq!(scrape.values(last_failed), [1.0]);
    std::fs::remove_file(dir.path()).unwrap();
    std::fs::create_dir(dir.path()).unwrap();
    exporter.advance(Duration::from_mins(11)).await;
    let before = exporter.scrape().sum(failures);
    assert_eq!(exporter.scrape().values(last_failed), [0.0]);
    let polls = exporter.requests_to(KEYS).len();
    exporter.advance(Duration::from_mins(11)).await;
    assert_eq!(
        exporter.scrape().sum(failures),
        before,
        "no further failures"
    );
    assert!(exporter.requests_to(KEYS).len() >= polls + 2);
    let inventory = dir.path().join(format!("{}.inventory", sim.org_ids()[0]));
    assert!(inventory.is_file());
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn last_write_failed_is_1_until_every_failed_file_is_written() {
    let (sim, dir) = (
        in_process_sim(&static_sim(2, 20)),
        tempfile::tempdir().unwrap(),
    );
    let without_storage = SimHarness::start(&sim, &[]).await;
    let last_failed = "atlas_ai_keys_exporter_storage_last_write_failed";
    let scrape = without_storage.wait_polled(2).await;
    assert_eq!(scrape.values(last_failed), [0.0; 0], "no state directory");
    without_storage.stop().await;

    // A non-empty directory cannot be replaced by a file.
    let orgs = sim.org_ids();
    let obstruct = |name: &str| {
        let path = dir.path().join(format!("{}.{name}", orgs[0]));
        place_obstacle(&path, "a directory", dir.path());
        path
    };
    let mut variables = sim_env(&sim);
    variables.retain(|(name, _)| name != "MONGODB_ATLAS_ORG_ID");
    let storage = format!("--storage.path={}", dir.path().display());
    let flags = ["--atlas.discover-orgs", &storage];
    let exporter = SimHarness::start_with(&sim, variables, &flags).await;
    assert_eq!(exporter.scrape().values(last_failed), [0.0], "at the start");
    // Obstacles at the start would be quarantined.
    exporter.wait_polled(2).await;
    let obstacles = ["inventory", "details"].map(obstruct);
    let failed = |scrape: &Scrape| scrape.values(last_failed) == [1.0];
    let written = |scrape: &Scrape| scrape.values(last_failed) == [0.0];
    exporter.wait_until("a failed write", failed).await;
    // Names are polled once an hour. Meanwhile the inventory of the other organization is written at each poll.
    exporter.advance(Duration::from_mins(65)).await;
    assert_eq!(exporter.scrape().values(last_failed), [1.0]);
    std::fs::remove_dir_all(&obstacles[0]).unwrap();
    exporter.advance(Duration::from_mins(11)).await;
    assert!(obstacles[0].is_file());
    assert_eq!(
        exporter.scrape().values(last_failed),
        [1.0],
        "one failed file remains"
    );
    // Written with the next inventory, although names are polled once an hour.
    std::fs::remove_dir_all(&obstacles[1]).unwrap();
    exporter.advance(Duration::from_mins(6)).await;
    assert!(obstacles[1].is_file());
    assert_eq!(exporter.scrape().values(last_failed), [0.0]);

    // A file of an organization that is no longer polled does not count.
    obstruct("inventory");
    exporter.wait_until("a failed write", failed).await;
    sim.with_world(|world| world.mark_org_deleted(&orgs[0]));
    exporter.wait_until("the removal", written).await;
    exporter.stop().await;
}
