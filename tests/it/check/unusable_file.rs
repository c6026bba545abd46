//! `check`: configuration files that cannot be used.

use std::path::Path;

use atlas_ai_keys_exporter::check::{self, Component, Finding, Severity};
use atlas_ai_keys_exporter::cli::Args;
use atlas_ai_keys_exporter::credentials::Environment;
use mongodb_atlas_client::Clock;

use super::{run_check, secret_file, single_finding};
use crate::common::{free_port, sim_env, static_sim};

const SKIPPED: &str = "skipped: the configuration file cannot be used";

/// Writes unusable configuration files, and returns the flag for each of them.
fn unusable_files(dir: &Path) -> Vec<String> {
    let base_url = "atlas: {base_url: 'https://atlas.example'}\n";
    let files = [
        secret_file(dir, "truncated.yml", &format!("{base_url}web: [\n")),
        secret_file(dir, "duplicate.yml", &format!("{base_url}{base_url}")),
        secret_file(dir, "empty.yml", ""),
        secret_file(dir, "list.yml", "- x\n"),
        dir.join("missing.yml").display().to_string(),
        dir.display().to_string(),
        String::new(),
    ];
    files
        .map(|file| format!("--config.file={file}"))
        .into_iter()
        .collect()
}

/// Runs the checks with a complete credential in the environment, and returns whether a request was sent to Atlas. A proxy
/// receives each request.
async fn sends_request(flags: &[&str]) -> (bool, Vec<Finding>) {
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let variables = [
        ("MONGODB_ATLAS_ORG_ID", "32b6e34b3d91647abb20e7b8"),
        ("MONGODB_ATLAS_ACCESS_TOKEN", "token"),
        (
            "HTTPS_PROXY",
            &format!("http://{}", proxy.local_addr().unwrap()),
        ),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let flags = [&["--atlas.timeout=100ms"], flags].concat();
    let findings = run_check(&flags, variables.to_vec(), Clock::system()).await;
    (proxy.accept().is_ok(), findings)
}

#[tokio::test(flavor = "multi_thread")]
async fn credential_is_not_sent_if_the_base_url_is_unknown() {
    let dir = tempfile::tempdir().unwrap();
    for flag in unusable_files(dir.path()) {
        let (is_sent, findings) = sends_request(&[&flag]).await;
        assert!(!is_sent, "{flag}: {findings:#?}");
        let remote = single_finding(&findings, Component::Organization, "all");
        assert_eq!(remote.severity, Severity::Skipped, "{remote:#?}");
        assert_eq!(remote.message, SKIPPED);
    }
    // The base URL can be in a misspelled field, or have an invalid type.
    for text in [
        "atlas: {baseurl: 'https://atlas.example'}\n",
        "Atlas: {base_url: 'https://atlas.example'}\n",
        "atlas: {base_url: {url: 'https://atlas.example'}}\n",
        "atlas: {base_url: 'http://atlas.example'}\n",
        "atlas:\n",
    ] {
        let file = secret_file(dir.path(), "config.yml", text);
        let (is_sent, findings) = sends_request(&["--config.file", &file]).await;
        assert!(!is_sent, "{text}: {findings:#?}");
    }
    let file = secret_file(dir.path(), "config.yml", "atlas: {page_size: 501}\n");
    let (is_sent, findings) = sends_request(&["--config.file", &file]).await;
    assert!(is_sent, "{findings:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_file_is_one_error_without_consequences() {
    let dir = tempfile::tempdir().unwrap();
    for flag in unusable_files(dir.path()) {
        let findings = run_check(&[&flag], vec![], Clock::system()).await;
        let errors: Vec<_> = findings
            .iter()
            .filter(|it| it.severity != Severity::Skipped)
            .collect();
        let [error] = errors[..] else {
            panic!("{flag}: {findings:#?}")
        };
        assert_eq!(error.severity, Severity::Error);
        assert_eq!(error.component, Component::Configuration);
        // The file is the subject, which the message does not repeat.
        let file = flag.trim_start_matches("--config.file=");
        if !file.is_empty() {
            assert_eq!(error.subject, file);
            assert!(!error.message.contains(file), "{error:#?}");
            let hint = error.hint.as_deref().unwrap();
            assert!(hint.starts_with("check that the file exists"), "{hint}");
        }
        for component in [
            Component::WebConfiguration,
            Component::Storage,
            Component::Listener,
        ] {
            let skipped = single_finding(&findings, component, "unknown");
            assert_eq!(skipped.message, SKIPPED);
        }
        // A part of the credential can be in the file. Values of flags are checked.
        let id = ("MONGODB_ATLAS_CLIENT_ID".to_owned(), "id".to_owned());
        let storage = format!("--storage.path={}", dir.path().display());
        let findings = run_check(&[&flag, &storage], vec![id], Clock::system()).await;
        let errors = findings.iter().filter(|it| it.severity == Severity::Error);
        assert_eq!(errors.count(), 1, "{findings:#?}");
        let storage = dir.path().display().to_string();
        let storage = single_finding(&findings, Component::Storage, &storage);
        assert_eq!(storage.severity, Severity::Ok, "{storage:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_check_reports_an_unusable_file_if_no_other_address_is_set() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    for flag in unusable_files(dir.path()) {
        for (variable, component) in [
            ("X", Component::Configuration),
            (
                "ATLAS_AI_KEYS_EXPORTER_WEB_LISTEN_ADDRESS",
                Component::Listener,
            ),
            (
                "ATLAS_AI_KEYS_EXPORTER_WEB_PROBE_ADDRESS",
                Component::Listener,
            ),
        ] {
            let args = Args::parse(["x", "check", "--health", &flag]).unwrap();
            let environment = Environment::from_vars([(variable, address.as_str())]);
            let findings = check::probe_running_exporter(&args, &environment).await;
            let [finding] = &findings[..] else {
                panic!("{flag}: {findings:#?}")
            };
            assert_eq!(finding.severity, Severity::Error, "{finding:#?}");
            assert_eq!(finding.component, component, "{finding:#?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn path_of_the_file_does_not_skip_remote_checks() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let dir = tempfile::Builder::new().prefix("proxy").tempdir().unwrap();
    let file = secret_file(dir.path(), "base-url.yml", "atlas: {page_size: 501}\n");
    let flags = ["--config.file", &file];
    let findings = run_check(&flags, sim_env(&sim), Clock::system()).await;
    let token = single_finding(&findings, Component::Token, "default");
    assert_eq!(token.severity, Severity::Ok, "{findings:#?}");
    // An invalid proxy skips them.
    let requests = sim.requests().len();
    let mut variables = sim_env(&sim);
    variables.push(("HTTPS_PROXY".to_owned(), "::::".to_owned()));
    let findings = run_check(&[], variables, Clock::system()).await;
    let remote = single_finding(&findings, Component::Organization, "all");
    assert_eq!(remote.severity, Severity::Skipped, "{findings:#?}");
    assert_eq!(sim.requests().len(), requests);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_web_configuration_file_is_named_once() {
    let dir = tempfile::tempdir().unwrap();
    for (file, expected) in [
        (
            dir.path().join("missing.yml").display().to_string(),
            "cannot be read: file not found",
        ),
        (
            secret_file(dir.path(), "invalid.yml", "a: ["),
            "invalid YAML at",
        ),
    ] {
        let flags = ["--web.config.file", &file];
        let findings = run_check(&flags, vec![], Clock::system()).await;
        let finding = single_finding(&findings, Component::WebConfiguration, &file);
        assert_eq!(finding.severity, Severity::Error);
        assert!(finding.message.starts_with(expected), "{finding:#?}");
        let hint = finding.hint.as_deref().unwrap();
        assert!(hint.starts_with("check that the file exists"), "{hint}");
    }
}
