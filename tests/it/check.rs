//! `check`: all that is wrong is found at once, each finding says what to do, and nothing that was not
//! asked for happens.
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::common::{error_fault, free_port, run_exporter, sim_env, static_sim};
use atlas_ai_keys_exporter::check::{self, CheckContext, Component, Finding, Severity};
use atlas_ai_keys_exporter::cli::Args;
use atlas_ai_keys_exporter::credentials::Environment;
use jiff::{SignedDuration, Timestamp};
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::{self as atlas, TransportFactory};
use mongodb_atlas_sim::{BucketConfig, SimConfig, SimEndpoint};
use serde_json::Value;

/// The findings of a check in this process.
async fn run_check(flags: &[&str], variables: Vec<(String, String)>, clock: Clock) -> Vec<Finding> {
    let line = ["x", "check"].into_iter().chain(flags.iter().copied());
    let args = Args::parse(line).unwrap();
    let connect: TransportFactory = Arc::new(atlas::new_http_transport);
    let means = CheckContext {
        clock,
        transport_factory: Some(connect),
    };
    check::run(&args, &Environment::from_vars(variables), &means).await
}

fn secret_file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// The only finding about `area` and `subject`.
fn single_finding<'a>(findings: &'a [Finding], area: Component, subject: &str) -> &'a Finding {
    let mut same = findings
        .iter()
        .filter(|finding| finding.component == area && finding.subject == subject);
    let found = same
        .next()
        .unwrap_or_else(|| panic!("nothing about {subject}: {findings:#?}"));
    assert_eq!(same.next(), None, "twice");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn healthy_setup_reports_ok_and_revokes_its_token() {
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
    let about = |area: &str| {
        findings
            .iter()
            .filter(|finding| finding["area"] == area)
            .count()
    };
    for (area, number) in [
        ("configuration", 1),
        ("web_configuration", 1),
        ("credential", 1),
        ("storage", 1),
        ("listener", 1),
        ("token", 1),
        ("organization", 3),
        ("clock", 1),
        ("budget", 3),
    ] {
        assert_eq!(about(area), number, "{area}: {report:#}");
    }
    assert!(!String::from_utf8_lossy(&output.stdout).contains(&secret.1));
    assert_eq!(sim.live_token_count(), 0, "the token was given back");
    assert!(
        !dir.path().join("state").exists(),
        "what was tried out is gone"
    );
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_all_errors_with_explanations() {
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
    // a group may read it
    std::fs::set_permissions(&wrong, std::fs::Permissions::from_mode(0o640)).unwrap();
    let nobodys = "0123456789abcdef01234567";
    let id = &account.client_id;
    let config = format!(
        "credentials:\n\
         - {{name: good, client_id: {id}, client_secret_file: {open}, org_ids: ['{}', '{}', '{}', '{nobodys}']}}\n\
         - {{name: expired, client_id: {id}, client_secret_file: {wrong}, org_ids: ['{}']}}\n\
         - {{name: gone, client_id: {id}, client_secret_file: /nowhere, org_ids: ['0000000000000000000000aa']}}\n\
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
    let grade = |area, subject: &str| single_finding(&findings, area, subject).severity;
    let says = |area, subject: &str, words: &str| {
        let finding = single_finding(&findings, area, subject);
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
    assert_eq!(grade(Component::WebConfiguration, &web), Severity::Error);
    assert_eq!(
        says(Component::Credential, "good", "mode 0644"),
        Severity::Warning
    );
    assert_eq!(grade(Component::Credential, "expired"), Severity::Ok);
    assert_eq!(
        says(Component::Credential, "gone", "/nowhere"),
        Severity::Error
    );
    assert_eq!(
        says(Component::Storage, "/dev/null/state", "cannot make"),
        Severity::Error
    );
    assert_eq!(grade(Component::Listener, &address), Severity::Warning);
    assert_eq!(grade(Component::Token, "good"), Severity::Ok);
    assert_eq!(
        says(
            Component::Token,
            "expired",
            "wrong, expired or deleted (HTTP 401"
        ),
        Severity::Error
    );
    assert_eq!(grade(Component::Token, "gone"), Severity::Skipped);
    let organization = |org: &str, words: &str| says(Component::Organization, org, words);
    assert_eq!(organization(&orgs[0], "can be read"), Severity::Ok);
    assert_eq!(organization(&orgs[1], "IP access list"), Severity::Error);
    assert_eq!(organization(nobodys, "wrong organization"), Severity::Error);
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
        "names are no keys"
    );
    for finding in &findings {
        let wants = matches!(finding.severity, Severity::Warning | Severity::Error);
        assert_eq!(finding.help.is_some(), wants, "{finding:#?}");
        let text = format!("{finding:?}");
        assert!(!text.contains("mdb_sa_sk_"), "{text}");
    }
    assert_eq!(sim.live_token_count(), 0);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_code_distinguishes_configuration_from_remote_errors() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let good = sim_env(&sim);
    let org = sim.org_ids().remove(0);
    sim.add_fault(error_fault(SimEndpoint::AiModelApiKeys, Some(&org), 403));
    let run = async |flags: &[&str], variables: Vec<(String, String)>| {
        let output = run_exporter(&[&["check"], flags].concat(), variables).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text)
    };
    let (code, text) = run(&[], good.clone()).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("-> put the address"), "{text}");
    let (code, text) = run(&["--atlas.timeout=never"], good.clone()).await;
    assert_eq!(code, Some(2), "{text}");
    let (code, text) = run(&["--output=xml"], good.clone()).await;
    assert_eq!(code, Some(2), "{text}");
    let asked = sim.requests().len();
    let (code, text) = run(&["--offline"], good).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(sim.requests().len(), asked, "the network is left alone");
    let (code, text) = run(&["--offline"], vec![]).await;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("MONGODB_ATLAS_CLIENT_ID"), "{text}");
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_endpoints_do_not_invalidate_the_organization() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let org = sim.org_ids().remove(0);
    let about = |findings: &[Finding], words: &str| {
        let mut same = findings.iter().filter(|finding| {
            finding.component == Component::Organization && finding.message.contains(words)
        });
        let finding = same
            .next()
            .unwrap_or_else(|| panic!("{words}: {findings:#?}"));
        (finding.severity, format!("{finding:?}"))
    };
    for status in [404, 403, 401] {
        sim.add_fault(error_fault(SimEndpoint::RateLimits, None, status));
        let findings = run_check(&[], sim_env(&sim), Clock::system()).await;
        let (grade, text) = about(&findings, "rate limits");
        assert_eq!(grade, Severity::Ok, "{text}");
        assert!(
            text.contains("learnt") && text.contains(&status.to_string()),
            "{text}"
        );
        assert!(
            findings
                .iter()
                .all(|finding| finding.severity != Severity::Error),
            "{findings:#?}"
        );
        assert!(
            !format!("{findings:?}").contains("wrong organization"),
            "{findings:#?}"
        );
        sim.clear_faults();
    }
    sim.add_fault(error_fault(SimEndpoint::Groups, Some(&org), 401));
    let findings = run_check(&[], sim_env(&sim), Clock::system()).await;
    let (grade, text) = about(&findings, "projects' names");
    assert_eq!(grade, Severity::Warning);
    assert!(text.contains("lacks the role (HTTP 401"), "{text}");
    sim.clear_faults();
    sim.add_fault(error_fault(SimEndpoint::RateLimits, None, 500));
    for endpoint in [
        SimEndpoint::Groups,
        SimEndpoint::Org,
        SimEndpoint::AiModelApiRateLimits,
    ] {
        sim.add_fault(error_fault(endpoint, Some(&org), 404));
    }
    let findings = run_check(&[], sim_env(&sim), Clock::system()).await;
    assert_eq!(about(&findings, "rate limits").0, Severity::Warning);
    for words in [
        "its name cannot",
        "projects' names",
        "limits for the models",
    ] {
        assert_eq!(about(&findings, words).0, Severity::Warning);
    }
    assert!(
        !format!("{findings:?}").contains("wrong organization"),
        "{findings:#?}"
    );
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_effective_proxy_without_password() {
    let proxy = "http://me:secret-word@127.0.0.1:3128 ";
    for (variables, subject, words) in [
        (
            vec![("HTTPS_PROXY", proxy)],
            "HTTPS_PROXY",
            "go through the proxy http://127.0.0.1:3128",
        ),
        (
            vec![("all_proxy", proxy)],
            "all_proxy",
            "go through the proxy http://127.0.0.1:3128",
        ),
        (
            vec![("HTTPS_PROXY", proxy), ("NO_PROXY", "*.mongodb.com")],
            "HTTPS_PROXY",
            "NO_PROXY excludes",
        ),
        (
            vec![("HTTP_PROXY", proxy)],
            "HTTP_PROXY",
            "for http URLs only",
        ),
    ] {
        let mut all = vec![
            ("MONGODB_ATLAS_ORG_ID", "32b6e34b3d91647abb20e7b8"),
            ("MONGODB_ATLAS_ACCESS_TOKEN", "token"),
        ];
        all.extend(variables);
        let args = Args::parse(["x", "check"]).unwrap();
        let means = CheckContext {
            clock: Clock::system(),
            transport_factory: None,
        };
        let findings = check::run(&args, &Environment::from_vars(all), &means).await;
        let finding = single_finding(&findings, Component::Configuration, subject);
        assert_eq!(finding.severity, Severity::Ok);
        assert!(finding.message.contains(words), "{finding:#?}");
        assert!(
            !format!("{findings:?}").contains("secret-word"),
            "{findings:#?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn discovered_organizations_are_checked() {
    let sim = crate::common::start_sim(static_sim(3, 30)).await;
    let mut variables = sim_env(&sim);
    variables.retain(|(name, _)| name != "MONGODB_ATLAS_ORG_ID");
    let flags = ["--atlas.discover-orgs"];
    let findings = run_check(&flags, variables.clone(), Clock::system()).await;
    for org in sim.org_ids() {
        assert_eq!(
            single_finding(&findings, Component::Organization, &org).severity,
            Severity::Ok
        );
    }
    let all = single_finding(
        &findings,
        Component::Organization,
        "all of credential default",
    );
    assert!(all.message.ends_with(": 3"), "{all:#?}");
    let half = ["--atlas.discover-orgs", "--atlas.shard=1/2"];
    let findings = run_check(&half, variables.clone(), Clock::system()).await;
    let others = run_check(
        &["--atlas.discover-orgs", "--atlas.shard=2/2"],
        variables.clone(),
        Clock::system(),
    )
    .await;
    let asked = findings.iter().chain(&others);
    let asked = asked
        .filter(|finding| finding.component == Component::Budget)
        .count();
    assert_eq!(asked, 3, "each in one share");
    for (_, value) in variables
        .iter_mut()
        .filter(|(name, _)| name.ends_with("CLIENT_SECRET"))
    {
        *value = "mdb_sa_sk_expired".to_owned();
    }
    let findings = run_check(&flags, variables, Clock::system()).await;
    let token = single_finding(&findings, Component::Token, "default");
    assert!(
        token.severity == Severity::Error && token.message.contains("401"),
        "{token:#?}"
    );
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_skew_is_reported() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    for (seconds, grade, words) in [
        (-3600, Severity::Warning, "behind Atlas'"),
        (86_400, Severity::Warning, "ahead of Atlas'"),
        (2, Severity::Ok, "agrees with Atlas'"),
    ] {
        let clock = Clock::from_fn(move || Timestamp::now() + SignedDuration::from_secs(seconds));
        let findings = run_check(&[], sim_env(&sim), clock).await;
        let finding = single_finding(&findings, Component::Clock, "this machine's");
        assert_eq!(finding.severity, grade, "{finding:#?}");
        assert!(finding.message.contains(words), "{finding:#?}");
    }
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn insufficient_rate_limit_suggests_a_longer_interval() {
    let config = SimConfig {
        org_bucket: BucketConfig::new(10, 5),
        ..static_sim(1, 400)
    };
    let sim = crate::common::start_sim(config).await;
    let org = sim.org_ids().remove(0);
    let flags = ["--atlas.page-size=10", "--atlas.poll-interval=1m"];
    let findings = run_check(&flags, sim_env(&sim), Clock::system()).await;
    let finding = single_finding(&findings, Component::Budget, &org);
    assert_eq!(finding.severity, Severity::Warning, "{finding:#?}");
    assert!(finding.message.contains("each 1m"), "{finding:#?}");
    assert!(
        finding
            .help
            .as_ref()
            .unwrap()
            .contains("--atlas.poll-interval to"),
        "{finding:#?}"
    );
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_time_out() {
    let closed = format!("http://127.0.0.1:{}", free_port());
    let variables = [
        ("MONGODB_ATLAS_BASE_URL", closed.as_str()),
        ("MONGODB_ATLAS_ORG_ID", "0123456789abcdef01234567"),
        ("MONGODB_ATLAS_ACCESS_TOKEN", "token"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let begun = std::time::Instant::now();
    let findings = run_check(&[], variables.to_vec(), Clock::system()).await;
    let finding = single_finding(
        &findings,
        Component::Organization,
        "0123456789abcdef01234567",
    );
    assert_eq!(finding.severity, Severity::Error);
    assert!(finding.message.contains("connection"), "{finding:#?}");
    assert!(begun.elapsed() < crate::common::WAIT_TIMEOUT);
}

#[tokio::test(flavor = "multi_thread")]
async fn running_probe_only_queries_health() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let dir = tempfile::tempdir().unwrap();
    // the hash of a password that nobody has to know
    let hash = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";
    let users = format!("basic_auth_users: {{me: {hash}}}\n");
    let web = secret_file(dir.path(), "web.yml", &users);
    let listen = format!("--web.listen-address=127.0.0.1:{}", free_port());
    let probe = format!("--web.probe-address=127.0.0.1:{}", free_port());
    let asks = async |flags: &[&str]| {
        let flags = [&["check", "--running"], flags].concat();
        let output = run_exporter(&flags, sim_env(&sim)).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text)
    };
    let (code, text) = asks(&[&listen]).await;
    assert_eq!(code, Some(1), "nobody runs: {text}");
    let flags = [listen.as_str(), &probe, "--web.config.file", &web];
    let mut program = crate::common::ChildProcess::exporter(&flags, &sim_env(&sim));
    program.wait_for_output("walk complete");
    // the exporter itself goes on with names and limits, but needs one token alone
    let tokens = || {
        let asked = sim.requests().into_iter();
        asked
            .filter(|asked| asked.endpoint == SimEndpoint::Token)
            .count()
    };
    assert_eq!(tokens(), 1);
    let (code, text) = asks(&[&listen, &probe]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("healthy"), "{text}");
    let (code, text) = asks(&[&listen, "--web.config.file", &web]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("401") && text.contains("--web.probe-address"),
        "{text}"
    );
    assert_eq!(tokens(), 1, "Atlas is left alone");
    drop(program);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_base_url_sends_no_request() {
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let variables = [
        (
            "MONGODB_ATLAS_ORG_ID",
            "32b6e34b3d91647abb20e7b8".to_owned(),
        ),
        ("MONGODB_ATLAS_ACCESS_TOKEN", "token".to_owned()),
        (
            "MONGODB_ATLAS_BASE_URL",
            "https://atlas.example/api/atlas/v2/orgs".to_owned(),
        ),
        (
            "HTTPS_PROXY",
            format!("http://{}", proxy.local_addr().unwrap()),
        ),
    ];
    let variables = variables
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
    let output = crate::common::run_exporter(&["check"], variables).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        proxy.accept().is_err(),
        "the default in its place was asked"
    );
}
