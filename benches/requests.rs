//! A whole scrape, from the request to the last byte: elapsed time, CPU time and memory of the exporter compared with
//! `client_golang` with the same series, alternating in one run.
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark may panic"
)]

mod common;

use std::time::Duration;

use common::{BenchProcess, ContentCoding, as_millis_f64, median, start_sim, time_scrape};

const KEYS: usize = 100_000;
const FAMILIES: usize = 6;

struct Measurement {
    wall: Duration,
    cpu: Duration,
}

/// Scrapes both alternately, `rounds` times each.
fn measure_alternating(
    processes: [&BenchProcess; 2],
    coding: ContentCoding,
    rounds: u32,
) -> [Measurement; 2] {
    let mut walls = [Vec::new(), Vec::new()];
    let mut cpus = [Duration::ZERO; 2];
    for round in 0..=rounds {
        for (place, process) in processes.into_iter().enumerate() {
            let before = process.cpu_time();
            let wall = time_scrape(&process.address, coding);
            // The first scrape of each is not measured.
            if round > 0 {
                walls[place].push(wall);
                cpus[place] += process.cpu_time().saturating_sub(before);
            }
            // Ages change every second, so responses are not shared between scrapes.
            std::thread::sleep(Duration::from_millis(1001));
        }
    }
    let [ours, theirs] = walls;
    [(ours, cpus[0]), (theirs, cpus[1])].map(|(walls, cpu)| Measurement {
        wall: median(walls),
        cpu: cpu / rounds,
    })
}

#[allow(clippy::cast_precision_loss, reason = "nanoseconds")]
fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let sim = runtime.block_on(start_sim(KEYS));
    let exporter = BenchProcess::start_exporter(&sim, &["--atlas.poll-interval=1h"]);
    exporter.wait_for_keys(KEYS);
    let Some(peer) = BenchProcess::start_client_golang(KEYS) else {
        println!(
            "Go or client_golang not found; help: apt-get install golang-go golang-github-prometheus-client-golang-dev"
        );
        return;
    };
    println!("{KEYS} keys, {FAMILIES} families each, whole requests, alternating\n");
    println!("| | exporter | client_golang | ratio |\n| --- | --- | --- | --- |");
    let row = |what: &str, ours: f64, theirs: f64, unit: &str| {
        println!(
            "| {what} | {ours:.1} {unit} | {theirs:.1} {unit} | {:.1} |",
            theirs / ours
        );
    };
    for coding in [ContentCoding::Identity, ContentCoding::Gzip] {
        let [ours, theirs] = measure_alternating([&exporter, &peer], coding, 10);
        row(
            &format!("{coding:?}, wall"),
            as_millis_f64(ours.wall),
            as_millis_f64(theirs.wall),
            "ms",
        );
        row(
            &format!("{coding:?}, CPU"),
            as_millis_f64(ours.cpu),
            as_millis_f64(theirs.cpu),
            "ms",
        );
        let series = (KEYS * FAMILIES) as f64;
        let each = |wall: Duration| wall.as_nanos() as f64 / series;
        row(
            &format!("{coding:?}, per series"),
            each(ours.wall),
            each(theirs.wall),
            "ns",
        );
    }
    for process in [&exporter, &peer] {
        for round in 0..100 {
            let coding = if round % 2 == 0 {
                ContentCoding::Gzip
            } else {
                ContentCoding::Identity
            };
            time_scrape(&process.address, coding);
        }
    }
    row(
        "resident after 100 more scrapes",
        exporter.resident_mib(),
        peer.resident_mib(),
        "MiB",
    );
}
