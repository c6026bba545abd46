//! A process killed while it writes its state.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::ORG;
use atlas_ai_keys_exporter::inventory::{ApiKey, Inventory};
use atlas_ai_keys_exporter::storage::{ChangeCounts, Storage, StoredInventory};
use jiff::Timestamp;
use mongodb_atlas_client::{KeyId, OrgId, ProjectId};

const WRITER_ENV: &str = "TEST_WRITES_STATE_TO";

const CHILD: &str = "restart::interrupted_write::state_writer_child";

/// Printed by the child process after each version.
const SAVED_MARKER: u8 = 1;

fn numbered_inventory(number: u64) -> Inventory {
    let records: Vec<ApiKey> = (0..400)
        .map(|n| ApiKey {
            id: KeyId::new(format!("key{n}")),
            project: ProjectId::new("p"),
            name: format!("version {number}"),
            ..ApiKey::default()
        })
        .collect();
    let at = Timestamp::from_second(i64::try_from(number).unwrap()).unwrap();
    Inventory::from_records(OrgId::parse(ORG).unwrap(), at, records)
}

/// Not a test: the child process of [`interrupted_write_leaves_old_or_new_state`],
/// which writes versions until it is killed.
#[test]
#[ignore = "started by interrupted_write_leaves_old_or_new_state"]
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
        let stored = StoredInventory {
            inventory: numbered_inventory(number).into(),
            requests: 1,
            change_counts: ChangeCounts::from([("version".to_owned(), number)]),
        };
        storage.save_inventory(&stored).unwrap();
        // The test harness captures printed text, but not direct writes.
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
            .args(["--ignored", "--exact", CHILD])
            .env(WRITER_ENV, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut written = std::io::BufReader::new(child.stdout.take().unwrap()).bytes();
        assert!(
            written.any(|byte| byte.unwrap() == SAVED_MARKER),
            "the child has written one version"
        );
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..5_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let Some(stored) = storage.load_inventory(&org) else {
            assert_eq!(last, None, "the previous state is lost");
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
