//! Tests of the Host header and of allowed hosts.

use super::{send_raw, unreachable_atlas_env};
use crate::common::{ChildProcess, TestExporter, sim_env, static_sim};

/// Returns the status of a request with these header lines.
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
    let exporter = TestExporter::start(static_sim(1, 10), &[]).await;
    let address = exporter.base_url.replace("http://", "");
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
    exporter.stop().await.stop().await;
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
    let line = program.wait_for_output("listener=probes");
    let probes = line.split_once("address=").unwrap().1.to_owned();
    program.wait_for_output("poll succeeded");
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
        let status = tokio::task::spawn_blocking(move || {
            status_of(&address, "GET /metrics HTTP/1.1", &[&header_line])
        });
        assert_eq!(status.await.unwrap(), expected, "{host}");
    }
}
