//! The state that all requests share, the options that a reload can replace, and the organizations that a request selects.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::watch;

use super::metrics::ScrapeState;
use super::ui::RenderLimiter;
use crate::config::Config;
use crate::inventory::InventoryStore;
use crate::metrics::{ExporterMetrics, Exposition, Format, MetricSnapshot, ScrapeSnapshot};
use crate::shard::Shard;
use crate::status::OrgStatuses;
use exporter_toolkit::web_config::SharedWebConfig;
use mongodb_atlas_client::{Clock, OrgId};

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

    /// Gathers the exporter's own metrics for a scrape.
    pub fn gather_metrics(&self, options: &HandlerOptions) -> MetricSnapshot {
        // A shard sees only some of the keys
        let unmatched =
            (options.config.shard == Shard::ALL).then(|| self.store.unmatched_exemptions());
        self.metrics.set_exemptions_unmatched(unmatched.flatten());
        self.metrics.gather()
    }

    /// Takes a snapshot of the inventories for a scrape.
    pub(super) fn scrape_snapshot(
        &self,
        options: &HandlerOptions,
        filter: &OrgFilter,
        now: Timestamp,
    ) -> ScrapeSnapshot {
        let visible = self.store.snapshot(options.config.max_staleness);
        let snapshot = ScrapeSnapshot::new(visible, Arc::clone(&options.config.key_series), now);
        match filter {
            OrgFilter::All => snapshot,
            OrgFilter::Only(orgs) => snapshot.retain_orgs(orgs),
        }
    }
}

/// The options of all handlers.
#[derive(Debug)]
pub struct HandlerOptions {
    /// The active configuration.
    pub config: Config,
    /// Whether a scrape has requested gzip: from then on, each new inventory is compressed in advance.
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

/// The organizations that a request selects; all of them when it names none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OrgFilter {
    /// Every target.
    All,
    /// These, sorted and without duplicates.
    Only(Vec<OrgId>),
}

impl OrgFilter {
    /// Parses the query of a request. Other parameters are ignored. Returns `None` when an id is not that of a target.
    pub(super) fn from_query(query: Option<&str>, targets: &[OrgId]) -> Option<Self> {
        let mut orgs = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if name == "org" {
                let org = OrgId::parse(&value).ok()?;
                targets.binary_search(&org).ok()?;
                orgs.push(org);
            }
        }
        orgs.sort_unstable();
        orgs.dedup();
        Some(if orgs.is_empty() {
            Self::All
        } else {
            Self::Only(orgs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn org_filter_parses_repeated_ids_and_rejects_unknown_ones() {
        let ids: Vec<OrgId> = (0..3)
            .map(|n| OrgId::parse(&format!("{n:024x}")).expect("an id"))
            .collect();
        let (targets, unknown_id) = (&ids[..2], &ids[2]);
        let of = |query: &str| OrgFilter::from_query(Some(query), targets);
        for all in ["", "x=1", "organization=1"] {
            assert_eq!(of(all), Some(OrgFilter::All), "{all}");
        }
        let both = format!("org={}&x&org={}&org={}", ids[1], ids[0], ids[1]);
        assert_eq!(of(&both), Some(OrgFilter::Only(targets.to_vec())));
        let unknown = format!("org={}&org={unknown_id}", ids[0]);
        for bad in [
            unknown.as_str(),
            "org=",
            "org",
            "org=x",
            "org=%00",
            "org=%ff",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(OrgFilter::from_query(None, targets), Some(OrgFilter::All));
    }
}
