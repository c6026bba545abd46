//! Who is let in: TLS, client certificates and passwords from `--web.config.file`, and how they
//! change while connections are open.

mod basic_auth;
mod tls_clients;
mod validation;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::pki::{TLS_CONFIG, TestPki, bcrypt_hash, indent};
use crate::common::{ChildProcess, Scrape, TestExporter, static_sim};
use exporter_toolkit::web_config::WebConfig;
use futures_util::future::join_all;
use reqwest::{Client, Version, tls};
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const RELOADED: &str = "atlas_ai_keys_exporter_config_last_reload_successful";

fn https_url(lab: &TestExporter, path: &str) -> String {
    format!("{}{path}", lab.base_url.replace("http://", "https://"))
}

/// The status of an answer; none when the connection does not come about.
async fn status(client: &Client, url: &str) -> Option<u16> {
    let answer = client.get(url).send().await.ok()?;
    Some(answer.status().as_u16())
}

async fn start_exporter() -> TestExporter {
    TestExporter::start(static_sim(1, 10), &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn web_config_reload_applies_changes_and_keeps_connections() {
    let papers = TestPki::new();
    let flag = papers.web_config_flag(TLS_CONFIG);
    let lab = TestExporter::start(static_sim(1, 10), &[&flag]).await;
    let old = papers.client().build().unwrap();
    let scrape = async |client: &Client| {
        let answer = client.get(https_url(&lab, "/metrics")).send().await.ok()?;
        Some(Scrape::parse(&answer.text().await.ok()?))
    };
    let until = async |client: &Client, reloaded: f64| {
        let begun = Instant::now();
        while scrape(client)
            .await
            .and_then(|scrape| scrape.get(RELOADED, &[]))
            != Some(reloaded)
        {
            assert!(
                begun.elapsed() < crate::common::WAIT_TIMEOUT,
                "in vain: {reloaded}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    until(&old, 1.0).await;
    papers.renew();
    let new = papers.client().build().unwrap();
    let begun = Instant::now();
    while scrape(&new).await.is_none() {
        assert!(begun.elapsed() < crate::common::WAIT_TIMEOUT);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        scrape(&old).await.is_some(),
        "the open connection is used on"
    );
    let fresh = {
        let other = TestPki::new();
        other.client().build().unwrap()
    };
    assert!(scrape(&fresh).await.is_none(), "another CA than either");
    // what was in force stays, and one that is right follows
    papers.write("web.yml", "tls_server_config: [");
    until(&new, 0.0).await;
    papers.write("web.yml", TLS_CONFIG);
    until(&new, 1.0).await;
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limit_rejects_excess_and_headers_are_added() {
    let (lab, papers) = (start_exporter().await, TestPki::new());
    let text = "{TLS}rate_limit:\n  interval: 1h\n  burst: 3\nhttp_server_config:\n  headers:\n    Strict-Transport-Security: max-age=60\n    X-Frame-Options: sameorigin\n    X-Content-Type-Options: nosniff\n    Content-Security-Policy: default-src 'self'\n    X-XSS-Protection: '0'\n";
    lab.set_web_config(&papers, &text.replace("{TLS}", TLS_CONFIG));
    let client = papers.client().build().unwrap();
    for (path, code) in [
        ("/", 200),
        ("/-/healthy", 200),
        ("/nothing", 404),
        ("/", 429),
        ("/metrics", 429),
    ] {
        let answer = client.get(https_url(&lab, path)).send().await.unwrap();
        assert_eq!(answer.status(), code, "{path}");
        let headers = answer.headers();
        assert_eq!(headers["strict-transport-security"], "max-age=60");
        assert_eq!(
            headers["x-frame-options"], "sameorigin",
            "the file goes before the page's own"
        );
        assert_eq!(headers.get_all("content-security-policy").iter().count(), 1);
        assert_eq!(headers["content-security-policy"], "default-src 'self'");
    }
    lab.stop().await.stop().await;
}
