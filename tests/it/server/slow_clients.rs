//! Slow, stalled and idle clients.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::send_raw;
use crate::common::pki::{TLS_CONFIG, TestPki};
use crate::common::{ChildProcess, TestExporter, get, sim_env, static_sim, unlimited_sim};
use atlas_ai_keys_exporter::web::{self};
use exporter_toolkit::liveness::LivenessMonitor;
use exporter_toolkit::server::{Server, ServerLimits};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

/// The watchdog monitors every listener: one with a stalled loop is reported.
#[tokio::test(flavor = "multi_thread")]
async fn stalled_listener_is_detected() {
    let every = Duration::from_millis(50);
    let liveness = Arc::new(LivenessMonitor::new(Some(every)));
    let exporter = TestExporter::start(static_sim(1, 10), &[]).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let router = web::router(Arc::clone(&exporter.app));
    let (monitor, stop) = (Arc::clone(&liveness), CancellationToken::new());
    let (blocks, blocked) = std::sync::mpsc::channel::<()>();
    let (begin, started_at) = tokio::sync::oneshot::channel::<()>();
    let until = stop.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let server = Server {
                listeners: vec![tokio::net::TcpListener::from_std(listener).unwrap()],
                router,
                limits: ServerLimits::default(),
                web_config: None,
                name: "test",
            };
            let serving = tokio::spawn(exporter_toolkit::server::serve(
                vec![server],
                monitor,
                until,
            ));
            // A task that blocks its thread.
            tokio::spawn(async move {
                started_at.await.unwrap();
                let _ = blocked.recv();
            });
            serving.await.unwrap();
        });
    });
    tokio::time::sleep(4 * every).await;
    assert!(liveness.stalled(20 * every).is_empty());
    begin.send(()).unwrap();
    let since = Instant::now();
    let name = format!("the listener on {address}");
    while liveness.stalled(20 * every) != [name.clone()] {
        assert!(since.elapsed() < crate::common::wait_timeout());
        tokio::time::sleep(every).await;
    }
    blocks.send(()).unwrap();
    while !liveness.stalled(20 * every).is_empty() {
        assert!(since.elapsed() < crate::common::wait_timeout());
        tokio::time::sleep(every).await;
    }
    stop.cancel();
    thread.join().unwrap();
    exporter.stop().await.stop().await;
}

/// Serves the routes of `exporter` with other limits, and returns address, shutdown token and task; encrypted if the
/// exporter is.
async fn start_server(
    exporter: &TestExporter,
    limits: ServerLimits,
) -> (String, CancellationToken, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Server {
        listeners: vec![listener],
        router: web::router(Arc::clone(&exporter.app)),
        limits,
        web_config: Some(Arc::clone(&exporter.app.web_config)),
        name: "test",
    };
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(exporter_toolkit::server::serve(
        vec![server],
        Arc::default(),
        shutdown.clone(),
    ));
    (address, shutdown, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_disconnected() {
    let exporter = TestExporter::start(static_sim(1, 10), &[]).await;
    let second = Duration::from_secs(1);
    let limits = ServerLimits {
        header_timeout: second,
        idle_timeout: 3 * second,
        ..ServerLimits::default()
    };
    let (address, shutdown, serving) = start_server(&exporter, limits).await;
    tokio::task::spawn_blocking(move || {
        let ends_after = |stream: &mut TcpStream| {
            let started_at = Instant::now();
            stream
                .set_read_timeout(Some(crate::common::wait_timeout()))
                .unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
            started_at.elapsed()
        };
        // A header sent byte by byte without an end.
        let mut dribbling = TcpStream::connect(&address).unwrap();
        let mut writer = dribbling.try_clone().unwrap();
        let dribble = std::thread::spawn(move || {
            for byte in b"GET / HTTP/1.1\r\nHost: "
                .iter()
                .chain(std::iter::repeat(&b'x'))
            {
                if writer.write_all(&[*byte]).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let took = ends_after(&mut dribbling);
        assert!((second..10 * second).contains(&took), "{took:?}");
        drop(dribbling);
        dribble.join().unwrap();
        // A client that sends nothing, and one that is idle after a response.
        let mut silent = TcpStream::connect(&address).unwrap();
        let mut answered = TcpStream::connect(&address).unwrap();
        answered
            .write_all(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        assert!(answered.read(&mut [0; 1000]).unwrap() > 0);
        let took = ends_after(&mut silent);
        assert!((2 * second..15 * second).contains(&took), "{took:?}");
        assert!(ends_after(&mut answered) < 15 * second);
    })
    .await
    .unwrap();
    shutdown.cancel();
    serving.await.unwrap();
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_handshake_times_out() {
    let pki = TestPki::new();
    let exporter =
        TestExporter::start(static_sim(1, 10), &[&pki.web_config_flag(TLS_CONFIG)]).await;
    let limits = ServerLimits {
        header_timeout: Duration::from_secs(1),
        ..ServerLimits::default()
    };
    let (address, shutdown, serving) = start_server(&exporter, limits).await;
    tokio::task::spawn_blocking(move || {
        for half in [&b""[..], b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n"] {
            let started_at = Instant::now();
            send_raw(&address, half);
            assert!(started_at.elapsed() < Duration::from_secs(10), "{half:?}");
        }
    })
    .await
    .unwrap();
    shutdown.cancel();
    serving.await.unwrap();
    exporter.stop().await.stop().await;
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
    let (address, shutdown, serving) = start_server(&exporter, limits).await;
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
    let started_at = Instant::now();
    let text = loop {
        let response = other.get(&url).send().await.unwrap();
        if response.status() == 200 {
            break response.text().await.unwrap();
        }
        assert_eq!(response.status(), 503, "the stalled one has the only place");
        assert!(started_at.elapsed() < crate::common::wait_timeout());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(
        text.contains("process_threads"),
        "somebody else's scrape is whole"
    );
    assert!(stalled.text().await.is_err(), "it was cut off");
    shutdown.cancel();
    serving.await.unwrap();
    exporter.stop().await.stop().await;
}

/// Over HTTP/2 the client grants a window for each response. A client that grants none gets headers only.
#[tokio::test(flavor = "multi_thread")]
async fn http2_client_without_window_is_disconnected() {
    let (pki, exporter) = start_tls_exporter(1000).await;
    let limits = ServerLimits {
        write_stall_timeout: Duration::from_millis(500),
        ..ServerLimits::default()
    };
    let (address, shutdown, serving) = start_server(&exporter, limits).await;
    let connector = pki.connector(b"h2");
    for path in ["/metrics", "/", "/sd", "/-/healthy", "/nothing"] {
        let name = "localhost".try_into().unwrap();
        let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        let request = crate::common::http2::zero_window_request(path, "localhost");
        stream.write_all(&request).await.unwrap();
        let mut received = Vec::new();
        // With an error, because the connection is not closed cleanly.
        let ends = stream.read_to_end(&mut received);
        let _ = tokio::time::timeout(crate::common::wait_timeout(), ends)
            .await
            .expect(path);
        assert!(received.len() < 1000, "{path}: {} bytes", received.len());
    }
    let client = pki.client().build().unwrap();
    let response = client.get(format!("https://{address}/metrics")).send();
    assert_eq!(response.await.unwrap().status(), 200, "its place is free");
    shutdown.cancel();
    serving.await.unwrap();
    exporter.stop().await.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn scrapes_succeed_with_ten_thousand_idle_connections() {
    const CONNECTIONS: usize = 10_000;
    crate::common::raise_open_files_limit(CONNECTIONS as u64 + 2000);
    let sim = crate::common::start_sim(static_sim(1, 100)).await;
    let mut program = ChildProcess::exporter(&["--web.listen-address=127.0.0.1:0"], &sim_env(&sim));
    let address = program.wait_for_output("address=");
    program.wait_for_output("walk complete");
    let resident = || crate::common::process_status(program.pid(), "VmRSS") << 10;
    let before = resident();
    let mut idle = Vec::new();
    let mut most = before;
    for number in 0..CONNECTIONS {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        // Some send nothing, some half a request, some were served.
        let half: &[u8] = match number % 3 {
            0 => b"",
            1 => b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Half",
            _ => b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n",
        };
        let _ = stream.write_all(half).await;
        idle.push(stream);
        if number % 500 == 499 {
            let started_at = Instant::now();
            let (status, text) = get(&format!("http://{address}/metrics")).await;
            assert!(status == 200 && text.contains("org_up{"), "after {number}");
            assert!(
                started_at.elapsed() < Duration::from_secs(5),
                "{:?}",
                started_at.elapsed()
            );
            most = most.max(resident());
        }
    }
    // An evicted connection is closed by its own task, soon after.
    let open_files = || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", program.pid()));
        files.unwrap().count()
    };
    let started_at = Instant::now();
    while open_files() >= 1200 {
        assert!(
            started_at.elapsed() < crate::common::wait_timeout(),
            "{} open files: more connections than the limit",
            open_files()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        most - before < 48 << 20,
        "{} MiB more",
        (most - before) >> 20
    );
    drop(idle);
    sim.stop().await;
}
