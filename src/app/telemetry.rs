//! Updates the metrics and the statuses for the events of the Atlas clients and the scheduler.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;

use crate::config::CredentialConfig;
use crate::credentials::Credential;
use crate::metrics::ExporterMetrics;
use crate::poll::{Change, PollEvent, PollObserver};
use crate::status::OrgStatuses;
use mongodb_atlas_client::{
    ClientObserver, Clock, Endpoint, FailureReason, OrgId, RequestOutcome, RetryReason,
    TokenOutcome,
};

/// Updates the exporter's own metrics and the status of each organization. Counters start at 0, so that the first event
/// is an increase and not a new series.
pub(super) struct Telemetry {
    pub(super) metrics: Arc<ExporterMetrics>,
    statuses: Arc<OrgStatuses>,
    clock: Clock,
    active: RwLock<ActiveLabels>,
}

/// The organizations and credentials that have series. A request that is in progress when its organization or
/// credential is removed must not create them again.
#[derive(Default)]
struct ActiveLabels {
    orgs: HashSet<OrgId>,
    credentials: HashSet<Arc<str>>,
}

impl Telemetry {
    pub(super) fn new(own: Arc<ExporterMetrics>, board: Arc<OrgStatuses>, clock: Clock) -> Self {
        for endpoint in Endpoint::ALL {
            // Token requests are initialized with a credential that needs them
            if !matches!(endpoint, Endpoint::Token | Endpoint::Revoke) {
                own.init_endpoint(endpoint.as_str(), RetryReason::ALL.map(RetryReason::as_str));
            }
        }
        Self {
            metrics: own,
            statuses: board,
            clock,
            active: RwLock::default(),
        }
    }

    fn change_active(&self, change: impl FnOnce(&mut ActiveLabels) -> bool) {
        change(&mut self.active.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Calls `update` while its labels are active, and keeps them from being removed meanwhile.
    fn update_if(&self, is_active: impl FnOnce(&ActiveLabels) -> bool, update: impl FnOnce()) {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        if is_active(&active) {
            update();
        }
    }

    /// Initializes the metrics of a credential.
    pub(super) fn register_credential(&self, account: &CredentialConfig) {
        self.change_active(|active| active.credentials.insert(Arc::clone(&account.name)));
        if matches!(account.credential, Credential::ServiceAccount { .. }) {
            self.metrics
                .init_credential(&account.name, TokenOutcome::ALL.map(TokenOutcome::as_str));
            self.metrics.init_endpoint(Endpoint::Token.as_str(), []);
        }
    }

    /// Initializes the metrics and the status of an organization.
    fn add_org(&self, org: &OrgId) {
        self.change_active(|active| active.orgs.insert(org.clone()));
        self.statuses.add_org(org);
        let endpoint = Endpoint::AiModelApiKeys.as_str();
        let reasons = FailureReason::ALL.map(FailureReason::as_str);
        let changes = Change::ALL.map(Change::as_str);
        self.metrics
            .init_org(org.as_str(), endpoint, reasons, changes);
    }

    /// Removes the metrics and the status of an organization.
    fn remove_org(&self, org: &OrgId) {
        self.change_active(|active| active.orgs.remove(org));
        self.statuses.remove_org(org);
        let endpoints = Endpoint::ALL.map(Endpoint::as_str);
        let reasons = FailureReason::ALL.map(FailureReason::as_str);
        let changes = Change::ALL.map(Change::as_str);
        self.metrics
            .remove_org(org.as_str(), &endpoints, &reasons, &changes);
    }

    /// Removes the metrics of a credential.
    pub(super) fn remove_credential(&self, name: &str) {
        self.change_active(|active| active.credentials.remove(name));
        self.statuses.set_discovery_result(name, None);
        self.metrics
            .remove_credential(name, TokenOutcome::ALL.map(TokenOutcome::as_str));
    }
}

fn org_label(org: Option<&OrgId>) -> &str {
    org.map_or("", OrgId::as_str)
}

/// Requests that are about no organization are always counted.
fn is_polled(org: Option<&OrgId>) -> impl FnOnce(&ActiveLabels) -> bool {
    move |active| org.is_none_or(|org| active.orgs.contains(org))
}

fn is_configured(credential: &str) -> impl FnOnce(&ActiveLabels) -> bool {
    move |active| active.credentials.contains(credential)
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
        self.update_if(is_polled(org), || {
            self.metrics
                .set_rate_limit(endpoint.as_str(), org_label(org), capacity, remaining);
            if let (Endpoint::AiModelApiKeys, Some(org)) = (endpoint, org) {
                self.statuses.set_rate_limit(org, capacity, remaining);
            }
        });
    }

    fn request_throttled(&self, endpoint: Endpoint, org: Option<&OrgId>, waited: Duration) {
        self.update_if(is_polled(org), || {
            self.metrics
                .add_throttled_time(endpoint.as_str(), org_label(org), waited);
        });
    }

    fn token_requested(&self, credential: &str, outcome: TokenOutcome) {
        self.update_if(is_configured(credential), || {
            self.metrics.token_requested(credential, outcome.as_str());
        });
    }

    fn token_expiry_changed(&self, credential: &str, at: Timestamp) {
        self.update_if(is_configured(credential), || {
            self.metrics.set_token_expiry(credential, at);
        });
    }

    fn token_rejected(&self, credential: &str) {
        self.metrics.remove_token_expiry(credential);
    }
}

impl PollObserver for Telemetry {
    fn on_event(&self, event: PollEvent<'_>) {
        let (metrics, statuses) = (&self.metrics, &self.statuses);
        let reasons = FailureReason::ALL.map(FailureReason::as_str);
        match event {
            PollEvent::OrgsListed { credential, error } => {
                let reason = error.map(|error| error.kind.reason());
                statuses.set_discovery_result(credential, reason);
            }
            PollEvent::OrgAdded(org) => self.add_org(org),
            PollEvent::OrgRemoved(org) => self.remove_org(org),
            PollEvent::IntervalChanged { org, interval } => {
                metrics.set_poll_interval(org.as_str(), interval);
                statuses.set_poll_interval(org, interval);
            }
            PollEvent::DueChanged { org, due_at } => statuses.set_next_poll(org, due_at),
            PollEvent::InventoryRestored { inventory, up } => {
                let (started_at, completed_at) = (inventory.started_at(), inventory.completed_at());
                let org = inventory.org();
                metrics.inventory_restored(org.as_str(), started_at, completed_at, up);
                statuses.inventory_restored(org, up);
            }
            PollEvent::PollStarted { org, started_at } => {
                metrics.poll_started(org.as_str(), started_at);
                statuses.poll_started(org);
            }
            PollEvent::PollSucceeded {
                inventory,
                pages,
                duration,
            } => {
                let (org, completed_at) = (inventory.org(), inventory.completed_at());
                metrics.poll_succeeded(org.as_str(), completed_at, pages, duration);
                metrics.set_last_poll_failure(org.as_str(), &reasons, None);
                statuses.poll_succeeded(org);
            }
            PollEvent::PollFailed {
                org,
                error,
                duration,
            } => {
                let reason = error.error.kind.reason();
                metrics.poll_failed(org.as_str(), reason.as_str(), duration);
                metrics.set_last_poll_failure(org.as_str(), &reasons, Some(reason.as_str()));
                statuses.poll_failed(org, reason, self.clock.now());
            }
            PollEvent::KeysChanged { org, change, keys } => {
                metrics.keys_changed(org.as_str(), change.as_str(), keys);
            }
            PollEvent::SaveFailed => metrics.storage_failed(),
        }
    }
}
