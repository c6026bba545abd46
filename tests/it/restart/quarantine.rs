//! Quarantined state files, and state files of removed organizations.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use super::state_files::place_obstacle;
use super::{RESTORED, UP};
use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{
    ChildProcess, Scrape, eventually, expected_sim_keys, exposed_keys, sim_env, static_sim,
};
use atlas_ai_keys_exporter::inventory::{ApiKey, Inventory, OrgDetails};
use atlas_ai_keys_exporter::storage::{ChangeCounts, StateFile, Storage, StoredInventory};
use jiff::Timestamp;
use mongodb_atlas_client::OrgId;
use rustix::process::Signal;
use tempfile::TempDir;

fn state_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_none_or(|suffix| suffix != "tmp"))
        .collect();
    paths.sort();
    paths
}

/// Runs the exporter until its state is stored, kills it, and changes each state file with `damage`. Then runs it again: it
/// must quarantine each file with a warning, and poll. Returns the files and the directory.
async fn restart_with_damaged_files(damage: impl Fn(usize, &Path)) -> (Vec<PathBuf>, TempDir) {
    let sim = crate::common::start_sim(static_sim(1, 20)).await;
    let dir = tempfile::tempdir().unwrap();
    let storage = format!("--storage.path={}", dir.path().display());
    let line = ["--web.listen-address=127.0.0.1:0", &storage];
    let mut program = ChildProcess::exporter(&line, &sim_env(&sim));
    program.wait_for_output("address=");
    // Inventory, names, credential and token.
    let mut files = eventually("four state files", async || {
        let mut files = state_files(dir.path());
        // A backoff is stored while a poll is in progress.
        files.retain(|path| path.extension() != Some("deferred".as_ref()));
        if files.len() == 4 {
            Ok(files)
        } else {
            Err(format!("{files:?}"))
        }
    })
    .await;
    program.signal(Signal::KILL);
    program.wait_exit();
    let deferred = dir.path().join(format!("{}.deferred", sim.org_ids()[0]));
    std::fs::write(
        &deferred,
        r#"{"until":"2026-01-01T00:00:00Z","backoff":{}}"#,
    )
    .unwrap();
    files.push(deferred);
    for (index, path) in files.iter().enumerate() {
        damage(index, path);
    }
    let mut program = ChildProcess::exporter(&line, &sim_env(&sim));
    let address = program.wait_for_output("address=");
    let polled = program.wait_scrape(&address, "a poll", |scrape| scrape.values(UP) == [1.0]);
    let scrape = polled.await;
    assert_eq!(scrape.values(RESTORED), [0.0]);
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    program.signal(Signal::TERM);
    let (code, output, _) = program.wait_exit();
    assert_eq!(code, Some(0), "{output}");
    let warnings: Vec<&str> = output
        .lines()
        .filter(|line| line.contains("ignoring invalid state file"))
        .collect();
    assert_eq!(warnings.len(), files.len(), "{output}");
    for path in &files {
        let quarantined = format!("quarantined_as={}", quarantine_path(path).display());
        let path = format!("path={} ", path.display());
        let warned = warnings.iter().filter(|line| {
            line.contains("level=warn") && line.contains(&path) && line.contains(&quarantined)
        });
        assert_eq!(warned.count(), 1, "{path}: {output}");
    }
    sim.stop().await;
    (files, dir)
}

fn quarantine_path(path: &Path) -> PathBuf {
    format!("{}.refused", path.display()).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_state_files_are_quarantined_with_a_warning() {
    let halves = Mutex::new(Vec::new());
    let truncate = |_, path: &Path| {
        let whole = std::fs::read(path).unwrap();
        let half = &whole[..whole.len() / 2];
        std::fs::write(path, half).unwrap();
        halves.lock().unwrap().push(half.to_vec());
    };
    let (files, _dir) = restart_with_damaged_files(truncate).await;
    for (path, half) in files.iter().zip(halves.into_inner().unwrap()) {
        assert_eq!(std::fs::read(quarantine_path(path)).unwrap(), half);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn obstacles_at_state_file_paths_are_quarantined_with_a_warning() {
    let outside = tempfile::tempdir().unwrap();
    let outside = outside.path().join("outside");
    std::fs::write(&outside, "precious").unwrap();
    let obstacles = [
        "a pipe",
        "a directory",
        "a link to a device",
        "a link to another file",
        "a huge file",
    ];
    let place = |index: usize, path: &Path| place_obstacle(path, obstacles[index], &outside);
    let (files, _dir) = restart_with_damaged_files(place).await;
    assert_eq!(files.len(), obstacles.len());
    assert_eq!(std::fs::read(&outside).unwrap(), b"precious");
}

/// Returns the names of the state files that start with this id.
fn files_of(dir: &Path, org: &str) -> BTreeSet<String> {
    let names = state_files(dir).into_iter();
    let names = names.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
    names.filter(|name| name.starts_with(org)).collect()
}

#[tokio::test(start_paused = true)]
async fn removed_organization_leaves_no_state() {
    let (sim, dir) = (
        in_process_sim(&static_sim(2, 40)),
        tempfile::tempdir().unwrap(),
    );
    let orgs = sim.org_ids();
    let mut variables = sim_env(&sim);
    variables.retain(|(name, _)| name != "MONGODB_ATLAS_ORG_ID");
    let storage = format!("--storage.path={}", dir.path().display());
    let flags = ["--atlas.discover-orgs", &storage];
    let exporter = SimHarness::start_with(&sim, variables.clone(), &flags).await;
    exporter.wait_polled(2).await;
    exporter.advance(Duration::from_secs(30)).await;
    let names = |org: &str| ["details", "inventory"].map(|kind| format!("{org}.{kind}"));
    for org in &orgs {
        assert_eq!(files_of(dir.path(), org), names(org).into());
    }
    sim.with_world(|world| world.mark_org_deleted(&orgs[0]));
    let polled = |scrape: &Scrape| scrape.values(UP) == [1.0];
    exporter.wait_until("one organization", polled).await;
    exporter.advance(Duration::from_mins(11)).await;
    exporter.kill().await;
    assert_eq!(files_of(dir.path(), &orgs[0]), [].into());
    assert_eq!(files_of(dir.path(), &orgs[1]), names(&orgs[1]).into());
    let exporter = SimHarness::start_with(&sim, variables, &flags).await;
    assert_eq!(
        exporter.scrape().values(RESTORED),
        [1.0],
        "the other organization"
    );
    exporter.stop().await;
}

#[test]
fn remove_org_continues_after_an_error_and_removes_no_other_files() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(dir.path()).unwrap();
    let orgs = [1, 2].map(|number| OrgId::parse(&format!("{number:024x}")).unwrap());
    for org in &orgs {
        let inventory =
            Inventory::from_records(org.clone(), Timestamp::UNIX_EPOCH, [ApiKey::default()]);
        let stored = StoredInventory {
            inventory: inventory.into(),
            requests: 1,
            change_counts: ChangeCounts::new(),
        };
        storage.save_inventory(&stored).unwrap();
        for file in [StateFile::Details, StateFile::Backoff] {
            storage
                .save(&file(org.clone()), &OrgDetails::default())
                .unwrap();
        }
    }
    let token = StateFile::Token("default".into());
    storage.save(&token, &"token").unwrap();
    // A directory with the name of a state file cannot be removed.
    let obstacle = storage.path(&StateFile::Details(orgs[0].clone()));
    std::fs::remove_file(&obstacle).unwrap();
    std::fs::create_dir(&obstacle).unwrap();
    storage.remove_org(&orgs[0]);
    let left = [1, 2].map(|number| files_of(dir.path(), &format!("{number:024x}")).len());
    assert_eq!(left, [1, 3]);
    assert!(obstacle.is_dir());
    assert_eq!(storage.list_orgs().unwrap(), [orgs[1].clone()]);
    assert!(storage.load_inventory(&orgs[0]).is_none());
    assert!(storage.load_inventory(&orgs[1]).is_some());
    assert_eq!(storage.load(&token), Some("token".to_owned()));
    std::fs::remove_dir(&obstacle).unwrap();
    storage.remove_org(&orgs[0]);
    storage.remove_org(&orgs[0]);
    assert_eq!(state_files(dir.path()).len(), 4);
}
