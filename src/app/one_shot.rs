//! One round: every organization is walked once, and that is all.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::Exporter;
use crate::inventory::Shown;
use crate::metrics::{Exposition, Format};
use crate::storage::Storage;
use crate::web::App;
use exporter_toolkit::bounded_file;
use mongodb_atlas_client::Endpoint;
use mongodb_atlas_client::OrgId;

/// How often it is looked whether the round is over.
const EVERY: Duration = Duration::from_millis(20);

/// What one round has brought.
pub struct Round {
    app: Arc<App>,
    /// What could not be read: ids of organizations, and credentials whose organizations cannot
    /// be listed.
    pub failed: Vec<String>,
}

impl Exporter {
    /// Walks every organization once, asks for its names and limits, and gives back the access
    /// tokens. What fails is not tried again; a walk that waits for its request budget is waited for.
    /// `progress` is told all the time how far it is.
    pub async fn once(
        self,
        shutdown: CancellationToken,
        mut progress: impl FnMut(Progress),
    ) -> Round {
        let over = shutdown.child_token();
        let app = self.app();
        let polling = self.scheduler.into_one_shot().run(
            self.commands,
            self.pulse.register("the scheduler"),
            over.clone(),
        );
        let watching = async {
            while !is_over(&app) && !over.is_cancelled() {
                progress(Progress::of(&app));
                tokio::time::sleep(EVERY).await;
            }
            over.cancel();
        };
        tokio::join!(polling, watching);
        let failed = failed(&app);
        Round { app, failed }
    }
}

/// Whether every organization has been walked, well or not, and nobody is still being looked for.
fn is_over(app: &App) -> bool {
    let unlisted = app.board.unlisted().len();
    let searching = app.shelf.searching().len();
    searching == unlisted
        && app
            .shelf
            .watched()
            .iter()
            .all(|org| match app.board.outcome(org) {
                Some(true) => app.shelf.details(org).is_some(),
                Some(false) => true,
                None => false,
            })
}

fn failed(app: &App) -> Vec<String> {
    let orgs = app.shelf.watched();
    let orgs = orgs
        .iter()
        .filter(|org| app.board.outcome(org) != Some(true))
        .map(ToString::to_string);
    orgs.chain(unlisted(app)).collect()
}

fn unlisted(app: &App) -> impl Iterator<Item = String> {
    let credentials = app.board.unlisted().into_keys();
    credentials.map(|name| format!("the organizations of credential {name}"))
}

/// How far a round is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Organizations that are known so far.
    pub orgs: usize,
    /// Those whose walk has ended, well or not.
    pub ended: usize,
    /// Pages of keys that were asked for.
    pub pages: f64,
}

impl Progress {
    fn of(app: &App) -> Self {
        let orgs = app.shelf.watched();
        let ended = orgs.iter().filter(|org| app.board.outcome(org).is_some());
        Self {
            orgs: orgs.len(),
            ended: ended.count(),
            pages: app.own.requests(Endpoint::AiModelApiKeys.as_str()),
        }
    }
}

impl Round {
    /// The inventories, with names and limits.
    pub fn shown(&self) -> Shown {
        self.app.shelf.shown(Duration::ZERO)
    }

    /// Whether no organization was named, and none was found.
    pub fn is_empty(&self) -> bool {
        self.failed.is_empty() && self.app.shelf.watched().is_empty()
    }

    /// Organizations without any data, also none from storage: an exposition lacks all their keys.
    pub fn without_data(&self) -> Vec<String> {
        let shown = self.app.shelf.shown(self.app.settings.get().max_staleness);
        let watched = self.app.shelf.watched();
        let with_data: BTreeSet<&OrgId> = shown.inventories.iter().map(|it| it.org()).collect();
        let missing = watched.iter().filter(|org| !with_data.contains(org));
        let missing = missing.map(ToString::to_string);
        missing.chain(unlisted(&self.app)).collect()
    }

    /// Adds what an exporter has stored in `dir` of organizations that could not be read. Nothing in the directory
    /// is changed, since it may be in use.
    pub async fn add_stored(&self, dir: &Path) {
        let app = &self.app;
        for org in app.shelf.watched().iter() {
            if app.shelf.get(org).is_some() {
                continue;
            }
            let (storage, id) = (Storage::of(dir), org.clone());
            let load = move || storage.look(&id).map(|it| (it, storage.look_details(&id)));
            let loaded = bounded_file::run_blocking(dir, load).await;
            let (stored, details) = match loaded.map_err(|error| error.to_string()).flatten() {
                Ok(loaded) => loaded,
                Err(error) => {
                    debug!(%org, error, "no stored inventory");
                    continue;
                }
            };
            let (inventory, now) = (Arc::new(stored.inventory), app.clock.now());
            let age = Duration::try_from(now.duration_since(inventory.read_at()));
            let age = age.unwrap_or_default();
            info!(%org, keys = inventory.len(), read_at = %inventory.read_at(), "using stored inventory");
            // the last attempt is the one that has just failed
            app.own
                .restored(org.as_str(), now, inventory.read_at(), false);
            app.shelf.put(inventory, age);
            if let (None, Some(details)) = (app.shelf.details(org), details) {
                app.shelf.put_details(org, Arc::new(details));
            }
        }
    }

    /// What is known, as the text format writes it. Without `process_*`: where this is collected,
    /// the collector has its own.
    pub fn exposition(&self) -> Exposition {
        let settings = self.app.settings.get();
        let own = self.app.own.gather().without("process_");
        self.app.exposition(&settings, Format::Text, own)
    }
}
