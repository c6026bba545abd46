//! `keys --output commands`: commands that a shell runs.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::{expected_ids, successful_stdout};
use crate::common::{error_fault, run_command, run_exporter, sim_env, static_sim};
use atlas_ai_keys_exporter::inventory::{ApiKey, ApiTime, Inventory};
use atlas_ai_keys_exporter::storage::{Storage, StoredInventory};
use jiff::{SignedDuration, Timestamp};
use mongodb_atlas_client::{KeyId, OrgId, ProjectId};
use mongodb_atlas_sim::{SimEndpoint, SimHandle, SimKey};

/// Inserts a changed copy of the first key, last used 100 days ago. Returns the project of the copy.
fn insert_key(sim: &SimHandle, change: impl FnOnce(&mut SimKey)) -> String {
    sim.with_world(|world| {
        let org = world.org_ids().remove(0);
        let at = Timestamp::now() - SignedDuration::from_hours(100 * 24);
        let mut key = SimKey {
            last_used: Some(at),
            created: at,
            status: "ACTIVE".to_owned(),
            ..world.keys(&org)[0].clone()
        };
        change(&mut key);
        let project = key.project.clone();
        world.insert_key(&org, key);
        project
    })
}

/// Runs a script with a fake `atlas` first on the path. Returns the arguments of each call.
fn run_script(script: &str, dir: &Path) -> Vec<Vec<String>> {
    let file = dir.join("commands.sh");
    std::fs::write(&file, script).unwrap();
    let checked = run_command(Command::new("sh").arg("-n").arg(&file), &[]);
    assert_eq!(checked, (Some(0), String::new(), String::new()), "{script}");
    let atlas = dir.join("atlas");
    std::fs::write(
        &atlas,
        "#!/bin/sh\nfor argument; do printf '%s\\0' \"$argument\"; done >> \"$CALLS\"\nprintf '\\n' >> \"$CALLS\"\n",
    )
    .unwrap();
    std::fs::set_permissions(&atlas, std::fs::Permissions::from_mode(0o755)).unwrap();
    let calls = dir.join("calls");
    let mut command = Command::new("sh");
    command
        .arg(&file)
        .current_dir(dir)
        .env("PATH", format!("{}:/usr/bin:/bin", dir.display()))
        .env("CALLS", &calls);
    let run = run_command(&mut command, &[]);
    assert_eq!(run, (Some(0), String::new(), String::new()), "{script}");
    let text = std::fs::read_to_string(&calls).unwrap_or_default();
    let calls = text.lines().map(|line| {
        let arguments = line.split_terminator('\0');
        arguments.map(str::to_owned).collect()
    });
    calls.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_never_run_ids_and_names_in_a_shell() {
    let sim = crate::common::start_sim(static_sim(1, 3)).await;
    let hostile = [
        "$(touch canary)",
        "`touch canary`",
        "\ntouch canary\n",
        "'; touch canary; '",
        "\"; touch canary; \"",
        "# touch canary",
        "& touch canary &",
        "| touch canary",
        "\r\ntouch canary\r\n",
        "\u{2028}touch canary",
        "\u{85}touch canary",
        "\u{202e}yranac hcuot",
        "\\\ntouch canary",
        "> canary",
        "--apiKeyId other",
        "-x",
        "$CALLS",
        "*",
        "~",
        "!!",
        "a b",
        "a.b",
    ];
    let mut expected = Vec::new();
    for (index, text) in hostile.iter().enumerate() {
        let id = format!("plain_{index}-");
        let project = insert_key(&sim, |key| {
            key.id.clone_from(&id);
            (*text).clone_into(&mut key.name);
        });
        expected.push((project, id));
        insert_key(&sim, |key| (*text).clone_into(&mut key.id));
        insert_key(&sim, |key| {
            key.id = format!("project{index}");
            (*text).clone_into(&mut key.project);
        });
    }
    let flags = ["keys", "--output=commands", "--idle=99d"];
    let output = run_exporter(&flags, sim_env(&sim)).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    let refused = 2 * hostile.len();
    assert!(
        error.contains(&format!("no command for {refused} keys")),
        "{error}"
    );
    let script = String::from_utf8(output.stdout).unwrap();
    let letters = script.chars().filter(|letter| *letter != '\n');
    let is_unsafe =
        |letter: char| letter.is_control() || "\u{2028}\u{2029}\u{202e}".contains(letter);
    assert!(!letters.clone().any(is_unsafe), "{script:?}");
    assert_eq!(script.matches("# refused, ").count(), refused, "{script}");
    let dir = tempfile::tempdir().unwrap();
    let calls: BTreeSet<Vec<String>> = run_script(&script, dir.path()).into_iter().collect();
    let own = sim.with_world(|world| {
        let org = world.org_ids().remove(0);
        let keys: Vec<SimKey> = world.keys(&org)[..3].to_vec();
        keys
    });
    let limit = Timestamp::now() - SignedDuration::from_hours(99 * 24);
    let own = own
        .into_iter()
        .filter(|key| key.last_used.unwrap_or(key.created) <= limit);
    expected.extend(own.map(|key| (key.project, key.id)));
    let expected: BTreeSet<Vec<String>> = expected
        .into_iter()
        .map(|(project, id)| {
            let words = [
                "api",
                "aiModelApiKeys",
                "deleteGroupModelKey",
                "--groupId",
                &project,
                "--apiKeyId",
                &id,
            ];
            words.map(str::to_owned).to_vec()
        })
        .collect();
    assert_eq!(calls, expected, "{script}");
    assert!(!dir.path().join("canary").exists(), "{script}");
    sim.stop().await;
}

/// Returns the ids of the keys that a script deletes.
fn deleted_ids(script: &str) -> BTreeSet<String> {
    let commands = script.lines().filter(|line| line.starts_with("atlas "));
    let ids = commands.map(|line| line.split(' ').nth(7).unwrap().to_owned());
    ids.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_exclude_keys_in_use_and_exempt_keys() {
    let sim = crate::common::start_sim(static_sim(2, 400)).await;
    for (flags, words) in [
        (&[][..], "expected --idle, --never-used or --status"),
        (
            &["--project=x", "--owner=y"],
            "expected --idle, --never-used or --status",
        ),
        (&["--idle=0s"], "expected --idle, --never-used or --status"),
        (
            &["--idle=9d", "--group-by=owner"],
            "commands cannot be grouped",
        ),
    ] {
        let flags = [&["keys", "--output=commands"], flags].concat();
        let output = run_exporter(&flags, sim_env(&sim)).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(words) && output.stdout.is_empty(), "{error}");
    }
    let days = |days: i64| Timestamp::now() - SignedDuration::from_hours(days * 24);
    let idle_since = |key: &SimKey| key.last_used.unwrap_or(key.created);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yml");
    let flag = format!("--config.file={}", file.display());
    std::fs::write(&file, "exemptions: []\n").unwrap();
    let run = async |flags: &[&str]| {
        let flags = [&["keys", "--output=commands", &flag], flags].concat();
        successful_stdout(&run_exporter(&flags, sim_env(&sim)).await)
    };
    // Without --idle, commands include only keys idle for 30 days.
    let script = run(&["--status=active"]).await;
    let is_old = |key: &SimKey| key.status == "ACTIVE" && idle_since(key) <= days(30);
    let old = expected_ids(&sim, is_old);
    assert_eq!(deleted_ids(&script), old);
    let never = deleted_ids(&run(&["--never-used", "--idle=1d"]).await);
    let is_never_used = |key: &SimKey| key.last_used.is_none() && key.created <= days(1);
    assert_eq!(never, expected_ids(&sim, is_never_used));
    let first = script.lines().next().unwrap();
    for words in [
        "# Review each line before running this file with sh.",
        "Project Owner or Project Model Owner",
        "the exporter's credential should not have",
        "the exporter never writes to Atlas",
    ] {
        assert!(first.contains(words), "{first}");
    }
    assert_eq!(
        deleted_ids(&run(&["--idle=30d", "--limit=3"]).await).len(),
        3
    );
    // An exempt key never has a command.
    let exempt = old.first().unwrap();
    let policy = format!("exemptions:\n- {{key: {exempt}, reason: drill, until: 9999-06-30}}\n");
    std::fs::write(&file, policy).unwrap();
    for (flags, count) in [
        (&["--status=active"][..], 0),
        (&["--status=active", "--include-exempt"], 1),
    ] {
        let script = run(flags).await;
        let mut expected = old.clone();
        expected.remove(exempt);
        assert_eq!(deleted_ids(&script), expected);
        let reason = format!("# exempt until 9999-06-30, drill: key {exempt} in project ");
        assert_eq!(script.matches(&reason).count(), count, "{script}");
    }
    // An exemption by project cannot be applied without the names of the projects.
    std::fs::write(
        &file,
        "exemptions:\n- {name: '*', project: 'x-*', reason: drill, until: 9999-06-30}\n",
    )
    .unwrap();
    assert_eq!(deleted_ids(&run(&["--status=active"]).await), old);
    sim.add_fault(error_fault(SimEndpoint::Groups, None, 403));
    let flags = ["keys", "--output=commands", &flag, "--status=active"];
    let output = run_exporter(&flags, sim_env(&sim)).await;
    let script = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{script}");
    assert!(deleted_ids(&script).is_empty(), "{script}");
    assert_eq!(
        script.matches("# refused, project name unknown").count(),
        old.len()
    );
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_require_recent_data() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(dir.path()).unwrap();
    let now = Timestamp::now();
    for (org, hours) in [
        ("0000000000000000000000aa", 23),
        ("0000000000000000000000bb", 25),
    ] {
        let key = ApiKey {
            id: KeyId::new(format!("key{hours}")),
            project: ProjectId::new("1"),
            created: ApiTime::Valid(now - SignedDuration::from_hours(1000 * 24)),
            ..ApiKey::default()
        };
        let polled_at = now - SignedDuration::from_hours(hours);
        let org = OrgId::parse(org).unwrap();
        let inventory = Inventory::from_records(org, polled_at, [key]);
        let stored = StoredInventory {
            inventory: Arc::new(inventory),
            requests: 1,
            change_counts: [].into(),
        };
        storage.save_inventory(&stored).unwrap();
    }
    let path = format!("--storage.path={}", dir.path().display());
    let flags = ["keys", "--from-storage", &path, "--never-used"];
    let text = successful_stdout(&run_exporter(&flags, vec![]).await);
    assert!(text.contains("2 of 2 keys"), "{text}");
    let output = run_exporter(&[&flags[..], &["--output=commands"]].concat(), vec![]).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains(
            "0000000000000000000000bb (stored data is too old for commands: 1 day 1 hour)"
        ),
        "{error}"
    );
    let script = String::from_utf8(output.stdout).unwrap();
    assert_eq!(deleted_ids(&script), BTreeSet::from(["key23".to_owned()]));
}
