//! Atlas behind TLS: no request is sent to a server without a valid certificate.

use futures_util::future::join_all;

use super::tls_frontend::{TlsFrontend, contains};
use crate::common::pki::TestPki;
use crate::common::{
    ChildProcess, Scrape, expected_sim_keys, exposed_keys, run_exporter, sim_env, start_sim,
    static_sim,
};
use mongodb_atlas_sim::SimHandle;

const FLAGS: &[&str] = &[
    "--web.listen-address=127.0.0.1:0",
    "--atlas.poll-interval=1s",
    "--atlas.timeout=20s",
];

const FAILURES: &str = "atlas_ai_keys_exporter_org_poll_failures_total";

/// Returns the environment of an exporter that polls `base_url`, without variables for certificates.
pub(super) fn env_with_base_url(sim: &SimHandle, base_url: &str) -> Vec<(String, String)> {
    let mut variables = sim_env(sim);
    variables.retain(|(name, _)| name != "MONGODB_ATLAS_BASE_URL");
    variables.push(("MONGODB_ATLAS_BASE_URL".to_owned(), base_url.to_owned()));
    variables
}

/// Returns the environment of an exporter that trusts only the CA of `pki`.
fn trusting_env(sim: &SimHandle, pki: &TestPki, frontend: &TlsFrontend) -> Vec<(String, String)> {
    let base_url = format!("https://127.0.0.1:{}", frontend.port());
    let mut variables = env_with_base_url(sim, &base_url);
    let ca = pki.path("ca.pem").display().to_string();
    variables.push(("SSL_CERT_FILE".to_owned(), ca));
    variables
}

/// Replaces the service account by the access token, which is sent with the first request.
fn with_access_token(sim: &SimHandle, variables: &mut Vec<(String, String)>) {
    variables.retain(|(name, _)| !name.contains("CLIENT"));
    let token = sim.credentials().access_token;
    variables.push(("MONGODB_ATLAS_ACCESS_TOKEN".to_owned(), token));
}

/// Polls a server with this certificate until two polls have failed.
async fn assert_no_request_is_sent(certificate: &str, use_token: bool) {
    let (sim, pki) = (start_sim(static_sim(1, 5)).await, TestPki::new());
    let org = sim.org_ids()[0].clone();
    let frontend = TlsFrontend::start(&sim, &pki, certificate).await;
    let mut variables = trusting_env(&sim, &pki, &frontend);
    if use_token {
        with_access_token(&sim, &mut variables);
    }
    let mut exporter = ChildProcess::exporter(FLAGS, &variables);
    let address = exporter.wait_for_output("address=");
    let what = format!("two failures with {certificate}");
    let scrape = exporter
        .wait_scrape(&address, &what, |scrape| scrape.sum(FAILURES) >= 2.0)
        .await;
    let failures = scrape.sum(FAILURES);
    assert_eq!(scrape.poll_failures(&org, "tls"), failures, "{certificate}");
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_up"), 0.0);
    let record = frontend.record();
    // Polls share a failed token request until it is retried.
    let handshakes = if use_token { 2 } else { 1 };
    assert!(record.failed_handshakes >= handshakes, "{certificate}");
    assert_eq!(
        String::from_utf8_lossy(&record.decrypted),
        "",
        "{certificate}"
    );
    assert_eq!(sim.requests(), [], "{certificate}");
    frontend.close().await;
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_without_valid_certificate_receives_no_request() {
    let certificates = [
        "atlas-stranger",
        "atlas-expired",
        "atlas-misnamed",
        "atlas-self",
    ];
    let cases = certificates.iter().flat_map(|certificate| {
        [false, true].map(|use_token| assert_no_request_is_sent(certificate, use_token))
    });
    join_all(cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ssl_cert_file_and_dir_are_trusted() {
    let (sim, pki) = (start_sim(static_sim(1, 25)).await, TestPki::new());
    let frontend = TlsFrontend::start(&sim, &pki, "atlas").await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("ca.pem"), pki.read("ca.pem")).unwrap();
    let empty = tempfile::tempdir().unwrap();
    let ca = pki.path("ca.pem").display().to_string();
    let base_url = format!("https://127.0.0.1:{}", frontend.port());
    for (name, value, is_trusted) in [
        ("SSL_CERT_FILE", ca, true),
        ("SSL_CERT_DIR", directory.path().display().to_string(), true),
        (
            "SSL_CERT_FILE",
            pki.path("atlas-stranger.pem").display().to_string(),
            false,
        ),
        ("SSL_CERT_DIR", empty.path().display().to_string(), false),
        ("UNRELATED", String::new(), false),
    ] {
        let before = frontend.record();
        let mut variables = env_with_base_url(&sim, &base_url);
        variables.push((name.to_owned(), value.clone()));
        let output = run_exporter(&["once"], variables).await;
        let error = String::from_utf8(output.stderr).unwrap();
        let received = frontend.record().decrypted.len() - before.decrypted.len();
        if is_trusted {
            assert_eq!(output.status.code(), Some(0), "{name}={value}: {error}");
            let scrape = Scrape::parse(&String::from_utf8(output.stdout).unwrap());
            assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
        } else {
            assert_ne!(output.status.code(), Some(0), "{name}={value}: {error}");
            assert_eq!(received, 0, "{name}={value}");
        }
        assert_eq!(received > 0, is_trusted, "{name}={value}");
    }
    let record = frontend.record();
    assert!(contains(&record.decrypted, "GET /api/atlas/v2/orgs/"));
    frontend.close().await;
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_or_untrusted_server_retains_the_last_inventory() {
    let (sim, pki) = (start_sim(static_sim(1, 25)).await, TestPki::new());
    let org = sim.org_ids()[0].clone();
    let frontend = TlsFrontend::start(&sim, &pki, "atlas").await;
    let mut exporter = ChildProcess::exporter(FLAGS, &trusting_env(&sim, &pki, &frontend));
    let address = exporter.wait_for_output("address=");
    let before = exporter
        .wait_scrape(&address, "a complete poll with names", |scrape| {
            scrape.sum("atlas_ai_keys_exporter_org_up") == 1.0
                && scrape.with_name("mongodbatlas_project_info").count() > 0
                && scrape.with_name("mongodbatlas_organization_info").count() == 1
                && scrape
                    .with_name("mongodbatlas_ai_model_rate_limit_tokens_per_minute")
                    .count()
                    > 0
        })
        .await;
    assert_eq!(exposed_keys(&before), expected_sim_keys(&sim));
    let requests = sim.requests().len();
    let wait_failure = async |what: &str, reason: &str| {
        let known = Scrape::parse(
            &crate::common::get(&format!("http://{address}/metrics"))
                .await
                .1,
        );
        let known = known.poll_failures(&org, reason);
        let scrape = exporter
            .wait_scrape(&address, what, |scrape| {
                scrape.poll_failures(&org, reason) > known
            })
            .await;
        assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_up"), 0.0, "{what}");
        assert_eq!(
            scrape.inventory_series(),
            before.inventory_series(),
            "{what}"
        );
        scrape
    };
    for certificate in ["atlas-expired", "atlas-stranger"] {
        frontend.set_certificate(&pki, certificate);
        wait_failure(certificate, "tls").await;
        assert!(frontend.record().decrypted.is_empty(), "{certificate}");
    }
    frontend.set_plain_text();
    wait_failure("plain text", "tls").await;
    let plain = frontend.record().plain;
    assert!(!plain.is_empty(), "a TLS ClientHello");
    for part in ["GET ", "POST ", "Bearer", "Basic", "simtok", "HTTP/1.1"] {
        assert!(!contains(&plain, part), "{part}");
    }
    frontend.set_certificate(&pki, "atlas");
    exporter
        .wait_scrape(&address, "polls to succeed again", |scrape| {
            scrape.sum("atlas_ai_keys_exporter_org_up") == 1.0
        })
        .await;
    assert!(sim.requests().len() > requests);
    frontend.close().await;
    let last = wait_failure("a closed port", "connection").await;
    assert_eq!(
        last.sum(FAILURES),
        last.poll_failures(&org, "tls") + last.poll_failures(&org, "connection")
    );
    sim.stop().await;
}
