//! The three kinds of credentials: number of requests, failures, renewal.

mod digest;
mod token_responses;

use std::time::Duration;

use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{TestExporter, sim_env};
use crate::common::{static_sim, unlimited_sim};
use mongodb_atlas_sim::{Effect, ErrorBodyFormat, Fault, SimConfig, SimEndpoint, SimHandle};

const FAST_POLL_FLAGS: &[&str] = &["--atlas.poll-interval", "1s", "--atlas.page-size", "10"];

fn count_requests(sim: &SimHandle, endpoint: SimEndpoint) -> usize {
    sim.requests()
        .iter()
        .filter(|request| request.endpoint == endpoint)
        .count()
}

fn digest_env(sim: &SimHandle) -> Vec<(String, String)> {
    let account = sim.credentials();
    let mut variables = sim_env(sim);
    variables.retain(|(name, _)| !name.contains("CLIENT"));
    variables.push(("MONGODB_ATLAS_PUBLIC_API_KEY".into(), account.public_key));
    variables.push(("MONGODB_ATLAS_PRIVATE_API_KEY".into(), account.private_key));
    variables
}

fn with_var(
    mut variables: Vec<(String, String)>,
    name: &str,
    value: &str,
) -> Vec<(String, String)> {
    variables.retain(|(n, _)| n != name);
    variables.push((name.to_owned(), value.to_owned()));
    variables
}

async fn wait_polls(exporter: &TestExporter, count: usize) {
    let started_at = std::time::Instant::now();
    let mut seen = 0.0;
    let mut successes = 0;
    while successes < count {
        assert!(
            started_at.elapsed() < crate::common::wait_timeout(),
            "{successes} of {count} walks"
        );
        let last = exporter
            .scrape()
            .await
            .sum("atlas_ai_keys_exporter_org_last_success_timestamp_seconds");
        if last > seen {
            (seen, successes) = (last, successes + 1);
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn single_token_is_reused_and_revoked_on_shutdown() {
    let exporter = TestExporter::start(static_sim(3, 100), FAST_POLL_FLAGS).await;
    exporter.wait_polled().await;
    wait_polls(&exporter, 3).await;
    let scrape = exporter.scrape().await;
    assert_eq!(
        count_requests(&exporter.sim, SimEndpoint::Token),
        1,
        "three organizations, one token"
    );
    assert_eq!(exporter.sim.live_token_count(), 1);
    let expiry = scrape
        .get(
            "atlas_ai_keys_exporter_token_expiry_timestamp_seconds",
            &[("credential", "default")],
        )
        .unwrap();
    let attempt = scrape.values("atlas_ai_keys_exporter_org_last_attempt_timestamp_seconds")[0];
    assert!(
        (expiry - attempt - 3600.0).abs() < 30.0,
        "{expiry} {attempt}"
    );
    let sim = exporter.stop().await;
    assert_eq!(sim.live_token_count(), 0, "revoked on a clean stop");
    sim.stop().await;
}

#[tokio::test(start_paused = true)]
async fn token_is_refreshed_before_expiry() {
    let config = SimConfig {
        token_lifetime_seconds: 30,
        ..unlimited_sim(1, 5)
    };
    let sim = in_process_sim(&config);
    let exporter = SimHarness::start(&sim, &["--atlas.poll-interval=1s"]).await;
    exporter.advance(Duration::from_mins(5)).await;
    let tokens = exporter.requests_to(SimEndpoint::Token).len();
    assert!((10..=12).contains(&tokens), "one each 27 s: {tokens}");
    assert_eq!(
        exporter.count_responses(401),
        0,
        "nobody ever saw an ended token"
    );
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn immediately_expiring_tokens_are_not_requested_every_second() {
    for token_seconds in [0, 1, 9] {
        let config = SimConfig {
            token_lifetime_seconds: token_seconds,
            ..unlimited_sim(1, 5)
        };
        let sim = in_process_sim(&config);
        let exporter = SimHarness::start(&sim, &["--atlas.poll-interval=1s"]).await;
        exporter.advance(Duration::from_mins(10)).await;
        let tokens = exporter.requests_to(SimEndpoint::Token).len();
        // One every 10 s, and one per minute after a 401.
        assert!((10..=71).contains(&tokens), "{tokens} of {token_seconds} s");
        exporter.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_token_is_replaced_without_failed_poll() {
    let exporter = TestExporter::start(static_sim(1, 35), FAST_POLL_FLAGS).await;
    exporter.wait_polled().await;
    exporter.sim.revoke_all_tokens();
    let scrape = exporter
        .wait_until("a new token", |scrape| {
            scrape.get(
                "atlas_ai_keys_exporter_token_requests_total",
                &[("outcome", "issued")],
            ) == Some(2.0)
        })
        .await;
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
        0.0
    );
    wait_polls(&exporter, 2).await;
    let scrape = exporter.scrape().await;
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
        0.0
    );
    assert_eq!(
        count_requests(&exporter.sim, SimEndpoint::Token),
        2,
        "single flight: pages that were refused at once share the new one"
    );
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn permanent_401_does_not_request_a_token_per_poll() {
    let exporter = TestExporter::start(static_sim(1, 5), FAST_POLL_FLAGS).await;
    let org = exporter.sim.org_ids()[0].clone();
    exporter.wait_polled().await;
    exporter.sim.add_fault(Fault::new(
        SimEndpoint::AiModelApiKeys,
        Effect::Status {
            status: 401,
            body: ErrorBodyFormat::Json,
            retry_after: None,
        },
    ));
    exporter
        .wait_until("three failed walks", |scrape| {
            scrape.poll_failures(&org, "unauthorized") >= 3.0
        })
        .await;
    assert_eq!(
        count_requests(&exporter.sim, SimEndpoint::Token),
        2,
        "one at the start, one after the first 401"
    );
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_client_secret_is_unauthorized_and_backs_off() {
    let sim = crate::common::start_sim(static_sim(3, 30)).await;
    let orgs = sim.org_ids();
    let variables = with_var(
        sim_env(&sim),
        "MONGODB_ATLAS_CLIENT_SECRET",
        "mdb_sa_sk_wrong",
    );
    let exporter = TestExporter::start_with(sim, variables, FAST_POLL_FLAGS).await;
    let scrape = exporter
        .wait_until("a failure of each", |scrape| {
            orgs.iter()
                .all(|org| scrape.poll_failures(org, "unauthorized") >= 1.0)
        })
        .await;
    assert!(
        scrape.get(
            "atlas_ai_keys_exporter_token_requests_total",
            &[("outcome", "refused")]
        ) >= Some(1.0)
    );
    assert_eq!(
        count_requests(&exporter.sim, SimEndpoint::AiModelApiKeys),
        0,
        "without a token nothing is asked"
    );
    assert!(
        count_requests(&exporter.sim, SimEndpoint::Token) <= 2,
        "three organizations do not ask three times"
    );
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_secret_is_form_urlencoded() {
    // RFC 6749 §2.3.1: form-urlencoded before Basic, so that a colon or a percent sign survives.
    let secret = "a:b%2Bc d+e&f=g";
    let sim = crate::common::start_sim(static_sim(1, 5)).await;
    sim.with_credentials(|account| account.client_secret = secret.to_owned());
    let variables = with_var(sim_env(&sim), "MONGODB_ATLAS_CLIENT_SECRET", secret);
    let exporter = TestExporter::start_with(sim, variables, FAST_POLL_FLAGS).await;
    exporter.wait_polled().await;
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn static_token_is_reread_after_rotation() {
    let sim = crate::common::start_sim(static_sim(1, 5)).await;
    let org = sim.org_ids()[0].clone();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, "an-old-token\n").unwrap();
    let mut variables = sim_env(&sim);
    variables.retain(|(name, _)| !name.contains("CLIENT"));
    variables.push((
        "MONGODB_ATLAS_ACCESS_TOKEN_FILE".into(),
        path.to_str().unwrap().into(),
    ));
    let condition = sim.credentials().access_token;
    let exporter = TestExporter::start_with(sim, variables, FAST_POLL_FLAGS).await;
    exporter
        .wait_until("a failure", |scrape| {
            scrape.poll_failures(&org, "unauthorized") >= 1.0
        })
        .await;
    std::fs::write(&path, format!("{condition}\n")).unwrap();
    exporter.wait_polled().await;
    std::fs::remove_file(&path).unwrap();
    let before = exporter.scrape().await.poll_failures(&org, "unauthorized");
    exporter
        .wait_until("a missing file to be told", |scrape| {
            scrape.poll_failures(&org, "unauthorized") > before
        })
        .await;
    exporter.stop().await.stop().await;
}
