//! Who counts what the Atlas and poll rooms tell.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::config::Account;
use crate::credentials::Credential;
use crate::inventory::Inventory;
use crate::metrics::Own;
use crate::poll::{Change, WalkError, Watcher};
use crate::status::Board;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{Endpoint, Error, Observer, Outcome, Reason, Retry, TokenOutcome};

/// Tells the exporter's own metrics, and the board for people, what happens. Counters begin at 0, so that the first event is
/// a rise and not a new series.
pub(super) struct Teller {
    pub(super) own: Arc<Own>,
    board: Arc<Board>,
    clock: Clock,
}

impl Teller {
    pub(super) fn new(own: Arc<Own>, board: Arc<Board>, clock: Clock) -> Self {
        for endpoint in Endpoint::ALL {
            // those of the token are announced with a credential that has one
            if !matches!(endpoint, Endpoint::Token | Endpoint::Revoke) {
                own.watch_endpoint(endpoint.as_str(), Retry::ALL.map(Retry::as_str));
            }
        }
        Self { own, board, clock }
    }

    /// A credential is used from now on.
    pub(super) fn credential(&self, account: &Account) {
        if matches!(account.credential, Credential::ServiceAccount { .. }) {
            self.own
                .watch_credential(&account.name, TokenOutcome::ALL.map(TokenOutcome::as_str));
            self.own.watch_endpoint(Endpoint::Token.as_str(), []);
        }
    }

    /// A credential is used no more.
    pub(super) fn credential_gone(&self, name: &str) {
        self.board.listed(name, None);
        self.own
            .forget_credential(name, TokenOutcome::ALL.map(TokenOutcome::as_str));
    }
}

fn label(org: Option<&OrgId>) -> &str {
    org.map_or("", OrgId::as_str)
}

impl Observer for Teller {
    fn request(&self, endpoint: Endpoint, outcome: Outcome, elapsed: Duration) {
        let code = match outcome {
            Outcome::Status(status) => status.to_string(),
            Outcome::Failed(reason) => reason.as_str().to_owned(),
        };
        self.own.request(endpoint.as_str(), &code, elapsed);
    }

    fn retry(&self, endpoint: Endpoint, why: Retry) {
        self.own.retry(endpoint.as_str(), why.as_str());
    }

    fn rate_limit(
        &self,
        endpoint: Endpoint,
        org: Option<&OrgId>,
        capacity: Option<u64>,
        remaining: Option<u64>,
    ) {
        self.own
            .rate_limit(endpoint.as_str(), label(org), capacity, remaining);
        if let (Endpoint::AiModelApiKeys, Some(org)) = (endpoint, org) {
            self.board.budget(org, capacity, remaining);
        }
    }

    fn throttled(&self, endpoint: Endpoint, org: Option<&OrgId>, waited: Duration) {
        self.own.throttled(endpoint.as_str(), label(org), waited);
    }

    fn token(&self, credential: &str, outcome: TokenOutcome) {
        self.own.token(credential, outcome.as_str());
    }

    fn token_ends(&self, credential: &str, at: Timestamp) {
        self.own.token_ends(credential, at);
    }

    fn token_refused(&self, credential: &str) {
        self.own.token_refused(credential);
    }
}

impl Watcher for Teller {
    fn listed(&self, credential: &str, problem: Option<&Error>) {
        let reason = problem.map(|error| error.problem.reason().as_str());
        self.board.listed(credential, reason);
    }

    fn watched(&self, org: &OrgId) {
        self.board.watched(org);
        self.own.watch_org(
            org.as_str(),
            Endpoint::AiModelApiKeys.as_str(),
            Reason::ALL.map(Reason::as_str),
            Change::ALL.map(Change::as_str),
        );
    }

    fn forgotten(&self, org: &OrgId) {
        self.board.forgotten(org);
        self.own.forget_org(
            org.as_str(),
            &Endpoint::ALL.map(Endpoint::as_str),
            &Reason::ALL.map(Reason::as_str),
            &Change::ALL.map(Change::as_str),
        );
    }

    fn interval(&self, org: &OrgId, interval: Duration) {
        self.own.interval(org.as_str(), interval);
        self.board.interval(org, interval);
    }

    fn due(&self, org: &OrgId, at: Timestamp) {
        self.board.due(org, at);
    }

    fn restored(&self, inventory: &Inventory, up: bool) {
        let (begun, ended) = (inventory.begun_at(), inventory.read_at());
        self.own
            .restored(inventory.org().as_str(), begun, ended, up);
        self.board.restored(inventory.org(), up);
    }

    fn begun(&self, org: &OrgId, at: Timestamp) {
        self.own.walk_begun(org.as_str(), at);
        self.board.begun(org);
    }

    fn succeeded(&self, inventory: &Inventory, pages: u32, took: Duration) {
        let (org, at) = (inventory.org().as_str(), inventory.read_at());
        self.own.walk_succeeded(org, at, pages, took);
        let reasons = Reason::ALL.map(Reason::as_str);
        self.own.set_last_poll_failure(org, &reasons, None);
        self.board.succeeded(inventory.org());
    }

    fn failed(&self, org: &OrgId, error: &WalkError, took: Duration) {
        let reason = error.error.problem.reason();
        self.own.walk_failed(org.as_str(), reason.as_str(), took);
        let reasons = Reason::ALL.map(Reason::as_str);
        self.own
            .set_last_poll_failure(org.as_str(), &reasons, Some(reason.as_str()));
        self.board.failed(org, reason.as_str(), self.clock.now());
    }

    fn changed(&self, org: &OrgId, change: Change, keys: u64) {
        self.own.changed(org.as_str(), change.as_str(), keys);
    }

    fn not_kept(&self) {
        self.own.not_kept();
    }
}
