//! Requests through an HTTP proxy.

use std::net::TcpListener;

use super::tls::env_with_base_url;
use super::tls_frontend::{ConnectProxy, TlsFrontend, contains};
use super::{serve_response, token_env};
use crate::common::pki::TestPki;
use crate::common::{
    ChildProcess, Scrape, expected_sim_keys, exposed_keys, run_exporter, start_sim, static_sim,
};
use mongodb_atlas_sim::SimHandle;

/// Returns the environment of an exporter that reaches Atlas only through `proxy`.
fn proxy_env(proxy: &str) -> Vec<(String, String)> {
    let mut variables = token_env("https://atlas.invalid".to_owned());
    variables.push(("HTTPS_PROXY".to_owned(), proxy.to_owned()));
    variables
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_use_the_proxy_and_errors_omit_its_password() {
    let rejection = "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
    let (rejecting, requests) = serve_response(rejection);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = (silent.local_addr().unwrap().port(), silent);
    for (port, words) in [
        (rejecting, "connection failed"),
        (crate::common::free_port(), "connection failed"),
        (silent.0, "no complete response within"),
    ] {
        let proxy = format!(" http://me:secret%2Dword@127.0.0.1:{port}\n");
        let flags = ["once", "--atlas.timeout=1s"];
        let output = run_exporter(&flags, proxy_env(&proxy)).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(words), "{error}");
        assert!(
            error.contains(&format!("via proxy http://127.0.0.1:{port}")),
            "{error}"
        );
        assert!(
            !error.contains("secret") && !error.contains("bWU6"),
            "{error}"
        );
    }
    let request = requests.wait_for("CONNECT");
    assert!(
        request.starts_with("CONNECT atlas.invalid:443 HTTP/1.1\r\n"),
        "{request}"
    );
    // me:secret-word.
    let authorization = "proxy-authorization: basic bwu6c2vjcmv0lxdvcmq=\r\n";
    assert!(
        request.to_ascii_lowercase().contains(authorization),
        "{request}"
    );
    assert!(!request.contains("a-ready-token"), "{request}");
}

#[test]
fn invalid_proxy_url_fails_every_command() {
    for (command, value) in [
        (&["--web.listen-address=127.0.0.1:0"][..], "::::secret-word"),
        (&["once"], "\"http://secret-word\""),
        (&["keys"], "http://me:secret-word@"),
        (&["check", "--offline"], "ftp://secret-word"),
    ] {
        for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            let mut variables = token_env("https://atlas.invalid".to_owned());
            variables.push((variable.to_owned(), value.to_owned()));
            // The exit is expected: without the error the exporter would serve.
            let (code, text, _) = ChildProcess::exporter(command, &variables).wait_exit();
            assert_eq!(code, Some(2), "{text}");
            assert!(
                text.contains(variable) && !text.contains("secret-word"),
                "{text}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_bypasses_the_proxy() {
    let sim = crate::common::start_sim(static_sim(1, 5)).await;
    let mut variables = crate::common::sim_env(&sim);
    variables.push(("HTTPS_PROXY".to_owned(), "http://127.0.0.1:1".to_owned()));
    variables.push(("HTTP_PROXY".to_owned(), "http://127.0.0.1:1".to_owned()));
    let output = run_exporter(&["once"], variables).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    sim.stop().await;
}

/// `me:secret-word` as the value of the header.
const PROXY_AUTHORIZATION: &str = "Basic bWU6c2VjcmV0LXdvcmQ=";

/// Returns the environment of an exporter that reaches `https://atlas.invalid` through this proxy.
fn tunnel_env(
    sim: &SimHandle,
    pki: &TestPki,
    proxy: &ConnectProxy,
    user: &str,
) -> Vec<(String, String)> {
    let mut variables = env_with_base_url(sim, "https://atlas.invalid");
    let ca = pki.path("ca.pem").display().to_string();
    variables.push(("SSL_CERT_FILE".to_owned(), ca));
    let proxy = format!("http://{user}127.0.0.1:{}", proxy.port());
    variables.push(("HTTPS_PROXY".to_owned(), proxy));
    variables
}

/// Asserts that a proxy received only the requests for tunnels, and no plain text of a request to Atlas.
fn assert_proxy_sees_no_request(proxy: &ConnectProxy, sim: &SimHandle) {
    let record = proxy.record();
    for request in &record.requests {
        let mut lines = request.trim_end().lines();
        assert_eq!(
            lines.next(),
            Some("CONNECT atlas.invalid:443 HTTP/1.1"),
            "{request}"
        );
        for line in lines {
            let name = line.split(':').next().unwrap().to_ascii_lowercase();
            let known = ["host", "user-agent", "proxy-authorization"];
            assert!(known.contains(&&*name), "{request}");
        }
    }
    let account = sim.credentials();
    for part in [
        "GET ",
        "POST ",
        "uthorization",
        "Bearer",
        "simtok",
        &account.client_id,
        &account.client_secret,
    ] {
        assert!(!contains(&record.tunneled, part), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_through_a_proxy_with_and_without_password() {
    let (sim, pki) = (start_sim(static_sim(2, 25)).await, TestPki::new());
    for (user, authorization) in [
        ("", None),
        ("me:secret-word@", Some(PROXY_AUTHORIZATION)),
        ("me:secret%2Dword@", Some(PROXY_AUTHORIZATION)),
    ] {
        let frontend = TlsFrontend::start(&sim, &pki, "atlas").await;
        let proxy = ConnectProxy::start(frontend.port(), authorization).await;
        let output = run_exporter(&["once"], tunnel_env(&sim, &pki, &proxy, user)).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{error}");
        let scrape = Scrape::parse(&String::from_utf8(output.stdout).unwrap());
        assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
        let record = proxy.record();
        assert!(!record.requests.is_empty() && !record.tunneled.is_empty());
        for request in &record.requests {
            let sent = request.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("proxy-authorization")
                    .then_some(value)
            });
            assert_eq!(sent, authorization, "{request}");
        }
        assert_proxy_sees_no_request(&proxy, &sim);
        let received = frontend.record().decrypted.to_ascii_lowercase();
        assert!(contains(&received, "authorization: bearer simtok."));
        assert!(!contains(&received, "proxy-"));
        let password = PROXY_AUTHORIZATION.to_ascii_lowercase();
        assert!(!contains(&received, &password));
        assert!(!error.contains("secret"), "{error}");
        frontend.close().await;
    }
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_proxy_password_is_a_connection_error_that_names_the_proxy() {
    let (sim, pki) = (start_sim(static_sim(1, 5)).await, TestPki::new());
    let frontend = TlsFrontend::start(&sim, &pki, "atlas").await;
    let proxy = ConnectProxy::start(frontend.port(), Some(PROXY_AUTHORIZATION)).await;
    for user in ["", "me:invalid-word@"] {
        let output = run_exporter(&["once"], tunnel_env(&sim, &pki, &proxy, user)).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        for words in [
            "proxy authorization required".to_owned(),
            format!("via proxy http://127.0.0.1:{}", proxy.port()),
        ] {
            assert!(error.contains(&words), "{words}: {error}");
        }
        assert!(!error.contains("invalid-word"), "{error}");
    }
    assert!(proxy.record().requests.len() >= 2);
    assert_proxy_sees_no_request(&proxy, &sim);
    assert_eq!(frontend.record().connections, 0);
    assert_eq!(sim.requests(), []);
    frontend.close().await;
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn untrusted_server_behind_a_proxy_receives_no_request() {
    let (sim, pki) = (start_sim(static_sim(1, 5)).await, TestPki::new());
    for certificate in ["atlas-stranger", "atlas-misnamed"] {
        let frontend = TlsFrontend::start(&sim, &pki, certificate).await;
        let proxy = ConnectProxy::start(frontend.port(), Some(PROXY_AUTHORIZATION)).await;
        let variables = tunnel_env(&sim, &pki, &proxy, "me:secret-word@");
        let output = run_exporter(&["once"], variables).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("TLS failed"), "{error}");
        let record = frontend.record();
        assert!(record.failed_handshakes > 0, "{certificate}");
        assert!(record.decrypted.is_empty(), "{certificate}");
        assert_proxy_sees_no_request(&proxy, &sim);
        frontend.close().await;
    }
    assert_eq!(sim.requests(), []);
    sim.stop().await;
}
