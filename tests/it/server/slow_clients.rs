//! Tests of slow, stalled and idle clients.

use std::sync::Arc;
use std::time::Duration;

use super::start_server;
use crate::common::pki::{TLS_CONFIG, TestPki};
use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{TestExporter, eventually, static_sim, unlimited_sim, wait_timeout};
use axum::Router;
use exporter_toolkit::liveness::LivenessMonitor;
use exporter_toolkit::server::{Server, ServerLimits};
use exporter_toolkit::web_config::WebConfig;
use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The watchdog monitors every listener, and reports a stalled loop.
#[tokio::test(start_paused = true)]
async fn stalled_listener_is_detected() {
    let interval = Duration::from_secs(1);
    let liveness = Arc::new(LivenessMonitor::new(Some(interval)));
    let mut listeners = Vec::new();
    let mut names = Vec::new();
    for _ in 0..2 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        names.push(format!("listener on {}", listener.local_addr().unwrap()));
        listeners.push(listener);
    }
    let server = Server {
        listeners,
        router: Router::new(),
        limits: ServerLimits::default(),
        web_config: None,
        name: "test",
    };
    let (monitor, shutdown) = (Arc::clone(&liveness), CancellationToken::new());
    let serving = tokio::spawn(exporter_toolkit::server::serve(
        vec![server],
        monitor,
        shutdown.clone(),
    ));
    for second in 0..60 {
        tokio::time::sleep(interval).await;
        let stalled = liveness.stalled(2 * interval);
        assert!(stalled.is_empty(), "second {second}: {stalled:?}");
    }
    // The clock advances while no task runs, as if the loops had stalled.
    assert!(tokio::time::advance(3 * interval).now_or_never().is_none());
    assert_eq!(liveness.stalled(2 * interval), names);
    tokio::time::sleep(interval).await;
    assert!(liveness.stalled(2 * interval).is_empty());
    shutdown.cancel();
    serving.await.unwrap();
}

/// Returns the simulated time until the server closes the connection.
async fn time_to_close(mut stream: TcpStream, request: &[u8]) -> Duration {
    stream.write_all(request).await.unwrap();
    let started_at = Instant::now();
    let mut received = Vec::new();
    // A reset is acceptable.
    let _ = stream.read_to_end(&mut received).await;
    started_at.elapsed()
}

/// Asserts that a timeout was effective. The server checks timeouts once per second.
fn assert_closed_after(timeout: Duration, took: Duration, what: &str) {
    let is_in_time = timeout <= took && took <= timeout + Duration::from_secs(5);
    assert!(is_in_time, "{what}: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn slow_clients_are_disconnected() {
    let exporter = SimHarness::start(&in_process_sim(&static_sim(1, 10)), &[]).await;
    let (address, shutdown, serving) = start_server(&exporter.app, ServerLimits::default()).await;
    let connect = async || TcpStream::connect(&address).await.unwrap();
    // A client sends an endless header, byte by byte.
    let started_at = Instant::now();
    let mut dribbling = connect().await;
    for byte in b"GET / HTTP/1.1\r\nHost: ".iter().chain(&[b'x'; 1000]) {
        if dribbling.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let header_timeout = Duration::from_secs(10);
    assert_closed_after(header_timeout, started_at.elapsed(), "half a header");
    // One client sends nothing, and one is idle after a response.
    let request = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n";
    let idle_timeout = Duration::from_mins(5);
    let (silent, idle) = (connect().await, connect().await);
    let (silent, idle) = tokio::join!(time_to_close(silent, b""), time_to_close(idle, request));
    assert_closed_after(idle_timeout, silent, "silent");
    assert_closed_after(idle_timeout, idle, "idle");
    shutdown.cancel();
    serving.await.unwrap();
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn tls_handshake_times_out() {
    let exporter = SimHarness::start(&in_process_sim(&static_sim(1, 10)), &[]).await;
    let pki = TestPki::new();
    let config = WebConfig::load(&pki.write("web.yml", TLS_CONFIG)).config;
    exporter.app.web_config.set(config.unwrap());
    let (address, shutdown, serving) = start_server(&exporter.app, ServerLimits::default()).await;
    for (begin, timeout) in [
        (&b""[..], Duration::from_secs(10)),
        (b"\x16\x03\x01\x02\x00", Duration::from_secs(10)),
        // Plain HTTP is rejected immediately.
        (b"GET / HTTP/1.1\r\n", Duration::ZERO),
    ] {
        let stream = TcpStream::connect(&address).await.unwrap();
        let took = time_to_close(stream, begin).await;
        assert_closed_after(timeout, took, &format!("{begin:?}"));
    }
    shutdown.cancel();
    serving.await.unwrap();
    exporter.stop().await;
}

/// Starts an exporter with TLS that serves one scrape at a time.
async fn start_tls_exporter(keys: usize) -> (TestPki, TestExporter) {
    let pki = TestPki::new();
    let exporter = TestExporter::start(unlimited_sim(1, keys), &["--web.max-requests=1"]).await;
    exporter.wait_polled().await;
    exporter.set_web_config(&pki, TLS_CONFIG);
    (pki, exporter)
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_http2_reader_is_disconnected() {
    let (pki, exporter) = start_tls_exporter(30_000).await;
    let limits = ServerLimits {
        write_stall_timeout: Duration::from_millis(500),
        ..ServerLimits::default()
    };
    let (address, shutdown, serving) = start_server(&exporter.app, limits).await;
    let url = format!("https://{address}/metrics");
    let stalled = pki
        .client()
        .build()
        .unwrap()
        .get(&url)
        .send()
        .await
        .unwrap();
    assert_eq!(stalled.version(), reqwest::Version::HTTP_2);
    let other = pki.client().build().unwrap();
    let text = eventually("the stalled scrape is aborted", async || {
        let response = other.get(&url).send().await.unwrap();
        if response.status() == 200 {
            return Ok(response.text().await.unwrap());
        }
        assert_eq!(response.status(), 503, "the stalled scrape has the permit");
        Err(response.status())
    })
    .await;
    assert!(
        text.contains("process_threads"),
        "the other scrape is complete"
    );
    assert!(stalled.text().await.is_err(), "the response is truncated");
    shutdown.cancel();
    serving.await.unwrap();
    exporter.stop().await.stop().await;
}

/// An HTTP/2 client grants a window for each response. Without a window, the server can send only headers.
#[tokio::test(flavor = "multi_thread")]
async fn http2_client_without_window_is_disconnected() {
    let (pki, exporter) = start_tls_exporter(1000).await;
    let limits = ServerLimits {
        write_stall_timeout: Duration::from_millis(500),
        ..ServerLimits::default()
    };
    let (address, shutdown, serving) = start_server(&exporter.app, limits).await;
    let connector = pki.connector(b"h2");
    for path in ["/metrics", "/", "/sd", "/-/healthy", "/nothing"] {
        let name = "localhost".try_into().unwrap();
        let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        let request = crate::common::http2::zero_window_request(path, "localhost");
        stream.write_all(&request).await.unwrap();
        let mut received = Vec::new();
        // The result is an error, because the server closes the connection without a shutdown.
        let ends = stream.read_to_end(&mut received);
        let _ = tokio::time::timeout(wait_timeout(), ends)
            .await
            .expect(path);
        assert!(received.len() < 1000, "{path}: {} bytes", received.len());
    }
    let client = pki.client().build().unwrap();
    let response = client.get(format!("https://{address}/metrics")).send();
    assert_eq!(response.await.unwrap().status(), 200, "the permit is free");
    shutdown.cancel();
    serving.await.unwrap();
    exporter.stop().await.stop().await;
}
