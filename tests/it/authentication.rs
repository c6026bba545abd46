//! Each of the three ways to authenticate: what it costs, how it fails, how it is renewed.
use std::time::Duration;

use crate::common::scripted::{Scripted, response};
use crate::common::sim_harness::{Simulated, simulated_atlas};
use crate::common::{Lab, generous, shown, sim_variables, still, world};
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{Endpoint, Reason};
use mongodb_atlas_sim::{BodyForm, Effect, Fault, SimConfig, SimEndpoint, SimHandle};

const QUICK: &[&str] = &["--atlas.poll-interval", "1s", "--atlas.page-size", "10"];

fn asked(sim: &SimHandle, endpoint: SimEndpoint) -> usize {
    sim.requests()
        .iter()
        .filter(|request| request.endpoint == endpoint)
        .count()
}

fn digest_variables(sim: &SimHandle) -> Vec<(String, String)> {
    let account = sim.account();
    let mut variables = sim_variables(sim);
    variables.retain(|(name, _)| !name.contains("CLIENT"));
    variables.push(("MONGODB_ATLAS_PUBLIC_API_KEY".into(), account.public_key));
    variables.push(("MONGODB_ATLAS_PRIVATE_API_KEY".into(), account.private_key));
    variables
}

fn with(mut variables: Vec<(String, String)>, name: &str, value: &str) -> Vec<(String, String)> {
    variables.retain(|(n, _)| n != name);
    variables.push((name.to_owned(), value.to_owned()));
    variables
}

async fn walks(lab: &Lab, count: usize) {
    let begun = std::time::Instant::now();
    let mut seen = 0.0;
    let mut successes = 0;
    while successes < count {
        assert!(
            begun.elapsed() < crate::common::PATIENCE,
            "{successes} of {count} walks"
        );
        let last = lab
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
async fn one_token_serves_every_request_and_is_given_back() {
    let lab = Lab::start(still(3, 100), QUICK).await;
    lab.walked().await;
    walks(&lab, 3).await;
    let scrape = lab.scrape().await;
    assert_eq!(
        asked(&lab.sim, SimEndpoint::Token),
        1,
        "three organizations, one token"
    );
    assert_eq!(lab.sim.live_tokens(), 1);
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
    let sim = lab.stop().await;
    assert_eq!(sim.live_tokens(), 0, "revoked on a clean stop");
    sim.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_ahead_of_its_end() {
    let config = SimConfig {
        token_seconds: 30,
        ..generous(1, 5)
    };
    let sim = simulated_atlas(&config);
    let exporter = Simulated::watching(&sim, &["--atlas.poll-interval=1s"]).await;
    exporter.pass(Duration::from_mins(5)).await;
    let tokens = exporter.asked(SimEndpoint::Token).len();
    assert!((10..=12).contains(&tokens), "one each 27 s: {tokens}");
    assert_eq!(exporter.answered(401), 0, "nobody ever saw an ended token");
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn tokens_that_end_at_once_are_not_made_each_second() {
    for token_seconds in [0, 1, 9] {
        let config = SimConfig {
            token_seconds,
            ..generous(1, 5)
        };
        let sim = simulated_atlas(&config);
        let exporter = Simulated::watching(&sim, &["--atlas.poll-interval=1s"]).await;
        exporter.pass(Duration::from_mins(10)).await;
        let tokens = exporter.asked(SimEndpoint::Token).len();
        // one each 10 s, and one a minute after a 401
        assert!((10..=71).contains(&tokens), "{tokens} of {token_seconds} s");
        exporter.stop().await;
    }
}

const ACCOUNT: &[(&str, &str)] = &[
    (
        "MONGODB_ATLAS_CLIENT_ID",
        "mdb_sa_id_0123456789abcdef01234567",
    ),
    ("MONGODB_ATLAS_CLIENT_SECRET", "mdb_sa_sk_secret"),
];

fn org() -> OrgId {
    OrgId::parse("32b6e34b3d91647abb20e7b8").unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_token_response_without_a_usable_token_sends_no_request() {
    let long = format!(
        r#"{{"access_token":"{}","expires_in":3600}}"#,
        "x".repeat(1 << 20)
    );
    for body in [
        r#"{"access_token":"","expires_in":3600}"#,
        r#"{"access_token":"  ","expires_in":3600}"#,
        r#"{"access_token":"a\u0007b","expires_in":3600}"#,
        r#"{"access_token":"abc","token_type":"mac","expires_in":3600}"#,
        r#"{"expires_in":3600}"#,
        "<html>",
        &long,
    ] {
        let body = body.to_owned();
        let (client, atlas) = Scripted::client(ACCOUNT, move |_| response(200, &[], &body));
        let error = client.org_name(&org()).await.unwrap_err();
        assert_eq!(error.endpoint, Endpoint::Token);
        assert_eq!(error.problem.reason(), Reason::InvalidResponse, "{error}");
        assert_eq!(atlas.requests("token"), 1);
        assert_eq!(atlas.requests(org().as_str()), 0, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_request_for_a_token_blames_the_credential_only_where_it_is_blamed() {
    for (body, reason) in [
        (r#"{"error":"invalid_client"}"#, Reason::Unauthorized),
        (
            r#"{"error":"unauthorized_client","error_description":"x"}"#,
            Reason::Unauthorized,
        ),
        (r#"{"error":"invalid_scope"}"#, Reason::InvalidResponse),
        (r#"{"error":["invalid_client"]}"#, Reason::InvalidResponse),
        ("<html>Bad Request</html>", Reason::InvalidResponse),
        ("", Reason::InvalidResponse),
    ] {
        let (client, _) = Scripted::client(ACCOUNT, move |_| response(400, &[], body));
        let error = client.org_name(&org()).await.unwrap_err();
        assert_eq!(error.problem.reason(), reason, "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_of_a_token_response_is_kept_whatever_its_status() {
    let date = ("date", "Sun, 01 Mar 2026 12:00:00 GMT");
    for status in [400, 401, 403, 429, 500, 503] {
        for retry_after in [
            "120",
            "Sun, 01 Mar 2026 12:02:00 GMT",
            "Sunday, 01-Mar-26 12:02:00 GMT",
        ] {
            let headers = [date, ("retry-after", retry_after)];
            let (client, atlas) =
                Scripted::client(ACCOUNT, move |_| response(status, &headers, "{}"));
            for (passed, requests) in [(0, 1), (60, 1), (59, 1), (2, 2)] {
                tokio::time::advance(Duration::from_secs(passed)).await;
                client.org_name(&org()).await.unwrap_err();
                assert_eq!(atlas.requests("token"), requests, "{status} {retry_after}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_made_anew_without_a_failed_walk() {
    let lab = Lab::start(still(1, 35), QUICK).await;
    lab.walked().await;
    lab.sim.revoke_all_tokens();
    let scrape = lab
        .wait("a new token", |scrape| {
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
    walks(&lab, 2).await;
    let scrape = lab.scrape().await;
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
        0.0
    );
    assert_eq!(
        asked(&lab.sim, SimEndpoint::Token),
        2,
        "single flight: pages that were refused at once share the new one"
    );
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_for_good_does_not_make_a_token_each_time() {
    let lab = Lab::start(still(1, 5), QUICK).await;
    let org = lab.sim.org_ids()[0].clone();
    lab.walked().await;
    lab.sim.add_fault(Fault::new(
        SimEndpoint::AiModelApiKeys,
        Effect::Status {
            status: 401,
            body: BodyForm::Json,
            retry_after: None,
        },
    ));
    lab.wait("three failed walks", |scrape| {
        scrape.failures(&org, "unauthorized") >= 3.0
    })
    .await;
    assert_eq!(
        asked(&lab.sim, SimEndpoint::Token),
        2,
        "one at the start, one after the first 401"
    );
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_client_secret_is_unauthorized_and_asked_for_rarely() {
    let sim = crate::common::sim(still(3, 30)).await;
    let orgs = sim.org_ids();
    let variables = with(
        sim_variables(&sim),
        "MONGODB_ATLAS_CLIENT_SECRET",
        "mdb_sa_sk_wrong",
    );
    let lab = Lab::watching(sim, variables, QUICK).await;
    let scrape = lab
        .wait("a failure of each", |scrape| {
            orgs.iter()
                .all(|org| scrape.failures(org, "unauthorized") >= 1.0)
        })
        .await;
    assert!(
        scrape.get(
            "atlas_ai_keys_exporter_token_requests_total",
            &[("outcome", "refused")]
        ) >= Some(1.0)
    );
    assert_eq!(
        asked(&lab.sim, SimEndpoint::AiModelApiKeys),
        0,
        "without a token nothing is asked"
    );
    assert!(
        asked(&lab.sim, SimEndpoint::Token) <= 2,
        "three organizations do not ask three times"
    );
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_at_the_token_endpoint_has_its_own_reasons() {
    for (effect, reason, outcome) in [
        (503, "server_error", "failed"),
        (429, "rate_limited", "rate_limited"),
        (403, "forbidden", "refused"),
    ] {
        let sim = crate::common::sim(still(1, 5)).await;
        let org = sim.org_ids()[0].clone();
        sim.add_fault(Fault::new(
            SimEndpoint::Token,
            Effect::Status {
                status: effect,
                body: BodyForm::Json,
                retry_after: None,
            },
        ));
        let variables = sim_variables(&sim);
        let lab = Lab::watching(sim, variables, QUICK).await;
        let scrape = lab
            .wait(reason, |scrape| scrape.failures(&org, reason) >= 1.0)
            .await;
        assert!(
            scrape.get(
                "atlas_ai_keys_exporter_token_requests_total",
                &[("outcome", outcome)]
            ) >= Some(1.0),
            "{outcome}"
        );
        lab.stop().await.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_with_reserved_characters_is_encoded_first() {
    // RFC 6749 §2.3.1: form-urlencoded before Basic, so that a colon or a percent sign survives
    let secret = "a:b%2Bc d+e&f=g";
    let sim = crate::common::sim(still(1, 5)).await;
    sim.with_account(|account| account.client_secret = secret.to_owned());
    let variables = with(sim_variables(&sim), "MONGODB_ATLAS_CLIENT_SECRET", secret);
    let lab = Lab::watching(sim, variables, QUICK).await;
    lab.walked().await;
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn digest_pays_for_one_challenge() {
    let sim = crate::common::sim(still(1, 395)).await;
    let variables = digest_variables(&sim);
    let lab = Lab::watching(sim, variables, &["--atlas.page-size", "10"]).await;
    let scrape = lab.walked().await;
    assert_eq!(shown(&scrape), world(&lab.sim));
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_poll_pages"), 40.0);
    let requests = lab.sim.requests();
    let refused = requests.iter().filter(|request| request.status == 401);
    assert_eq!(refused.count(), 1, "one challenge, whatever is asked");
    let pages = requests
        .iter()
        .filter(|request| request.endpoint == SimEndpoint::AiModelApiKeys && request.status == 200);
    assert_eq!(pages.count(), 40);
    let challenges = scrape
        .all("atlas_ai_keys_exporter_api_retries_total")
        .filter(|series| series.labels["reason"] == "challenge");
    assert_eq!(challenges.map(|series| series.value).sum::<f64>(), 1.0);
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_nonce_costs_one_request_more_and_no_walk() {
    let sim = crate::common::sim(still(2, 60)).await;
    let variables = digest_variables(&sim);
    let lab = Lab::watching(sim, variables, QUICK).await;
    lab.walked().await;
    lab.sim.expire_nonces();
    walks(&lab, 3).await;
    let scrape = lab.scrape().await;
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
        0.0
    );
    let refused = lab
        .sim
        .requests()
        .iter()
        .filter(|request| request.status == 401)
        .count();
    assert_eq!(refused, 2, "the first challenge and the stale nonce");
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_private_key_is_unauthorized() {
    let sim = crate::common::sim(still(1, 5)).await;
    let org = sim.org_ids()[0].clone();
    let variables = with(
        digest_variables(&sim),
        "MONGODB_ATLAS_PRIVATE_API_KEY",
        "wrong",
    );
    let lab = Lab::watching(sim, variables, QUICK).await;
    lab.wait("a failure", |scrape| {
        scrape.failures(&org, "unauthorized") >= 1.0
    })
    .await;
    let pages = asked(&lab.sim, SimEndpoint::AiModelApiKeys);
    assert!(pages <= 4, "{:?}", lab.sim.requests());
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ready_token_is_used_as_it_is_and_read_again_when_it_is_rotated() {
    let sim = crate::common::sim(still(1, 5)).await;
    let org = sim.org_ids()[0].clone();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, "an-old-token\n").unwrap();
    let mut variables = sim_variables(&sim);
    variables.retain(|(name, _)| !name.contains("CLIENT"));
    variables.push((
        "MONGODB_ATLAS_ACCESS_TOKEN_FILE".into(),
        path.to_str().unwrap().into(),
    ));
    let good = sim.account().access_token;
    let lab = Lab::watching(sim, variables, QUICK).await;
    lab.wait("a failure", |scrape| {
        scrape.failures(&org, "unauthorized") >= 1.0
    })
    .await;
    std::fs::write(&path, format!("{good}\n")).unwrap();
    lab.walked().await;
    std::fs::remove_file(&path).unwrap();
    let before = lab.scrape().await.failures(&org, "unauthorized");
    lab.wait("a missing file to be told", |scrape| {
        scrape.failures(&org, "unauthorized") > before
    })
    .await;
    lab.stop().await.stop().await;
}
