//! Tests of listeners, methods, hosts, and the connection limits that protect against idle clients.

mod connection_limit;
mod hosts;
mod slow_clients;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use crate::common::{
    ChildProcess, TestExporter, eventually, get, sim_env, static_sim, wait_timeout,
};
use atlas_ai_keys_exporter::web::{self, AppState};
use exporter_toolkit::server::{Server, ServerLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

fn unreachable_atlas_env() -> Vec<(String, String)> {
    // The port is not in use, because the tests need no Atlas.
    [
        ("MONGODB_ATLAS_BASE_URL", "http://127.0.0.1:9"),
        ("MONGODB_ATLAS_ORG_ID", "0000000000000000000000aa"),
        ("MONGODB_ATLAS_ACCESS_TOKEN", "x"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// Sends raw bytes, and returns everything received until the connection is closed.
fn send_raw(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(wait_timeout())).unwrap();
    stream.write_all(request).unwrap();
    let mut response = Vec::new();
    // A reset after the response is acceptable.
    let _ = stream.read_to_end(&mut response);
    String::from_utf8_lossy(&response).into_owned()
}

/// Sends a request over an open connection. Returns `None` if the connection is closed.
pub(crate) async fn request_health(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
) -> Option<String> {
    let request = "GET /-/healthy HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    while !text.ends_with("Healthy.\n") {
        let mut bytes = [0; 1024];
        let length = stream.read(&mut bytes).await.ok().filter(|n| *n > 0)?;
        text.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
    }
    Some(text)
}

/// Serves the router of an exporter with other limits, and with TLS if the exporter uses it. Returns address, shutdown token
/// and task.
async fn start_server(
    app: &Arc<AppState>,
    limits: ServerLimits,
) -> (String, CancellationToken, JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Server {
        listeners: vec![listener],
        router: web::router(Arc::clone(app)),
        limits,
        web_config: Some(Arc::clone(&app.web_config)),
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
async fn multiple_addresses_and_address_families_are_served() {
    let flags = [
        "--web.listen-address=:0",
        "--web.listen-address=127.0.0.1:0",
        "--web.listen-address=[::1]:0",
    ];
    let mut program = ChildProcess::exporter(&flags, &unreachable_atlas_env());
    program.wait_for_output("address=[::1]:");
    let output = program.output();
    let mut addresses = Vec::new();
    for line in output.lines().filter(|line| line.contains("listening")) {
        let (_, address) = line.split_once("address=").unwrap();
        match address.strip_prefix("[::]:") {
            Some(port) => addresses.extend(["127.0.0.1", "[::1]"].map(|ip| format!("{ip}:{port}"))),
            None => addresses.push(address.to_owned()),
        }
    }
    assert_eq!(addresses.len(), 4, "{output}");
    for address in addresses {
        let (status, _) = get(&format!("http://{address}/-/healthy")).await;
        assert_eq!(status, 200, "{address}");
    }
}

#[test]
fn address_in_use_fails_startup_with_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for (flag, other) in [
        ("--web.listen-address", "--web.probe-address=127.0.0.1:0"),
        ("--web.probe-address", "--web.listen-address=127.0.0.1:0"),
    ] {
        let program = ChildProcess::exporter(
            &[&format!("{flag}={address}"), other],
            &unreachable_atlas_env(),
        );
        let (code, output, _) = program.wait_exit();
        assert_eq!(code, Some(1), "{output}");
        let expected = format!("cannot listen on {address} ({flag}): Address already in use");
        assert!(output.contains(&expected), "{output}");
    }
}

#[test]
fn conflicting_listen_flags_are_rejected() {
    for (flags, part) in [
        (
            vec!["--web.systemd-socket", "--web.listen-address=:1"],
            "conflict with --web.systemd-socket",
        ),
        (
            vec!["--web.listen-address=:1", "--web.probe-address=:1"],
            "an address that differs from --web.listen-address",
        ),
        (
            vec!["--web.probe-address=nowhere"],
            "HOST:PORT, [IPV6]:PORT or :PORT",
        ),
        (
            vec!["--web.telemetry-path=/sd"],
            "(/, /sd and /-/… are reserved)",
        ),
    ] {
        let (code, output, _) =
            ChildProcess::exporter(&flags, &unreachable_atlas_env()).wait_exit();
        assert!(
            code == Some(2) && output.contains(part),
            "{code:?} {output}"
        );
    }
    let (code, output, _) =
        ChildProcess::exporter(&["--web.systemd-socket"], &unreachable_atlas_env()).wait_exit();
    assert!(
        code == Some(1) && output.contains("systemd has passed no socket"),
        "{output}"
    );
    let flags = [
        "--web.config.file=/nowhere/web.yml",
        "--web.listen-address=127.0.0.1:0",
    ];
    let (code, output, _) = ChildProcess::exporter(&flags, &unreachable_atlas_env()).wait_exit();
    assert!(
        code == Some(2) && output.contains("web.yml") && output.contains("cannot be read"),
        "{output}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_address_serves_only_probes_without_auth() {
    let pki = crate::common::pki::TestPki::new();
    let text = format!(
        "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\nbasic_auth_users:\n  ada: {}\n",
        crate::common::pki::bcrypt_hash("secret")
    );
    let flag = pki.web_config_flag(&text);
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let flags = [
        "--web.listen-address=127.0.0.1:0",
        "--web.probe-address=127.0.0.1:0",
        &flag,
    ];
    let mut program = ChildProcess::exporter(&flags, &sim_env(&sim));
    let line = program.wait_for_output("listener=probes");
    let address = line.split_once("address=").unwrap().1.to_owned();
    program.wait_for_output("poll succeeded");
    eventually("the exporter is ready", async || {
        let (status, text) = get(&format!("http://{address}/-/ready")).await;
        if status == 200 { Ok(()) } else { Err(text) }
    })
    .await;
    assert_eq!(
        get(&format!("http://{address}/-/healthy")).await,
        (200, "Healthy.\n".to_owned())
    );
    for path in ["/", "/metrics", "/sd", "/-/reload", "/-/page/page.css"] {
        assert_eq!(
            get(&format!("http://{address}{path}")).await.0,
            404,
            "{path}"
        );
    }
    drop(program);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_and_header_size_are_limited() {
    let exporter = TestExporter::start(static_sim(1, 10), &[]).await;
    let address = exporter.base_url.replace("http://", "");
    let huge = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "x".repeat(200_000)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: x\r\n{}\r\n",
        "X: y\r\n".repeat(1000)
    );
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(200_000));
    tokio::task::spawn_blocking(move || {
        for (request, statuses) in [
            (
                "BREW / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                &["405"][..],
            ),
            (
                "DELETE /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                &["405"],
            ),
            (
                "OPTIONS /sd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                &["405"],
            ),
            (
                "GET /sd HTTP/1.1\r\nHost: a@b\r\nConnection: close\r\n\r\n",
                &["400"],
            ),
            (
                "GET /sd HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n",
                &["400"],
            ),
            ("GET /sd HTTP/1.0\r\n\r\n", &["400"]),
            ("GET / HTTP/9.9\r\n\r\n", &["400", "505"]),
            ("\r\n\r\nnonsense\r\n\r\n", &["400"]),
            (&huge, &["431"]),
            (&many, &["431"]),
            (&long, &["414", "431"]),
        ] {
            let response = send_raw(&address, request.as_bytes());
            let status = response.get(9..12).unwrap_or_default();
            let shown: String = request.chars().take(60).collect();
            if request.len() > 100_000 {
                assert!(response.ends_with(": the limit is 32 KiB.\n"), "{response}");
            }
            assert!(statuses.contains(&status), "{shown:?}: {response}");
            if status == "405" {
                assert!(
                    response.contains("allow: GET,HEAD")
                        && response.ends_with("405 Method Not Allowed.\n"),
                    "{response}"
                );
            }
        }
    })
    .await
    .unwrap();
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn head_content_length_matches_get() {
    let exporter = TestExporter::start(static_sim(1, 10), &[]).await;
    exporter.wait_polled().await;
    let address = exporter.base_url.replace("http://", "");
    let org = exporter.sim.org_ids()[0].clone();
    tokio::task::spawn_blocking(move || {
        for path in ["/metrics", &format!("/metrics?org={org}")] {
            for encoding in ["identity", "gzip"] {
                let request = format!(
                    "HEAD {path} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: {encoding}\r\nConnection: close\r\n\r\n"
                );
                let response = send_raw(&address, request.as_bytes()).to_lowercase();
                assert!(response.starts_with("http/1.1 200"), "{response}");
                assert!(response.contains("content-type: "), "{response}");
                assert!(!response.contains("content-length"), "{response}");
                assert!(response.ends_with("\r\n\r\n"), "no body: {response}");
            }
        }
        // Other paths have the Content-Length of GET.
        let length = |method: &str, path: &str| {
            let request =
                format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            let response = send_raw(&address, request.as_bytes()).to_lowercase();
            let (_, rest) = response.split_once("content-length: ").unwrap();
            rest.split_once('\r').unwrap().0.to_owned()
        };
        for path in ["/-/healthy", "/nothing", "/sd", "/metrics?org=x", "/-/page/page.css"] {
            assert_eq!(length("HEAD", path), length("GET", path), "{path}");
        }
    })
    .await
    .unwrap();
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unauthenticated_readiness_omits_organization_ids() {
    let pki = crate::common::pki::TestPki::new();
    let flag = pki.web_config_flag(&format!(
        "basic_auth_users:\n  ada: {}\n",
        crate::common::pki::bcrypt_hash("secret")
    ));
    // Atlas does not respond, so no organization gets an inventory.
    let mut variables = unreachable_atlas_env();
    variables.push((
        "MONGODB_ATLAS_ORG_ID".to_owned(),
        "0000000000000000000000aa,0000000000000000000000ab".to_owned(),
    ));
    let flags = [
        "--web.listen-address=127.0.0.1:0",
        "--web.probe-address=127.0.0.1:0",
        &flag,
    ];
    let mut program = ChildProcess::exporter(&flags, &variables);
    let address = program.wait_for_output("address=");
    let line = program.wait_for_output("listener=probes");
    let probes = line.split_once("address=").unwrap().1.to_owned();
    let (status, text) = get(&format!("http://{probes}/-/ready")).await;
    assert_eq!(
        (status, text.as_str()),
        (503, "Not ready. Missing inventories: 2.\n")
    );
    let (status, text) = get(&format!("http://{address}/-/ready")).await;
    assert_eq!((status, text.as_str()), (401, ""));
    let (status, text) = get(&format!("http://ada:secret@{address}/-/ready")).await;
    assert!(
        status == 503 && text.contains("0000000000000000000000ab"),
        "{text}"
    );
}
