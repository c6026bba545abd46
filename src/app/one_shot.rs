//! One round: every organization is walked once, and that is all.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::Exporter;
use crate::inventory::InventorySnapshot;
use crate::metrics::{Exposition, Format};
use crate::storage::{StateFile, Storage};
use crate::web::AppState;
use exporter_toolkit::bounded_file;
use mongodb_atlas_client::Endpoint;
use mongodb_atlas_client::OrgId;

/// How often it is looked whether the round is over.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What one round has brought.
pub struct OneShotResult {
    state: Arc<AppState>,
    /// What could not be read: ids of organizations, and credentials whose organizations cannot
    /// be listed.
    pub failed_targets: Vec<String>,
}

impl Exporter {
    /// Walks every organization once, asks for its names and limits, and gives back the access
    /// tokens. What fails is not tried again; a walk that waits for its request budget is waited for.
    /// `progress` is told all the time how far it is.
    pub async fn run_once(
        self,
        shutdown: CancellationToken,
        mut progress: impl FnMut(PollProgress),
    ) -> OneShotResult {
        let over = shutdown.child_token();
        let app = self.state();
        let polling = self.scheduler.into_one_shot().run(
            self.scheduler_rx,
            self.liveness.register("the scheduler"),
            over.clone(),
        );
        let watching = async {
            while !is_complete(&app) && !over.is_cancelled() {
                progress(PollProgress::from_state(&app));
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            over.cancel();
        };
        tokio::join!(polling, watching);
        let failed = failed_targets(&app);
        OneShotResult {
            state: app,
            failed_targets: failed,
        }
    }
}

/// Whether every organization has been walked, well or not, and nobody is still being looked for.
fn is_complete(app: &AppState) -> bool {
    let unlisted = app.status.discovery_errors().len();
    let searching = app.store.pending_discovery().len();
    searching == unlisted
        && app
            .store
            .targets()
            .iter()
            .all(|org| match app.status.last_poll_ok(org) {
                Some(true) => app.store.details(org).is_some(),
                Some(false) => true,
                None => false,
            })
}

fn failed_targets(app: &AppState) -> Vec<String> {
    let orgs = app.store.targets();
    let orgs = orgs
        .iter()
        .filter(|org| app.status.last_poll_ok(org) != Some(true))
        .map(ToString::to_string);
    orgs.chain(failed_discoveries(app)).collect()
}

fn failed_discoveries(app: &AppState) -> impl Iterator<Item = String> {
    let credentials = app.status.discovery_errors().into_keys();
    credentials.map(|name| format!("the organizations of credential {name}"))
}

/// How far a round is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PollProgress {
    /// Organizations that are known so far.
    pub orgs: usize,
    /// Those whose walk has ended, well or not.
    pub completed: usize,
    /// Pages of keys that were asked for.
    pub pages: f64,
}

impl PollProgress {
    fn from_state(app: &AppState) -> Self {
        let orgs = app.store.targets();
        let ended = orgs
            .iter()
            .filter(|org| app.status.last_poll_ok(org).is_some());
        Self {
            orgs: orgs.len(),
            completed: ended.count(),
            pages: app.metrics.request_count(Endpoint::AiModelApiKeys.as_str()),
        }
    }
}

impl OneShotResult {
    /// The inventories, with names and limits.
    pub fn snapshot(&self) -> InventorySnapshot {
        self.state.store.snapshot(Duration::ZERO)
    }

    /// Whether no organization was named, and none was found.
    pub fn is_empty(&self) -> bool {
        self.failed_targets.is_empty() && self.state.store.targets().is_empty()
    }

    /// Organizations without any data, also none from storage: an exposition lacks all their keys.
    pub fn orgs_without_data(&self) -> Vec<String> {
        let shown = self
            .state
            .store
            .snapshot(self.state.options.get().max_staleness);
        let watched = self.state.store.targets();
        let with_data: BTreeSet<&OrgId> = shown.inventories.iter().map(|it| it.org()).collect();
        let missing = watched.iter().filter(|org| !with_data.contains(org));
        let missing = missing.map(ToString::to_string);
        missing.chain(failed_discoveries(&self.state)).collect()
    }

    /// Adds what an exporter has stored in `dir` of organizations that could not be read. Nothing in the directory
    /// is changed, since it may be in use.
    pub async fn add_stored_inventories(&self, dir: &Path) {
        let app = &self.state;
        for org in app.store.targets().iter() {
            if app.store.get(org).is_some() {
                continue;
            }
            let (storage, id) = (Storage::open_read_only(dir), org.clone());
            let load = move || {
                storage
                    .read_inventory(&id)
                    .map(|it| (it, storage.read(&StateFile::Details(id))))
            };
            let loaded = bounded_file::run_blocking(dir, load).await;
            let (stored, details) = match loaded.map_err(|error| error.to_string()).flatten() {
                Ok(loaded) => loaded,
                Err(error) => {
                    debug!(%org, error, "no stored inventory");
                    continue;
                }
            };
            let (inventory, now) = (stored.inventory, app.clock.now());
            let age = Duration::try_from(now.duration_since(inventory.completed_at()));
            let age = age.unwrap_or_default();
            info!(%org, keys = inventory.len(), read_at = %inventory.completed_at(), "using stored inventory");
            // the last attempt is the one that has just failed
            app.metrics
                .inventory_restored(org.as_str(), now, inventory.completed_at(), false);
            app.store.insert(inventory, age);
            if let (None, Some(details)) = (app.store.details(org), details) {
                app.store.insert_details(org, Arc::new(details));
            }
        }
    }

    /// What is known, as the text format writes it. Without `process_*`: where this is collected,
    /// the collector has its own.
    pub fn exposition(&self) -> Exposition {
        let settings = self.state.options.get();
        let own = self.state.metrics.gather().exclude_prefix("process_");
        self.state.exposition(&settings, Format::Text, own)
    }
}
