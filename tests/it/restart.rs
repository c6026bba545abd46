//! What survives a restart, and what a restart costs: nothing.
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{
    ChildProcess, Scrape, expected_sim_keys, exposed_keys, get, make_fifo, sim_env, static_sim,
};
use atlas_ai_keys_exporter::inventory::{Inventory, KeyRecord};
use atlas_ai_keys_exporter::poll::ChangeCounts;
use atlas_ai_keys_exporter::storage::{Saved, Storage};
use jiff::Timestamp;
use mongodb_atlas_client::{KeyId, OrgId, ProjectId};
use mongodb_atlas_sim::{Effect, ErrorBodyFormat, Fault, SimEndpoint, SimHandle};
use rustix::process::Signal;
use tempfile::TempDir;

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
    // Atlas is down while the exporter starts again
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
    assert_eq!(exporter.readiness().0, 200, "there is something to show");
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
    let later = exporter.scrape();
    assert_eq!(later.values(RESTORED), [1.0, 1.0, 1.0]);
    assert_eq!(later.values(UP), [0.0, 0.0, 0.0]);
    assert_eq!(
        later.values(SUCCESS),
        before.values(SUCCESS),
        "its age is visible"
    );
    sim.clear_faults();
    let healed = exporter.wait_polled(3).await;
    assert_eq!(healed.values(RESTORED), [0.0, 0.0, 0.0]);
    assert_eq!(
        healed.sum(changes),
        1.0,
        "what was kept is compared with, and counted on"
    );
    assert_eq!(exposed_keys(&healed), expected_sim_keys(&sim));
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn crash_loop_sends_no_extra_requests() {
    let (sim, dir) = (
        in_process_sim(&static_sim(4, 40)),
        tempfile::tempdir().unwrap(),
    );
    let mut variables = sim_env(&sim);
    variables.retain(|(name, _)| name != "MONGODB_ATLAS_ORG_ID");
    let storage = format!("--storage.path={}", dir.path().display());
    for round in 0..200 {
        let flags = ["--atlas.discover-orgs", &storage];
        let exporter = SimHarness::start_with(&sim, variables.clone(), &flags).await;
        exporter.advance(Duration::from_secs(15)).await;
        assert_eq!(exporter.scrape().values(UP), [1.0; 4], "start {round}");
        assert_eq!(exporter.count_responses(401), 0);
        exporter.kill().await;
    }
    let asked = |endpoint| {
        sim.requests()
            .iter()
            .filter(|asked| asked.endpoint == endpoint)
            .count()
    };
    // fifty minutes: what one process asks that runs all the time
    assert!(
        asked(SimEndpoint::Token) <= 2,
        "{}",
        asked(SimEndpoint::Token)
    );
    assert!((4 * 10..=4 * 12).contains(&asked(KEYS)), "{}", asked(KEYS));
    assert!(
        (10..=12).contains(&asked(SimEndpoint::Orgs)),
        "{}",
        asked(SimEndpoint::Orgs)
    );
    assert_eq!(asked(SimEndpoint::RateLimits), 1);
    for endpoint in [SimEndpoint::Groups, SimEndpoint::AiModelApiRateLimits] {
        assert!(asked(endpoint) <= 8, "{endpoint:?}: {}", asked(endpoint));
    }
    assert!(sim.live_token_count() <= 2);
}

#[tokio::test(start_paused = true)]
async fn crash_loop_during_outage_backs_off() {
    for code in [403, 429, 503] {
        let (sim, dir) = (
            in_process_sim(&static_sim(2, 20)),
            tempfile::tempdir().unwrap(),
        );
        let exporter = start_exporter(&sim, &dir, &[]).await;
        exporter.wait_polled(2).await;
        exporter.kill().await;
        sim.add_fault(outage_fault(code));
        let before = sim.requests().len();
        for _ in 0..120 {
            let exporter = start_exporter(&sim, &dir, &[]).await;
            exporter.advance(Duration::from_secs(30)).await;
            exporter.kill().await;
        }
        let asked = sim.requests().len() - before;
        assert!(
            asked < 120,
            "{code}: {asked} requests in an hour of 120 starts"
        );
    }
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
    // and one that Atlas has ended meanwhile costs one more request, and no walk
    let exporter = start_exporter(&sim, &dir, &[]).await;
    exporter.wait_polled_again().await;
    exporter.kill().await;
    sim.revoke_all_tokens();
    let exporter = start_exporter(&sim, &dir, &[]).await;
    let scrape = exporter.wait_polled_again().await;
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
        0.0
    );
    exporter.stop().await;
}

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
        "two of each organization, the credential's and its token's"
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
    for unfit in [
        &whole[..whole.len() / 2],
        b"",
        b"something else\n",
        &[0xff; 100],
        newer.as_bytes(),
    ] {
        std::fs::write(&file, unfit).unwrap();
        let exporter = start_exporter(&sim, &dir, &[]).await;
        let aside = dir.path().join(format!("{org}.inventory.refused"));
        assert_eq!(std::fs::read(&aside).unwrap(), unfit);
        assert_eq!(exporter.readiness().0, 503);
        let scrape = exporter.wait_polled(1).await;
        assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
        assert_eq!(scrape.values(RESTORED), [0.0]);
        exporter.advance(Duration::from_secs(1)).await;
        exporter.kill().await;
        assert!(file.exists(), "and the next walk is kept again");
    }
    // whatever else is in the directory, whole or not
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        std::fs::write(entry.unwrap().path(), "{").unwrap();
    }
    let exporter = start_exporter(&sim, &dir, &[]).await;
    exporter.wait_polled(1).await;
    exporter.stop().await;
}

/// Puts something else in the place of a file.
fn place_obstacle(path: &Path, obstacle: &str, outside: &Path) {
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
    // the inventory is the last to be obstructed, and the copy that is left
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
        "left by a process that was killed"
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
        let found = text.contains("written to by every user of this machine");
        assert_eq!(found, warned, "{mode:?}: {text}");
    }
    sim.stop().await;
}

/// Tokens that were asked for.
fn count_token_requests(sim: &SimHandle) -> usize {
    let requests = sim.requests();
    requests
        .iter()
        .filter(|asked| asked.endpoint == SimEndpoint::Token)
        .count()
}

#[tokio::test(start_paused = true)]
async fn write_failure_logs_and_increments_counter() {
    let (sim, dir) = (
        in_process_sim(&static_sim(1, 20)),
        tempfile::tempdir().unwrap(),
    );
    let exporter = start_exporter(&sim, &dir, &[]).await;
    exporter.wait_polled(1).await;
    let failures = "atlas_ai_keys_exporter_storage_failures_total";
    assert_eq!(exporter.scrape().sum(failures), 0.0);
    std::fs::remove_dir_all(dir.path()).unwrap();
    std::fs::write(dir.path(), "no directory any more").unwrap();
    exporter.advance(Duration::from_mins(30)).await;
    let scrape = exporter.scrape();
    assert!(scrape.sum(failures) >= 5.0, "{}", scrape.sum(failures));
    assert_eq!(scrape.sum(UP), 1.0);
    std::fs::remove_file(dir.path()).unwrap();
    std::fs::create_dir(dir.path()).unwrap();
    exporter.advance(Duration::from_mins(11)).await;
    let before = exporter.scrape().sum(failures);
    exporter.advance(Duration::from_mins(11)).await;
    assert_eq!(exporter.scrape().sum(failures), before, "well again");
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_process_restores_its_state() {
    let sim = crate::common::start_sim(static_sim(2, 200)).await;
    let dir = tempfile::tempdir().unwrap();
    let mut variables = sim_env(&sim);
    // as systemd tells it
    variables.push((
        "STATE_DIRECTORY".into(),
        dir.path().to_str().unwrap().into(),
    ));
    let line = [
        "--web.listen-address=127.0.0.1:0",
        "--atlas.poll-interval=1s",
    ];
    let mut program = ChildProcess::exporter(&line, &variables);
    program.wait_for_output("walk complete");
    tokio::time::sleep(Duration::from_secs(3)).await;
    program.signal(Signal::KILL);
    program.wait_exit();
    let truth = expected_sim_keys(&sim);
    sim.stop().await;
    let mut program = ChildProcess::exporter(&line, &variables);
    let address = program.wait_for_output("address=");
    let scrape = Scrape::parse(&get(&format!("http://{address}/metrics")).await.1);
    assert_eq!(scrape.values(RESTORED), [1.0, 1.0]);
    assert_eq!(exposed_keys(&scrape), truth);
    assert_eq!(get(&format!("http://{address}/-/ready")).await.0, 200);
    program.signal(Signal::TERM);
    let (code, output, _) = program.wait_exit();
    assert_eq!(code, Some(0), "{output}");
}

const ORG: &str = "32b6e34b3d91647abb20e7b8";
const WRITER_ENV: &str = "TEST_WRITES_STATE_TO";
/// What the writer writes after each version.
const SAVED_MARKER: u8 = 1;

fn numbered_inventory(number: u64) -> Inventory {
    let records: Vec<KeyRecord> = (0..400)
        .map(|n| KeyRecord {
            id: KeyId::new(format!("key{n}")),
            project: ProjectId::new("p"),
            name: format!("version {number}"),
            ..KeyRecord::default()
        })
        .collect();
    let at = Timestamp::from_second(i64::try_from(number).unwrap()).unwrap();
    Inventory::new(OrgId::parse(ORG).unwrap(), (at, at), records, 0, &[])
}

/// Not a test by itself: the process that [`interrupted_write_leaves_old_or_new_state`]
/// starts and kills. It writes one version after the other for as long as it lives.
#[test]
fn state_writer_child() {
    let Some(dir) = std::env::var_os(WRITER_ENV) else {
        return;
    };
    let storage = Storage::open(Path::new(&dir)).unwrap();
    let org = OrgId::parse(ORG).unwrap();
    let first = storage
        .load_inventory(&org)
        .map_or(0, |stored| stored.change_counts["version"] + 1);
    for number in first.. {
        let counts = ChangeCounts::from([("version".to_owned(), number)]);
        let inventory = numbered_inventory(number);
        let saved = Saved {
            inventory: &inventory,
            requests: 1,
            change_counts: &counts,
        };
        storage.save_inventory(&saved).unwrap();
        // what tests print is held back, what they write is not
        let mut stdout = std::io::stdout();
        stdout.write_all(&[SAVED_MARKER]).unwrap();
        stdout.flush().unwrap();
    }
}

#[test]
fn interrupted_write_leaves_old_or_new_state() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(dir.path()).unwrap();
    let org = OrgId::parse(ORG).unwrap();
    let mut last = None;
    let mut moved = 0;
    for _ in 0..100 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "restart::state_writer_child"])
            .env(WRITER_ENV, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut written = std::io::BufReader::new(child.stdout.take().unwrap()).bytes();
        assert!(
            written.any(|byte| byte.unwrap() == SAVED_MARKER),
            "it has written one version"
        );
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..5_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let Some(stored) = storage.load_inventory(&org) else {
            assert_eq!(last, None, "what was there is lost");
            continue;
        };
        let number = stored.change_counts["version"];
        assert!(
            last.is_none_or(|last| last <= number),
            "{last:?}, then {number}"
        );
        moved += u32::from(last != Some(number));
        last = Some(number);
        assert_eq!(stored.inventory.len(), 400);
        let name = format!("version {number}");
        assert!(stored.inventory.keys().all(|key| key.name() == name));
    }
    assert_eq!(moved, 100, "each process has written");
    let refused = std::fs::read_dir(dir.path()).unwrap().filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .path()
            .extension()
            .is_some_and(|end| end == "refused")
    });
    assert_eq!(refused.count(), 0);
}
