//! Truncated configuration files at startup and at a reload.

use super::{VALID_ENV, expect_failure, write_private};
use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{expected_sim_keys, exposed_keys, static_sim};

/// A secret in place of a key.
const MISPLACED_SECRET: &str = "mdb_sa_sk_do-not-show";

/// Returns truncated and otherwise incomplete configuration files, each with a part of the expected error.
fn truncated_files() -> Vec<(String, &'static str)> {
    let secret = MISPLACED_SECRET;
    vec![
        (String::new(), "is empty: expected fields"),
        ("# comment\n".to_owned(), "is empty: expected fields"),
        ("web:\n".to_owned(), "expected fields, got nothing"),
        (
            "credentials: []\n".to_owned(),
            "expected at least one credential",
        ),
        ("credentials:\n".to_owned(), "expected a list"),
        (
            "credentials: [{client_id: x, client_secret_file: [x]}]\n".to_owned(),
            "expected a text, got a list",
        ),
        (
            "credentials: [{name: [a], access_token: x}]\n".to_owned(),
            "expected a text, got a list",
        ),
        (
            format!("credentials: [{{\"client_secret:{secret}\": \"\"}}]\n"),
            "unknown field: expected one of",
        ),
        (
            format!("credentials: [{{client_id: x, client_secret:{secret}: }}]\n"),
            "unknown field: expected one of",
        ),
        (format!("{secret}: x\n"), "unknown field: expected one of"),
        (
            format!("web: {{{secret}: x}}\n"),
            "unknown field: expected one of",
        ),
    ]
}

#[test]
fn truncated_configuration_file_is_rejected_without_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yml");
    let flag = format!("--config.file={}", file.display());
    for (text, expected) in truncated_files() {
        write_private(&file, &text);
        let (code, output) = expect_failure(&[&flag], VALID_ENV);
        assert_eq!(code, Some(2), "{text}: {output}");
        assert!(output.contains(expected), "{text}: {output}");
        assert!(!output.contains("do-not-show"), "{output}");
    }
}

#[test]
fn unusable_configuration_file_is_a_configuration_error() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write_private(&at("empty.yml"), "");
    write_private(&at("list.yml"), "- x\n");
    write_private(&at("invalid.yml"), "web: [\n");
    for (name, cause) in [
        ("missing.yml", "cannot be read: file not found"),
        ("", "cannot be read: expected a regular file"),
        ("empty.yml", "file is empty: expected fields"),
        ("list.yml", "expected fields (atlas, "),
        ("invalid.yml", "invalid YAML"),
    ] {
        let file = at(name).display().to_string();
        for command in [&[][..], &["once"], &["keys", "--from-storage"]] {
            let flags = [command, &["--config.file", &file]].concat();
            let expected = format!("invalid configuration (1 error):\n  - {file}: {cause}");
            // The missing values may be in the file, so only the file is reported.
            let id = [("MONGODB_ATLAS_CLIENT_ID", "id")];
            for environment in [VALID_ENV, &VALID_ENV[..1], &VALID_ENV[1..], &id, &[]] {
                let (code, output) = expect_failure(&flags, environment);
                assert_eq!(code, Some(2), "{flags:?}: {output}");
                assert!(output.contains(&expected), "{flags:?}: {output}");
            }
        }
    }
    for environment in [VALID_ENV, &[]] {
        let (code, output) = expect_failure(&["--config.file="], environment);
        assert_eq!(code, Some(2), "{output}");
        let expected = "invalid command line (1 error):\n  - --config.file: invalid value \"\": expected a file path\n";
        assert!(output.contains(expected), "{output}");
    }
}

#[tokio::test(start_paused = true)]
async fn reload_of_truncated_configuration_file_changes_nothing() {
    const RELOADED: &str = "atlas_ai_keys_exporter_config_last_reload_successful";
    let sim = in_process_sim(&static_sim(1, 20));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yml");
    let account = sim.credentials();
    write_private(&dir.path().join("secret"), &account.client_secret);
    let valid = format!(
        "credentials:\n- client_id: {}\n  client_secret_file: secret\n  org_ids: ['{}']\natlas:\n  base_url: {}\n",
        account.client_id,
        sim.org_ids()[0],
        sim.base_url()
    );
    write_private(&file, &valid);
    let flag = format!("--config.file={}", file.display());
    let variables = vec![("X".to_owned(), "y".to_owned())];
    let exporter = SimHarness::start_with(&sim, variables, &[&flag]).await;
    exporter.wait_polled(1).await;
    for (text, expected) in truncated_files() {
        write_private(&file, &text);
        let errors = exporter.reloader.reload("test").await.unwrap_err();
        assert!(errors.contains(expected), "{text}: {errors}");
        assert!(!errors.contains("do-not-show"), "{errors}");
        let scrape = exporter.wait_polled_again().await;
        assert_eq!(scrape.get(RELOADED, &[]), Some(0.0), "{text}");
        assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim), "{text}");
        assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_up"), 1.0, "{text}");
    }
    write_private(&file, &valid);
    exporter.reloader.reload("test").await.unwrap();
    assert_eq!(exporter.scrape().get(RELOADED, &[]), Some(1.0));
    exporter.stop().await;
}
