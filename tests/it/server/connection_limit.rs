//! Tests of the limits of open connections and of open files.

use super::{request_health, start_server};
#[cfg(target_os = "linux")]
use crate::common::{
    ChildProcess, eventually, get, process_status, raise_open_files_limit, sim_env, start_sim,
};
use crate::common::{TestExporter, static_sim, wait_timeout};
use exporter_toolkit::server::ServerLimits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Waits until the server closes a connection without a pending response.
async fn assert_closed(stream: &mut TcpStream, what: &str) {
    let read = tokio::time::timeout(wait_timeout(), stream.read(&mut [0])).await;
    // A reset is acceptable.
    let length = read.unwrap_or_else(|_| panic!("still open: {what}"));
    assert_eq!(length.unwrap_or(0), 0, "{what}");
}

/// Returns whether a connection without a pending response is open.
fn is_open(stream: &TcpStream) -> bool {
    let read = stream.try_read(&mut [0]);
    read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[tokio::test]
async fn longest_idle_connection_is_closed_at_the_limit() {
    let exporter = TestExporter::start(static_sim(1, 10), &[]).await;
    let limits = ServerLimits {
        max_connections: 4,
        ..ServerLimits::default()
    };
    let (address, shutdown, serving) = start_server(&exporter.app, limits).await;
    let connect = async || {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        assert!(request_health(&mut stream).await.is_some());
        stream
    };
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(connect().await);
    }
    for number in [2, 0] {
        let stream: &mut TcpStream = &mut connections[number];
        assert!(request_health(stream).await.is_some(), "{number}");
    }
    // In the order of their last requests.
    let mut open = vec![1, 3, 2, 0];
    for newest in 4..7 {
        connections.push(connect().await);
        open.push(newest);
        let longest_idle = open.remove(0);
        assert_closed(&mut connections[longest_idle], &longest_idle.to_string()).await;
        assert!(open.iter().all(|n| is_open(&connections[*n])), "{open:?}");
    }
    for number in open {
        let stream = &mut connections[number];
        assert!(request_health(stream).await.is_some(), "{number}");
    }
    shutdown.cancel();
    serving.await.unwrap();
    exporter.stop().await.stop().await;
}

#[cfg(target_os = "linux")]
fn open_files(program: &ChildProcess) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fd", program.pid()));
    files.unwrap().count()
}

/// Sets the limit of open files of a running program.
#[cfg(target_os = "linux")]
fn limit_open_files(program: &ChildProcess, files: usize) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let pid = Pid::from_raw(i32::try_from(program.pid()).unwrap());
    let files = Some(files as u64);
    let limit = Rlimit {
        current: files,
        maximum: files,
    };
    prlimit(pid, Resource::Nofile, limit).unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed_when_no_file_can_be_opened() {
    let sim = start_sim(static_sim(1, 10)).await;
    let flags = [
        "--web.listen-address=127.0.0.1:0",
        "--atlas.poll-interval=1h",
    ];
    let mut program = ChildProcess::exporter(&flags, &sim_env(&sim));
    let address = program.wait_for_output("address=");
    program.wait_for_output("poll succeeded");
    limit_open_files(&program, open_files(&program) + 8);
    let mut connections = Vec::new();
    for number in 0..40 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let response = tokio::time::timeout(wait_timeout(), request_health(&mut stream)).await;
        assert!(response.is_ok_and(|text| text.is_some()), "{number}");
        connections.push(stream);
    }
    for (number, stream) in connections.iter_mut().take(10).enumerate() {
        assert_closed(stream, &number.to_string()).await;
    }
    let (status, text) = get(&format!("http://{address}/metrics")).await;
    assert!(status == 200 && text.contains("org_up{"), "{text}");
    assert!(program.output().contains("accept failed"));
    drop(program);
    sim.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn scrapes_succeed_with_ten_thousand_idle_connections() {
    const CONNECTIONS: usize = 10_000;
    raise_open_files_limit(CONNECTIONS as u64 + 2000);
    let sim = start_sim(static_sim(1, 100)).await;
    let mut program = ChildProcess::exporter(&["--web.listen-address=127.0.0.1:0"], &sim_env(&sim));
    let address = program.wait_for_output("address=");
    program.wait_for_output("poll succeeded");
    let resident = || process_status(program.pid(), "VmRSS") << 10;
    let before = resident();
    let mut idle = Vec::new();
    let mut most = before;
    for number in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        // A third of the clients sends nothing, a third half a request, and a third a complete request.
        let half: &[u8] = match number % 3 {
            0 => b"",
            1 => b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Half",
            _ => b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n",
        };
        let _ = stream.write_all(half).await;
        idle.push(stream);
        if number % 500 == 499 {
            let url = format!("http://{address}/metrics");
            let scrape = tokio::time::timeout(wait_timeout(), get(&url)).await;
            let (status, text) = scrape.expect("a response");
            assert!(status == 200 && text.contains("org_up{"), "after {number}");
            most = most.max(resident());
        }
    }
    // The task of an evicted connection closes it a moment later.
    eventually("no more connections than the limit", async || {
        let open = open_files(&program);
        if open < 1200 { Ok(()) } else { Err(open) }
    })
    .await;
    assert!(
        most - before < 48 << 20,
        "{} MiB more",
        (most - before) >> 20
    );
    drop(idle);
    sim.stop().await;
}
