//! Waits for expected events. All tests use these functions, except for the drill, which measures times.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Interval between two probes.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// Returns the maximum wait for an expected event: two minutes, long enough for a loaded machine, or
/// `TEST_WAIT_TIMEOUT_SECS`. Only failing tests wait that long.
pub fn wait_timeout() -> Duration {
    let seconds = std::env::var("TEST_WAIT_TIMEOUT_SECS").map_or(120, |seconds| {
        let seconds = seconds.parse();
        seconds.expect("TEST_WAIT_TIMEOUT_SECS: expected a number of seconds")
    });
    Duration::from_secs(seconds)
}

/// Repeats `probe` until it returns `Ok`. The last `Err` is part of the panic message.
pub async fn eventually<T, E: Display>(what: &str, probe: impl AsyncFnMut() -> Result<T, E>) -> T {
    try_eventually(probe)
        .await
        .unwrap_or_else(|state| panic!("timeout: {what}; last state: {state}"))
}

/// Like [`eventually`], for tests without a runtime.
pub fn eventually_blocking<T, E: Display>(what: &str, probe: impl FnMut() -> Result<T, E>) -> T {
    try_eventually_blocking(probe)
        .unwrap_or_else(|state| panic!("timeout: {what}; last state: {state}"))
}

/// Repeats `probe` until it returns `Ok`, or returns the last `Err` after [`wait_timeout`].
pub async fn try_eventually<T, E>(mut probe: impl AsyncFnMut() -> Result<T, E>) -> Result<T, E> {
    let started_at = Instant::now();
    loop {
        match probe().await {
            Err(_) if started_at.elapsed() < wait_timeout() => {}
            result => return result,
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

/// Like [`try_eventually`], for tests without a runtime.
pub fn try_eventually_blocking<T, E>(mut probe: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let started_at = Instant::now();
    loop {
        match probe() {
            Err(_) if started_at.elapsed() < wait_timeout() => {}
            result => return result,
        }
        std::thread::sleep(PROBE_INTERVAL);
    }
}
