//! A walk of 200 pages at several latencies: number of requests, and elapsed time compared with a client that fetches the
//! same pages with equal concurrency and discards the responses.
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a benchmark may panic"
)]

mod common;

use std::time::{Duration, Instant};

use common::{BenchProcess, ContentCoding, fetch, start_sim};
use futures_util::{StreamExt as _, stream};
use mongodb_atlas_sim::{Effect, Fault, SimEndpoint, SimHandle};

const KEYS: usize = 100_000;
const PAGES: u32 = 200;
/// Concurrent requests of a walk.
const CONCURRENCY: usize = 4;

/// Times a client that only fetches the same pages: the cost of the simulator and the network.
async fn time_bare_fetch(sim: &SimHandle) -> Duration {
    let client = reqwest::Client::new();
    let base = sim.base_url();
    let account = sim.credentials();
    let token = client
        .post(format!("{base}/api/oauth/token"))
        .basic_auth(account.client_id, Some(account.client_secret))
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body("grant_type=client_credentials")
        .send()
        .await
        .unwrap();
    let token: serde_json::Value = serde_json::from_slice(&token.bytes().await.unwrap()).unwrap();
    let token = token.get("access_token").unwrap().as_str().unwrap();
    let org = sim.org_ids().remove(0);
    let page = |page: u32| {
        let url = format!(
            "{base}/api/atlas/v2/orgs/{org}/aiModelApiKeys?itemsPerPage=500&pageNum={page}"
        );
        let request = client
            .get(url)
            .bearer_auth(token)
            .header("Accept", "application/vnd.atlas.2025-03-12+json");
        async move {
            let response = request.send().await.unwrap().error_for_status().unwrap();
            response.bytes().await.unwrap().len()
        }
    };
    let started_at = Instant::now();
    // A walk requests the first page alone, because it contains the total.
    page(1).await;
    let bytes: Vec<usize> = stream::iter(2..=PAGES)
        .map(page)
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await;
    assert_eq!(bytes.len() + 1, PAGES as usize);
    started_at.elapsed()
}

/// Waits for the first successful poll, and returns its duration.
fn wait_polled(exporter: &BenchProcess) -> Duration {
    loop {
        let (body, _) = fetch(&exporter.address, ContentCoding::Identity);
        let text = String::from_utf8_lossy(&body);
        let line = text
            .lines()
            .find(|line| line.starts_with("atlas_ai_keys_exporter_org_poll_duration_seconds{"));
        if let Some(line) = line {
            let seconds: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            return Duration::from_secs_f64(seconds);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn main() {
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("no other provider is installed");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let sim = runtime.block_on(start_sim(KEYS));
    println!("{KEYS} keys, {PAGES} pages, {CONCURRENCY} concurrent requests\n");
    println!(
        "| latency | requests | walk | bare client | ratio | pages in flight x latency | ratio |\n| --- | --- | --- | --- | --- | --- | --- |"
    );
    for milliseconds in [0_u32, 20, 100] {
        sim.clear_faults();
        if milliseconds > 0 {
            sim.add_fault(Fault::new(
                SimEndpoint::AiModelApiKeys,
                Effect::Delay {
                    seconds: f64::from(milliseconds) / 1e3,
                },
            ));
        }
        let count = |sim: &SimHandle| {
            sim.requests()
                .iter()
                .filter(|request| request.endpoint == SimEndpoint::AiModelApiKeys)
                .count()
        };
        let mut walks = Vec::new();
        let mut bares = Vec::new();
        let mut requests = 0;
        for _ in 0..3 {
            bares.push(runtime.block_on(time_bare_fetch(&sim)));
            let before = count(&sim);
            let exporter = BenchProcess::start_exporter(&sim, &["--atlas.poll-interval=1h"]);
            walks.push(wait_polled(&exporter));
            requests = count(&sim) - before;
        }
        let (walk, bare) = (common::median(walks), common::median(bares));
        // The first page is requested alone, the others concurrently.
        let batches = 1 + (PAGES - 1).div_ceil(u32::try_from(CONCURRENCY).unwrap());
        let best = Duration::from_millis(u64::from(milliseconds * batches));
        println!(
            "| {milliseconds} ms | {requests} | {:.2} s | {:.2} s | {:.2} | {:.2} s | {:.2} |",
            walk.as_secs_f64(),
            bare.as_secs_f64(),
            walk.as_secs_f64() / bare.as_secs_f64(),
            best.as_secs_f64(),
            walk.as_secs_f64() / best.as_secs_f64(),
        );
    }
}
