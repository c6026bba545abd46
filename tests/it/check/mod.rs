//! `check`: reports all errors at once, each with a hint, and has no other effect.

mod client_secrets;
mod exemptions;
mod remote;
mod unusable_file;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::common::{error_fault, free_port, run_exporter, sim_env, static_sim};
use atlas_ai_keys_exporter::check::{self, CheckContext, Component, Finding, Severity};
use atlas_ai_keys_exporter::cli::Args;
use atlas_ai_keys_exporter::config::parse_check_options;
use atlas_ai_keys_exporter::credentials::Environment;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::{self as atlas, TransportFactory};
use mongodb_atlas_sim::SimEndpoint;
use serde_json::Value;

/// Runs the checks in this process.
async fn run_check(flags: &[&str], variables: Vec<(String, String)>, clock: Clock) -> Vec<Finding> {
    let line = ["x", "check"].into_iter().chain(flags.iter().copied());
    let args = Args::parse(line).unwrap();
    let connect: TransportFactory = Arc::new(atlas::new_http_transport);
    let context = CheckContext {
        clock,
        transport_factory: Some(connect),
    };
    check::run(&args, &Environment::from_vars(variables), &context).await
}

fn secret_file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// Returns the only finding about `component` and `subject`.
fn single_finding<'a>(findings: &'a [Finding], component: Component, subject: &str) -> &'a Finding {
    let mut same = findings
        .iter()
        .filter(|finding| finding.component == component && finding.subject == subject);
    let found = same
        .next()
        .unwrap_or_else(|| panic!("no finding about {subject}: {findings:#?}"));
    assert_eq!(same.next(), None, "more than one finding");
    found
}

/// Fields of a finding in JSON, sorted.
const FINDING_FIELDS: [&str; 5] = ["component", "hint", "message", "severity", "subject"];

#[tokio::test(flavor = "multi_thread")]
async fn check_of_a_healthy_setup_is_ok_and_revokes_the_token() {
    let sim = crate::common::start_sim(static_sim(3, 1200)).await;
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state/of/it").display().to_string();
    let mut variables = sim_env(&sim);
    let secret = variables.pop().unwrap();
    let file = secret_file(dir.path(), "secret", &secret.1);
    variables.push((format!("{}_FILE", secret.0), file));
    let listen = format!("127.0.0.1:{}", free_port());
    let flags = [
        "check",
        "--output=json",
        "--storage.path",
        &state,
        "--web.listen-address",
        &listen,
    ];
    let output = run_exporter(&flags, variables).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*error), (Some(0), ""));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (report["errors"].as_u64(), report["warnings"].as_u64()),
        (Some(0), Some(0)),
        "{report:#}"
    );
    let findings = report["findings"].as_array().unwrap();
    let count = |component: &str| {
        findings
            .iter()
            .filter(|finding| finding["component"] == component)
            .count()
    };
    for finding in findings {
        let fields = finding.as_object().unwrap().keys();
        let mut fields: Vec<&str> = fields.map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(fields, FINDING_FIELDS, "{finding}");
    }
    for (component, number) in [
        ("configuration", 1),
        ("web_configuration", 1),
        ("credential", 1),
        ("storage", 1),
        ("listener", 1),
        ("token", 1),
        ("organization", 3),
        ("clock", 1),
        ("rate_limit", 3),
    ] {
        assert_eq!(count(component), number, "{component}: {report:#}");
    }
    assert!(!String::from_utf8_lossy(&output.stdout).contains(&secret.1));
    assert_eq!(sim.live_token_count(), 0, "the test token is revoked");
    assert!(
        !dir.path().join("state").exists(),
        "the test files are removed"
    );
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_all_errors_with_hints() {
    let sim = crate::common::start_sim(static_sim(4, 40)).await;
    let orgs = sim.org_ids();
    sim.add_fault(error_fault(
        SimEndpoint::AiModelApiKeys,
        Some(&orgs[1]),
        403,
    ));
    sim.add_fault(error_fault(SimEndpoint::Groups, Some(&orgs[2]), 403));
    let account = sim.credentials();
    let dir = tempfile::tempdir().unwrap();
    let wrong = secret_file(dir.path(), "wrong", "mdb_sa_sk_expired");
    let open = secret_file(dir.path(), "open", &account.client_secret);
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    // A group-readable file is accepted.
    std::fs::set_permissions(&wrong, std::fs::Permissions::from_mode(0o640)).unwrap();
    let unknown_org = "0123456789abcdef01234567";
    let id = &account.client_id;
    let config = format!(
        "credentials:\n\
         - {{name: good, client_id: {id}, client_secret_file: {open}, org_ids: ['{}', '{}', '{}', '{unknown_org}']}}\n\
         - {{name: expired, client_id: {id}, client_secret_file: {wrong}, org_ids: ['{}']}}\n\
         - {{name: missing, client_id: {id}, client_secret_file: /nowhere, org_ids: ['0000000000000000000000aa']}}\n\
         atlas: {{base_url: {}, page_size: 501}}\nnonsense: 1\n\
         storage: {{path: /dev/null/state}}\n",
        orgs[0],
        orgs[1],
        orgs[2],
        orgs[3],
        sim.base_url()
    );
    let config = secret_file(dir.path(), "config.yml", &config);
    let web = secret_file(dir.path(), "web.yml", "basic_auth_users: {me: nonsense}\n");
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listen.local_addr().unwrap().to_string();
    let flags = [
        "--config.file",
        &config,
        "--web.config.file",
        &web,
        "--web.listen-address",
        &address,
    ];
    let findings = run_check(&flags, vec![], Clock::system()).await;
    let severity =
        |component, subject: &str| single_finding(&findings, component, subject).severity;
    let says = |component, subject: &str, words: &str| {
        let finding = single_finding(&findings, component, subject);
        assert!(finding.message.contains(words), "{finding:#?}");
        finding.severity
    };
    let of_configuration = |words: &str| {
        let mut all = findings
            .iter()
            .filter(|finding| finding.component == Component::Configuration);
        assert!(
            all.any(|finding| finding.message.contains(words)),
            "{words}: {findings:#?}"
        );
    };
    of_configuration("page_size");
    of_configuration("nonsense");
    assert_eq!(severity(Component::WebConfiguration, &web), Severity::Error);
    assert_eq!(
        says(Component::Credential, "good", "mode 0644"),
        Severity::Warning
    );
    assert_eq!(severity(Component::Credential, "expired"), Severity::Ok);
    assert_eq!(
        says(Component::Credential, "missing", "/nowhere"),
        Severity::Error
    );
    // The row of the configuration is without this error, which also prevents the start.
    let missing = single_finding(&findings, Component::Credential, "missing");
    let hint = missing.hint.as_deref().unwrap();
    assert!(hint.ends_with("the exporter will not start"), "{hint}");
    assert_eq!(
        says(Component::Storage, "/dev/null/state", "cannot be created"),
        Severity::Error
    );
    assert_eq!(severity(Component::Listener, &address), Severity::Warning);
    assert_eq!(severity(Component::Token, "good"), Severity::Ok);
    assert_eq!(
        says(
            Component::Token,
            "expired",
            "invalid, expired or deleted (HTTP 401"
        ),
        Severity::Error
    );
    // One cause is one error, which the skipped check of the token does not repeat.
    let of_cause = findings.iter().filter(|it| it.message.contains("/nowhere"));
    assert_eq!(of_cause.count(), 1, "{findings:#?}");
    assert_eq!(
        says(Component::Token, "missing", "the credential has errors"),
        Severity::Skipped
    );
    let organization = |org: &str, words: &str| says(Component::Organization, org, words);
    assert_eq!(organization(&orgs[0], "keys are readable"), Severity::Ok);
    assert_eq!(organization(&orgs[1], "IP access list"), Severity::Error);
    assert_eq!(
        organization(unknown_org, "organization not found"),
        Severity::Error
    );
    assert_eq!(organization(&orgs[3], "no access token"), Severity::Skipped);
    let of_third: Vec<Severity> = findings
        .iter()
        .filter(|finding| {
            finding.component == Component::Organization && finding.subject == orgs[2]
        })
        .map(|finding| finding.severity)
        .collect();
    assert_eq!(
        of_third,
        [Severity::Ok, Severity::Warning],
        "unreadable names are a warning only"
    );
    for finding in &findings {
        let wants = matches!(finding.severity, Severity::Warning | Severity::Error);
        assert_eq!(finding.hint.is_some(), wants, "{finding:#?}");
        let text = format!("{finding:?}");
        assert!(!text.contains("mdb_sa_sk_"), "{text}");
    }
    assert_eq!(sim.live_token_count(), 0);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_code_distinguishes_configuration_from_remote_errors() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let variables = sim_env(&sim);
    let org = sim.org_ids().remove(0);
    sim.add_fault(error_fault(SimEndpoint::AiModelApiKeys, Some(&org), 403));
    let run = async |flags: &[&str], variables: Vec<(String, String)>| {
        let output = run_exporter(&[&["check"], flags].concat(), variables).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text)
    };
    let (code, text) = run(&[], variables.clone()).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("hint: "), "{text}");
    let (code, text) = run(&["--atlas.timeout=never"], variables.clone()).await;
    assert_eq!(code, Some(2), "{text}");
    let (code, text) = run(&["--output=xml"], variables.clone()).await;
    assert_eq!(code, Some(2), "{text}");
    let requests = sim.requests().len();
    let (code, text) = run(&["--offline"], variables).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(sim.requests().len(), requests, "no request to Atlas");
    let (code, text) = run(&["--offline"], vec![]).await;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("MONGODB_ATLAS_CLIENT_ID"), "{text}");
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_check_only_queries_the_health_endpoint() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let dir = tempfile::tempdir().unwrap();
    // Hash of an arbitrary password.
    let hash = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";
    let users = format!("basic_auth_users: {{me: {hash}}}\n");
    let web = secret_file(dir.path(), "web.yml", &users);
    let listen = format!("--web.listen-address=127.0.0.1:{}", free_port());
    let probe = format!("--web.probe-address=127.0.0.1:{}", free_port());
    let check_health = async |flags: &[&str]| {
        let flags = [&["check", "--health"], flags].concat();
        let output = run_exporter(&flags, sim_env(&sim)).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text)
    };
    let (code, text) = check_health(&[&listen]).await;
    assert_eq!(code, Some(1), "no exporter is running: {text}");
    let flags = [listen.as_str(), &probe, "--web.config.file", &web];
    let mut program = crate::common::ChildProcess::exporter(&flags, &sim_env(&sim));
    program.wait_for_output("poll succeeded");
    // The exporter itself continues with names and limits, but needs one token only.
    let tokens = || {
        let requests = sim.requests().into_iter();
        requests
            .filter(|request| request.endpoint == SimEndpoint::Token)
            .count()
    };
    assert_eq!(tokens(), 1);
    let (code, text) = check_health(&[&listen, &probe]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("healthy"), "{text}");
    let (code, text) = check_health(&[&listen, "--web.config.file", &web]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("401") && text.contains("--web.probe-address"),
        "{text}"
    );
    assert_eq!(tokens(), 1, "no request to Atlas");
    drop(program);
    sim.stop().await;
}

#[test]
fn container_health_check_uses_the_health_flag() {
    let dockerfile = include_str!("../../../packages/Dockerfile");
    let health_check = dockerfile
        .lines()
        .find_map(|line| line.strip_prefix("HEALTHCHECK "))
        .unwrap();
    let (_, command) = health_check.split_once(" CMD ").unwrap();
    let command: Vec<String> = serde_json::from_str(command).unwrap();
    let args = Args::parse(command).unwrap();
    let options = parse_check_options(&args, &Environment::from_vars([("X", "y")])).unwrap();
    assert!(options.health);
    assert!(Args::parse(["x", "check", "--running"]).is_err());
}
