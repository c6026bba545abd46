//! `check`: checks that contact Atlas.

use std::time::Duration;

use super::{run_check, single_finding};
use crate::common::{error_fault, free_port, sim_env, static_sim};
use atlas_ai_keys_exporter::check::{self, CheckContext, Component, Finding, Severity};
use atlas_ai_keys_exporter::cli::Args;
use atlas_ai_keys_exporter::credentials::Environment;
use jiff::{SignedDuration, Timestamp};
use mongodb_atlas_client::Clock;
use mongodb_atlas_sim::{BucketConfig, SimConfig, SimEndpoint};

#[tokio::test(flavor = "multi_thread")]
async fn missing_endpoints_are_not_an_error_of_the_organization() {
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
        let (severity, text) = about(&findings, "rate limits");
        assert_eq!(severity, Severity::Ok, "{text}");
        assert!(
            text.contains("learned") && text.contains(&status.to_string()),
            "{text}"
        );
        assert!(
            findings
                .iter()
                .all(|finding| finding.severity != Severity::Error),
            "{findings:#?}"
        );
        assert!(
            !format!("{findings:?}").contains("organization not found"),
            "{findings:#?}"
        );
        sim.clear_faults();
    }
    sim.add_fault(error_fault(SimEndpoint::Groups, Some(&org), 401));
    let findings = run_check(&[], sim_env(&sim), Clock::system()).await;
    let (severity, text) = about(&findings, "project names");
    assert_eq!(severity, Severity::Warning);
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
        "organization name cannot",
        "project names",
        "model rate limits",
    ] {
        assert_eq!(about(&findings, words).0, Severity::Warning);
    }
    assert!(
        !format!("{findings:?}").contains("organization not found"),
        "{findings:#?}"
    );
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_the_proxy_without_password() {
    let proxy = "http://me:secret-word@127.0.0.1:3128 ";
    for (variables, subject, words) in [
        (
            vec![("HTTPS_PROXY", proxy)],
            "HTTPS_PROXY",
            "use the proxy http://127.0.0.1:3128",
        ),
        (
            vec![("all_proxy", proxy)],
            "all_proxy",
            "use the proxy http://127.0.0.1:3128",
        ),
        (
            vec![("HTTPS_PROXY", proxy), ("NO_PROXY", "*.mongodb.com")],
            "HTTPS_PROXY",
            "NO_PROXY excludes",
        ),
        (vec![("HTTP_PROXY", proxy)], "HTTP_PROXY", "http URLs only"),
    ] {
        let mut all = vec![
            ("MONGODB_ATLAS_ORG_ID", "32b6e34b3d91647abb20e7b8"),
            ("MONGODB_ATLAS_ACCESS_TOKEN", "token"),
        ];
        all.extend(variables);
        let args = Args::parse(["x", "check"]).unwrap();
        let context = CheckContext {
            clock: Clock::system(),
            transport_factory: None,
        };
        let findings = check::run(&args, &Environment::from_vars(all), &context).await;
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
    let both_shards = findings.iter().chain(&others);
    let count = both_shards
        .filter(|finding| finding.component == Component::RateLimit)
        .count();
    assert_eq!(count, 3, "each organization is in one shard");
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
    for (seconds, severity, words) in [
        (-3600, Severity::Warning, "behind Atlas"),
        (86_400, Severity::Warning, "ahead of Atlas"),
        (2, Severity::Ok, "in sync with Atlas"),
    ] {
        let clock = Clock::from_fn(move || Timestamp::now() + SignedDuration::from_secs(seconds));
        let findings = run_check(&[], sim_env(&sim), clock).await;
        let finding = single_finding(&findings, Component::Clock, "local clock");
        assert_eq!(finding.severity, severity, "{finding:#?}");
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
    let finding = single_finding(&findings, Component::RateLimit, &org);
    assert_eq!(finding.severity, Severity::Warning, "{finding:#?}");
    assert!(finding.message.contains("interval of 1m"), "{finding:#?}");
    assert!(
        finding
            .hint
            .as_ref()
            .unwrap()
            .contains("--atlas.poll-interval to"),
        "{finding:#?}"
    );
    sim.stop().await;
}

/// Runs a check against a listener that accepts connections and never responds. Returns the findings, and the duration in
/// simulated time.
async fn run_against_silent_listener<F: Future<Output = Vec<Finding>>>(
    check: impl FnOnce(String) -> F,
) -> (Vec<Finding>, Duration) {
    // The kernel accepts connections, and the test never reads from them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let check = check(silent.local_addr().unwrap().to_string());
    let started_at = tokio::time::Instant::now();
    let findings = tokio::time::timeout(Duration::from_hours(1), check).await;
    (findings.expect("the check completes"), started_at.elapsed())
}

#[tokio::test(start_paused = true)]
async fn checks_time_out() {
    let org = "0123456789abcdef01234567";
    let org_id = ("MONGODB_ATLAS_ORG_ID", org);
    let token = ("MONGODB_ATLAS_ACCESS_TOKEN", "token");
    let account = [
        ("MONGODB_ATLAS_CLIENT_ID", "id"),
        ("MONGODB_ATLAS_CLIENT_SECRET", "secret"),
    ];
    for (variables, flags, component, subject) in [
        (vec![org_id, token], &[][..], Component::Organization, org),
        (
            [&account[..], &[org_id]].concat(),
            &[],
            Component::Token,
            "default",
        ),
        (
            vec![token],
            &["--atlas.discover-orgs"],
            Component::Organization,
            "all of credential default",
        ),
    ] {
        let (findings, took) = run_against_silent_listener(async |address| {
            let url = format!("http://{address}");
            let all = [&variables[..], &[("MONGODB_ATLAS_BASE_URL", &url)]].concat();
            let all = all.iter().map(|(name, value)| {
                let pair: (String, String) = ((*name).to_owned(), (*value).to_owned());
                pair
            });
            let flags = [&["--atlas.timeout=20s"], flags].concat();
            run_check(&flags, all.collect(), Clock::system()).await
        })
        .await;
        let finding = single_finding(&findings, component, subject);
        assert_eq!(finding.severity, Severity::Error, "{finding:#?}");
        let words = "no complete response within 20s";
        assert!(finding.message.contains(words), "{finding:#?}");
        // Most requests are concurrent.
        let bounds = Duration::from_secs(20)..Duration::from_secs(90);
        assert!(bounds.contains(&took), "{took:?}: {findings:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn health_check_times_out() {
    let (findings, took) = run_against_silent_listener(async |address| {
        let flag = format!("--web.listen-address={address}");
        let args = Args::parse(["x", "check", "--health", &flag]).unwrap();
        check::probe_running_exporter(&args, &Environment::from_vars([("X", "y")])).await
    })
    .await;
    let [finding] = &findings[..] else {
        panic!("{findings:#?}")
    };
    assert_eq!(finding.component, Component::Listener, "{finding:#?}");
    assert_eq!(finding.severity, Severity::Error, "{finding:#?}");
    assert!(
        finding.message.contains("no response within 4s"),
        "{finding:#?}"
    );
    // Container health checks have a timeout of 5 seconds or more.
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_connection_is_reported() {
    let closed = format!("http://127.0.0.1:{}", free_port());
    let variables = [
        ("MONGODB_ATLAS_BASE_URL", closed.as_str()),
        ("MONGODB_ATLAS_ORG_ID", "0123456789abcdef01234567"),
        ("MONGODB_ATLAS_ACCESS_TOKEN", "token"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let findings = run_check(&[], variables.to_vec(), Clock::system()).await;
    let finding = single_finding(
        &findings,
        Component::Organization,
        "0123456789abcdef01234567",
    );
    assert_eq!(finding.severity, Severity::Error);
    assert!(finding.message.contains("connection"), "{finding:#?}");
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
        "no request to the default base URL"
    );
}
