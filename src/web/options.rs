//! The part of the configuration that handlers use, which a reload can replace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::metrics::KeySeriesOptions;
use exporter_toolkit::host::AllowedHosts;

/// The options of all handlers.
#[derive(Debug)]
pub struct HandlerOptions {
    /// Which keys have per-key series.
    pub key_series: Arc<KeySeriesOptions>,
    /// Maximum number of concurrent scrapes.
    pub max_requests: usize,
    /// Whether a scrape has requested gzip: from then on, each new inventory is compressed in advance.
    pub gzip_requested: AtomicBool,
    /// The path of the metrics.
    pub telemetry_path: String,
    /// Age past which an inventory is no longer exported; zero for never.
    pub max_staleness: Duration,
    /// Whether a reload can be requested over HTTP.
    pub lifecycle_enabled: bool,
    /// Values of the Host header that are accepted.
    pub allowed_hosts: AllowedHosts,
}

impl HandlerOptions {
    /// Records that a scrape has requested gzip.
    pub(super) fn note_gzip(&self) {
        self.gzip_requested.store(true, Ordering::Relaxed);
    }
}

/// The effective options, replaced as a whole at a reload.
#[derive(Debug)]
pub struct SharedHandlerOptions(watch::Sender<Arc<HandlerOptions>>);

impl SharedHandlerOptions {
    /// Shares the initial options.
    pub fn new(options: HandlerOptions) -> Self {
        Self(watch::Sender::new(Arc::new(options)))
    }

    /// Returns the effective options.
    pub fn get(&self) -> Arc<HandlerOptions> {
        Arc::clone(&self.0.borrow())
    }

    /// Replaces the effective options.
    pub fn set(&self, options: HandlerOptions) {
        self.0.send_replace(Arc::new(options));
    }
}

/// Reloads the configuration on request.
pub trait Reload: Send + Sync {
    /// Reads the configuration again and applies it.
    ///
    /// # Errors
    /// Every error of the configuration; then the previous one stays in effect.
    fn reload(&self) -> BoxFuture<'_, Result<(), String>>;
}
