//! Starts servers on port 0, and sends requests over TCP and TLS.

#![allow(clippy::expect_used, reason = "a test fails with a panic")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use exporter_toolkit::address::ListenAddress;
use exporter_toolkit::server::{Server, ServerLimits, bind, serve};
use exporter_toolkit::web_config::{SharedWebConfig, WebConfig, authenticate};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

struct TestServer {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl TestServer {
    async fn start(
        router: Router,
        web_config: Option<Arc<SharedWebConfig>>,
        limits: ServerLimits,
    ) -> Self {
        let address = ListenAddress {
            host: "127.0.0.1".to_owned(),
            port: 0,
        };
        let listener = bind(&address, "--web.listen-address").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let server = Server {
            listeners: vec![listener],
            router,
            limits,
            web_config,
            name: "test",
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(vec![server], Arc::default(), shutdown.clone()));
        Self {
            address,
            shutdown,
            task,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connected")
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("no panic");
    }
}

fn metrics() -> Router {
    Router::new().route("/metrics", get("up 1\n"))
}

/// Sends a request, and returns the data received until the connection is closed.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut response = Vec::new();
    // A server may close a TLS connection without `close_notify`.
    let _ = stream.read_to_end(&mut response).await;
    String::from_utf8_lossy(&response).into_owned()
}

fn get_metrics(authorization: &str) -> String {
    format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{authorization}\r\n")
}

#[tokio::test]
async fn tower_services_are_served() {
    let service = tower::service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Body::from("from a service")))
    });
    let router = Router::new().fallback_service(service);
    let server = TestServer::start(router, None, ServerLimits::default()).await;
    let response = exchange(server.connect().await, &get_metrics("")).await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.ends_with("from a service"), "{response}");
    server.stop().await;
}

/// Writes a certificate and a web configuration with one user, and returns a client that trusts the certificate.
fn write_web_config(directory: &Path) -> TlsConnector {
    let key =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let write = |name: &str, text: &str| {
        std::fs::write(directory.join(name), text).expect("written");
    };
    write("server.pem", &key.cert.pem());
    write("server.key", &key.signing_key.serialize_pem());
    let hash = bcrypt::hash("secret", 4).expect("a hash");
    let text = format!(
        "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\nbasic_auth_users:\n  ada: {hash}\n"
    );
    write("web.yml", &text);
    let mut roots = RootCertStore::empty();
    roots.add(key.cert.der().clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

#[tokio::test]
async fn web_configuration_adds_tls_and_basic_authentication() {
    let directory = tempfile::tempdir().expect("a directory");
    let connector = write_web_config(directory.path());
    let loaded = WebConfig::load_stable(&directory.path().join("web.yml")).await;
    let config = loaded.config.expect("valid");
    assert!(config.uses_tls() && config.warnings.is_empty());
    let config = Arc::new(SharedWebConfig::new(config).with_realm("test"));
    let router = metrics().layer(from_fn_with_state(Arc::clone(&config), authenticate));
    let server = TestServer::start(router, Some(config), ServerLimits::default()).await;
    // The values are the base64 of ada:guess and ada:secret.
    for (authorization, status) in [
        ("", "401 Unauthorized"),
        ("Authorization: Basic YWRhOmd1ZXNz\r\n", "401 Unauthorized"),
        ("Authorization: Basic YWRhOnNlY3JldA==\r\n", "200 OK"),
    ] {
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = connector.connect(name, server.connect().await).await;
        let request = get_metrics(authorization);
        let response = exchange(stream.expect("a handshake"), &request).await;
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{response}"
        );
        let challenge = r#"www-authenticate: Basic realm="test", charset="UTF-8""#;
        assert_eq!(
            response.contains(challenge),
            status != "200 OK",
            "{response}"
        );
    }
    let response = exchange(server.connect().await, &get_metrics("")).await;
    assert!(!response.contains("up 1"), "{response}");
    server.stop().await;
}

// Paused time: the test uses the production timeouts without waiting for them.
#[tokio::test(start_paused = true)]
async fn slow_and_oversized_headers_end_the_connection() {
    let server = TestServer::start(metrics(), None, ServerLimits::default()).await;
    let started_at = Instant::now();
    let response = exchange(server.connect().await, "GET /metrics HTTP/1.1\r\nHost: ").await;
    assert_eq!(response, "");
    assert!(started_at.elapsed() >= Duration::from_secs(10));
    let oversized = format!("GET /{} HTTP/1.1\r\n", "x".repeat(40_000));
    let response = exchange(server.connect().await, &oversized).await;
    assert!(response.starts_with("HTTP/1.1 431 "), "{response}");
    let response = exchange(
        server.connect().await,
        "GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
    server.stop().await;
}

#[tokio::test]
async fn shutdown_closes_idle_connections_and_completes_responses() {
    let (requested, released) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = get({
        let (requested, released) = (Arc::clone(&requested), Arc::clone(&released));
        async move || {
            requested.notify_one();
            released.notified().await;
            "late"
        }
    });
    let router = Router::new().route("/metrics", slow);
    let server = TestServer::start(router, None, ServerLimits::default()).await;
    let mut idle = server.connect().await;
    let pending = tokio::spawn({
        let stream = server.connect().await;
        async move { exchange(stream, &get_metrics("")).await }
    });
    requested.notified().await;
    server.shutdown.cancel();
    assert_eq!(idle.read(&mut [0]).await.expect("closed"), 0);
    assert!(!server.task.is_finished(), "a response is in flight");
    released.notify_one();
    server.stop().await;
    let response = pending.await.expect("no panic");
    assert!(response.ends_with("late"), "{response}");
}
