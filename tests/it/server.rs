//! Where it listens, and that nobody who only sits there keeps others from being served.
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{ChildProcess, TestExporter, get, sim_env, static_sim};
use atlas_ai_keys_exporter::web::{self};
use exporter_toolkit::liveness::LivenessMonitor;
use exporter_toolkit::server::{Server, ServerLimits};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

fn unreachable_atlas_env() -> Vec<(String, String)> {
    // nothing listens there, and nothing has to
    [
        ("MONGODB_ATLAS_BASE_URL", "http://127.0.0.1:9"),
        ("MONGODB_ATLAS_ORG_ID", "0000000000000000000000aa"),
        ("MONGODB_ATLAS_ACCESS_TOKEN", "x"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// The watchdog asks for the pulse of every listener: one whose loop stands still is named.
#[tokio::test(flavor = "multi_thread")]
async fn stalled_listener_is_detected() {
    let every = Duration::from_millis(50);
    let pulse = Arc::new(LivenessMonitor::new(Some(every)));
    let lab = TestExporter::start(static_sim(1, 10), &[]).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let router = web::router(Arc::clone(&lab.app));
    let (of_door, stop) = (Arc::clone(&pulse), CancellationToken::new());
    let (blocks, blocked) = std::sync::mpsc::channel::<()>();
    let (begin, begun) = tokio::sync::oneshot::channel::<()>();
    let until = stop.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let door = Server {
                listeners: vec![tokio::net::TcpListener::from_std(listener).unwrap()],
                router,
                limits: ServerLimits::default(),
                web_config: None,
                log_message: "a door of its own",
            };
            let serving = tokio::spawn(exporter_toolkit::server::serve(vec![door], of_door, until));
            // a task that never gives its thread back
            tokio::spawn(async move {
                begun.await.unwrap();
                let _ = blocked.recv();
            });
            serving.await.unwrap();
        });
    });
    tokio::time::sleep(4 * every).await;
    assert!(pulse.stalled(20 * every).is_empty());
    begin.send(()).unwrap();
    let since = Instant::now();
    let name = format!("the listener on {address}");
    while pulse.stalled(20 * every) != [name.clone()] {
        assert!(since.elapsed() < crate::common::WAIT_TIMEOUT);
        tokio::time::sleep(every).await;
    }
    blocks.send(()).unwrap();
    while !pulse.stalled(20 * every).is_empty() {
        assert!(since.elapsed() < crate::common::WAIT_TIMEOUT);
        tokio::time::sleep(every).await;
    }
    stop.cancel();
    thread.join().unwrap();
    lab.stop().await.stop().await;
}

/// Sends `request` as it is; hands out what comes back until the other side closes.
fn send_raw(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(crate::common::WAIT_TIMEOUT))
        .unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    // a connection that is reset has said what it had to say
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn multiple_addresses_and_address_families_are_served() {
    let port = crate::common::free_port();
    let both = format!("--web.listen-address=:{port}");
    let flags = [
        both.as_str(),
        "--web.listen-address=127.0.0.1:0",
        "--web.listen-address=[::1]:0",
    ];
    let mut program = ChildProcess::exporter(&flags, &unreachable_atlas_env());
    program.wait_for_output("address=[::1]:");
    let output = program.output();
    let mut bases: Vec<String> = output
        .lines()
        .filter(|line| line.contains("msg=listening") || line.contains("listening"))
        .filter_map(|line| {
            line.split_once("address=")
                .map(|(_, address)| address.to_owned())
        })
        .filter(|address| !address.starts_with("[::]"))
        .collect();
    assert_eq!(bases.len(), 2, "{output}");
    bases.extend([format!("127.0.0.1:{port}"), format!("[::1]:{port}")]);
    for address in bases {
        assert_eq!(
            get(&format!("http://{address}/-/healthy")).await.0,
            200,
            "{address}"
        );
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
        let told = format!("cannot listen on {address}: Address already in use");
        assert!(
            output.contains(&told) && output.contains(&format!("choose another with {flag}")),
            "{output}"
        );
    }
}

#[test]
fn conflicting_listen_flags_are_rejected() {
    for (flags, part) in [
        (
            vec!["--web.systemd-socket", "--web.listen-address=:1"],
            "left out together with --web.systemd-socket",
        ),
        (
            vec!["--web.listen-address=:1", "--web.probe-address=:1"],
            "an address of its own",
        ),
        (
            vec!["--web.probe-address=nowhere"],
            "HOST:PORT, [IPV6]:PORT or :PORT",
        ),
        (vec!["--web.telemetry-path=/sd"], "not one that is taken"),
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
        code == Some(1) && output.contains("systemd has handed no socket over"),
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
    let papers = crate::common::pki::TestPki::new();
    let text = format!(
        "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\nbasic_auth_users:\n  ada: {}\n",
        crate::common::pki::bcrypt_hash("secret")
    );
    let flag = papers.web_config_flag(&text);
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let flags = [
        "--web.listen-address=127.0.0.1:0",
        "--web.probe-address=127.0.0.1:0",
        &flag,
    ];
    let mut program = ChildProcess::exporter(&flags, &sim_env(&sim));
    let line = program.wait_for_output("listening for probes");
    let address = line.split_once("address=").unwrap().1.to_owned();
    program.wait_for_output("walk complete");
    let begun = Instant::now();
    while get(&format!("http://{address}/-/ready")).await.0 != 200 {
        assert!(begun.elapsed() < crate::common::WAIT_TIMEOUT);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
    let lab = TestExporter::start(static_sim(1, 10), &[]).await;
    let address = lab.base_url.replace("http://", "");
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
            let answer = send_raw(&address, request.as_bytes());
            let status = answer.get(9..12).unwrap_or_default();
            let shown: String = request.chars().take(60).collect();
            if request.len() > 100_000 {
                assert!(answer.ends_with("may have 32 KiB, not more.\n"), "{answer}");
            }
            assert!(statuses.contains(&status), "{shown:?}: {answer}");
            if status == "405" {
                assert!(
                    answer.contains("allow: GET,HEAD") && answer.ends_with("lists those it has.\n"),
                    "{answer}"
                );
            }
        }
    })
    .await
    .unwrap();
    lab.stop().await.stop().await;
}

/// A door to the routes of a laboratory that is less patient, and where it is; encrypted if the
/// laboratory is.
async fn start_server(
    lab: &TestExporter,
    limits: ServerLimits,
) -> (String, CancellationToken, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let door = Server {
        listeners: vec![listener],
        router: web::router(Arc::clone(&lab.app)),
        limits,
        web_config: Some(Arc::clone(&lab.app.web_config)),
        log_message: "a door that is less patient",
    };
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(exporter_toolkit::server::serve(
        vec![door],
        Arc::default(),
        shutdown.clone(),
    ));
    (address, shutdown, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_disconnected() {
    let lab = TestExporter::start(static_sim(1, 10), &[]).await;
    let second = Duration::from_secs(1);
    let limits = ServerLimits {
        header_timeout: second,
        idle_timeout: 3 * second,
        ..ServerLimits::default()
    };
    let (address, shutdown, serving) = start_server(&lab, limits).await;
    tokio::task::spawn_blocking(move || {
        let ends_after = |stream: &mut TcpStream| {
            let begun = Instant::now();
            stream
                .set_read_timeout(Some(crate::common::WAIT_TIMEOUT))
                .unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
            begun.elapsed()
        };
        // a head that comes in byte by byte and never ends
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
        // one that says nothing, and one that has been answered and asks no more
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
    lab.stop().await.stop().await;
}

/// What a request with these header lines is answered.
fn status_of(address: &str, request_line: &str, header_lines: &[&str]) -> String {
    let mut request = format!("{request_line}\r\n");
    for line in header_lines {
        request.push_str(line);
        request.push_str("\r\n");
    }
    request.push_str("Connection: close\r\n\r\n");
    let response = send_raw(address, request.as_bytes());
    response.get(9..12).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn host_header_must_be_single_and_valid() {
    let lab = TestExporter::start(static_sim(1, 10), &[]).await;
    let address = lab.base_url.replace("http://", "");
    tokio::task::spawn_blocking(move || {
        let line = "GET /metrics HTTP/1.1";
        for (request_line, hosts, expected) in [
            (line, &[][..], "400"),
            (line, &["Host: a", "Host: a"], "400"),
            (line, &["Host: a", "Host: b"], "400"),
            (line, &["Host: a/b"], "400"),
            (line, &["Host: user@a"], "400"),
            (line, &["Host: a:b"], "400"),
            (line, &["Host: ::1"], "400"),
            (line, &["Host: a b"], "400"),
            (line, &["Host: a, b"], "400"),
            ("GET http://a/metrics HTTP/1.1", &[], "400"),
            ("GET /metrics HTTP/1.0", &["Host: a", "Host: b"], "400"),
            ("POST /-/reload HTTP/1.1", &[], "400"),
            ("GET /metrics HTTP/1.0", &[], "200"),
            (line, &["Host: anything.example:1"], "200"),
            (line, &["host: [::1]:10064"], "200"),
            ("GET http://a/metrics HTTP/1.1", &["Host: a"], "200"),
        ] {
            let status = status_of(&address, request_line, hosts);
            assert_eq!(status, expected, "{request_line} {hosts:?}");
        }
    })
    .await
    .unwrap();
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn allowed_hosts_apply_to_all_paths_but_probes() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let flags = [
        "--web.listen-address=127.0.0.1:0",
        "--web.probe-address=127.0.0.1:0",
        "--web.allowed-hosts=exporter.example, 10.1.2.3,[2001:db8::1]",
        "--web.enable-lifecycle",
    ];
    let mut program = ChildProcess::exporter(&flags, &sim_env(&sim));
    let address = program.wait_for_output("address=");
    let line = program.wait_for_output("listening for probes");
    let probes = line.split_once("address=").unwrap().1.to_owned();
    program.wait_for_output("walk complete");
    tokio::task::spawn_blocking(move || {
        let paths = [
            "/",
            "/metrics",
            "/sd",
            "/-/healthy",
            "/-/docs/web",
            "/nothing",
        ];
        for host in ["evil.example", "127.0.0.1", "localhost", "[::1]", ""] {
            let header_line = format!("Host: {host}");
            for path in paths {
                let request_line = format!("GET {path} HTTP/1.1");
                let status = status_of(&address, &request_line, &[&header_line]);
                assert_eq!(status, "421", "{path} {host}");
            }
            let status = status_of(&address, "POST /-/reload HTTP/1.1", &[&header_line]);
            assert_eq!(status, "421");
            let status = status_of(&probes, "GET /-/healthy HTTP/1.1", &[&header_line]);
            assert_eq!(status, "200", "a probe under {host}");
        }
        for host in ["Exporter.Example.:10064", "10.1.2.3", "[2001:db8::1]:1"] {
            let header_line = format!("Host: {host}");
            let status = status_of(&address, "GET /metrics HTTP/1.1", &[&header_line]);
            assert_eq!(status, "200", "{host}");
        }
        assert_eq!(status_of(&address, "GET /metrics HTTP/1.0", &[]), "421");
        let absolute = "GET http://evil.example/metrics HTTP/1.1";
        assert_eq!(
            status_of(&address, absolute, &["Host: exporter.example"]),
            "421"
        );
        let text = send_raw(
            &address,
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        );
        assert!(
            text.contains("nosniff") && text.contains("--web.allowed-hosts"),
            "{text}"
        );
    })
    .await
    .unwrap();
    drop(program);
    sim.stop().await;
    let (code, output, _) =
        ChildProcess::exporter(&["--web.allowed-hosts=a:1"], &unreachable_atlas_env()).wait_exit();
    assert!(
        code == Some(2) && output.contains("web.allowed-hosts"),
        "{output}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_allows_only_loopback_hosts() {
    for (flags, host, expected) in [
        (&[][..], "evil.example", "421"),
        (&[], "localhost:10064", "200"),
        (&["--web.allowed-hosts=evil.example"], "evil.example", "200"),
    ] {
        let mut arguments = vec!["demo", "--web.listen-address=127.0.0.1:0", "--sim.keys=10"];
        arguments.extend(flags);
        let mut program = ChildProcess::exporter(&arguments, &[]);
        let url = program.wait_for_output("metrics          ");
        let address = url.replace("http://", "").replace("/metrics", "");
        let header_line = format!("Host: {host}");
        let asked = tokio::task::spawn_blocking(move || {
            status_of(&address, "GET /metrics HTTP/1.1", &[&header_line])
        });
        assert_eq!(asked.await.unwrap(), expected, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_content_length_matches_get() {
    let lab = TestExporter::start(static_sim(1, 10), &[]).await;
    lab.wait_polled().await;
    let address = lab.base_url.replace("http://", "");
    let org = lab.sim.org_ids()[0].clone();
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
        // elsewhere it is that of GET
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
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unauthenticated_readiness_omits_organization_ids() {
    let papers = crate::common::pki::TestPki::new();
    let flag = papers.web_config_flag(&format!(
        "basic_auth_users:\n  ada: {}\n",
        crate::common::pki::bcrypt_hash("secret")
    ));
    // nothing answers there: both organizations stay without an inventory
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
    let line = program.wait_for_output("listening for probes");
    let probes = line.split_once("address=").unwrap().1.to_owned();
    let (status, text) = get(&format!("http://{probes}/-/ready")).await;
    assert_eq!(
        (status, text.as_str()),
        (503, "Not ready: 2 inventories are missing.\n")
    );
    let (status, text) = get(&format!("http://{address}/-/ready")).await;
    assert_eq!((status, text.as_str()), (401, ""));
    let (status, text) = get(&format!("http://ada:secret@{address}/-/ready")).await;
    assert!(
        status == 503 && text.contains("0000000000000000000000ab"),
        "{text}"
    );
}

const TLS_CONFIG: &str = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n";

#[tokio::test(flavor = "multi_thread")]
async fn tls_handshake_times_out() {
    let papers = crate::common::pki::TestPki::new();
    let lab = TestExporter::start(static_sim(1, 10), &[&papers.web_config_flag(TLS_CONFIG)]).await;
    let limits = ServerLimits {
        header_timeout: Duration::from_secs(1),
        ..ServerLimits::default()
    };
    let (address, shutdown, serving) = start_server(&lab, limits).await;
    tokio::task::spawn_blocking(move || {
        for half in [&b""[..], b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n"] {
            let begun = Instant::now();
            send_raw(&address, half);
            assert!(begun.elapsed() < Duration::from_secs(10), "{half:?}");
        }
    })
    .await
    .unwrap();
    shutdown.cancel();
    serving.await.unwrap();
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_http2_reader_is_disconnected() {
    let papers = crate::common::pki::TestPki::new();
    let many = crate::common::unlimited_sim(1, 30_000);
    let lab = TestExporter::start(many, &["--web.max-requests=1"]).await;
    lab.wait_polled().await;
    let access =
        exporter_toolkit::web_config::WebConfig::load(&papers.write("web.yml", TLS_CONFIG)).config;
    lab.app.web_config.set(access.unwrap());
    let limits = ServerLimits {
        write_stall_timeout: Duration::from_millis(500),
        ..ServerLimits::default()
    };
    let (address, shutdown, serving) = start_server(&lab, limits).await;
    let url = format!("https://{address}/metrics");
    let stalled = papers
        .client()
        .build()
        .unwrap()
        .get(&url)
        .send()
        .await
        .unwrap();
    assert_eq!(stalled.version(), reqwest::Version::HTTP_2);
    let other = papers.client().build().unwrap();
    let begun = Instant::now();
    let text = loop {
        let answer = other.get(&url).send().await.unwrap();
        if answer.status() == 200 {
            break answer.text().await.unwrap();
        }
        assert_eq!(answer.status(), 503, "the stalled one has the only place");
        assert!(begun.elapsed() < crate::common::WAIT_TIMEOUT);
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(
        text.contains("process_threads"),
        "somebody else's scrape is whole"
    );
    assert!(stalled.text().await.is_err(), "it was cut off");
    shutdown.cancel();
    serving.await.unwrap();
    lab.stop().await.stop().await;
}

/// Over HTTP/2 the client grants room for each response. One that grants none gets headers and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn http2_client_without_window_is_disconnected() {
    let papers = crate::common::pki::TestPki::new();
    let lab = TestExporter::start(
        crate::common::unlimited_sim(1, 1000),
        &["--web.max-requests=1"],
    )
    .await;
    lab.wait_polled().await;
    let access =
        exporter_toolkit::web_config::WebConfig::load(&papers.write("web.yml", TLS_CONFIG)).config;
    lab.app.web_config.set(access.unwrap());
    let limits = ServerLimits {
        write_stall_timeout: Duration::from_millis(500),
        ..ServerLimits::default()
    };
    let (address, shutdown, serving) = start_server(&lab, limits).await;
    let connector = papers.connector(b"h2");
    for path in ["/metrics", "/", "/sd", "/-/healthy", "/nothing"] {
        let name = "localhost".try_into().unwrap();
        let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        let request = crate::common::http2::zero_window_request(path, "localhost");
        stream.write_all(&request).await.unwrap();
        let mut received = Vec::new();
        // with an error, since it is no orderly end
        let ends = stream.read_to_end(&mut received);
        let _ = tokio::time::timeout(crate::common::WAIT_TIMEOUT, ends)
            .await
            .expect(path);
        assert!(received.len() < 1000, "{path}: {} bytes", received.len());
    }
    let client = papers.client().build().unwrap();
    let response = client.get(format!("https://{address}/metrics")).send();
    assert_eq!(response.await.unwrap().status(), 200, "its place is free");
    shutdown.cancel();
    serving.await.unwrap();
    lab.stop().await.stop().await;
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
    let mut sitting = Vec::new();
    let mut most = before;
    for number in 0..CONNECTIONS {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        // some are silent, some say half of something, some have been served
        let half: &[u8] = match number % 3 {
            0 => b"",
            1 => b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Half",
            _ => b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n",
        };
        let _ = stream.write_all(half).await;
        sitting.push(stream);
        if number % 500 == 499 {
            let begun = Instant::now();
            let (status, text) = get(&format!("http://{address}/metrics")).await;
            assert!(status == 200 && text.contains("org_up{"), "after {number}");
            assert!(
                begun.elapsed() < Duration::from_secs(5),
                "{:?}",
                begun.elapsed()
            );
            most = most.max(resident());
        }
    }
    let files = std::fs::read_dir(format!("/proc/{}/fd", program.pid()))
        .unwrap()
        .count();
    assert!(
        files < 1200,
        "{files} open files: no more connections than may be"
    );
    assert!(
        most - before < 48 << 20,
        "{} MiB more",
        (most - before) >> 20
    );
    drop(sitting);
    sim.stop().await;
}
