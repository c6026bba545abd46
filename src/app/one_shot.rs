//! Polls every organization once.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::Exporter;
use crate::humanize::{elapsed, whole_seconds};
use crate::inventory::InventorySnapshot;
use crate::metrics::{Exposition, Format};
use crate::poll::{PollEvent, PollObserver as _};
use crate::storage::{StateFile, Storage};
use crate::web::AppState;
use exporter_toolkit::bounded_file;
use mongodb_atlas_client::{Endpoint, OrgId};

/// Interval of the checks for completion.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The result of polling every organization once.
pub struct OneShotResult {
    state: Arc<AppState>,
    /// Organizations with a failed poll, and credentials with a failed organization discovery.
    pub failed_targets: Vec<String>,
}

impl Exporter {
    /// Polls every organization once, with its names and limits, and revokes the access tokens. A failed poll is not
    /// retried, but a rate limited poll is. Calls `on_progress` until all polls are complete.
    pub async fn run_once(
        self,
        shutdown: CancellationToken,
        mut on_progress: impl FnMut(PollProgress),
    ) -> OneShotResult {
        let stop = shutdown.child_token();
        let state = self.state();
        let mut scheduler = self.scheduler;
        scheduler.one_shot = true;
        let polling = scheduler.run(
            self.scheduler_rx,
            self.liveness.register("scheduler"),
            stop.clone(),
        );
        let watching = async {
            while !is_complete(&state) && !stop.is_cancelled() {
                on_progress(PollProgress::from_state(&state));
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            stop.cancel();
        };
        tokio::join!(polling, watching);
        let failed_targets = failed_targets(&state);
        OneShotResult {
            state,
            failed_targets,
        }
    }
}

/// Returns whether every organization was discovered and polled, successfully or not.
fn is_complete(state: &AppState) -> bool {
    let is_polled = |org: &OrgId| match state.status.last_poll_ok(org) {
        Some(true) => state.store.details(org).is_some() && state.store.is_classified(org),
        Some(false) => true,
        None => false,
    };
    let failed_discoveries = state.status.discovery_errors().len();
    state.store.pending_discovery().len() == failed_discoveries
        && state.store.targets().iter().all(is_polled)
}

fn failed_targets(state: &AppState) -> Vec<String> {
    let orgs = state.store.targets();
    let failed = orgs
        .iter()
        .filter(|org| state.status.last_poll_ok(org) != Some(true));
    let failed = failed.map(ToString::to_string);
    failed.chain(failed_discoveries(state)).collect()
}

fn failed_discoveries(state: &AppState) -> impl Iterator<Item = String> {
    let credentials = state.status.discovery_errors().into_keys();
    credentials.map(|name| format!("the organizations of credential {name}"))
}

/// Progress of polling every organization once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PollProgress {
    /// Organizations that are known.
    pub orgs: usize,
    /// Organizations with a completed poll, successful or not.
    pub completed: usize,
    /// Requested pages of keys.
    pub pages: f64,
}

impl PollProgress {
    fn from_state(state: &AppState) -> Self {
        let orgs = state.store.targets();
        let completed = orgs
            .iter()
            .filter(|org| state.status.last_poll_ok(org).is_some());
        Self {
            orgs: orgs.len(),
            completed: completed.count(),
            pages: state.metrics.request_count(Endpoint::AiModelApiKeys),
        }
    }
}

impl OneShotResult {
    /// Returns the inventories, with names and limits.
    pub fn snapshot(&self) -> InventorySnapshot {
        self.state.store.snapshot(Duration::ZERO)
    }

    /// Returns whether no organization was configured or discovered.
    pub fn is_empty(&self) -> bool {
        self.failed_targets.is_empty() && self.state.store.targets().is_empty()
    }

    /// Returns the organizations without fetched or stored data. An exposition lacks all their keys.
    pub fn orgs_without_data(&self) -> Vec<String> {
        let max_staleness = self.state.options.get().config.max_staleness;
        let snapshot = self.state.store.snapshot(max_staleness);
        let inventories = snapshot.inventories.iter();
        let with_data: BTreeSet<&OrgId> = inventories.map(|it| it.org()).collect();
        let orgs = self.state.store.targets();
        let missing = orgs.iter().filter(|org| !with_data.contains(org));
        let missing = missing.map(ToString::to_string);
        missing.chain(failed_discoveries(&self.state)).collect()
    }

    /// Adds stored inventories from `dir` for organizations with a failed poll. Does not change the directory, because an
    /// exporter may be using it.
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
            let age = elapsed(inventory.completed_at(), now);
            info!(%org, keys = inventory.len(), age = %whole_seconds(age), "using stored inventory");
            app.metrics.on_event(PollEvent::InventoryRestored {
                inventory: &inventory,
                up: false,
            });
            // The last attempt is the failed poll.
            app.metrics.on_event(PollEvent::PollStarted {
                org,
                started_at: now,
            });
            let (store, org) = (Arc::clone(&app.store), org.clone());
            let insert = move || {
                if let (None, Some(details)) = (store.details(&org), details) {
                    store.insert_details(&org, &Arc::new(details));
                }
                store.insert(store.classify(inventory), age);
            };
            // A panic has been logged.
            let _ = tokio::task::spawn_blocking(insert).await;
        }
    }

    /// Returns the exposition in the text format, without `process_*`: the process that collects the text exports its own.
    pub fn exposition(&self) -> Exposition {
        let settings = self.state.options.get();
        let own = self
            .state
            .gather_metrics(&settings)
            .exclude_prefix("process_");
        self.state.exposition(&settings, Format::Text, own)
    }
}
