//! Scrapes of a running exporter.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::series_from_text;
use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{Scrape, TestExporter, eventually, static_sim};
use atlas_ai_keys_exporter::web::{self};
use exporter_toolkit::server::{Server, ServerLimits};
use flate2::read::GzDecoder;
use mongodb_atlas_sim::SimConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

async fn request_metrics(
    address: impl std::fmt::Display,
    accept: &str,
    encoding: &str,
) -> reqwest::Response {
    // Built without decompression: the raw response is compared.
    let client = reqwest::Client::builder()
        .no_proxy()
        .no_gzip()
        .build()
        .unwrap();
    client
        .get(format!("http://{address}/metrics"))
        .header("accept", accept)
        .header("accept-encoding", encoding)
        .send()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn format_and_encoding_follow_the_request_headers() {
    let exporter = TestExporter::start(static_sim(2, 300), &[]).await;
    exporter.wait_polled().await;
    let address = exporter.base_url.replace("http://", "");
    for (accept, content_type, end) in [
        (
            "text/plain",
            "text/plain; version=0.0.4; charset=utf-8",
            "\n",
        ),
        (
            "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "\n# EOF\n",
        ),
    ] {
        let response = request_metrics(&address, accept, "identity;q=1, gzip;q=0").await;
        assert_eq!(response.headers()["content-type"], content_type);
        assert!(response.headers().get("content-encoding").is_none());
        let text = response.text().await.unwrap();
        assert!(text.ends_with(end));
        let response = request_metrics(&address, accept, "gzip").await;
        assert_eq!(response.headers()["content-type"], content_type);
        assert_eq!(response.headers()["content-encoding"], "gzip");
        assert_eq!(response.headers()["vary"], "Accept, Accept-Encoding");
        let mut unpacked = String::new();
        GzDecoder::new(&*response.bytes().await.unwrap())
            .read_to_string(&mut unpacked)
            .unwrap();
        let names = |text: &str| {
            series_from_text(text)
                .into_iter()
                .map(|(name, labels, _)| (name, labels))
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(names(&unpacked), names(&text));
    }
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gzip_responses_show_a_new_poll_immediately() {
    let exporter = TestExporter::start(static_sim(1, 50), &["--atlas.poll-interval=1s"]).await;
    let org = exporter.sim.org_ids()[0].clone();
    exporter.wait_polled().await;
    for n in 0..5 {
        let name = format!("renamed {n}");
        exporter.sim.with_world(|world| {
            let id = world.keys(&org)[3].id.clone();
            world.rename_key(&org, &id, &name);
        });
        // The scrapes of the test exporter are compressed.
        exporter
            .wait_until("the new name", |scrape| scrape.text.contains(&name))
            .await;
    }
    exporter.stop().await.stop().await;
}

/// The server side of a connection.
#[derive(Default)]
struct ServerSocket {
    established: bool,
    /// Unacknowledged bytes and unread bytes, in hexadecimal.
    queues: String,
}

/// The routes of an exporter behind a server with other timeouts.
struct LimitedServer {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl LimitedServer {
    async fn start(exporter: &TestExporter, write_stall_timeout: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = Server {
            listeners: vec![listener],
            router: web::router(Arc::clone(&exporter.app)),
            limits: ServerLimits {
                write_stall_timeout,
                ..ServerLimits::default()
            },
            web_config: None,
            name: "test",
        };
        let serving =
            exporter_toolkit::server::serve(vec![server], Arc::default(), shutdown.clone());
        Self {
            address,
            shutdown,
            task: tokio::spawn(serving),
        }
    }

    /// Requests the metrics, reads nothing of the response, and waits until the server cannot send more.
    async fn stall(&self) -> TcpStream {
        let address = self.address;
        let connect = move || {
            let mut stream = TcpStream::connect(address).unwrap();
            let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            stream.peek(&mut [0]).unwrap();
            stream
        };
        let stream = tokio::task::spawn_blocking(connect).await.unwrap();
        let (mut queued, mut unchanged) = (String::new(), 0);
        eventually("the send buffer stays full", async || {
            let now = self.socket(&stream).unwrap_or_default().queues;
            let is_full = now == queued && !now.starts_with("00000000:");
            unchanged = if is_full { unchanged + 1 } else { 0 };
            queued = now;
            // Longer than the first probes of a closed window: each probe can let a few more bytes pass.
            let is_stalled = unchanged >= 100 || self.has_closed(&stream);
            is_stalled.then_some(()).ok_or(queued.clone())
        })
        .await;
        stream
    }

    /// Returns the server side of a connection, as the kernel reports it. A client notices a closed connection only by reading.
    fn socket(&self, stream: &TcpStream) -> Option<ServerSocket> {
        let ports = [self.address, stream.local_addr().unwrap()].map(|it| it.port());
        let ports = ports.map(|port| format!("{port:04X}"));
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
        sockets.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().skip(1).take(4).collect();
            let [local, remote, state, queues] = fields[..] else {
                return None;
            };
            let found = [local, remote].map(|it| it.rsplit(':').next().unwrap_or_default());
            (found == ports).then(|| ServerSocket {
                established: state == "01",
                queues: queues.to_owned(),
            })
        })
    }

    fn has_closed(&self, stream: &TcpStream) -> bool {
        self.socket(stream).is_none_or(|socket| !socket.established)
    }

    async fn wait_closed(&self, stream: &TcpStream) {
        eventually("the server closes the connection", async || {
            self.has_closed(stream).then_some(()).ok_or("open")
        })
        .await;
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

/// The last waiting request is rejected: see the tests of `request_limiter`.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn stalled_scrapes_release_their_permits() {
    let exporter = TestExporter::start(
        crate::common::unlimited_sim(1, 30_000),
        &["--web.max-requests=2"],
    )
    .await;
    exporter.wait_polled().await;
    // Connections are not closed because of stalled reads, but only for other scrapes.
    let server = LimitedServer::start(&exporter, Duration::from_hours(1)).await;
    let mut stalled = vec![server.stall().await, server.stall().await];
    for encoding in ["identity", "gzip", "identity", "gzip"] {
        // Both permits are in use.
        let [.., first, second] = &stalled[..] else {
            unreachable!()
        };
        assert!(!server.has_closed(first) && !server.has_closed(second));
        let response = request_metrics(server.address, "", encoding).await;
        assert_eq!(response.status(), 200);
        let body = response.bytes().await.unwrap();
        assert!(body.len() > 100_000, "a complete response: {}", body.len());
        server.wait_closed(first).await;
        assert!(
            !server.has_closed(second),
            "the longest-stalled connection is closed"
        );
        let healthy = format!("http://{}/-/healthy", server.address);
        assert_eq!(crate::common::get(&healthy).await.0, 200);
        stalled.push(server.stall().await);
    }
    drop(stalled);
    server.stop().await;
    exporter.stop().await.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn stalled_reader_is_disconnected_without_blocking_others() {
    let exporter = TestExporter::start(crate::common::unlimited_sim(1, 30_000), &[]).await;
    exporter.wait_polled().await;
    let server = LimitedServer::start(&exporter, Duration::from_millis(500)).await;
    let mut stalled = server.stall().await;
    let url = format!("http://{}/metrics", server.address);
    let (code, text) = crate::common::get(&url).await;
    assert!(
        code == 200 && text.contains("process_threads"),
        "another client's scrape"
    );
    server.wait_closed(&stalled).await;
    let read = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        let end = stalled.read_to_end(&mut all);
        (all, end)
    });
    let (all, end) = read.await.unwrap();
    assert!(all.starts_with(b"HTTP/1.1 200 OK\r\n"), "{end:?}");
    assert!(
        end.is_err() || !all.ends_with(b"0\r\n\r\n"),
        "the response was truncated: {} bytes",
        all.len()
    );
    server.stop().await;
    exporter.stop().await.stop().await;
}

#[tokio::test(start_paused = true)]
async fn personal_data_is_exported_and_stored_only_when_enabled() {
    let sim = in_process_sim(&static_sim(1, 60));
    let dir = tempfile::tempdir().unwrap();
    let storage = format!("--storage.path={}", dir.path().display());
    let kept = || {
        let files = std::fs::read_dir(dir.path()).unwrap();
        let texts = files.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
        texts.collect::<String>()
    };
    let exporter = SimHarness::start(&sim, &[&storage]).await;
    let scrape = exporter.wait_polled(1).await;
    exporter.advance(Duration::from_secs(5)).await;
    for text in [&scrape.text, &kept()] {
        assert!(
            !text.contains("Example\"") && !text.contains("al-****"),
            "{text}"
        );
    }
    exporter.stop().await;
    std::fs::remove_dir_all(dir.path()).unwrap();
    let labels = "--metrics.key-labels=created_by,masked_secret";
    let exporter = SimHarness::start(&sim, &[&storage, labels]).await;
    let scrape = exporter.wait_polled(1).await;
    exporter.advance(Duration::from_secs(5)).await;
    let info = scrape
        .with_name("mongodbatlas_ai_model_api_key_info")
        .next()
        .unwrap();
    assert_eq!(info.labels.len(), 5);
    assert!(info.labels["masked_secret"].starts_with("al-****"));
    assert!(scrape.text.contains("created_by=\"Ada Example\"") && kept().contains("Ada Example"));
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn max_keys_retains_the_longest_idle_keys_across_polls() {
    let sim = in_process_sim(&SimConfig {
        orgs: 3,
        keys: 400,
        ..SimConfig::default()
    });
    let exporter = SimHarness::start(&sim, &["--metrics.max-keys=100"]).await;
    let ids = |scrape: &Scrape| -> BTreeSet<String> {
        let series = scrape.with_name("mongodbatlas_ai_model_api_key_idle_seconds");
        series
            .map(|series| series.labels["api_key_id"].clone())
            .collect()
    };
    let first = exporter.wait_polled(3).await;
    assert_eq!(ids(&first).len(), 100);
    assert_eq!(first.sum("atlas_ai_keys_exporter_keys_dropped"), 300.0);
    assert_eq!(first.sum("mongodbatlas_ai_model_api_keys"), 400.0);
    let idle = first.values("mongodbatlas_ai_model_api_key_idle_seconds");
    let least = idle.iter().copied().fold(f64::MAX, f64::min);
    assert!(
        least > 86_400.0,
        "keys in daily use are dropped first: {least}"
    );
    let later = exporter.wait_polled_again().await;
    let retained = ids(&first).intersection(&ids(&later)).count();
    assert!(retained >= 97, "{retained} of 100 keys are retained");
    exporter.stop().await;
}
