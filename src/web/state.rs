//! The state that all requests share.

use std::sync::Arc;

use jiff::Timestamp;

use super::metrics::ScrapeState;
use super::options::{HandlerOptions, Reload, SharedHandlerOptions};
use super::org_filter::OrgFilter;
use super::ui::RenderLimiter;
use crate::inventory::InventoryStore;
use crate::metrics::{ExporterMetrics, Exposition, Format, MetricSnapshot, ScrapeSnapshot};
use crate::status::OrgStatuses;
use exporter_toolkit::web_config::SharedWebConfig;
use mongodb_atlas_client::Clock;

/// Everything that handlers use.
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
    /// The limit of concurrent renderings of the page.
    pub renders: RenderLimiter,
    /// Reloads the configuration.
    pub reloader: Arc<dyn Reload>,
    /// The clock of scrapes.
    pub clock: Clock,
}

impl AppState {
    /// Begins a scrape of all organizations, with the exporter's own metrics as they were gathered before.
    pub fn exposition(
        &self,
        options: &HandlerOptions,
        format: Format,
        metrics: MetricSnapshot,
    ) -> Exposition {
        let snapshot = self.scrape_snapshot(options, &OrgFilter::All, self.clock.now());
        Exposition::new(format, metrics, snapshot)
    }

    /// Takes a snapshot of the inventories for a scrape.
    pub(super) fn scrape_snapshot(
        &self,
        options: &HandlerOptions,
        filter: &OrgFilter,
        now: Timestamp,
    ) -> ScrapeSnapshot {
        let visible = self.store.snapshot(options.max_staleness);
        let snapshot = ScrapeSnapshot::new(visible, Arc::clone(&options.key_series), now);
        match filter {
            OrgFilter::All => snapshot,
            OrgFilter::Only(orgs) => snapshot.retain_orgs(orgs),
        }
    }
}
