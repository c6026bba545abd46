//! Tests of `--web.config.file`: TLS, client certificates and passwords, and reloads while connections are open.

mod basic_auth;
mod tls_clients;
mod validation;

use crate::common::pki::{TLS_CONFIG, TestPki};
use crate::common::{Scrape, TestExporter, eventually, static_sim};
use reqwest::Client;

const RELOADED: &str = "atlas_ai_keys_exporter_config_last_reload_successful";

fn https_url(exporter: &TestExporter, path: &str) -> String {
    format!("{}{path}", exporter.base_url.replace("http://", "https://"))
}

/// Returns the status of a response, or `None` if the connection fails.
async fn status(client: &Client, url: &str) -> Option<u16> {
    let response = client.get(url).send().await.ok()?;
    Some(response.status().as_u16())
}

async fn start_exporter() -> TestExporter {
    TestExporter::start(static_sim(1, 10), &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn web_config_reload_applies_changes_and_keeps_connections() {
    let pki = TestPki::new();
    let flag = pki.web_config_flag(TLS_CONFIG);
    let exporter = TestExporter::start(static_sim(1, 10), &[&flag]).await;
    let old = pki.client().build().unwrap();
    let scrape = async |client: &Client| {
        let response = client
            .get(https_url(&exporter, "/metrics"))
            .send()
            .await
            .ok()?;
        Some(Scrape::parse(&response.text().await.ok()?))
    };
    let until = async |client: &Client, reloaded: f64| {
        eventually(&format!("{RELOADED} {reloaded}"), async || {
            let scrape = scrape(client).await;
            let value = scrape.and_then(|scrape| scrape.get(RELOADED, &[]));
            if value == Some(reloaded) {
                return Ok(());
            }
            Err(format!("{value:?}"))
        })
        .await;
    };
    until(&old, 1.0).await;
    pki.renew();
    let new = pki.client().build().unwrap();
    eventually("the new certificate is used", async || {
        scrape(&new).await.map(|_| ()).ok_or("no response")
    })
    .await;
    assert!(
        scrape(&old).await.is_some(),
        "the open connection remains usable"
    );
    let fresh = {
        let other = TestPki::new();
        other.client().build().unwrap()
    };
    assert!(scrape(&fresh).await.is_none(), "a client with another CA");
    // An invalid file does not replace the active configuration.
    pki.write("web.yml", "tls_server_config: [");
    until(&new, 0.0).await;
    pki.write("web.yml", TLS_CONFIG);
    until(&new, 1.0).await;
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limit_rejects_excess_and_headers_are_added() {
    let (exporter, pki) = (start_exporter().await, TestPki::new());
    let text = "{TLS}rate_limit:\n  interval: 1h\n  burst: 3\nhttp_server_config:\n  headers:\n    Strict-Transport-Security: max-age=60\n    X-Frame-Options: sameorigin\n    X-Content-Type-Options: nosniff\n    Content-Security-Policy: default-src 'self'\n    X-XSS-Protection: '0'\n";
    exporter.set_web_config(&pki, &text.replace("{TLS}", TLS_CONFIG));
    let client = pki.client().build().unwrap();
    for (path, code) in [
        ("/", 200),
        ("/-/healthy", 200),
        ("/nothing", 404),
        ("/", 429),
        ("/metrics", 429),
    ] {
        let response = client.get(https_url(&exporter, path)).send().await.unwrap();
        assert_eq!(response.status(), code, "{path}");
        let headers = response.headers();
        assert_eq!(headers["strict-transport-security"], "max-age=60");
        assert_eq!(
            headers["x-frame-options"], "sameorigin",
            "the configured header replaces the page's header"
        );
        assert_eq!(headers.get_all("content-security-policy").iter().count(), 1);
        assert_eq!(headers["content-security-policy"], "default-src 'self'");
    }
    exporter.stop().await.stop().await;
}
