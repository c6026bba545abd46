//! Log messages.

use std::time::Duration;

use crate::common::log_capture::LogCapture;
use crate::common::sim_harness::{SimHarness, in_process_sim, live_sim};
use crate::common::{Scrape, error_fault, eventually, get, sim_env, static_sim, try_get_status};
use mongodb_atlas_sim::{Effect, Fault, SimEndpoint};
use rustix::process::Signal;

const POLL_INTERVAL: &str = "atlas_ai_keys_exporter_org_poll_interval_seconds";

#[tokio::test(start_paused = true)]
async fn extended_poll_interval_is_logged_once() {
    const EXTENDED: &str = "rate limit too low";
    const NORMAL: &str = "rate limit allows the configured poll interval";
    let logs = LogCapture::start();
    let sim = in_process_sim(&live_sim(2, 100));
    let flags = ["--atlas.page-size=3", "--atlas.poll-interval=1m"];
    let exporter = SimHarness::start(&sim, &flags).await;
    exporter.wait_polled(2).await;
    exporter.advance(Duration::from_mins(10)).await;
    assert_eq!(exporter.scrape().values(POLL_INTERVAL), [60.0, 60.0]);
    assert_eq!(logs.count("WARN", EXTENDED), 0);
    // The rate limits are requested once an hour: from 250 a minute to 5 and back.
    let lower = Effect::Replace {
        old: ":250".to_owned(),
        new: ":5".to_owned(),
    };
    sim.add_fault(Fault::new(SimEndpoint::RateLimits, lower));
    exporter.advance(Duration::from_mins(65)).await;
    let intervals = exporter.scrape().values(POLL_INTERVAL);
    assert!(
        intervals.iter().all(|interval| *interval > 90.0),
        "{intervals:?}"
    );
    let polls = exporter.count_polls();
    exporter.advance(Duration::from_hours(3)).await;
    polls.assert_polled(25);
    let warnings = logs.lines("WARN", EXTENDED);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("configured=1m"), "{warnings:?}");
    assert_eq!(logs.count("INFO", NORMAL), 0);
    sim.clear_faults();
    exporter.advance(Duration::from_mins(65)).await;
    assert_eq!(exporter.scrape().values(POLL_INTERVAL), [60.0, 60.0]);
    let polls = exporter.count_polls();
    exporter.advance(Duration::from_hours(1)).await;
    polls.assert_polled(59);
    assert_eq!(logs.count("WARN", EXTENDED), 1);
    assert_eq!(logs.count("INFO", NORMAL), 1);
    assert_eq!(exporter.count_responses(429), 0);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn routine_polls_are_logged_at_debug_and_changes_at_info() {
    let logs = LogCapture::start();
    let sim = in_process_sim(&static_sim(2, 20));
    let exporter = SimHarness::start(&sim, &[]).await;
    exporter.wait_polled(2).await;
    let polls = exporter.count_polls();
    exporter.advance(Duration::from_hours(1)).await;
    polls.assert_polled(11);
    let first = logs.lines("INFO", "poll succeeded");
    assert_eq!(
        first.len(),
        2,
        "the first poll of each organization: {first:?}"
    );
    let routine = logs.count("DEBUG", "poll succeeded");
    assert!((22..=26).contains(&routine), "{routine}");
    let org = sim.org_ids().remove(0);
    sim.add_fault(error_fault(SimEndpoint::AiModelApiKeys, Some(&org), 500));
    exporter
        .wait_until("a failed poll", |scrape| {
            scrape.poll_failures(&org, "server_error") > 0.0
        })
        .await;
    assert!(logs.count("WARN", "poll failed") > 0);
    sim.clear_faults();
    exporter.wait_polled(2).await;
    let polls = exporter.count_polls();
    exporter.advance(Duration::from_hours(1)).await;
    polls.assert_polled(11);
    let changes = logs.lines("INFO", "poll succeeded");
    assert_eq!(changes.len(), 3, "{changes:?}");
    assert!(changes[2].contains(&org), "{changes:?}");
    assert!(logs.count("DEBUG", "poll succeeded") >= routine + 22);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_stderr_does_not_stop_the_exporter() {
    let sim = crate::common::start_sim(static_sim(2, 20)).await;
    let (_unread, mut full) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&full, true).unwrap();
    while std::io::Write::write(&mut full, &[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&full, false).unwrap();
    let address = format!("127.0.0.1:{}", crate::common::free_port());
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"));
    command
        .args(["--web.listen-address", &address, "--log.level=debug"])
        .arg("--atlas.poll-interval=1s")
        .env_clear()
        .envs(sim_env(&sim))
        .stderr(full);
    let mut child = command.spawn().unwrap();
    let metrics = format!("http://{address}/metrics");
    eventually("polls", async || {
        let status = try_get_status(&metrics).await;
        status.ok_or_else(|| "no connection".to_owned())?;
        let scrape = Scrape::parse(&get(&metrics).await.1);
        let up = scrape.values("atlas_ai_keys_exporter_org_up");
        if up == [1.0; 2] {
            return Ok(());
        }
        Err(scrape.text)
    })
    .await;
    // Polls continue, with at least one log line each.
    let requests = sim.requests().len();
    eventually("more polls", async || {
        let more = sim.requests().len() - requests;
        if more >= 6 { Ok(()) } else { Err(more) }
    })
    .await;
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    eventually("the process exits", async || {
        child.try_wait().unwrap().ok_or("running")
    })
    .await;
    sim.stop().await;
}
