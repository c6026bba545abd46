//! Passes the events of the Atlas clients and the scheduler on to the metrics and the statuses.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::config::CredentialConfig;
use crate::credentials::CredentialKind;
use crate::metrics::ExporterMetrics;
use crate::poll::{PollEvent, PollObserver};
use crate::status::OrgStatuses;
use mongodb_atlas_client::{
    ClientObserver, Endpoint, OrgId, RequestOutcome, RetryReason, TokenOutcome,
};

/// The exporter's own metrics, and the status of each organization.
pub(super) struct Telemetry {
    pub(super) metrics: Arc<ExporterMetrics>,
    pub(super) statuses: Arc<OrgStatuses>,
}

impl Telemetry {
    /// Initializes the metrics of a credential.
    pub(super) fn register_credential(&self, config: &CredentialConfig) {
        if config.credential.kind() == CredentialKind::ServiceAccount {
            self.metrics.init_credential(&config.name);
        }
    }

    /// Removes the metrics of a credential.
    pub(super) fn remove_credential(&self, name: &str) {
        self.statuses.remove_credential(name);
        self.metrics.remove_credential(name);
    }
}

impl PollObserver for Telemetry {
    fn on_event(&self, event: PollEvent<'_>) {
        self.metrics.on_event(event);
        self.statuses.on_event(event);
    }
}

impl ClientObserver for Telemetry {
    fn request_completed(&self, endpoint: Endpoint, outcome: RequestOutcome, elapsed: Duration) {
        self.metrics.request_completed(endpoint, outcome, elapsed);
    }

    fn request_retried(&self, endpoint: Endpoint, reason: RetryReason) {
        self.metrics.request_retried(endpoint, reason);
    }

    fn rate_limit_updated(
        &self,
        endpoint: Endpoint,
        org: Option<&OrgId>,
        capacity: Option<u64>,
        remaining: Option<u64>,
    ) {
        self.metrics
            .rate_limit_updated(endpoint, org, capacity, remaining);
        if let (Endpoint::AiModelApiKeys, Some(org)) = (endpoint, org) {
            self.statuses.set_rate_limit(org, capacity, remaining);
        }
    }

    fn request_throttled(&self, endpoint: Endpoint, org: Option<&OrgId>, waited: Duration) {
        self.metrics.request_throttled(endpoint, org, waited);
    }

    fn token_requested(&self, credential: &str, outcome: TokenOutcome) {
        self.metrics.token_requested(credential, outcome);
    }

    fn token_expiry_changed(&self, credential: &str, expires_at: Timestamp) {
        self.metrics.token_expiry_changed(credential, expires_at);
    }

    fn token_rejected(&self, credential: &str) {
        self.metrics.token_rejected(credential);
    }
}
