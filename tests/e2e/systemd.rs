//! The shipped units on a systemd in namespaces: the unit is active only when the exporter is ready; status text, reload
//! and watchdog; credentials, state and sockets across restarts; shutdown within its time limit.
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::systemd::{SERVICE, STATE_DIR, SystemdContainer};
use crate::common::{
    Scrape, error_fault, eventually, free_port, get, run_command, sim_env, static_sim,
};
use mongodb_atlas_sim::{SimEndpoint, SimHandle};

/// Returns the environment of the service without secrets, and its listen address.
fn service_env(sim: &SimHandle) -> (Vec<(String, String)>, String) {
    let address = format!("127.0.0.1:{}", free_port());
    let mut variables = sim_env(sim);
    variables.retain(|(name, _)| !name.starts_with("MONGODB_ATLAS_CLIENT"));
    let listen = "ATLAS_AI_KEYS_EXPORTER_WEB_LISTEN_ADDRESS";
    variables.push((listen.to_owned(), address.clone()));
    (variables, address)
}

fn service_credentials(sim: &SimHandle) -> [(&'static str, String); 2] {
    let account = sim.credentials();
    [
        ("client-id", account.client_id),
        ("client-secret", account.client_secret),
    ]
}

async fn scrape(address: &str) -> Scrape {
    let (status, text) = get(&format!("http://{address}/metrics")).await;
    assert_eq!(status, 200);
    Scrape::parse(&text)
}

const REPORT_SERVICE: &str = "atlas-ai-keys-report.service";

#[test]
fn units_verify_and_exposure_is_low() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    for service in [SERVICE, REPORT_SERVICE] {
        let mut command = Command::new("systemd-analyze");
        let text = run_command(
            command
                .args(["security", "--offline=true", "--threshold=15", "--no-pager"])
                .arg(root.join(service)),
            &[],
        );
        assert_eq!(text.0, Some(0), "{text:?}");
    }
    // Neither the program nor its manual page is installed on this machine.
    let dir = tempfile::tempdir().unwrap();
    for unit in [
        SERVICE,
        "atlas-ai-keys-exporter.socket",
        REPORT_SERVICE,
        "atlas-ai-keys-report.timer",
    ] {
        let text = std::fs::read_to_string(root.join(unit)).unwrap();
        let text = text
            .replace(
                "/usr/bin/atlas-ai-keys-exporter",
                env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"),
            )
            .replace("Documentation=man:atlas-ai-keys-exporter(1)\n", "");
        std::fs::write(dir.path().join(unit), text).unwrap();
    }
    let mut command = Command::new("systemd-analyze");
    command
        .arg("verify")
        .arg(dir.path().join(SERVICE))
        .arg(dir.path().join("atlas-ai-keys-exporter.socket"))
        .arg(dir.path().join(REPORT_SERVICE))
        .arg(dir.path().join("atlas-ai-keys-report.timer"));
    assert_eq!(
        run_command(&mut command, &[]),
        (Some(0), String::new(), String::new())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn service_starts_reloads_and_stops() {
    let sim = crate::common::start_sim(static_sim(3, 300)).await;
    let orgs = sim.org_ids();
    let (mut environment, address) = service_env(&sim);
    let interval = "ATLAS_AI_KEYS_EXPORTER_ATLAS_POLL_INTERVAL";
    environment.push((interval.to_owned(), "1s".to_owned()));
    let systemd = SystemdContainer::boot("", &environment, &service_credentials(&sim));
    // Active only when ready: the first request after the start succeeds.
    systemd.systemctl(&["start", SERVICE]);
    let (status, _) = get(&format!("http://{address}/-/healthy")).await;
    assert_eq!(
        (status, systemd.property("ActiveState").as_str()),
        (200, "active")
    );
    let status = systemd.wait_property("StatusText", |text| text.starts_with("fresh 3: "));
    assert!(orgs.iter().all(|org| status.contains(org)), "{status}");
    let before = scrape(&address).await;
    assert_eq!(
        before.sum("mongodbatlas_ai_model_api_keys"),
        300.0,
        "the credentials were read"
    );
    assert!(before.get("process_start_time_seconds", &[]).is_some());
    assert!(before.get("process_resident_memory_bytes", &[]).is_some());
    let journal = systemd.journal();
    assert!(
        !journal.contains("level=warn") && !journal.contains("level=error"),
        "{journal}"
    );
    let main = systemd.exec_ok(&[
        "cat",
        &format!("/proc/{}/limits", systemd.property("MainPID")),
    ]);
    let core = main
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert!(
        core.split_whitespace().filter(|word| *word == "0").count() == 2,
        "{core}"
    );
    // The unit is active again after a reload.
    systemd.systemctl(&["reload", SERVICE]);
    systemd.wait_property("ActiveState", |state| state == "active");
    systemd.wait_journal("configuration reloaded");
    // Stale organizations are listed, with the reason.
    sim.add_fault(error_fault(
        SimEndpoint::AiModelApiKeys,
        Some(&orgs[1]),
        403,
    ));
    systemd.systemctl(&["restart", SERVICE]);
    let (status, _) = get(&format!("http://{address}/-/ready")).await;
    assert_eq!(status, 200, "restored data is served immediately");
    let status = systemd.wait_property("StatusText", |text| {
        text.contains("fresh 2") && text.contains("forbidden")
    });
    assert!(
        status.contains(&format!("stale 1: {} (forbidden)", orgs[1])),
        "{status}"
    );
    let after = scrape(&address).await;
    assert_eq!(after.sum("mongodbatlas_ai_model_api_keys"), 300.0);
    // Shutdown.
    systemd.systemctl(&["stop", SERVICE]);
    // The timestamps are from the log of systemd, because `systemctl` can take longer on a loaded machine.
    let logged_at = |text: &str| {
        let journal = systemd.journal_as("short-unix");
        let line = journal.lines().rfind(|line| line.contains(text));
        let line = line.unwrap_or_else(|| panic!("{text}: {journal}"));
        let seconds = line.split_whitespace().next().unwrap().parse();
        Duration::from_secs_f64(seconds.unwrap())
    };
    systemd.wait_journal("Stopped ");
    let took = logged_at("Stopped ").saturating_sub(logged_at("Stopping "));
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert_eq!(systemd.property("Result"), "success");
    assert_eq!(sim.live_token_count(), 0);
    // A named pipe in place of a state file does not delay startup.
    let pipe = format!("{STATE_DIR}/{}.inventory", orgs[0]);
    systemd.exec_ok(&["rm", &pipe]);
    systemd.exec_ok(&["mkfifo", "-m", "666", &pipe]);
    systemd.systemctl(&["start", SERVICE]);
    assert_eq!(systemd.property("ActiveState"), "active");
    let (status, _) = get(&format!("http://{address}/-/healthy")).await;
    assert_eq!(status, 200);
    systemd.systemctl(&["stop", SERVICE]);
    // An invalid configuration is not retried endlessly.
    systemd.write_secret("/run/given/environment", "MONGODB_ATLAS_ORG_ID=nonsense\n");
    let (code, _, _) = systemd.exec(&["systemctl", "start", SERVICE]);
    assert_ne!(code, Some(0));
    assert_eq!(systemd.property("ActiveState"), "failed");
    assert_eq!(systemd.property("ExecMainStatus"), "2");
    assert_eq!(systemd.property("NRestarts"), "0");
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watchdog_restarts_a_stalled_process() {
    let sim = crate::common::start_sim(static_sim(1, 100)).await;
    let (environment, address) = service_env(&sim);
    let drop_in = "[Service]\nWatchdogSec=4s\nRestartSec=100ms\n";
    let systemd = SystemdContainer::boot(drop_in, &environment, &service_credentials(&sim));
    systemd.systemctl(&["start", SERVICE]);
    systemd.wait_property("StatusText", |text| text.starts_with("fresh 1"));
    systemd.systemctl(&["kill", "--kill-whom=main", "--signal=STOP", SERVICE]);
    systemd.wait_property("NRestarts", |restarts| restarts == "1");
    systemd.wait_property("StatusText", |text| text.starts_with("fresh 1"));
    let keys = scrape(&address).await.sum("mongodbatlas_ai_model_api_keys");
    assert_eq!(keys, 100.0);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn socket_activation_loses_no_connection_on_restart() {
    let sim = crate::common::start_sim(static_sim(1, 50)).await;
    let (mut environment, address) = service_env(&sim);
    environment.pop();
    environment.push((
        "ATLAS_AI_KEYS_EXPORTER_WEB_SYSTEMD_SOCKET".to_owned(),
        "true".to_owned(),
    ));
    let systemd = SystemdContainer::boot("", &environment, &service_credentials(&sim));
    let socket = "atlas-ai-keys-exporter.socket";
    systemd.exec_ok(&["mkdir", &format!("/run/systemd/system/{socket}.d")]);
    let place = format!("[Socket]\nListenStream=\nListenStream={address}\n");
    systemd.write_secret(&format!("/run/systemd/system/{socket}.d/test.conf"), &place);
    systemd.systemctl(&["daemon-reload"]);
    systemd.systemctl(&["start", socket]);
    // The first connection starts the service.
    let (status, _) = get(&format!("http://{address}/-/healthy")).await;
    assert_eq!(status, 200);
    systemd.wait_property("StatusText", |text| text.starts_with("fresh 1"));
    let (over, responses) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (over, responses, address) =
                (Arc::clone(&over), Arc::clone(&responses), address.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    // A new connection each time.
                    let (status, text) = get(&format!("http://{address}/metrics")).await;
                    assert!(status == 200 && text.contains("process_threads"));
                    responses.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..3 {
        let (before, pid) = (
            responses.load(Ordering::Relaxed),
            systemd.property("MainPID"),
        );
        systemd.systemctl(&["restart", SERVICE]);
        assert_ne!(systemd.property("MainPID"), pid);
        eventually("twenty more responses", async || {
            let now = responses.load(Ordering::Relaxed);
            (now >= before + 20).then_some(()).ok_or(now)
        })
        .await;
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    sim.stop().await;
}
