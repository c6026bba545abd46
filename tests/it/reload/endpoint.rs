//! Tests of reloads by HTTP request and by signal.

use std::time::Duration;

use super::{ConfigFiles, FAILURES, RELOADED, send_request, start_binary};
use crate::common::{Scrape, eventually, get, static_sim};
use rustix::process::Signal;

#[tokio::test(flavor = "multi_thread")]
async fn reload_endpoint_works_when_enabled() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let files = ConfigFiles::new(&sim);
    let (program, address) = start_binary(&files, &["--web.enable-lifecycle"]);
    for method in [reqwest::Method::POST, reqwest::Method::PUT] {
        assert_eq!(
            send_request(&address, method).await,
            (200, "Reloaded.\n".into())
        );
    }
    assert_eq!(send_request(&address, reqwest::Method::GET).await.0, 405);
    std::fs::write(
        files.path("config.yml"),
        "atlas: {page_size: 0, nonsense: 1}\n",
    )
    .unwrap();
    let (code, text) = send_request(&address, reqwest::Method::POST).await;
    assert_eq!(code, 400);
    for part in [
        "invalid configuration (3 errors):",
        "atlas.page_size in",
        "invalid value \"0\"",
        "atlas.nonsense in",
        "no credential found",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let scrape = Scrape::parse(&get(&format!("http://{address}/metrics")).await.1);
    assert_eq!(scrape.get(RELOADED, &[]), Some(0.0));
    drop(program);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_endpoint_is_forbidden_when_disabled() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let files = ConfigFiles::new(&sim);
    let (program, address) = start_binary(&files, &[]);
    let (code, text) = send_request(&address, reqwest::Method::POST).await;
    assert!(
        code == 403 && text.contains("--web.enable-lifecycle"),
        "{text}"
    );
    drop(program);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_including_logging() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let files = ConfigFiles::new(&sim);
    let (mut program, address) = start_binary(&files, &[]);
    // No file has changed, so only the signal can cause a reload.
    program.signal(Signal::HUP);
    let line = program.wait_for_output("configuration reloaded");
    assert!(program.output().contains("trigger=SIGHUP"), "{line}");
    let orgs = files.orgs.clone();
    files.write_config(&orgs, "log:\n  level: debug\n  format: json\n");
    program.signal(Signal::HUP);
    program.wait_for_output("\"msg\":\"configuration reloaded\",\"trigger\":\"SIGHUP\"");
    std::fs::write(files.path("config.yml"), "x: 1\n").unwrap();
    program.signal(Signal::HUP);
    program.wait_for_output("configuration reload failed");
    let scrape = Scrape::parse(&get(&format!("http://{address}/metrics")).await.1);
    assert_eq!(scrape.get(RELOADED, &[]), Some(0.0));
    program.signal(Signal::TERM);
    let (code, output, _) = program.wait_exit();
    assert_eq!(code, Some(0), "{output}");
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn static_token_file_is_read_per_request() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let files = ConfigFiles::new(&sim);
    files.write("token", &sim.credentials().access_token);
    let config = format!(
        "credentials:\n- access_token_file: {}\n  org_ids: ['{}']\natlas: {{base_url: '{}', poll_interval: 1s}}\n",
        files.path("token").display(),
        files.orgs[0],
        files.base_url
    );
    files.write("config.yml", &config);
    let (program, address) = start_binary(&files, &["--log.level=debug"]);
    sim.with_credentials(|account| account.access_token = "simtok.next".into());
    files.write("token", "simtok.next");
    let count_polls = |output: &str| output.matches("poll succeeded").count();
    let before = count_polls(&program.output());
    eventually("three polls", async || {
        let output = program.output();
        if count_polls(&output) >= before + 3 {
            return Ok(());
        }
        Err(output)
    })
    .await;
    let scrape = Scrape::parse(&get(&format!("http://{address}/metrics")).await.1);
    assert!(scrape.sum(FAILURES) <= 1.0, "{}", program.output());
    program.signal(Signal::TERM);
    drop(program);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_reload_requests_are_coalesced() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let files = ConfigFiles::new(&sim);
    let (program, address) = start_binary(&files, &["--web.enable-lifecycle"]);
    send_request(&address, reqwest::Method::POST).await;
    let reloads = |output: &str| output.matches("configuration reloaded").count();
    let (started_at, before) = (std::time::Instant::now(), reloads(&program.output()));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{address}/-/reload");
    let requests = (0..400).map(async |n| {
        let request = client.post(&url);
        // Some clients do not wait for the result.
        if n % 10 == 0 {
            let _ = request.timeout(Duration::from_millis(50)).send().await;
        } else {
            assert_eq!(request.send().await.unwrap().status(), 200);
        }
    });
    futures_util::future::join_all(requests).await;
    // A reload requested after the write starts after the write.
    files.write_config(&files.orgs.clone(), "web:\n  telemetry_path: /m\n");
    assert_eq!(send_request(&address, reqwest::Method::POST).await.0, 200);
    assert_eq!(get(&format!("http://{address}/m")).await.0, 200);
    let count = reloads(&program.output()) - before;
    // The watcher may have detected the change as well.
    let max = usize::try_from(started_at.elapsed().as_secs()).unwrap() + 3;
    assert!((2..=max).contains(&count), "{count} reloads, at most {max}");
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "http://evil.example"),
        ("origin", "null"),
    ] {
        let reloaded = reloads(&program.output());
        for method in [reqwest::Method::POST, reqwest::Method::PUT] {
            let request = client.request(method, &url).header(name, value);
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 403, "{name}: {value}");
            let text = response.text().await.unwrap();
            assert!(text.contains("cross-site"), "{text}");
        }
        assert_eq!(reloads(&program.output()), reloaded);
    }
    drop(program);
    sim.stop().await;
}
