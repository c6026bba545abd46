//! Scrapes while polls replace inventories of 100,000 keys: two exporters at the same time, one that polls continuously and
//! one that does not, scraped alternately; and forty concurrent scrapers.
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a benchmark may panic, and measures in floats"
)]

mod common;

use std::time::{Duration, Instant};

use common::{
    BenchProcess, ContentCoding, as_millis_f64, percentile, start_sim, time_health_request,
    time_scrape,
};
use mongodb_atlas_sim::{LoggedRequest, SimHandle};

const KEYS: usize = 100_000;
const SCRAPES: usize = 200;
const PROBES: usize = 4000;
const SCRAPERS: usize = 40;

/// Returns the number of walks started so far by all clients of this simulator.
fn count_walks(sim: &SimHandle) -> usize {
    let first = |request: &&LoggedRequest| request.page == Some(1) && request.status == 200;
    sim.requests().iter().filter(first).count()
}

fn run_scrapers(process: &BenchProcess, coding: ContentCoding) -> (f64, Duration) {
    let started_at = Instant::now();
    let until = started_at + Duration::from_secs(10);
    let times: Vec<Duration> = std::thread::scope(|scope| {
        let scrapers: Vec<_> = (0..SCRAPERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut times = Vec::new();
                    while Instant::now() < until {
                        times.push(time_scrape(&process.address, coding));
                    }
                    times
                })
            })
            .collect();
        scrapers
            .into_iter()
            .flat_map(|scraper| scraper.join().unwrap())
            .collect()
    });
    let each = times.len() as f64 / started_at.elapsed().as_secs_f64();
    (each, common::median(times))
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let sim = runtime.block_on(start_sim(KEYS));
    let quiet = BenchProcess::start_exporter(&sim, &["--atlas.poll-interval=1h"]);
    quiet.wait_for_keys(KEYS);
    let busy = BenchProcess::start_exporter(&sim, &["--atlas.poll-interval=1s"]);
    busy.wait_for_keys(KEYS);

    let before = count_walks(&sim);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..SCRAPES {
        for (place, process) in [&quiet, &busy].into_iter().enumerate() {
            times[place].push(time_scrape(&process.address, ContentCoding::Identity));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let swaps = count_walks(&sim) - before;
    println!("{KEYS} keys, {SCRAPES} alternating scrapes of each, {swaps} swaps\n");
    println!("| | without | while swapping | ratio |\n| --- | --- | --- | --- |");
    for percent in [50, 99] {
        let [without, with] =
            [0, 1].map(|place| as_millis_f64(percentile(&mut times[place], percent)));
        println!(
            "| p{percent} | {without:.1} ms | {with:.1} ms | {:.2} |",
            with / without
        );
    }

    // Without scrapes, only the poll, the swap and the deallocation delay a health request.
    let before = count_walks(&sim);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..PROBES {
        for (place, process) in [&quiet, &busy].into_iter().enumerate() {
            times[place].push(time_health_request(&process.address));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    println!(
        "\n{PROBES} alternating probes of each, {} swaps\n",
        count_walks(&sim) - before
    );
    println!("| | without | while swapping |\n| --- | --- | --- |");
    for percent in [50, 99, 100] {
        let [without, with] =
            [0, 1].map(|place| as_millis_f64(percentile(&mut times[place], percent)));
        println!("| p{percent} | {without:.2} ms | {with:.2} ms |");
    }
    drop(busy);

    println!("\n{SCRAPERS} concurrent scrapers, 10 s\n");
    println!("| | scrapes/s | median | peak resident |\n| --- | --- | --- | --- |");
    for coding in [ContentCoding::Identity, ContentCoding::Gzip] {
        let (each, median) = run_scrapers(&quiet, coding);
        println!(
            "| {coding:?} | {each:.1} | {:.0} ms | {:.1} MiB |",
            as_millis_f64(median),
            quiet.peak_resident_mib()
        );
    }
}
