//! `check`: all that is wrong is found at once, each finding says what to do, and nothing that was not
//! asked for happens.
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::common::{free_port, outcome, refusal, sim_variables, still};
use atlas_ai_keys_exporter::check::{self, Area, Finding, Grade, Means};
use atlas_ai_keys_exporter::cli::Args;
use atlas_ai_keys_exporter::credentials::Environment;
use jiff::{SignedDuration, Timestamp};
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::{self as atlas, Connect};
use mongodb_atlas_sim::{BucketSize, SimConfig, SimEndpoint};
use serde_json::Value;

/// The findings of a check in this process.
async fn found(flags: &[&str], variables: Vec<(String, String)>, clock: Clock) -> Vec<Finding> {
    let line = ["x", "check"].into_iter().chain(flags.iter().copied());
    let args = Args::parse(line).unwrap();
    let connect: Connect = Arc::new(atlas::connect);
    let means = Means {
        clock,
        connect: Some(connect),
    };
    check::all(&args, &Environment::fixed(variables), &means).await
}

fn secret_file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// The only finding about `area` and `subject`.
fn one<'a>(findings: &'a [Finding], area: Area, subject: &str) -> &'a Finding {
    let mut same = findings
        .iter()
        .filter(|finding| finding.area == area && finding.subject == subject);
    let found = same
        .next()
        .unwrap_or_else(|| panic!("nothing about {subject}: {findings:#?}"));
    assert_eq!(same.next(), None, "twice");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_is_well_it_says_so_and_leaves_no_token_behind() {
    let sim = crate::common::sim(still(3, 1200)).await;
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state/of/it").display().to_string();
    let mut variables = sim_variables(&sim);
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
    let output = outcome(&flags, variables).await;
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
    assert_eq!(sim.live_tokens(), 0, "the token was given back");
    assert!(
        !dir.path().join("state").exists(),
        "what was tried out is gone"
    );
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_trouble_is_found_at_once_with_the_reason_in_words() {
    let sim = crate::common::sim(still(4, 40)).await;
    let orgs = sim.org_ids();
    sim.add_fault(refusal(SimEndpoint::AiModelApiKeys, Some(&orgs[1]), 403));
    sim.add_fault(refusal(SimEndpoint::Groups, Some(&orgs[2]), 403));
    let account = sim.account();
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
    let findings = found(&flags, vec![], Clock::system()).await;
    let grade = |area, subject: &str| one(&findings, area, subject).grade;
    let says = |area, subject: &str, words: &str| {
        let finding = one(&findings, area, subject);
        assert!(finding.finding.contains(words), "{finding:#?}");
        finding.grade
    };
    let of_configuration = |words: &str| {
        let mut all = findings
            .iter()
            .filter(|finding| finding.area == Area::Configuration);
        assert!(
            all.any(|finding| finding.finding.contains(words)),
            "{words}: {findings:#?}"
        );
    };
    of_configuration("page_size");
    of_configuration("nonsense");
    assert_eq!(grade(Area::WebConfiguration, &web), Grade::Error);
    assert_eq!(says(Area::Credential, "good", "mode 0644"), Grade::Warning);
    assert_eq!(grade(Area::Credential, "expired"), Grade::Ok);
    assert_eq!(says(Area::Credential, "gone", "/nowhere"), Grade::Error);
    assert_eq!(
        says(Area::Storage, "/dev/null/state", "cannot make"),
        Grade::Error
    );
    assert_eq!(grade(Area::Listener, &address), Grade::Warning);
    assert_eq!(grade(Area::Token, "good"), Grade::Ok);
    assert_eq!(
        says(
            Area::Token,
            "expired",
            "wrong, expired or deleted (HTTP 401"
        ),
        Grade::Error
    );
    assert_eq!(grade(Area::Token, "gone"), Grade::Skipped);
    let organization = |org: &str, words: &str| says(Area::Organization, org, words);
    assert_eq!(organization(&orgs[0], "can be read"), Grade::Ok);
    assert_eq!(organization(&orgs[1], "IP access list"), Grade::Error);
    assert_eq!(organization(nobodys, "wrong organization"), Grade::Error);
    assert_eq!(organization(&orgs[3], "no access token"), Grade::Skipped);
    let of_third: Vec<Grade> = findings
        .iter()
        .filter(|finding| finding.area == Area::Organization && finding.subject == orgs[2])
        .map(|finding| finding.grade)
        .collect();
    assert_eq!(of_third, [Grade::Ok, Grade::Warning], "names are no keys");
    for finding in &findings {
        let wants = matches!(finding.grade, Grade::Warning | Grade::Error);
        assert_eq!(finding.action.is_some(), wants, "{finding:#?}");
        let text = format!("{finding:?}");
        assert!(!text.contains("mdb_sa_sk_"), "{text}");
    }
    assert_eq!(sim.live_tokens(), 0);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_the_configuration_from_the_world() {
    let sim = crate::common::sim(still(1, 10)).await;
    let good = sim_variables(&sim);
    let org = sim.org_ids().remove(0);
    sim.add_fault(refusal(SimEndpoint::AiModelApiKeys, Some(&org), 403));
    let run = async |flags: &[&str], variables: Vec<(String, String)>| {
        let output = outcome(&[&["check"], flags].concat(), variables).await;
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
async fn endpoints_that_are_not_there_do_not_make_the_organization_a_wrong_one() {
    let sim = crate::common::sim(still(1, 10)).await;
    let org = sim.org_ids().remove(0);
    let about = |findings: &[Finding], words: &str| {
        let mut same = findings.iter().filter(|finding| {
            finding.area == Area::Organization && finding.finding.contains(words)
        });
        let finding = same
            .next()
            .unwrap_or_else(|| panic!("{words}: {findings:#?}"));
        (finding.grade, format!("{finding:?}"))
    };
    for status in [404, 403, 401] {
        sim.add_fault(refusal(SimEndpoint::RateLimits, None, status));
        let findings = found(&[], sim_variables(&sim), Clock::system()).await;
        let (grade, text) = about(&findings, "rate limits");
        assert_eq!(grade, Grade::Ok, "{text}");
        assert!(
            text.contains("learnt") && text.contains(&status.to_string()),
            "{text}"
        );
        assert!(
            findings.iter().all(|finding| finding.grade != Grade::Error),
            "{findings:#?}"
        );
        assert!(
            !format!("{findings:?}").contains("wrong organization"),
            "{findings:#?}"
        );
        sim.clear_faults();
    }
    sim.add_fault(refusal(SimEndpoint::Groups, Some(&org), 401));
    let findings = found(&[], sim_variables(&sim), Clock::system()).await;
    let (grade, text) = about(&findings, "projects' names");
    assert_eq!(grade, Grade::Warning);
    assert!(text.contains("lacks the role (HTTP 401"), "{text}");
    sim.clear_faults();
    sim.add_fault(refusal(SimEndpoint::RateLimits, None, 500));
    for endpoint in [
        SimEndpoint::Groups,
        SimEndpoint::Org,
        SimEndpoint::AiModelApiRateLimits,
    ] {
        sim.add_fault(refusal(endpoint, Some(&org), 404));
    }
    let findings = found(&[], sim_variables(&sim), Clock::system()).await;
    assert_eq!(about(&findings, "rate limits").0, Grade::Warning);
    for words in [
        "its name cannot",
        "projects' names",
        "limits for the models",
    ] {
        assert_eq!(about(&findings, words).0, Grade::Warning);
    }
    assert!(
        !format!("{findings:?}").contains("wrong organization"),
        "{findings:#?}"
    );
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_in_force_is_named_without_its_password() {
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
        let means = Means {
            clock: Clock::system(),
            connect: None,
        };
        let findings = check::all(&args, &Environment::fixed(all), &means).await;
        let finding = one(&findings, Area::Configuration, subject);
        assert_eq!(finding.grade, Grade::Ok);
        assert!(finding.finding.contains(words), "{finding:#?}");
        assert!(
            !format!("{findings:?}").contains("secret-word"),
            "{findings:#?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn organizations_that_are_discovered_are_looked_at_as_well() {
    let sim = crate::common::sim(still(3, 30)).await;
    let mut variables = sim_variables(&sim);
    variables.retain(|(name, _)| name != "MONGODB_ATLAS_ORG_ID");
    let flags = ["--atlas.discover-orgs"];
    let findings = found(&flags, variables.clone(), Clock::system()).await;
    for org in sim.org_ids() {
        assert_eq!(one(&findings, Area::Organization, &org).grade, Grade::Ok);
    }
    let all = one(&findings, Area::Organization, "all of credential default");
    assert!(all.finding.ends_with(": 3"), "{all:#?}");
    let half = ["--atlas.discover-orgs", "--atlas.shard=1/2"];
    let findings = found(&half, variables.clone(), Clock::system()).await;
    let others = found(
        &["--atlas.discover-orgs", "--atlas.shard=2/2"],
        variables.clone(),
        Clock::system(),
    )
    .await;
    let asked = findings.iter().chain(&others);
    let asked = asked.filter(|finding| finding.area == Area::Budget).count();
    assert_eq!(asked, 3, "each in one share");
    for (_, value) in variables
        .iter_mut()
        .filter(|(name, _)| name.ends_with("CLIENT_SECRET"))
    {
        *value = "mdb_sa_sk_expired".to_owned();
    }
    let findings = found(&flags, variables, Clock::system()).await;
    let token = one(&findings, Area::Token, "default");
    assert!(
        token.grade == Grade::Error && token.finding.contains("401"),
        "{token:#?}"
    );
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_off_is_seen() {
    let sim = crate::common::sim(still(1, 10)).await;
    for (seconds, grade, words) in [
        (-3600, Grade::Warning, "behind Atlas'"),
        (86_400, Grade::Warning, "ahead of Atlas'"),
        (2, Grade::Ok, "agrees with Atlas'"),
    ] {
        let clock = Clock::custom(move || Timestamp::now() + SignedDuration::from_secs(seconds));
        let findings = found(&[], sim_variables(&sim), clock).await;
        let finding = one(&findings, Area::Clock, "this machine's");
        assert_eq!(finding.grade, grade, "{finding:#?}");
        assert!(finding.finding.contains(words), "{finding:#?}");
    }
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_does_not_bear_the_interval_is_told_with_one_that_it_bears() {
    let config = SimConfig {
        org_bucket: BucketSize::new(10, 5),
        ..still(1, 400)
    };
    let sim = crate::common::sim(config).await;
    let org = sim.org_ids().remove(0);
    let flags = ["--atlas.page-size=10", "--atlas.poll-interval=1m"];
    let findings = found(&flags, sim_variables(&sim), Clock::system()).await;
    let finding = one(&findings, Area::Budget, &org);
    assert_eq!(finding.grade, Grade::Warning, "{finding:#?}");
    assert!(finding.finding.contains("each 1m"), "{finding:#?}");
    assert!(
        finding
            .action
            .as_ref()
            .unwrap()
            .contains("--atlas.poll-interval to"),
        "{finding:#?}"
    );
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_waited_for_without_end() {
    let closed = format!("http://127.0.0.1:{}", free_port());
    let variables = [
        ("MONGODB_ATLAS_BASE_URL", closed.as_str()),
        ("MONGODB_ATLAS_ORG_ID", "0123456789abcdef01234567"),
        ("MONGODB_ATLAS_ACCESS_TOKEN", "token"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let begun = std::time::Instant::now();
    let findings = found(&[], variables.to_vec(), Clock::system()).await;
    let finding = one(&findings, Area::Organization, "0123456789abcdef01234567");
    assert_eq!(finding.grade, Grade::Error);
    assert!(finding.finding.contains("connection"), "{finding:#?}");
    assert!(begun.elapsed() < crate::common::PATIENCE);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exporter_that_runs_is_asked_for_its_health_and_nothing_else() {
    let sim = crate::common::sim(still(1, 10)).await;
    let dir = tempfile::tempdir().unwrap();
    // the hash of a password that nobody has to know
    let hash = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";
    let users = format!("basic_auth_users: {{me: {hash}}}\n");
    let web = secret_file(dir.path(), "web.yml", &users);
    let listen = format!("--web.listen-address=127.0.0.1:{}", free_port());
    let probe = format!("--web.probe-address=127.0.0.1:{}", free_port());
    let asks = async |flags: &[&str]| {
        let flags = [&["check", "--running"], flags].concat();
        let output = outcome(&flags, sim_variables(&sim)).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text)
    };
    let (code, text) = asks(&[&listen]).await;
    assert_eq!(code, Some(1), "nobody runs: {text}");
    let flags = [listen.as_str(), &probe, "--web.config.file", &web];
    let mut program = crate::common::Program::exporter(&flags, &sim_variables(&sim));
    program.wait_for("walk complete");
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
async fn nothing_is_asked_where_the_base_url_is_invalid() {
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
    let output = crate::common::outcome(&["check"], variables).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        proxy.accept().is_err(),
        "the default in its place was asked"
    );
}
