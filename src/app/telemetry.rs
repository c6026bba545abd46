//! Who counts what the Atlas and poll rooms tell.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::config::CredentialConfig;
use crate::credentials::Credential;
use crate::inventory::Inventory;
use crate::metrics::ExporterMetrics;
use crate::poll::{Change, PollObserver, WalkError};
use crate::status::OrgStatuses;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{
    ClientObserver, Endpoint, Error, FailureReason, RequestOutcome, RetryReason, TokenOutcome,
};

/// Tells the exporter's own metrics, and the board for people, what happens. Counters begin at 0, so that the first event is
/// a rise and not a new series.
pub(super) struct Telemetry {
    pub(super) metrics: Arc<ExporterMetrics>,
    statuses: Arc<OrgStatuses>,
    clock: Clock,
}

impl Telemetry {
    pub(super) fn new(own: Arc<ExporterMetrics>, board: Arc<OrgStatuses>, clock: Clock) -> Self {
        for endpoint in Endpoint::ALL {
            // those of the token are announced with a credential that has one
            if !matches!(endpoint, Endpoint::Token | Endpoint::Revoke) {
                own.init_endpoint(endpoint.as_str(), RetryReason::ALL.map(RetryReason::as_str));
            }
        }
        Self {
            metrics: own,
            statuses: board,
            clock,
        }
    }

    /// A credential is used from now on.
    pub(super) fn register_credential(&self, account: &CredentialConfig) {
        if matches!(account.credential, Credential::ServiceAccount { .. }) {
            self.metrics
                .init_credential(&account.name, TokenOutcome::ALL.map(TokenOutcome::as_str));
            self.metrics.init_endpoint(Endpoint::Token.as_str(), []);
        }
    }

    /// A credential is used no more.
    pub(super) fn remove_credential(&self, name: &str) {
        self.statuses.set_discovery_result(name, None);
        self.metrics
            .remove_credential(name, TokenOutcome::ALL.map(TokenOutcome::as_str));
    }
}

fn org_label(org: Option<&OrgId>) -> &str {
    org.map_or("", OrgId::as_str)
}

impl ClientObserver for Telemetry {
    fn request_completed(&self, endpoint: Endpoint, outcome: RequestOutcome, elapsed: Duration) {
        let code = match outcome {
            RequestOutcome::Status(status) => status.to_string(),
            RequestOutcome::Failed(reason) => reason.as_str().to_owned(),
        };
        self.metrics
            .request_completed(endpoint.as_str(), &code, elapsed);
    }

    fn request_retried(&self, endpoint: Endpoint, why: RetryReason) {
        self.metrics
            .request_retried(endpoint.as_str(), why.as_str());
    }

    fn rate_limit_updated(
        &self,
        endpoint: Endpoint,
        org: Option<&OrgId>,
        capacity: Option<u64>,
        remaining: Option<u64>,
    ) {
        self.metrics
            .set_rate_limit(endpoint.as_str(), org_label(org), capacity, remaining);
        if let (Endpoint::AiModelApiKeys, Some(org)) = (endpoint, org) {
            self.statuses.set_rate_limit(org, capacity, remaining);
        }
    }

    fn request_throttled(&self, endpoint: Endpoint, org: Option<&OrgId>, waited: Duration) {
        self.metrics
            .add_throttled_time(endpoint.as_str(), org_label(org), waited);
    }

    fn token_requested(&self, credential: &str, outcome: TokenOutcome) {
        self.metrics.token_requested(credential, outcome.as_str());
    }

    fn token_expiry_changed(&self, credential: &str, at: Timestamp) {
        self.metrics.set_token_expiry(credential, at);
    }

    fn token_rejected(&self, credential: &str) {
        self.metrics.remove_token_expiry(credential);
    }
}

impl PollObserver for Telemetry {
    fn orgs_listed(&self, credential: &str, problem: Option<&Error>) {
        let reason = problem.map(|error| error.kind.reason());
        self.statuses.set_discovery_result(credential, reason);
    }

    fn org_added(&self, org: &OrgId) {
        self.statuses.add_org(org);
        self.metrics.init_org(
            org.as_str(),
            Endpoint::AiModelApiKeys.as_str(),
            FailureReason::ALL.map(FailureReason::as_str),
            Change::ALL.map(Change::as_str),
        );
    }

    fn org_removed(&self, org: &OrgId) {
        self.statuses.remove_org(org);
        self.metrics.remove_org(
            org.as_str(),
            &Endpoint::ALL.map(Endpoint::as_str),
            &FailureReason::ALL.map(FailureReason::as_str),
            &Change::ALL.map(Change::as_str),
        );
    }

    fn interval_changed(&self, org: &OrgId, interval: Duration) {
        self.metrics.set_poll_interval(org.as_str(), interval);
        self.statuses.set_poll_interval(org, interval);
    }

    fn due_changed(&self, org: &OrgId, at: Timestamp) {
        self.statuses.set_next_poll(org, at);
    }

    fn inventory_restored(&self, inventory: &Inventory, up: bool) {
        let (begun, ended) = (inventory.started_at(), inventory.completed_at());
        self.metrics
            .inventory_restored(inventory.org().as_str(), begun, ended, up);
        self.statuses.inventory_restored(inventory.org(), up);
    }

    fn poll_started(&self, org: &OrgId, at: Timestamp) {
        self.metrics.poll_started(org.as_str(), at);
        self.statuses.poll_started(org);
    }

    fn poll_succeeded(&self, inventory: &Inventory, pages: u32, took: Duration) {
        let (org, at) = (inventory.org().as_str(), inventory.completed_at());
        self.metrics.poll_succeeded(org, at, pages, took);
        let reasons = FailureReason::ALL.map(FailureReason::as_str);
        self.metrics.set_last_poll_failure(org, &reasons, None);
        self.statuses.poll_succeeded(inventory.org());
    }

    fn poll_failed(&self, org: &OrgId, error: &WalkError, took: Duration) {
        let reason = error.error.kind.reason();
        self.metrics
            .poll_failed(org.as_str(), reason.as_str(), took);
        let reasons = FailureReason::ALL.map(FailureReason::as_str);
        self.metrics
            .set_last_poll_failure(org.as_str(), &reasons, Some(reason.as_str()));
        self.statuses.poll_failed(org, reason, self.clock.now());
    }

    fn keys_changed(&self, org: &OrgId, change: Change, keys: u64) {
        self.metrics
            .keys_changed(org.as_str(), change.as_str(), keys);
    }

    fn save_failed(&self) {
        self.metrics.storage_failed();
    }
}
