//! The three kinds of credentials: number of requests, failures, renewal.

mod digest;
mod token_responses;

use std::time::Duration;

use crate::common::sim_env;
use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{static_sim, unlimited_sim};
use jiff::Timestamp;
use mongodb_atlas_client::unix_seconds;
use mongodb_atlas_sim::{Effect, Fault, SimConfig, SimEndpoint, SimHandle};

const FAST_POLL_FLAGS: &[&str] = &["--atlas.poll-interval=1s", "--atlas.page-size=10"];

const FAILURES: &str = "atlas_ai_keys_exporter_org_poll_failures_total";

const UP: &str = "atlas_ai_keys_exporter_org_up";

const EXPIRY: &str = "atlas_ai_keys_exporter_token_expiry_timestamp_seconds";

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

/// Returns the seconds from `start` to each request for a token.
fn token_request_times(exporter: &SimHarness, start: Timestamp) -> Vec<i64> {
    let requests = exporter.requests_to(SimEndpoint::Token);
    let times = requests.iter().map(|request| request.at);
    times.map(|at| at.duration_since(start).as_secs()).collect()
}

#[tokio::test(start_paused = true)]
async fn single_token_is_reused_and_revoked_on_shutdown() {
    let sim = in_process_sim(&static_sim(3, 100));
    let started_at = sim.now();
    let exporter = SimHarness::start(&sim, FAST_POLL_FLAGS).await;
    exporter.wait_polled(3).await;
    for _ in 0..3 {
        exporter.wait_polled_again().await;
    }
    assert_eq!(
        token_request_times(&exporter, started_at),
        [0],
        "three organizations, one token"
    );
    assert_eq!(sim.live_token_count(), 1);
    let expiry = exporter
        .scrape()
        .get(EXPIRY, &[("credential", "default")])
        .unwrap();
    assert_eq!(expiry, unix_seconds(started_at) + 3600.0);
    exporter.stop().await;
    assert_eq!(sim.live_token_count(), 0, "revoked on a clean stop");
}

#[tokio::test(start_paused = true)]
async fn token_is_refreshed_before_expiry() {
    let config = SimConfig {
        token_lifetime_seconds: 30,
        ..unlimited_sim(1, 5)
    };
    let sim = in_process_sim(&config);
    let started_at = sim.now();
    let exporter = SimHarness::start(&sim, &["--atlas.poll-interval=1s"]).await;
    exporter.advance(Duration::from_mins(5)).await;
    let times = token_request_times(&exporter, started_at);
    let gaps: Vec<i64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() >= 10, "{times:?}");
    assert!(
        gaps.iter().all(|gap| (27..=28).contains(gap)),
        "renewed at nine tenths of the lifetime: {gaps:?}"
    );
    let polls = exporter.requests_to(SimEndpoint::AiModelApiKeys).len();
    assert!(polls >= 290, "{polls}");
    assert_eq!(
        exporter.count_responses(401),
        0,
        "no request is sent with an expired token"
    );
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn valid_token_is_used_while_its_renewal_fails() {
    let sim = in_process_sim(&static_sim(1, 5));
    let started_at = sim.now();
    let exporter = SimHarness::start(&sim, &["--atlas.poll-interval=10s"]).await;
    exporter.wait_polled(1).await;
    sim.add_fault(Fault::new(SimEndpoint::Token, Effect::error_status(503)));
    let left = Duration::from_secs(3590).saturating_sub(elapsed_since(&sim, started_at));
    exporter.advance(left).await;
    let scrape = exporter.scrape();
    assert_eq!(scrape.sum(FAILURES), 0.0);
    assert_eq!(scrape.sum(UP), 1.0);
    let polls = exporter.requests_to(SimEndpoint::AiModelApiKeys).len();
    assert!(polls >= 350, "{polls}");
    let times = token_request_times(&exporter, started_at);
    // Starting at minute 55, with a backoff of 1, 2, 4 to 60 s, each at the next poll.
    assert!((3300..=3311).contains(&times[1]), "{times:?}");
    assert!((8..=11).contains(&times.len()), "{times:?}");
    exporter.advance(Duration::from_mins(5)).await;
    let scrape = exporter.scrape();
    assert_eq!(scrape.sum(UP), 0.0);
    assert!(scrape.poll_failures(&sim.org_ids()[0], "server_error") >= 1.0);
    assert_eq!(exporter.count_responses(401), 0);
    sim.clear_faults();
    exporter.wait_polled(1).await;
    assert_eq!(sim.live_token_count(), 1);
    exporter.stop().await;
}

fn elapsed_since(sim: &SimHandle, start: Timestamp) -> Duration {
    Duration::try_from(sim.now().duration_since(start)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn stored_token_is_reported_and_renewed_ahead_after_a_restart() {
    let sim = in_process_sim(&static_sim(1, 5));
    let started_at = sim.now();
    let directory = tempfile::tempdir().unwrap();
    let storage = format!("--storage.path={}", directory.path().display());
    let flags = ["--atlas.poll-interval=1m", &storage];
    let exporter = SimHarness::start(&sim, &flags).await;
    exporter.wait_polled(1).await;
    exporter.advance(Duration::from_mins(10)).await;
    exporter.kill().await;
    let restarted_at = sim.now();
    let exporter = SimHarness::start(&sim, &flags).await;
    exporter.advance(Duration::from_mins(5)).await;
    let expiry = exporter.scrape().get(EXPIRY, &[("credential", "default")]);
    assert_eq!(expiry, Some(unix_seconds(started_at) + 3600.0));
    exporter.advance(Duration::from_mins(55)).await;
    let times = token_request_times(&exporter, started_at);
    assert!(
        times.len() == 2 && (3300..=3361).contains(&times[1]),
        "one at the first start, one before the expiry of the stored token: {times:?}"
    );
    assert_eq!(exporter.count_responses(401), 0);
    let requests = exporter.requests_to(SimEndpoint::AiModelApiKeys);
    let polls = requests.iter().filter(|request| request.at > restarted_at);
    assert!(polls.count() >= 58);
    assert_eq!(exporter.scrape().sum(FAILURES), 0.0);
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
        // At most one every 10 s, and one per minute after a 401.
        assert!((10..=71).contains(&tokens), "{tokens} of {token_seconds} s");
        let polls = exporter.requests_to(SimEndpoint::AiModelApiKeys).len();
        assert!(polls >= 10, "{polls} with {tokens} tokens");
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn revoked_token_is_replaced_without_failed_poll() {
    let sim = in_process_sim(&static_sim(1, 35));
    let exporter = SimHarness::start(&sim, FAST_POLL_FLAGS).await;
    exporter.wait_polled(1).await;
    sim.revoke_all_tokens();
    for _ in 0..3 {
        exporter.wait_polled_again().await;
    }
    let scrape = exporter.scrape();
    assert_eq!(scrape.sum(FAILURES), 0.0);
    let issued = scrape.get(
        "atlas_ai_keys_exporter_token_requests_total",
        &[("outcome", "issued")],
    );
    assert_eq!(issued, Some(2.0));
    assert!(exporter.count_responses(401) >= 1);
    assert_eq!(
        exporter.requests_to(SimEndpoint::Token).len(),
        2,
        "concurrent pages that are rejected share the new token"
    );
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn permanent_401_does_not_request_a_token_per_poll() {
    let sim = in_process_sim(&static_sim(1, 5));
    let org = sim.org_ids()[0].clone();
    let exporter = SimHarness::start(&sim, FAST_POLL_FLAGS).await;
    exporter.wait_polled(1).await;
    let started_at = sim.now();
    sim.add_fault(Fault::new(
        SimEndpoint::AiModelApiKeys,
        Effect::error_status(401),
    ));
    exporter
        .wait_until("three failed polls", |scrape| {
            scrape.poll_failures(&org, "unauthorized") >= 3.0
        })
        .await;
    assert!(elapsed_since(&sim, started_at) < Duration::from_mins(1));
    assert_eq!(
        exporter.requests_to(SimEndpoint::Token).len(),
        2,
        "one at the start, one after the first 401"
    );
    exporter.advance(Duration::from_hours(2)).await;
    let tokens = exporter.requests_to(SimEndpoint::Token).len();
    let rejected = exporter.count_responses(401);
    // Each poll at least a minute later replaces the token, and fails again.
    assert!(rejected >= 8, "{rejected}");
    assert!(tokens <= 2 + rejected / 2, "{tokens} of {rejected}");
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn invalid_client_secret_is_unauthorized_and_backs_off() {
    let sim = in_process_sim(&static_sim(3, 30));
    let started_at = sim.now();
    let orgs = sim.org_ids();
    let variables = with_var(
        sim_env(&sim),
        "MONGODB_ATLAS_CLIENT_SECRET",
        "mdb_sa_sk_invalid",
    );
    let exporter = SimHarness::start_with(&sim, variables, FAST_POLL_FLAGS).await;
    let scrape = exporter
        .wait_until("a failure of each organization", |scrape| {
            orgs.iter()
                .all(|org| scrape.poll_failures(org, "unauthorized") >= 1.0)
        })
        .await;
    let rejected = scrape.get(
        "atlas_ai_keys_exporter_token_requests_total",
        &[("outcome", "refused")],
    );
    assert!(rejected >= Some(1.0));
    exporter.advance(Duration::from_hours(1)).await;
    let times = token_request_times(&exporter, started_at);
    assert!(times.len() >= 6, "{times:?}");
    // Three organizations share one series of attempts, with a backoff of 1, 2, 4 to 60 s or more.
    for (gap, minimum) in times.windows(2).zip([1, 2, 4, 8, 16, 32, 60]) {
        assert!(gap[1] - gap[0] >= minimum, "{times:?}");
    }
    assert!(
        times.windows(2).skip(7).all(|gap| gap[1] - gap[0] >= 60),
        "{times:?}"
    );
    let requests = sim.requests();
    assert!(
        requests
            .iter()
            .all(|request| request.endpoint == SimEndpoint::Token),
        "no other request is sent without a token"
    );
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn client_secret_is_form_urlencoded() {
    // RFC 6749 §2.3.1 requires form encoding before Basic, which preserves colons and percent signs.
    let secret = "a:b%2Bc d+e&f=g";
    let sim = in_process_sim(&static_sim(1, 5));
    sim.with_credentials(|account| account.client_secret = secret.to_owned());
    let variables = with_var(sim_env(&sim), "MONGODB_ATLAS_CLIENT_SECRET", secret);
    let exporter = SimHarness::start_with(&sim, variables, FAST_POLL_FLAGS).await;
    exporter.wait_polled(1).await;
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn static_token_is_reread_after_rotation() {
    let sim = in_process_sim(&static_sim(1, 5));
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
    let exporter = SimHarness::start_with(&sim, variables, FAST_POLL_FLAGS).await;
    let unauthorized =
        |exporter: &SimHarness| exporter.scrape().poll_failures(&org, "unauthorized");
    exporter
        .wait_until("a failure", |scrape| {
            scrape.poll_failures(&org, "unauthorized") >= 1.0
        })
        .await;
    let token = sim.credentials().access_token;
    std::fs::write(&path, format!("{token}\n")).unwrap();
    exporter.wait_polled(1).await;
    std::fs::remove_file(&path).unwrap();
    let before = unauthorized(&exporter);
    exporter
        .wait_until("a failure without the file", |scrape| {
            scrape.poll_failures(&org, "unauthorized") > before
        })
        .await;
    exporter.stop().await;
}
