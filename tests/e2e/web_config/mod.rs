//! Tests of the web configuration with other programs: promtool accepts and rejects the same files; Prometheus scrapes with
//! TLS, passwords and client certificates, and discovers organizations; curl cannot bypass authentication; systemd passes
//! sockets.

mod promtool;

use std::collections::BTreeSet;
use std::process::Command;

use crate::common::pki::{TLS_CONFIG, TestPki, bcrypt_hash, indent};
use crate::common::prometheus::Prometheus;
use crate::common::{
    ChildProcess, TestExporter, eventually, free_port, run_command, sim_env, static_sim,
};
use exporter_toolkit::web_config::WebConfig;

#[test]
fn inline_certificates_match_certificate_files() {
    // promtool does not support inline certificates yet.
    let pki = TestPki::new();
    let inline = |name: &str, file: &str| {
        let lines = indent(&pki.read(file));
        format!("  {name}: |\n{lines}")
    };
    let text = format!(
        "tls_server_config:\n{}{}{}  client_auth_type: RequireAndVerifyClientCert\n",
        inline("cert", "server.pem"),
        inline("key", "server.key"),
        inline("client_ca", "ca.pem")
    );
    let loaded = WebConfig::load(&pki.write("web.yml", &text));
    assert!(loaded.config.is_ok(), "{:?}", loaded.config);
    assert_eq!(loaded.files.len(), 1);
}

async fn start_exporter(pki: &TestPki, text: &str) -> (TestExporter, String) {
    let exporter = TestExporter::start(static_sim(3, 60), &[&pki.web_config_flag(text)]).await;
    let address = exporter.base_url.replace("http://", "");
    (exporter, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_with_tls_basic_auth_and_client_certificates() {
    let pki = TestPki::new();
    let users = format!(
        "basic_auth_users:\n  prometheus: {}\n",
        bcrypt_hash("secret")
    );
    let (passwords, with_passwords) = start_exporter(&pki, &format!("{TLS_CONFIG}{users}")).await;
    let clients = format!(
        "{TLS_CONFIG}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n"
    );
    let (certificates, with_certificates) = start_exporter(&pki, &clients).await;
    let ca = pki.path("ca.pem").display().to_string();
    let own = |name: &str| {
        let (pem, key) = (
            pki.path(&format!("{name}.pem")),
            pki.path(&format!("{name}.key")),
        );
        format!(
            ", cert_file: '{}', key_file: '{}'",
            pem.display(),
            key.display()
        )
    };
    let job = |scheme: &str, more: &str, password: Option<&str>, target: &str| {
        let auth = password.map_or(String::new(), |password| {
            format!("basic_auth: {{username: prometheus, password: '{password}'}}\n  ")
        });
        format!(
            "scheme: {scheme}\n  tls_config: {{ca_file: '{ca}'{more}}}\n  {auth}static_configs:\n  - targets: ['{target}']"
        )
    };
    let jobs = [
        (
            "password",
            job("https", "", Some("secret"), &with_passwords),
            1.0,
        ),
        (
            "wrong-password",
            job("https", "", Some("guess"), &with_passwords),
            0.0,
        ),
        ("no-password", job("https", "", None, &with_passwords), 0.0),
        (
            "plain-text",
            job("http", "", Some("secret"), &with_passwords),
            0.0,
        ),
        (
            "certificate",
            job("https", &own("client"), None, &with_certificates),
            1.0,
        ),
        (
            "untrusted-certificate",
            job("https", &own("stranger"), None, &with_certificates),
            0.0,
        ),
        (
            "no-certificate",
            job("https", "", None, &with_certificates),
            0.0,
        ),
    ];
    let listed: Vec<(&str, &str)> = jobs
        .iter()
        .map(|(name, job, _)| (*name, job.as_str()))
        .collect();
    let prometheus = Prometheus::start(&listed, &[]);
    prometheus.wait_samples("count(up) == 7").await;
    prometheus.wait_samples("count(up == 1) == 2").await;
    for (name, _, up) in &jobs {
        assert_eq!(
            prometheus
                .wait_value(&format!("up{{job=\"{name}\"}}"))
                .await,
            *up,
            "{name}"
        );
    }
    let keys = prometheus
        .wait_value("sum(mongodbatlas_ai_model_api_keys{job=\"certificate\"})")
        .await;
    assert_eq!(keys, 60.0);
    for exporter in [passwords, certificates] {
        exporter.stop().await.stop().await;
    }
}

/// Returns the job with `http_sd_configs` of docs/web.md with another address, for `Prometheus::start`.
fn documented_job(base_url: &str) -> String {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/web.md"));
    let document = document.unwrap();
    let (_, job) = document
        .split_once("scrape_configs:\n  - job_name: atlas-ai-keys\n    http_sd_configs:")
        .expect("a job with http_sd_configs");
    let (job, _) = job.split_once("```").expect("its end");
    let job = job.replace("\n    ", "\n  ");
    assert!(job.contains("http://exporter:10064/sd"), "{job}");
    let job = job.replace("http://exporter:10064", base_url);
    let job = job.replace("/sd\n", "/sd\n      refresh_interval: 1s\n");
    format!("http_sd_configs:{}", job.trim_end())
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_discovers_the_exporter_and_each_organization() {
    let exporter = TestExporter::start(static_sim(5, 100), &[]).await;
    exporter.wait_polled_with_names().await;
    let sd = format!(
        "http_sd_configs:\n  - url: {}/sd\n    refresh_interval: 1s",
        exporter.base_url
    );
    let first = documented_job(&exporter.base_url);
    assert!(first.contains("regex: '0'"), "{first}");
    let second = first.replace("regex: '0'", "regex: '1'");
    let prometheus = Prometheus::start(
        &[("all", &sd), ("shard-0", &first), ("shard-1", &second)],
        &[],
    );
    for job in ["all", "shard-."] {
        let up = format!("count(up{{job=~\"{job}\"}} == 1) == 6");
        prometheus.wait_samples(&up).await;
        let own = format!("up{{job=~\"{job}\", instance!~\".+/.+\"}}");
        assert_eq!(prometheus.wait_samples(&own).await.len(), 1, "{job}");
        let keys = format!("sum(mongodbatlas_ai_model_api_keys{{job=~\"{job}\"}}) == 100");
        prometheus.wait_samples(&keys).await;
        let each = format!(
            "max(count by (instance) (count by (instance, org_id) ({{__name__=~\".+\", org_id!=\"\", job=~\"{job}\"}})))"
        );
        assert_eq!(
            prometheus.wait_value(&each).await,
            1.0,
            "each target has only its own organization"
        );
    }
    let orgs: BTreeSet<String> = prometheus
        .query("atlas_ai_keys_exporter_org_up{job=\"all\"}")
        .await
        .into_iter()
        .map(|sample| sample.labels["org_id"].clone())
        .collect();
    assert_eq!(orgs, exporter.sim.org_ids().into_iter().collect());
    let names = prometheus
        .query("up{job=~\"shard-.*\", org_name=~\"Example .*\"}")
        .await;
    assert_eq!(names.len(), 5);
    exporter.stop().await.stop().await;
}

/// Runs curl, and returns exit code, status and body.
fn run_curl(pki: &TestPki, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new("curl");
    command
        .args([
            "--silent",
            "--max-time",
            "10",
            "--include",
            "--write-out",
            "\n%{http_code}",
            "--cacert",
        ])
        .arg(pki.path("ca.pem"))
        .args(arguments);
    let (code, output, _) = run_command(&mut command, b"");
    let (text, status) = output.rsplit_once('\n').unwrap();
    (code, status.to_owned(), text.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_cannot_bypass_authentication() {
    let pki = TestPki::new();
    let text = format!(
        "{TLS_CONFIG}  min_version: TLS13\nbasic_auth_users:\n  ada: {}\n",
        bcrypt_hash("secret")
    );
    let (exporter, address) = start_exporter(&pki, &text).await;
    eventually("every organization is polled", async || {
        let missing = exporter.app.store.not_ready();
        missing.is_empty().then_some(()).ok_or(missing.join(", "))
    })
    .await;
    let requests = tokio::task::spawn_blocking(move || {
        let url = |path: &str| format!("https://{address}{path}");
        let (metrics, plain) = (url("/metrics"), format!("http://{address}/metrics"));
        let huge = format!("X-Huge: {}", "x".repeat(100_000));
        for (what, arguments, status) in [
            ("no password", vec![metrics.as_str()], "401"),
            ("a wrong password", vec!["-u", "ada:guess", &metrics], "401"),
            (
                "the correct password",
                vec!["-u", "ada:secret", &metrics],
                "200",
            ),
            (
                "over HTTP/2",
                vec!["--http2", "-u", "ada:secret", &metrics],
                "200",
            ),
            (
                "over HTTP/1.1",
                vec!["--http1.1", "-u", "ada:secret", &metrics],
                "200",
            ),
            ("in plain text", vec!["-u", "ada:secret", &plain], "000"),
            (
                "with old TLS",
                vec!["--tls-max", "1.2", "-u", "ada:secret", &metrics],
                "000",
            ),
            (
                "an oversized header",
                vec!["--http1.1", "-H", &huge, &metrics],
                "431",
            ),
            (
                "another method",
                vec!["-u", "ada:secret", "-X", "DELETE", &metrics],
                "405",
            ),
            (
                "TRACE",
                vec!["-u", "ada:secret", "-X", "TRACE", &metrics],
                "405",
            ),
            (
                "a path with ..",
                vec![
                    "-u",
                    "ada:secret",
                    "--path-as-is",
                    &url("/../../etc/passwd"),
                ],
                "404",
            ),
            (
                "an asset path with ..",
                vec![
                    "-u",
                    "ada:secret",
                    "--path-as-is",
                    &url("/-/page/..%2f..%2fCargo.toml"),
                ],
                "404",
            ),
            (
                "a disabled reload",
                vec!["-u", "ada:secret", "-X", "POST", &url("/-/reload")],
                "403",
            ),
            (
                "an unknown organization",
                vec![
                    "-u",
                    "ada:secret",
                    &url("/metrics?org=000000000000000000000000"),
                ],
                "404",
            ),
            (
                "an invalid organization id",
                vec!["-u", "ada:secret", &url("/metrics?org=%27%3B--")],
                "404",
            ),
        ] {
            let (_, got, text) = run_curl(&pki, &arguments);
            assert_eq!(got, status, "{what}: {text}");
            let shows_keys = text.contains("mongodbatlas_ai_model_api_key_info{");
            assert_eq!(shows_keys, status == "200", "{what}: {text}");
            assert!(
                !text.contains("src/") && !text.contains("panicked"),
                "{text}"
            );
            if status == "405" {
                assert!(text.to_lowercase().contains("allow: get,head"), "{text}");
            }
        }
    });
    requests.await.unwrap();
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_sockets_are_served_and_unused_ones_are_reported() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let ports = [free_port(), free_port()];
    let mut command = Command::new("systemd-socket-activate");
    for port in ports {
        command.arg(format!("--listen=127.0.0.1:{port}"));
    }
    for (name, value) in sim_env(&sim) {
        command.arg(format!("--setenv={name}={value}"));
    }
    command
        .arg(env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"))
        .arg("--web.systemd-socket");
    let mut program = ChildProcess::start(command);
    program.wait_for_output("Listening on");
    // The first connection starts the exporter, and waits until it accepts.
    for port in ports {
        let (status, text) =
            crate::common::get(&format!("http://127.0.0.1:{port}/-/healthy")).await;
        assert_eq!((status, text.as_str()), (200, "Healthy.\n"));
    }
    assert!(program.is_running(), "{}", program.output());
    // Without the flag, unused sockets are reported.
    let mut command = Command::new("systemd-socket-activate");
    let port = free_port();
    command.arg(format!("--listen=127.0.0.1:{port}"));
    for (name, value) in sim_env(&sim) {
        command.arg(format!("--setenv={name}={value}"));
    }
    command
        .arg(env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"))
        .arg("--web.listen-address=127.0.0.1:0");
    let mut program = ChildProcess::start(command);
    program.wait_for_output("Listening on");
    let connection = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    program.wait_for_output("ignoring sockets passed by systemd");
    drop(connection);
    sim.stop().await;
}
