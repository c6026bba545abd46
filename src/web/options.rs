//! What the routes are told of the configuration, and may be told anew at a reload.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::metrics::{Format, KeySeriesOptions};
use exporter_toolkit::host::AllowedHosts;

/// What the routes answer by.
#[derive(Debug)]
pub struct HandlerOptions {
    /// What is shown of the keys.
    pub key_series: Arc<KeySeriesOptions>,
    /// Scrapes that are served at once.
    pub max_requests: usize,
    /// The forms that were asked for packed, each a bit: what they need of an inventory is made
    /// ready with it.
    pub gzip_formats: AtomicU8,
    /// The path of the metrics.
    pub telemetry_path: String,
    /// Past which age an inventory is not shown; zero for never.
    pub max_staleness: Duration,
    /// Whether a request may ask for a reload.
    pub lifecycle_enabled: bool,
    /// Hosts that are answered.
    pub allowed_hosts: AllowedHosts,
}

impl HandlerOptions {
    /// Somebody has asked for this form packed.
    pub(super) fn note_gzip(&self, format: Format) {
        self.gzip_formats
            .fetch_or(1 << format as u8, Ordering::Relaxed);
    }

    /// The forms that somebody has asked for packed.
    pub fn gzip_formats(&self) -> impl Iterator<Item = Format> {
        let packed = self.gzip_formats.load(Ordering::Relaxed);
        Format::ALL
            .into_iter()
            .filter(move |format| packed & (1 << *format as u8) != 0)
    }
}

/// The settings in force. The lock is held for a pointer copy only.
#[derive(Debug)]
pub struct SharedHandlerOptions(RwLock<Arc<HandlerOptions>>);

impl SharedHandlerOptions {
    /// Begins with `settings`.
    pub fn new(settings: HandlerOptions) -> Self {
        Self(RwLock::new(Arc::new(settings)))
    }

    /// Those in force.
    pub fn get(&self) -> Arc<HandlerOptions> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts others in force.
    pub fn set(&self, settings: HandlerOptions) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }
}

/// Who takes up a new configuration when a request asks for it.
pub trait Reload: Send + Sync {
    /// Reads the configuration again and takes it up.
    ///
    /// # Errors
    /// What is wrong with it; then the one before is still in force.
    fn reload(&self) -> BoxFuture<'_, Result<(), String>>;
}
