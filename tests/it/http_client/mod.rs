//! HTTP requests to Atlas, and the classification of connection errors.

mod http2;
mod proxy;
mod tls;
mod tls_frontend;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::common::{
    ChildProcess, TestExporter, eventually_blocking, run_exporter, static_sim, wait_timeout,
};
use mongodb_atlas_sim::{Effect, Fault, SimEndpoint};

const ORG: &str = "32b6e34b3d91647abb20e7b8";

fn token_env(base: String) -> Vec<(String, String)> {
    [
        ("MONGODB_ATLAS_BASE_URL", base),
        ("MONGODB_ATLAS_ORG_ID", ORG.to_owned()),
        ("MONGODB_ATLAS_ACCESS_TOKEN", "a-ready-token".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// The first bytes of each connection to a server.
#[derive(Clone, Default)]
struct ReceivedRequests(Arc<Mutex<Vec<String>>>);

impl ReceivedRequests {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Waits for a request that contains `part`, and returns it.
    fn wait_for(&self, part: &str) -> String {
        eventually_blocking(&format!("a request with {part:?}"), || {
            let all = self.all();
            let found = all.iter().find(|request| request.contains(part)).cloned();
            found.ok_or_else(|| all.join("\n"))
        })
    }
}

/// Serves connections until the process ends: reads the first bytes of each, and sends `response`.
fn serve_response(response: impl Into<Vec<u8>>) -> (u16, ReceivedRequests) {
    let response = response.into();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let received = ReceivedRequests::default();
    let recording = received.clone();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut first = vec![0; 16 << 10];
            let length = stream.read(&mut first).unwrap_or(0);
            let first = String::from_utf8_lossy(&first[..length]).into_owned();
            recording.0.lock().unwrap().push(first);
            let _ = stream.write_all(&response);
        }
    });
    (port, received)
}

/// Starts an exporter that sends its requests to `base` instead of the simulator.
async fn start_exporter(base: String) -> TestExporter {
    let sim = crate::common::start_sim(static_sim(1, 1)).await;
    TestExporter::start_with(sim, token_env(base), &["--atlas.poll-interval=1s"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_have_user_agent_and_accept_version() {
    let response = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let (port, requests) = serve_response(response);
    let exporter = start_exporter(format!("http://127.0.0.1:{port}/below/a/path")).await;
    // The rate limits are requested as well.
    let request = tokio::task::spawn_blocking(move || requests.wait_for("aiModelApiKeys"))
        .await
        .unwrap();
    let first = request.lines().next().unwrap();
    assert_eq!(
        first,
        format!(
            "GET /below/a/path/api/atlas/v2/orgs/{ORG}/aiModelApiKeys?itemsPerPage=500&pageNum=1 HTTP/1.1"
        )
    );
    let lower = request.to_ascii_lowercase();
    for header in [
        format!(
            "user-agent: atlas-ai-keys-exporter/{}\r\n",
            env!("CARGO_PKG_VERSION")
        ),
        "accept: application/vnd.atlas.2025-03-12+json\r\n".to_owned(),
        "accept-encoding: gzip\r\n".to_owned(),
        "authorization: bearer a-ready-token\r\n".to_owned(),
    ] {
        assert!(lower.contains(&header), "{header:?} in\n{request}");
    }
    assert!(!lower.contains("referer") && !lower.contains("cookie"));
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_server_is_a_tls_error() {
    let (port, _requests) =
        serve_response(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    let exporter = start_exporter(format!("https://127.0.0.1:{port}")).await;
    exporter
        .wait_until("the reason tls", |scrape| {
            scrape.poll_failures(ORG, "tls") >= 1.0
        })
        .await;
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_connection_is_a_connection_error() {
    let exporter = start_exporter(format!("http://127.0.0.1:{}", crate::common::free_port())).await;
    exporter
        .wait_until("the reason connection", |scrape| {
            scrape.poll_failures(ORG, "connection") >= 1.0
        })
        .await;
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_followed() {
    let (port, requests) = serve_response(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let sim = crate::common::start_sim(static_sim(1, 5)).await;
    let org = sim.org_ids()[0].clone();
    for endpoint in [SimEndpoint::AiModelApiKeys, SimEndpoint::Token] {
        let location = format!("http://127.0.0.1:{port}/elsewhere");
        sim.add_fault(Fault::new(endpoint, Effect::Redirect { location }).times(2));
    }
    let variables = crate::common::sim_env(&sim);
    let exporter = TestExporter::start_with(sim, variables, &["--atlas.poll-interval=1s"]).await;
    exporter
        .wait_until("both redirects to be rejected", |scrape| {
            scrape.poll_failures(&org, "invalid_response") >= 2.0
        })
        .await;
    exporter.wait_polled().await;
    assert_eq!(requests.all(), [""; 0], "a redirect was followed");
    exporter.stop().await.stop().await;
}

#[test]
fn errors_omit_the_base_url_password() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yml");
    for base in [
        "https://me:secret-word@cloud.mongodb.com/api/atlas/v2",
        "http://me:secret-word@cloud.mongodb.com",
        "me:secret-word@cloud.mongodb.com",
        "https://secret-word@cloud.mongodb.com?x=y@z",
    ] {
        let (code, text, _) =
            ChildProcess::exporter(&["once"], &token_env(base.to_owned())).wait_exit();
        assert_eq!(code, Some(2), "{text}");
        assert!(
            text.contains("MONGODB_ATLAS_BASE_URL") && !text.contains("secret-word"),
            "{text}"
        );
        std::fs::write(&file, format!("atlas: {{base_url: \"{base}\"}}\n")).unwrap();
        let flag = format!("--config.file={}", file.display());
        let mut rest = token_env(String::new());
        rest.retain(|(_, value)| !value.is_empty());
        let (code, text, _) = ChildProcess::exporter(&["once", &flag], &rest).wait_exit();
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains("base_url"), "{text}");
        assert!(!text.contains("secret-word"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn response_header_count_is_limited() {
    for (headers, reason) in [
        (0, "not_found"),
        (300, "not_found"),
        (900, "not_found"),
        (5000, "connection"),
    ] {
        let filler = |number| format!("X-Filler-{number}: some value\r\n");
        let filler: String = (0..headers).map(filler).collect();
        let start = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n";
        let (port, _requests) = serve_response(format!("{start}{filler}\r\n"));
        let exporter = start_exporter(format!("http://127.0.0.1:{port}")).await;
        exporter
            .wait_until(reason, |scrape| scrape.poll_failures(ORG, reason) >= 1.0)
            .await;
        exporter.stop().await.stop().await;
    }
}

/// Responds to each request with endless interim responses, `count` per write. Returns the port.
fn serve_endless_interim_responses(count: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(count);
            thread::spawn(move || {
                // A response before its request would be a connection error instead.
                let _ = stream.read(&mut [0; 1024]);
                while stream.write_all(interim.as_bytes()).is_ok() {}
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_interim_responses_time_out() {
    let port = serve_endless_interim_responses(1000);
    let variables = token_env(format!("http://127.0.0.1:{port}"));
    let output = run_exporter(&["once", "--atlas.timeout=1s"], variables).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("no complete response within 1s"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_interim_responses_do_not_block_others() {
    let port = serve_endless_interim_responses(40_000);
    let mut variables = token_env(format!("http://127.0.0.1:{port}"));
    variables.retain(|(name, _)| name != "MONGODB_ATLAS_ORG_ID");
    let orgs = (0..6)
        .map(|number| format!("{number:024}"))
        .collect::<Vec<_>>();
    variables.push(("MONGODB_ATLAS_ORG_ID".to_owned(), orgs.join(",")));
    let flags = [
        "--web.listen-address=127.0.0.1:0",
        "--atlas.timeout=2s",
        "--atlas.poll-interval=1s",
    ];
    let mut exporter = ChildProcess::exporter(&flags, &variables);
    let address = exporter.wait_for_output("address=");
    exporter.wait_for_output("reason=timeout");
    let url = format!("http://{address}/-/healthy");
    for _ in 0..20 {
        let health = crate::common::get(&url);
        let (code, _) = tokio::time::timeout(wait_timeout(), health).await.unwrap();
        assert_eq!(code, 200);
    }
    exporter.signal(rustix::process::Signal::TERM);
    let (code, output, _) = exporter.wait_exit();
    assert_eq!(code, Some(0), "{output}");
}
