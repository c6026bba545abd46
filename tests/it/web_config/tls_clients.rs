//! Tests of TLS, HTTP/2 and client certificates.

use std::sync::Arc;

use super::{https_url, start_exporter, status};
use crate::common::pki::{TLS_CONFIG, TestPki};
use crate::common::{Scrape, TestExporter};
use crate::server::request_health;
use exporter_toolkit::web_config::WebConfig;
use futures_util::future::join_all;
use reqwest::{Version, tls};
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

#[tokio::test(flavor = "multi_thread")]
async fn client_auth_types_behave_as_configured() {
    let (exporter, pki) = (start_exporter().await, TestPki::new());
    let all_clients = ["", "client", "stranger", "expired", "self"];
    for (auth_type, ca, accepted) in [
        ("NoClientCert", "", &all_clients[..]),
        ("RequestClientCert", "", &all_clients),
        ("RequestClientCert", "ca.pem", &all_clients),
        (
            "RequireAnyClientCert",
            "",
            &["client", "stranger", "expired", "self"],
        ),
        (
            "RequireClientCert",
            "ca.pem",
            &["client", "stranger", "expired", "self"],
        ),
        ("VerifyClientCertIfGiven", "ca.pem", &["", "client"]),
        ("RequireAndVerifyClientCert", "ca.pem", &["client"]),
        ("RequireAndVerifyClientCert", "self.pem", &["self"]),
    ] {
        let mut text = format!("{TLS_CONFIG}  client_auth_type: {auth_type}\n");
        if !ca.is_empty() {
            text = format!("{text}  client_ca_file: {ca}\n");
        }
        exporter.set_web_config(&pki, &text);
        for version in [tls::Version::TLS_1_2, tls::Version::TLS_1_3] {
            for name in all_clients {
                let client = if name.is_empty() {
                    pki.client()
                } else {
                    pki.client_with(name)
                };
                let client = client
                    .tls_version_min(version)
                    .tls_version_max(version)
                    .build()
                    .unwrap();
                let code = status(&client, &https_url(&exporter, "/-/healthy")).await;
                let expected = accepted.contains(&name).then_some(200);
                let case = format!("{auth_type} with {ca:?}, {name:?}, {version:?}");
                assert_eq!(code, expected, "{case}");
            }
        }
    }
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_allowed_sans_restricts_clients() {
    let (exporter, pki) = (start_exporter().await, TestPki::new());
    for (names, code) in [
        ("client.example", Some(200)),
        ("10.1.2.3", Some(200)),
        ("ada@client.example", Some(200)),
        ("spiffe://example/client", Some(200)),
        ("other, client.example", Some(200)),
        ("other", None),
        ("CLIENT.example", None),
        ("client", None),
    ] {
        let text = format!(
            "{TLS_CONFIG}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n  client_allowed_sans: [{names}]\n"
        );
        exporter.set_web_config(&pki, &text);
        let client = pki.client_with("client").build().unwrap();
        assert_eq!(
            status(&client, &https_url(&exporter, "/-/healthy")).await,
            code,
            "{names}"
        );
        let stranger = pki.client_with("stranger").build().unwrap();
        assert_eq!(
            status(&stranger, &https_url(&exporter, "/-/healthy")).await,
            None
        );
    }
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_versions_ciphers_and_curves_are_restricted() {
    let (exporter, pki) = (start_exporter().await, TestPki::new());
    let (twelve, thirteen) = (tls::Version::TLS_1_2, tls::Version::TLS_1_3);
    for (more, of_12, of_13) in [
        ("", true, true),
        ("  min_version: TLS13\n", false, true),
        ("  max_version: TLS12\n", true, false),
        ("  min_version: TLS12\n  max_version: TLS13\n", true, true),
        (
            "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n",
            true,
            true,
        ),
        // The certificate has no RSA key.
        (
            "  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n",
            false,
            true,
        ),
        ("  cipher_suites: [TLS_AES_128_GCM_SHA256]\n", false, true),
        (
            "  curve_preferences: [CurveP384]\n  prefer_server_cipher_suites: no\n",
            true,
            true,
        ),
    ] {
        exporter.set_web_config(&pki, &format!("{TLS_CONFIG}{more}"));
        for (version, expected) in [(twelve, of_12), (thirteen, of_13)] {
            let client = pki
                .client()
                .tls_version_min(version)
                .tls_version_max(version);
            let code = status(
                &client.build().unwrap(),
                &https_url(&exporter, "/-/healthy"),
            )
            .await;
            assert_eq!(code.is_some(), expected, "{more:?} {version:?}");
        }
    }
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_negotiated_when_enabled() {
    let (exporter, pki) = (start_exporter().await, TestPki::new());
    exporter.wait_polled().await;
    for (more, only_1, version) in [
        ("", false, Version::HTTP_2),
        ("", true, Version::HTTP_11),
        (
            "http_server_config:\n  http2: false\n",
            false,
            Version::HTTP_11,
        ),
    ] {
        exporter.set_web_config(&pki, &format!("{TLS_CONFIG}{more}"));
        let client = pki.client();
        let client = if only_1 { client.http1_only() } else { client };
        let client = client.build().unwrap();
        let responses = (0..20).map(async |_| {
            let response = client
                .get(https_url(&exporter, "/metrics"))
                .send()
                .await
                .unwrap();
            assert_eq!(response.version(), version);
            Scrape::parse(&response.text().await.unwrap())
                .values("mongodbatlas_ai_model_api_key_used")
                .len()
        });
        let keys = join_all(responses).await;
        assert_eq!(keys, vec![10; 20]);
    }
    // An oversized header is rejected, and the connection remains open.
    exporter.set_web_config(&pki, TLS_CONFIG);
    let client = pki.client().build().unwrap();
    let huge = client
        .get(https_url(&exporter, "/-/healthy"))
        .header("x-huge", "x".repeat(20_000));
    let rejected = huge.send().await.map(|response| response.status().as_u16());
    assert!(
        rejected.is_err() || matches!(rejected, Ok(431)),
        "{rejected:?}"
    );
    assert_eq!(
        status(&client, &https_url(&exporter, "/-/healthy")).await,
        Some(200)
    );
    // HTTP/2 sends the address in the pseudo-header `:authority`.
    let client = pki.client().build().unwrap();
    exporter.set_web_config(&pki, TLS_CONFIG);
    let targets = client
        .get(https_url(&exporter, "/sd"))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let address = exporter.base_url.replace("http://", "");
    assert!(
        targets.contains(&format!("\"targets\":[\"{address}\"]"))
            && targets.contains("\"__scheme__\":\"https\""),
        "{targets}"
    );
    exporter.stop().await.stop().await;
}

const CLIENT_AUTH_CONFIG: &str =
    "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n";

/// Returns the TLS configuration of a client, for tests of sessions and of open connections.
fn tls_client(
    pki: &TestPki,
    who: Option<&str>,
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let certificates = |name: &str| {
        CertificateDer::pem_slice_iter(pki.read(name).as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .unwrap()
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates("ca.pem"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match who {
        Some(who) => {
            let key = pki.read(&format!("{who}.key"));
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            let chain = certificates(&format!("{who}.pem"));
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(8)));
    Arc::new(config)
}

async fn connect(exporter: &TestExporter, config: &Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let address = exporter.base_url.strip_prefix("http://").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let connector = TlsConnector::from(Arc::clone(config));
    connector.connect(name, stream).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_sessions_are_not_resumed_with_client_auth() {
    let (exporter, pki) = (start_exporter().await, TestPki::new());
    for (more, who, second) in [
        // Without client authentication, a session is resumed (control).
        ("", None, HandshakeKind::Resumed),
        (CLIENT_AUTH_CONFIG, Some("client"), HandshakeKind::Full),
        (
            "  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.pem\n",
            Some("client"),
            HandshakeKind::Full,
        ),
        (
            "  client_auth_type: RequireAnyClientCert\n",
            Some("client"),
            HandshakeKind::Full,
        ),
    ] {
        exporter.set_web_config(&pki, &format!("{TLS_CONFIG}{more}"));
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let config = tls_client(&pki, who, version);
            let mut kinds = Vec::new();
            for _ in 0..2 {
                let mut stream = connect(&exporter, &config).await;
                // The server sends tickets with the first response.
                assert!(request_health(&mut stream).await.is_some());
                kinds.extend(stream.get_ref().1.handshake_kind());
            }
            assert_eq!(kinds, [HandshakeKind::Full, second], "{more} {version:?}");
        }
    }
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_closes_connections_of_untrusted_clients() {
    let (exporter, pki) = (start_exporter().await, TestPki::new());
    let with_ca = |ca: &str| {
        format!(
            "{TLS_CONFIG}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: {ca}\n"
        )
    };
    let any = format!("{TLS_CONFIG}  client_auth_type: RequireAnyClientCert\n");
    let both = pki.read("ca.pem") + &pki.read("self.pem");
    pki.write("both.pem", &both);
    for (before, after, untrusted, trusted) in [
        // A CA is removed.
        (
            with_ca("both.pem"),
            with_ca("ca.pem"),
            Some("self"),
            "client",
        ),
        (
            with_ca("both.pem"),
            with_ca("self.pem"),
            Some("client"),
            "self",
        ),
        // A name is no longer allowed.
        (
            with_ca("both.pem"),
            format!(
                "{}  client_allowed_sans: [client.example]\n",
                with_ca("ca.pem")
            ),
            Some("self"),
            "client",
        ),
        // The reload enables the verification of certificates.
        (any.clone(), with_ca("ca.pem"), Some("expired"), "client"),
        (any, with_ca("ca.pem"), Some("stranger"), "client"),
        // The reload requires certificates.
        (
            TLS_CONFIG.to_owned(),
            format!("{TLS_CONFIG}{CLIENT_AUTH_CONFIG}"),
            None,
            "",
        ),
    ] {
        exporter.set_web_config(&pki, &before);
        let version = &rustls::version::TLS13;
        let mut ending = connect(&exporter, &tls_client(&pki, untrusted, version)).await;
        assert!(request_health(&mut ending).await.is_some(), "{before}");
        let staying = (!trusted.is_empty()).then(|| tls_client(&pki, Some(trusted), version));
        let mut staying = match staying {
            Some(config) => Some(connect(&exporter, &config).await),
            None => None,
        };
        if let Some(staying) = &mut staying {
            assert!(request_health(staying).await.is_some(), "{before}");
        }
        exporter.set_web_config(&pki, &after);
        let ended = async { while request_health(&mut ending).await.is_some() {} };
        let ended = tokio::time::timeout(crate::common::wait_timeout(), ended).await;
        assert!(ended.is_ok(), "{untrusted:?} is still served with\n{after}");
        if let Some(staying) = &mut staying {
            assert!(
                request_health(staying).await.is_some(),
                "the connection of {trusted} was closed by\n{after}"
            );
        }
    }
    // The connection was opened in plain text, before TLS was enabled.
    exporter.app.web_config.set(WebConfig::default());
    let address = exporter.base_url.strip_prefix("http://").unwrap();
    let mut plain = TcpStream::connect(address).await.unwrap();
    assert!(request_health(&mut plain).await.is_some());
    exporter.set_web_config(&pki, TLS_CONFIG);
    let ended = async { while request_health(&mut plain).await.is_some() {} };
    let ended = tokio::time::timeout(crate::common::wait_timeout(), ended).await;
    assert!(ended.is_ok(), "plain text is still served");
    exporter.stop().await.stop().await;
}
