//! Invalid configuration: all errors at once, each with its source, the value and the expected value.

mod locations;
mod truncated;

use std::path::Path;

use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{ChildProcess, sim_env, static_sim};
use atlas_ai_keys_exporter::cli::Args;
use atlas_ai_keys_exporter::config::Config;
use atlas_ai_keys_exporter::credentials::Environment;
use mongodb_atlas_client::OrgId;
use secrecy::ExposeSecret as _;

fn env_vars(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn expect_failure(arguments: &[&str], pairs: &[(&str, &str)]) -> (Option<i32>, String) {
    let (code, output, _) = ChildProcess::exporter(arguments, &env_vars(pairs)).wait_exit();
    (code, output)
}

const VALID_ENV: &[(&str, &str)] = &[
    ("MONGODB_ATLAS_ORG_ID", "32b6e34b3d91647abb20e7b8"),
    ("MONGODB_ATLAS_ACCESS_TOKEN", "token"),
];

#[test]
fn all_configuration_errors_are_listed() {
    let (code, output) = expect_failure(
        &[
            "--atlas.org-id=nonsense",
            "--atlas.base-url=http://cloud.mongodb.com",
            "--atlas.api-version=latest",
            "--atlas.timeout=-1s",
            "--atlas.page-size=501",
            "--metrics.idle-thresholds=7d,soon",
            "--web.listen-address=nowhere",
            "--web.telemetry-path=/",
            "--log.level=loud",
            "--log.format=xml",
        ],
        &[("ATLAS_AI_KEYS_EXPORTER_ATLAS_POLL_INTERVAL", "0s")],
    );
    assert_eq!(code, Some(2), "{output}");
    for part in [
        "--atlas.org-id: invalid value \"nonsense\": expected an organization id of 24 lower-case hexadecimal digits",
        "--atlas.base-url: invalid value \"http://cloud.mongodb.com\": expected an https URL",
        "--atlas.api-version: invalid value \"latest\": expected preview or a date",
        "environment variable ATLAS_AI_KEYS_EXPORTER_ATLAS_POLL_INTERVAL: invalid value \"0s\": expected a duration from 1s to 7d, such as 30s or 5m",
        "--atlas.timeout: invalid value \"-1s\": expected a duration from 100ms to 10m, such as 30s or 5m",
        "--atlas.page-size: invalid value \"501\": expected a whole number from 1 to 500",
        "--metrics.idle-thresholds: invalid value \"7d,soon\"",
        "--web.listen-address: invalid value \"nowhere\"",
        "--web.telemetry-path: invalid value \"/\"",
        "--log.level: invalid value \"loud\": expected one of error, warn, info, debug, trace",
        "--log.format: invalid value \"xml\": expected logfmt or json",
        "  - no credential found\n    help: set MONGODB_ATLAS_CLIENT_ID and MONGODB_ATLAS_CLIENT_SECRET",
        "invalid configuration (12 errors):",
    ] {
        assert!(output.contains(part), "{part}\n{output}");
    }
}

#[test]
fn missing_credential_lists_setup_options() {
    let (code, output) = expect_failure(&[], &VALID_ENV[..1]);
    assert_eq!(code, Some(2));
    for part in [
        "MONGODB_ATLAS_CLIENT_ID and MONGODB_ATLAS_CLIENT_SECRET (service account, recommended)",
        "MONGODB_ATLAS_PUBLIC_API_KEY and MONGODB_ATLAS_PRIVATE_API_KEY",
        "MONGODB_ATLAS_ACCESS_TOKEN",
    ] {
        assert!(output.contains(part), "{output}");
    }
}

#[test]
fn unreadable_credential_is_named_but_not_shown() {
    let (code, output) = expect_failure(
        &[],
        &[
            VALID_ENV[0],
            ("MONGODB_ATLAS_CLIENT_ID", "some-id"),
            ("MONGODB_ATLAS_CLIENT_SECRET_FILE", "/nonexistent/secret"),
        ],
    );
    assert_eq!(code, Some(2));
    assert!(
        output.contains("file /nonexistent/secret: cannot be read: file not found"),
        "{output}"
    );
    let (_, output) = expect_failure(
        &[],
        &[VALID_ENV[0], ("MONGODB_ATLAS_ACCESS_TOKEN", "tok\nen")],
    );
    assert!(
        output.contains(
            "invalid value in environment variable MONGODB_ATLAS_ACCESS_TOKEN: expected a single line of printable ASCII"
        ),
        "{output}"
    );
    assert!(
        !output.contains("tok\n") && !output.contains("tok\\n"),
        "{output}"
    );
}

#[test]
fn quoted_or_prefixed_secrets_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    for (content, cause) in [
        ("\"hunter2\"\n", "got quotes around it"),
        ("client_secret=hunter2\n", "got a name before it"),
        ("export X='hunter2'\n", "got quotes around it"),
        (
            "MONGODB_ATLAS_CLIENT_SECRET=hunter2",
            "got a name before it",
        ),
        ("{\"client_secret\": \"hunter2\"}", "got JSON"),
        ("Authorization: Bearer hunter2\n", "got a name before it"),
        ("Bearer hunter2\n", "got an Authorization header"),
    ] {
        std::fs::write(&path, content).unwrap();
        let pairs = [
            VALID_ENV[0],
            ("MONGODB_ATLAS_CLIENT_ID", "some-id"),
            ("MONGODB_ATLAS_CLIENT_SECRET_FILE", path.to_str().unwrap()),
        ];
        for arguments in [&[][..], &["check", "--offline", "--output=json"]] {
            let (code, output) = expect_failure(arguments, &pairs);
            assert_eq!(code, Some(2), "{output}");
            assert!(
                output.contains(cause) && !output.contains("hunter2"),
                "{content}: {output}"
            );
            assert!(output.contains(path.to_str().unwrap()), "{output}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whitespace_around_secrets_is_ignored() {
    let sim = in_process_sim(&static_sim(1, 5));
    let account = sim.credentials();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, format!("\u{feff} \t{}\r\n\n", account.client_secret)).unwrap();
    let mut variables = sim_env(&sim);
    variables.retain(|(name, _)| !name.starts_with("MONGODB_ATLAS_CLIENT"));
    let id = format!(" {}\n", account.client_id);
    variables.push(("MONGODB_ATLAS_CLIENT_ID".to_owned(), id));
    let path = path.display().to_string();
    variables.push(("MONGODB_ATLAS_CLIENT_SECRET_FILE".to_owned(), path));
    let exporter = SimHarness::start_with(&sim, variables, &[]).await;
    exporter.wait_polled(1).await;
    assert_eq!(exporter.count_responses(401), 0);
    exporter.stop().await;
}

/// Writes a file that only the owner can read.
fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, mode).unwrap();
}

/// Runs the exporter with a pipe as standard input, as process substitution does.
fn run_with_fifo(arguments: &[&str], pairs: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"));
    command
        .args(arguments)
        .env_clear()
        .envs(pairs.iter().copied());
    let (code, stdout, stderr) = crate::common::run_command(&mut command, b"hunter2\n");
    (code, stdout + &stderr)
}

#[test]
fn fifo_secret_files_are_rejected() {
    let secret = [
        VALID_ENV[0],
        ("MONGODB_ATLAS_CLIENT_ID", "some-id"),
        ("MONGODB_ATLAS_CLIENT_SECRET_FILE", "/dev/stdin"),
    ];
    for command in [&[][..], &["once"], &["keys"], &["check", "--offline"]] {
        let config = [command, &["--config.file=/dev/stdin"]].concat();
        for (code, output) in [
            run_with_fifo(command, &secret),
            run_with_fifo(&config, VALID_ENV),
        ] {
            assert_eq!(code, Some(2), "{command:?}: {output}");
            // The table of `check` wraps lines.
            let words = output.replace(['|', '\u{2502}', '\u{2506}'], " ");
            let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
            let expected = "expected a regular file, got a pipe, which can be read only once";
            assert!(words.contains(expected), "{command:?}: {output}");
        }
    }
}

#[test]
fn configuration_file_values_are_read_verbatim() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yml");
    let ids = [
        "123456789012345678901234",
        "012345678901234567890123",
        "12345678901e345678901234",
    ];
    for (name, quote) in [
        ("1.10", ""),
        ("0123", ""),
        ("no", ""),
        ("1e3", ""),
        ("~", "'"),
        (".inf", ""),
    ] {
        for orgs in [
            format!("[{}]", ids.join(", ")),
            format!("\n      - {}", ids.join("\n      - ")),
        ] {
            let text = format!(
                "credentials:\n  - name: {quote}{name}{quote}\n    access_token: 0x10\n    discover_orgs: Yes\n    org_ids: {orgs}\n"
            );
            write_private(&file, &text);
            let args = Args::parse(["x", &format!("--config.file={}", file.display())]).unwrap();
            let config = Config::load(&args, &Environment::from_vars([("X", "y")])).unwrap();
            let account = &config.credentials[0];
            let watched: Vec<&str> = account.org_ids.iter().map(OrgId::as_str).collect();
            assert_eq!(watched, ids, "{text}");
            assert_eq!(&*account.name, name);
            assert!(account.discover_orgs);
            let secret = account.credential.secret().read().unwrap();
            assert_eq!(secret.expose_secret(), "0x10");
        }
    }
}

#[test]
fn organization_ids_are_required_and_unique() {
    let (code, output) = expect_failure(&[], &VALID_ENV[1..]);
    assert_eq!(code, Some(2));
    assert!(
        output.contains(
            "no organization to watch with credential default\n    help: set --atlas.org-id"
        ),
        "{output}"
    );
    let twice = "32b6e34b3d91647abb20e7b8,32b6e34b3d91647abb20e7b8";
    let (code, output) = expect_failure(&[], &[("MONGODB_ATLAS_ORG_ID", twice), VALID_ENV[1]]);
    assert_eq!(code, Some(2));
    assert!(
        output.contains("environment variable MONGODB_ATLAS_ORG_ID: duplicate organization id \"32b6e34b3d91647abb20e7b8\""),
        "{output}"
    );
}

#[test]
fn unknown_flags_and_commands_are_rejected() {
    for arguments in [
        &["--no-such-flag"][..],
        &["no-such-command"],
        &["--sim.seed", "1"],
        &["--atlas.client-secret", "x"],
    ] {
        let (code, output) = expect_failure(arguments, VALID_ENV);
        assert_eq!(code, Some(2), "{output}");
        assert!(output.contains(arguments[0]), "{output}");
    }
}

#[test]
fn sim_command_rejects_invalid_flags() {
    let (code, output) = expect_failure(
        &[
            "sim",
            "--sim.seed=x",
            "--sim.orgs=0",
            "--sim.scenario=storm",
            "--sim.speed=-1",
        ],
        &[],
    );
    assert_eq!(code, Some(2));
    for part in [
        "invalid command line (4 errors):\n  - --sim.seed: invalid value \"x\"",
        "--sim.orgs",
        "calm, stale, outage, throttled, revoked, churn, expiring",
        "--sim.speed",
    ] {
        assert!(output.contains(part), "{output}");
    }
}

#[test]
fn help_lists_every_flag_with_default_and_variable() {
    let (code, output) = expect_failure(&["--help"], &[]);
    assert_eq!(code, Some(0));
    for flag in atlas_ai_keys_exporter::cli::FLAGS {
        let shown = if flag.value_name.is_empty() {
            format!("--{}[=<BOOL>]", flag.name)
        } else {
            format!("--{} <{}>", flag.name, flag.value_name)
        };
        assert!(output.contains(&shown), "{shown}");
        assert!(output.contains(flag.env), "{}", flag.env);
        let default = flag.default.map(|default| format!("[default: {default}]"));
        assert!(
            default.is_none_or(|default| output.contains(&default)),
            "{}",
            flag.name
        );
    }
    let (code, output) = expect_failure(&["--version"], &[]);
    assert_eq!(code, Some(0));
    assert!(output.contains(env!("CARGO_PKG_VERSION")), "{output}");
}
