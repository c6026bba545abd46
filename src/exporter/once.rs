//! One round: every organization is walked once, and that is all.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Exporter;
use crate::atlas::Endpoint;
use crate::inventory::Shown;
use crate::metrics::{Exposition, Format};
use crate::web::App;

/// How often it is looked whether the round is over.
const EVERY: Duration = Duration::from_millis(20);

/// What one round has brought.
pub struct Round {
    app: std::sync::Arc<App>,
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
        let polling = self.scheduler.run(
            self.commands,
            self.pulse.beat("the scheduler"),
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
    let unlisted = app.board.unlisted().into_keys();
    orgs.chain(unlisted.map(|name| format!("the organizations of credential {name}")))
        .collect()
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

    /// What is known, as the text format writes it. Without `process_*`: where this is collected,
    /// the collector has its own.
    pub fn exposition(&self) -> Exposition {
        let settings = self.app.settings.get();
        let own = self.app.own.gather().without("process_");
        self.app.exposition(&settings, Format::Text, own)
    }
}
