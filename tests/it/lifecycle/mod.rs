//! Startup, readiness, shutdown.

mod logs;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::sim_harness::{SimHarness, client_clock, in_process_sim, live_sim};
use crate::common::{
    ChildProcess, Scrape, TestExporter, eventually, get, sim_env, static_sim, unlimited_sim,
    wait_timeout,
};
use jiff::SignedDuration;
use mongodb_atlas_client::Clock;
use mongodb_atlas_sim::{Effect, Fault, SimEndpoint, SimHandle};
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

const UP: &str = "atlas_ai_keys_exporter_org_up";

/// Maximum duration of the shutdown of a process on a loaded machine. The documented five seconds are measured in
/// simulated time.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::test(start_paused = true)]
async fn shutdown_takes_at_most_five_seconds() {
    for hangs in [
        SimEndpoint::AiModelApiKeys,
        SimEndpoint::Token,
        SimEndpoint::Revoke,
    ] {
        let sim = in_process_sim(&static_sim(1, 5));
        sim.add_fault(Fault::new(hangs, Effect::Delay { seconds: 3600.0 }));
        let exporter = SimHarness::start(&sim, &[]).await;
        exporter.advance(Duration::from_secs(10)).await;
        let polled = exporter.scrape().sum(UP);
        assert_eq!(polled, f64::from(u8::from(hangs == SimEndpoint::Revoke)));
        let stopped_at = tokio::time::Instant::now();
        exporter.stop().await;
        let elapsed = stopped_at.elapsed();
        assert!(elapsed <= Duration::from_secs(5), "{hangs:?}: {elapsed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_end_the_process_while_atlas_hangs() {
    for (signal, hangs) in [
        (Signal::TERM, SimEndpoint::AiModelApiKeys),
        (Signal::INT, SimEndpoint::AiModelApiKeys),
        (Signal::TERM, SimEndpoint::Revoke),
    ] {
        let sim = crate::common::start_sim(static_sim(1, 5)).await;
        sim.add_fault(Fault::new(hangs, Effect::Delay { seconds: 3600.0 }));
        let mut program =
            ChildProcess::exporter(&["--web.listen-address=127.0.0.1:0"], &sim_env(&sim));
        if hangs == SimEndpoint::Revoke {
            program.wait_for_output("poll succeeded");
        } else {
            // The request for keys follows the one for a token.
            eventually("a token", async || {
                let requests = sim.requests();
                let first = requests.first().map(|request| request.endpoint);
                first.ok_or_else(|| program.output())
            })
            .await;
        }
        program.signal(signal);
        let (code, output, elapsed) = program.wait_exit();
        assert_eq!(code, Some(0), "{output}");
        assert!(elapsed < SHUTDOWN_TIMEOUT, "{elapsed:?}: {output}");
        sim.stop().await;
    }
}

/// Writes credentials of alternating kinds into files, one per organization.
fn credentials_in_files(dir: &Path, sim: &SimHandle) -> (String, Vec<(PathBuf, String)>) {
    let account = sim.credentials();
    let mut config = "credentials:\n".to_owned();
    let mut files = Vec::new();
    for (number, org) in sim.org_ids().iter().enumerate() {
        writeln!(config, "  - name: c{number}\n    org_ids: ['{org}']").unwrap();
        let parts = match number % 3 {
            0 => vec![("access_token", &account.access_token)],
            1 => vec![
                ("client_id", &account.client_id),
                ("client_secret", &account.client_secret),
            ],
            _ => vec![
                ("public_api_key", &account.public_key),
                ("private_api_key", &account.private_key),
            ],
        };
        for (part, value) in parts {
            let path = dir.join(format!("{number}-{part}"));
            std::fs::write(&path, value).unwrap();
            writeln!(config, "    {part}_file: {}", path.display()).unwrap();
            files.push((path, value.clone()));
        }
    }
    (config, files)
}

#[tokio::test(flavor = "multi_thread")]
async fn fifos_in_place_of_files_do_not_block() {
    const SUCCESS: &str = "atlas_ai_keys_exporter_org_last_success_timestamp_seconds";
    let sim = crate::common::start_sim(unlimited_sim(10, 20)).await;
    let orgs = sim.org_ids();
    let dir = tempfile::tempdir().unwrap();
    let (config, files) = credentials_in_files(dir.path(), &sim);
    let (config_file, state) = (dir.path().join("config.yml"), dir.path().join("state"));
    std::fs::write(&config_file, &config).unwrap();
    let mut variables = sim_env(&sim);
    variables.retain(|(name, _)| name == "MONGODB_ATLAS_BASE_URL");
    let flags = [
        "--web.listen-address=127.0.0.1:0".to_owned(),
        "--atlas.poll-interval=1s".to_owned(),
        format!("--config.file={}", config_file.display()),
        format!("--storage.path={}", state.display()),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut program = ChildProcess::exporter(&flags, &variables);
    let address = program.wait_for_output("address=");
    program
        .wait_scrape(&address, "all organizations", |scrape| {
            scrape.sum(UP) == 10.0
        })
        .await;
    // Every file of nine credentials, and all state files.
    let nine: Vec<_> = files
        .iter()
        .filter(|(path, _)| {
            !path
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("9-")
        })
        .collect();
    for (path, _) in &nine {
        crate::common::make_fifo(path);
    }
    for entry in std::fs::read_dir(&state).unwrap() {
        crate::common::make_fifo(&entry.unwrap().path());
    }
    // So far the service accounts had valid tokens.
    sim.revoke_all_tokens();
    let condition = [("org_id", orgs[9].as_str())];
    let one = |scrape: &Scrape| scrape.sum(UP) == 1.0 && scrape.get(UP, &condition) == Some(1.0);
    let before = program
        .wait_scrape(&address, "one organization", one)
        .await
        .get(SUCCESS, &condition);
    let later = |scrape: &Scrape| {
        one(scrape) && scrape.get(SUCCESS, &condition) > before.map(|at| at + 2.0)
    };
    program
        .wait_scrape(&address, "polls continue with the valid credential", later)
        .await;
    // The configuration file; then one organization is removed and one with stored state is added.
    crate::common::make_fifo(&config_file);
    program.signal(Signal::HUP);
    program.wait_for_output("a pipe, which can be read only once");
    for (path, value) in &nine {
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, value).unwrap();
    }
    for pipe in orgs
        .iter()
        .map(|org| state.join(format!("{org}.inventory")))
    {
        crate::common::make_fifo(&pipe);
    }
    std::fs::remove_file(&config_file).unwrap();
    let fewer = config.replacen(&format!("'{}'", orgs[3]), "'000000000000000000000000'", 1);
    std::fs::write(&config_file, fewer).unwrap();
    program.signal(Signal::HUP);
    program.wait_for_output("configuration reloaded");
    std::fs::write(&config_file, &config).unwrap();
    program
        .wait_scrape(&address, "all organizations again", |scrape| {
            scrape.sum(UP) == 10.0 && scrape.get(UP, &[("org_id", &orgs[3])]) == Some(1.0)
        })
        .await;
    for (path, _) in &files {
        crate::common::make_fifo(path);
    }
    crate::common::make_fifo(&config_file);
    program.signal(Signal::TERM);
    let (code, output, elapsed) = program.wait_exit();
    assert_eq!(code, Some(0), "{output}");
    assert!(elapsed < SHUTDOWN_TIMEOUT, "{elapsed:?}: {output}");
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_drains_active_scrapes_and_aborts_stalled_ones() {
    let sim = crate::common::start_sim(static_sim(1, 20_000)).await;
    let mut program = ChildProcess::exporter(&["--web.listen-address=127.0.0.1:0"], &sim_env(&sim));
    let address = program.wait_for_output("address=");
    program.wait_for_output("poll succeeded");
    // One client reads slowly, another client does not read.
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let connect = || {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    let (slow, stalled) = (connect(), connect());
    let (first_chunk, begun) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut chunk = vec![0; 1 << 20];
        let mut slow = slow;
        loop {
            let read = std::io::Read::read(&mut slow, &mut chunk).unwrap();
            if read == 0 {
                return text;
            }
            text.extend_from_slice(&chunk[..read]);
            let _ = first_chunk.send(());
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    begun.recv_timeout(wait_timeout()).unwrap();
    program.signal(Signal::TERM);
    let (code, output, elapsed) = program.wait_exit();
    assert_eq!(code, Some(0), "{output}");
    assert!(elapsed < SHUTDOWN_TIMEOUT, "{elapsed:?}");
    let text = String::from_utf8(reader.join().unwrap()).unwrap();
    assert!(
        text.trim_end().ends_with("\r\n0"),
        "the last chunk was sent: {:?}",
        &text[text.len().saturating_sub(80)..]
    );
    assert!(text.contains("process_threads"), "the scrape is complete");
    drop(stalled);
    sim.stop().await;
}

#[tokio::test(start_paused = true)]
async fn exporter_serves_before_the_first_poll_and_is_ready_after() {
    let sim = in_process_sim(&static_sim(2, 20));
    let orgs = sim.org_ids();
    sim.add_fault(
        Fault::new(SimEndpoint::AiModelApiKeys, Effect::Delay { seconds: 15.0 }).for_org(&orgs[1]),
    );
    let exporter = SimHarness::start(&sim, &[]).await;
    assert_eq!(
        exporter.scrape().values(UP),
        [0.0, 0.0],
        "not up before the first poll"
    );
    assert_eq!(exporter.get("/-/healthy").await.0, 200);
    exporter.advance(Duration::from_secs(10)).await;
    let scrape = exporter.scrape();
    assert_eq!(scrape.get(UP, &[("org_id", &orgs[0])]), Some(1.0));
    assert_eq!(scrape.get(UP, &[("org_id", &orgs[1])]), Some(0.0));
    let (status, text) = exporter.get("/-/ready").await;
    assert_eq!(status, 503);
    assert!(
        text.contains(&orgs[1]) && !text.contains(&orgs[0]),
        "{text}"
    );
    exporter.wait_polled(2).await;
    assert_eq!(exporter.get("/-/ready").await.0, 200);
    assert_eq!(exporter.get("/metrics").await.0, 200);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_and_methods_are_rejected() {
    let exporter = TestExporter::start(static_sim(1, 5), &["--web.telemetry-path=/m"]).await;
    assert_eq!(exporter.get("/metrics").await.0, 404);
    assert_eq!(exporter.get("/m").await.0, 200);
    let (status, page) = exporter.get("/").await;
    assert!(status == 200 && page.contains("href=\"m\""), "{page}");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = client
        .post(format!("{}/m", exporter.base_url))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()["allow"], "GET,HEAD");
    let response = client
        .head(format!("{}/m", exporter.base_url))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.headers()["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    exporter.stop().await.stop().await;
}

#[tokio::test(start_paused = true)]
async fn clock_jumps_cause_no_negative_ages() {
    let sim = in_process_sim(&live_sim(1, 30));
    let jump = Arc::new(AtomicI64::new(0));
    let (read, real) = (Arc::clone(&jump), client_clock(&sim));
    let clock = Clock::from_fn(move || {
        real.now() + SignedDuration::from_hours(read.load(Ordering::Relaxed))
    });
    let exporter = SimHarness::start_with_clock(&sim, sim_env(&sim), &[], clock).await;
    exporter.wait_polled(1).await;
    let org = sim.org_ids().remove(0);
    for hours in [24 * 365 * 3, -24 * 365 * 3, 0] {
        jump.store(hours, Ordering::Relaxed);
        let polls = exporter.count_polls();
        exporter.advance(Duration::from_hours(1)).await;
        let walks = polls.walks()[&org];
        assert!(
            (10..=13).contains(&walks),
            "{walks} polls, {hours} hours off"
        );
        let scrape = exporter.scrape();
        assert_eq!(
            scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
            0.0
        );
        let [idle, used] = ["idle", "last_used_age"]
            .map(|what| scrape.values(&format!("mongodbatlas_ai_model_api_key_{what}_seconds")));
        assert!(
            idle.len() >= 20 && used.len() >= 10,
            "{} and {}",
            idle.len(),
            used.len()
        );
        match hours {
            1.. => assert!(idle.iter().chain(&used).all(|age| *age > 90_000_000.0)),
            0 => assert!(idle.iter().chain(&used).all(|age| *age >= 0.0)),
            // Times in the future have the age 0.
            _ => assert!(
                idle.iter().chain(&used).any(|age| *age == 0.0)
                    && idle.iter().chain(&used).all(|age| *age >= 0.0)
            ),
        }
    }
    exporter.assert_in_sync(Duration::from_mins(10)).await;
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_exports_three_organizations() {
    let mut program = ChildProcess::exporter(&["demo", "--web.listen-address=127.0.0.1:0"], &[]);
    let url = program.wait_for_output("metrics          ");
    let scrape = eventually("three organizations", async || {
        let scrape = Scrape::parse(&get(&url).await.1);
        if scrape.sum(UP) == 3.0 {
            return Ok(scrape);
        }
        Err(scrape.text)
    })
    .await;
    let keys = scrape.sum("mongodbatlas_ai_model_api_keys");
    assert!((1190.0..1210.0).contains(&keys), "{keys}");
    program.signal(Signal::INT);
    let (code, output, took) = program.wait_exit();
    assert_eq!(code, Some(0), "{output}");
    assert!(took < SHUTDOWN_TIMEOUT);
}
