//! Messages to the service manager (`sd_notify(3)`) on a socket of the test. `tests/e2e/systemd.rs` tests
//! them with systemd.
#![cfg(target_os = "linux")]
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::common::{ChildProcess, eventually_blocking, sim_env, static_sim};
use rustix::process::Signal;

/// The socket of the service manager.
struct NotifySocket(UnixDatagram);

impl NotifySocket {
    /// Waits for a message that satisfies `condition`, and returns it; other messages may come before.
    fn wait_message(&self, what: &str, condition: impl Fn(&str) -> bool) -> String {
        let mut received = Vec::new();
        eventually_blocking(what, || {
            let mut bytes = [0; 4096];
            if let Ok(length) = self.0.recv(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                if condition(&text) {
                    return Ok(text);
                }
                received.push(text);
            }
            Err(format!("{received:?}"))
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sd_notify_reports_ready_status_reload_watchdog_and_stopping() {
    let sim = crate::common::start_sim(static_sim(2, 20)).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let manager = NotifySocket(socket);
    let mut variables = sim_env(&sim);
    variables.push(("NOTIFY_SOCKET".to_owned(), path.display().to_string()));
    variables.push(("WATCHDOG_USEC".to_owned(), "2000000".to_owned()));
    let program = ChildProcess::exporter(&["--web.listen-address=127.0.0.1:0"], &variables);
    manager.wait_message("READY=1", |text| text.trim() == "READY=1");
    let fresh = manager.wait_message("both are fresh", |text| {
        text.starts_with("STATUS=fresh 2: ")
    });
    assert!(
        sim.org_ids().iter().all(|org| fresh.contains(org)),
        "{fresh}"
    );
    for _ in 0..3 {
        manager.wait_message("WATCHDOG=1", |text| text.trim() == "WATCHDOG=1");
    }
    program.signal(Signal::HUP);
    let reloading = manager.wait_message("RELOADING=1", |text| text.starts_with("RELOADING=1\n"));
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.wait_message("READY=1 again", |text| text.trim() == "READY=1");
    program.signal(Signal::TERM);
    manager.wait_message("STOPPING=1", |text| text.starts_with("STOPPING=1\n"));
    assert_eq!(program.wait_exit().0, Some(0));
    sim.stop().await;
}
