//! The state that all requests share, and the options that a reload can replace.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::watch;

use super::metrics::ScrapeState;
use super::scope::ScrapeScope;
use super::ui::RenderLimiter;
use crate::config::Config;
use crate::inventory::{InventorySnapshot, InventoryStore};
use crate::metrics::{ExporterMetrics, Exposition, Format, MetricSnapshot, ScrapeSnapshot};
use crate::shard::Shard;
use crate::status::OrgStatuses;
use exporter_toolkit::web_config::SharedWebConfig;
use mongodb_atlas_client::Clock;

/// The state that all handlers share.
pub struct AppState {
    /// The exporter's own metrics.
    pub metrics: Arc<ExporterMetrics>,
    /// The inventories.
    pub store: Arc<InventoryStore>,
    /// The state of each organization.
    pub status: Arc<OrgStatuses>,
    /// The effective options.
    pub options: Arc<SharedHandlerOptions>,
    /// TLS and authentication.
    pub web_config: Arc<SharedWebConfig>,
    /// The state that concurrent scrapes share.
    pub scrapes: ScrapeState,
    /// Limits concurrent renderings of the page.
    pub renders: RenderLimiter,
    /// Reloads the configuration.
    pub reloader: Arc<dyn Reload>,
    /// The clock of scrapes.
    pub clock: Clock,
}

impl AppState {
    /// Starts a scrape of all organizations, with the exporter's own metrics gathered before.
    pub fn exposition(
        &self,
        options: &HandlerOptions,
        format: Format,
        metrics: MetricSnapshot,
    ) -> Exposition {
        let snapshot = self.scrape_snapshot(options, &ScrapeScope::All, self.clock.now());
        Exposition::new(format, metrics, snapshot)
    }

    /// Gathers the exporter's own metrics for a scrape.
    pub fn gather_metrics(&self, options: &HandlerOptions) -> MetricSnapshot {
        // A shard sees only some of the keys, so the number is unknown.
        let unmatched =
            (options.config.shard == Shard::ALL).then(|| self.store.unmatched_exemptions());
        self.metrics.set_exemptions_unmatched(unmatched.flatten());
        self.metrics.gather()
    }

    /// Takes a snapshot of the inventories for a scrape.
    pub(super) fn scrape_snapshot(
        &self,
        options: &HandlerOptions,
        scope: &ScrapeScope,
        now: Timestamp,
    ) -> ScrapeSnapshot {
        let visible = match scope {
            ScrapeScope::Exporter => InventorySnapshot::default(),
            _ => self.store.snapshot(options.config.max_staleness),
        };
        let snapshot = ScrapeSnapshot::new(visible, Arc::clone(&options.config.key_series), now);
        match scope {
            ScrapeScope::Orgs(orgs) => snapshot.retain_orgs(orgs),
            _ => snapshot,
        }
    }
}

/// The options of all handlers.
#[derive(Debug)]
pub struct HandlerOptions {
    /// The active configuration.
    pub config: Config,
    /// Whether a scrape has requested gzip. If so, each new inventory is compressed in advance.
    pub gzip_requested: AtomicBool,
}

impl HandlerOptions {
    /// Creates the options of a configuration.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            gzip_requested: AtomicBool::new(false),
        }
    }
}

/// The effective options. A reload replaces all of them at once.
#[derive(Debug)]
pub struct SharedHandlerOptions(watch::Sender<Arc<HandlerOptions>>);

impl SharedHandlerOptions {
    /// Creates shared options with initial values.
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
    /// Returns all errors of the configuration. The previous configuration remains active.
    fn reload(&self) -> BoxFuture<'_, Result<(), String>>;
}
