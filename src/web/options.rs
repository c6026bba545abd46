//! What the routes are told of the configuration, and may be told anew at a reload.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::metrics::{Format, Selection};
use exporter_toolkit::host::AllowedHosts;

/// What the routes answer by.
#[derive(Debug)]
pub struct Settings {
    /// What is shown of the keys.
    pub selection: Arc<Selection>,
    /// Scrapes that are served at once.
    pub max_requests: usize,
    /// The forms that were asked for packed, each a bit: what they need of an inventory is made
    /// ready with it.
    pub packed: AtomicU8,
    /// The path of the metrics.
    pub telemetry_path: String,
    /// Past which age an inventory is not shown; zero for never.
    pub max_staleness: Duration,
    /// Whether a request may ask for a reload.
    pub lifecycle: bool,
    /// Hosts that are answered.
    pub allowed_hosts: AllowedHosts,
}

impl Settings {
    /// Somebody has asked for this form packed.
    pub(super) fn packs(&self, format: Format) {
        self.packed.fetch_or(1 << format as u8, Ordering::Relaxed);
    }

    /// The forms that somebody has asked for packed.
    pub fn packed_formats(&self) -> impl Iterator<Item = Format> {
        let packed = self.packed.load(Ordering::Relaxed);
        Format::ALL
            .into_iter()
            .filter(move |format| packed & (1 << *format as u8) != 0)
    }
}

/// The settings in force. The lock is held for a pointer copy only.
#[derive(Debug)]
pub struct SharedSettings(RwLock<Arc<Settings>>);

impl SharedSettings {
    /// Begins with `settings`.
    pub fn new(settings: Settings) -> Self {
        Self(RwLock::new(Arc::new(settings)))
    }

    /// Those in force.
    pub fn get(&self) -> Arc<Settings> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts others in force.
    pub fn set(&self, settings: Settings) {
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
