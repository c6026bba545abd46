//! Scrapes while walks swap inventories of 100,000 keys: two exporters at the same time, one that
//! walks without a pause and one that does not, scraped in turn. And forty scrapers at once.
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

use common::{Coding, Process, atlas, millis, percentile, probe, time};
use mongodb_atlas_sim::{Asked, SimHandle};

const KEYS: usize = 100_000;
const SCRAPES: usize = 200;
const PROBES: usize = 4000;
const SCRAPERS: usize = 40;

/// Walks that have begun so far, of all that ask this simulator.
fn walks(sim: &SimHandle) -> usize {
    let first = |asked: &&Asked| asked.page == Some(1) && asked.status == 200;
    sim.requests().iter().filter(first).count()
}

fn crowd(process: &Process, coding: Coding) -> (f64, Duration) {
    let begun = Instant::now();
    let until = begun + Duration::from_secs(10);
    let times: Vec<Duration> = std::thread::scope(|scope| {
        let scrapers: Vec<_> = (0..SCRAPERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut times = Vec::new();
                    while Instant::now() < until {
                        times.push(time(&process.address, coding));
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
    let each = times.len() as f64 / begun.elapsed().as_secs_f64();
    (each, common::median(times))
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let sim = runtime.block_on(atlas(KEYS));
    let quiet = Process::exporter(&sim, &["--atlas.poll-interval=1h"]);
    quiet.wait_for_keys(KEYS);
    let busy = Process::exporter(&sim, &["--atlas.poll-interval=1s"]);
    busy.wait_for_keys(KEYS);

    let before = walks(&sim);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..SCRAPES {
        for (place, process) in [&quiet, &busy].into_iter().enumerate() {
            times[place].push(time(&process.address, Coding::Identity));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let swaps = walks(&sim) - before;
    println!("{KEYS} keys, {SCRAPES} scrapes of each in turn, {swaps} swaps meanwhile\n");
    println!("| | without | while swapping | ratio |\n| --- | --- | --- | --- |");
    for percent in [50, 99] {
        let [without, with] = [0, 1].map(|place| millis(percentile(&mut times[place], percent)));
        println!(
            "| p{percent} | {without:.1} ms | {with:.1} ms | {:.2} |",
            with / without
        );
    }

    // nobody scrapes: what holds a probe up is the walk, the swap and the freeing
    let before = walks(&sim);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..PROBES {
        for (place, process) in [&quiet, &busy].into_iter().enumerate() {
            times[place].push(probe(&process.address));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    println!(
        "\n{PROBES} probes of each in turn, {} swaps meanwhile\n",
        walks(&sim) - before
    );
    println!("| | without | while swapping |\n| --- | --- | --- |");
    for percent in [50, 99, 100] {
        let [without, with] = [0, 1].map(|place| millis(percentile(&mut times[place], percent)));
        println!("| p{percent} | {without:.2} ms | {with:.2} ms |");
    }
    drop(busy);

    println!("\n{SCRAPERS} scrapers at once, 10 s\n");
    println!("| | scrapes/s | median | resident, most |\n| --- | --- | --- | --- |");
    for coding in [Coding::Identity, Coding::Gzip] {
        let (each, median) = crowd(&quiet, coding);
        println!(
            "| {coding:?} | {each:.1} | {:.0} ms | {:.1} MiB |",
            millis(median),
            quiet.resident_most()
        );
    }
}
