//! Resident memory of an idle exporter without keys, with 100,000 and with a million keys.
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a benchmark may panic, and measures in floats"
)]

mod common;

use std::time::Duration;

use common::{BenchProcess, ContentCoding, as_millis_f64, fetch, start_sim, time_scrape};

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    println!("| keys | state | resident | peak | per key |\n| --- | --- | --- | --- | --- |");
    let mut nothing = 0.0;
    for keys in [0, 100_000, 1_000_000] {
        let sim = runtime.block_on(start_sim(keys));
        let flags: &[&str] = if keys == 0 {
            &[]
        } else {
            // After several polls, an old and a new inventory have existed at the same time.
            &["--atlas.poll-interval=15s"]
        };
        let exporter = BenchProcess::start_exporter(&sim, flags);
        exporter.wait_for_keys(keys);
        let row = |what: &str, nothing: f64| {
            let resident = exporter.resident_mib();
            let each = if keys == 0 {
                "-".to_owned()
            } else {
                format!("{:.0} B", (resident - nothing) * 1_048_576.0 / keys as f64)
            };
            println!(
                "| {keys} | {what} | {resident:.1} MiB | {:.1} MiB | {each} |",
                exporter.peak_resident_mib()
            );
        };
        if keys == 0 {
            std::thread::sleep(Duration::from_secs(3));
            let before = exporter.cpu_time();
            std::thread::sleep(Duration::from_mins(1));
            let cpu = exporter.cpu_time().saturating_sub(before).as_secs_f64() / 60.0 * 100.0;
            nothing = exporter.resident_mib();
            row(&format!("idle for a minute: {cpu:.2} % of a CPU"), 0.0);
            continue;
        }
        row("polled", nothing);
        let plain = time_scrape(&exporter.address, ContentCoding::Identity);
        let (body, compressed) = fetch(&exporter.address, ContentCoding::Gzip);
        let compressed_bytes = body.len() / keys;
        drop(body);
        // Wait for at least one more poll.
        std::thread::sleep(Duration::from_secs(20 + keys as u64 / 25_000));
        for _ in 0..5 {
            time_scrape(&exporter.address, ContentCoding::Gzip);
        }
        row(
            &format!(
                "polled again and scraped: {:.0} ms plain, {:.0} ms for the first compressed scrape, {compressed_bytes} compressed bytes per key",
                as_millis_f64(plain),
                as_millis_f64(compressed)
            ),
            nothing,
        );
    }
}
