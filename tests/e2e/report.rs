//! Delivery of the report by the shipped `CronJob` and by the documented drop-in: a chat webhook receives the text unchanged, for
//! all names of keys.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;

use crate::common::{error_fault, run_command, sim_env, static_sim, wait_timeout};
use mongodb_atlas_sim::{SimEndpoint, SimHandle};
use serde_json::Value;

const HOSTILE_NAME: &str = "\"; $(touch canary) `touch canary` 'é\\n\u{1b}[2J";

/// Accepts one request. Returns its header and its body.
fn receive_request(listener: TcpListener) -> JoinHandle<(String, String)> {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(wait_timeout())).unwrap();
        let mut received = Vec::new();
        let mut byte = [0];
        while !received.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            received.push(byte[0]);
        }
        let header = String::from_utf8(received).unwrap();
        let mut fields = header.lines().filter_map(|line| line.split_once(": "));
        let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let mut body = vec![0; length.unwrap().1.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .unwrap();
        (header, String::from_utf8(body).unwrap())
    })
}

/// Returns curl's configuration file with the URL of the webhook, and the request that the webhook receives.
fn webhook() -> (String, JoinHandle<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = format!("url = \"http://{address}/services/secret\"\n");
    (config, receive_request(listener))
}

fn read_repo_file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Returns the script of the `CronJob`, with `dir` in place of the container's folders.
fn cron_job_script(dir: &Path) -> String {
    let manifest = read_repo_file("packages/kubernetes/report.yaml");
    let (_, script) = manifest.split_once("- |\n").unwrap();
    let lines = script
        .lines()
        .map_while(|line| line.strip_prefix("                  "));
    let script: Vec<&str> = lines.collect();
    let here = dir.display().to_string();
    script
        .join("\n")
        .replace("/tmp/", "/etc/atlas-ai-keys-report/")
        .replace("/etc/atlas-ai-keys-exporter/config", &here)
        .replace("/etc/atlas-ai-keys-report", &here)
}

/// Returns the shell script of the drop-in in docs/reports.md that posts to a webhook.
fn drop_in_script() -> String {
    let document = read_repo_file("docs/reports.md");
    let drop_ins = document.split("```ini\n").skip(1);
    let mut drop_ins = drop_ins.filter(|drop_in| drop_in.contains("LoadCredential=webhook"));
    let drop_in = drop_ins.next().unwrap();
    let mut lines = drop_in.lines();
    let line = lines.find_map(|line| line.strip_prefix("ExecStart=/bin/sh -euc '"));
    let script = line.unwrap().strip_suffix('\'').unwrap();
    script.replace("$$", "$")
}

fn run_script(script: &str, sim: &SimHandle, dir: &Path) -> (Option<i32>, String, String) {
    let mut command = Command::new("sh");
    command
        .args(["-euc", script])
        .current_dir(dir)
        .env_clear()
        .envs(sim_env(sim))
        .env("PATH", format!("{}:/usr/bin:/bin", dir.display()))
        .env("RUNTIME_DIRECTORY", dir)
        .env("CREDENTIALS_DIRECTORY", dir);
    run_command(&mut command, &[])
}

/// Asserts that a chat message has the report, with the name as text.
fn assert_posted(request: JoinHandle<(String, String)>, dir: &Path) {
    let (header, body) = request.join().unwrap();
    assert!(
        header.starts_with("POST /services/secret HTTP/1.1\r\n"),
        "{header}"
    );
    assert!(
        header.contains("Content-Type: application/json\r\n"),
        "{header}"
    );
    let message: Value = serde_json::from_str(&body).unwrap();
    let report = std::fs::read_to_string(dir.join("report.md")).unwrap();
    assert_eq!(message, serde_json::json!({ "text": report }));
    assert!(report.contains("\\$\\(touch canary\\)"), "{report}");
    assert!(!dir.join("canary").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_receives_the_report_as_data() {
    let sim = crate::common::start_sim(static_sim(2, 60)).await;
    sim.with_world(|world| {
        let org = world.org_ids().remove(0);
        let oldest = world
            .keys(&org)
            .iter()
            .min_by_key(|key| key.last_used.unwrap_or(key.created));
        let id = oldest.unwrap().id.clone();
        world.rename_key(&org, &id, HOSTILE_NAME);
    });
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let exporter = env!("CARGO_BIN_EXE_atlas-ai-keys-exporter");
    std::os::unix::fs::symlink(exporter, here.join("atlas-ai-keys-exporter")).unwrap();
    std::fs::write(here.join("config.yml"), "atlas:\n  poll_interval: 5m\n").unwrap();
    let run =
        async |script: String| tokio::task::block_in_place(|| run_script(&script, &sim, here));
    let (config, request) = webhook();
    std::fs::write(here.join("webhook"), config).unwrap();
    let posted = run(cron_job_script(here)).await;
    assert_eq!(posted, (Some(0), String::new(), String::new()));
    assert_posted(request, here);
    // The service has written the report already.
    let (config, request) = webhook();
    std::fs::write(here.join("webhook"), config).unwrap();
    let posted = run(drop_in_script()).await;
    assert_eq!(posted, (Some(0), String::new(), String::new()));
    assert_posted(request, here);
    // An incomplete report is not posted.
    std::fs::remove_file(here.join("message.json")).unwrap();
    let org = sim.org_ids().remove(1);
    sim.add_fault(error_fault(SimEndpoint::AiModelApiKeys, Some(&org), 403));
    let (code, _, error) = run(cron_job_script(here)).await;
    assert!(code == Some(1) && error.contains(&org), "{error}");
    assert!(!here.join("message.json").exists());
    sim.stop().await;
}
