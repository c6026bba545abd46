//! Updates the metrics for the events of the scheduler and of the Atlas clients.

use std::sync::PoisonError;
use std::time::Duration;

use jiff::Timestamp;

use super::{ExporterMetrics, add, set, set_timestamp, to_f64};
use crate::inventory::Inventory;
use crate::poll::{PollEvent, PollObserver};
use mongodb_atlas_client::{
    ClientObserver, Endpoint, OrgId, RequestOutcome, RetryReason, TokenOutcome,
};

impl PollObserver for ExporterMetrics {
    fn on_event(&self, event: PollEvent<'_>) {
        let lock = self.update_lock.read();
        let _update = lock.unwrap_or_else(PoisonError::into_inner);
        match event {
            PollEvent::OrgsListed { .. } | PollEvent::DueChanged { .. } => {}
            PollEvent::OrgAdded(org) => self.init_org(org),
            PollEvent::OrgRemoved(org) => self.remove_org(org),
            PollEvent::IntervalChanged {
                org,
                interval,
                configured,
            } => {
                let org = &[org.as_str()];
                set(&self.org_poll_interval, org, interval.as_secs_f64());
                let configured = configured.as_secs_f64();
                set(&self.org_configured_poll_interval, org, configured);
            }
            PollEvent::InventoryRestored { inventory, up } => self.set_restored(inventory, up),
            PollEvent::PollStarted { org, started_at } => {
                set_timestamp(&self.org_last_attempt, &[org.as_str()], started_at);
            }
            PollEvent::PollSucceeded {
                inventory,
                pages,
                duration,
            } => {
                let org = inventory.org().as_str();
                set(&self.org_up, &[org], 1.0);
                set_timestamp(&self.org_last_success, &[org], inventory.completed_at());
                set(&self.org_poll_duration, &[org], duration.as_secs_f64());
                set(&self.org_poll_pages, &[org], pages.into());
                set(&self.org_inventory_restored, &[org], 0.0);
                self.set_last_poll_failure(org, None);
            }
            // The timestamp of the last success does not change.
            PollEvent::PollFailed {
                org,
                error,
                duration,
                ..
            } => {
                let (org, reason) = (org.as_str(), error.error.kind.reason());
                set(&self.org_up, &[org], 0.0);
                set(&self.org_poll_duration, &[org], duration.as_secs_f64());
                add(&self.org_poll_failures, &[org, reason.as_str()], 1.0);
                self.set_last_poll_failure(org, Some(reason));
            }
            PollEvent::KeysChanged { org, change, keys } => {
                let labels = [org.as_str(), change.as_str()];
                add(&self.key_changes, &labels, to_f64(keys));
            }
            PollEvent::ClientSecretsChanged {
                credential,
                secrets,
            } => self.set_client_secrets(credential, secrets),
            PollEvent::SaveFailed => add(&self.storage_failures, &[], 1.0),
            PollEvent::SaveStateChanged(failed) => self.set_last_write_failed(failed),
        }
    }
}

impl ExporterMetrics {
    fn set_restored(&self, inventory: &Inventory, up: bool) {
        let org = &[inventory.org().as_str()];
        set(&self.org_inventory_restored, org, 1.0);
        set(&self.org_up, org, f64::from(up));
        set_timestamp(&self.org_last_attempt, org, inventory.started_at());
        set_timestamp(&self.org_last_success, org, inventory.completed_at());
    }
}

impl ClientObserver for ExporterMetrics {
    fn request_completed(&self, endpoint: Endpoint, outcome: RequestOutcome, elapsed: Duration) {
        let endpoint = endpoint.as_str();
        let code = match outcome {
            RequestOutcome::Status(status) => status.to_string(),
            RequestOutcome::Failed(reason) => reason.to_string(),
        };
        add(&self.api_requests, &[endpoint, &code], 1.0);
        let duration = self.api_request_duration.with_label_values(&[endpoint]);
        duration.observe(elapsed.as_secs_f64());
    }

    fn request_retried(&self, endpoint: Endpoint, reason: RetryReason) {
        let labels = [endpoint.as_str(), reason.as_str()];
        add(&self.api_retries, &labels, 1.0);
    }

    fn rate_limit_updated(
        &self,
        endpoint: Endpoint,
        org: Option<&OrgId>,
        capacity: Option<u64>,
        remaining: Option<u64>,
    ) {
        let mut active = self.lock_active();
        if !active.has_org(org) {
            return;
        }
        if let (Endpoint::AiModelApiKeys, Some(org)) = (endpoint, org) {
            let limit = active.orgs.entry(org.clone()).or_default();
            limit.capacity = capacity.unwrap_or(limit.capacity);
            limit.remaining = remaining.unwrap_or(limit.remaining);
        }
        let labels = [endpoint.as_str(), org.map_or("", OrgId::as_str)];
        for (gauge, value) in [
            (&self.api_rate_limit_capacity, capacity),
            (&self.api_rate_limit_remaining, remaining),
        ] {
            if let Some(value) = value {
                set(gauge, &labels, to_f64(value));
            }
        }
    }

    fn request_throttled(&self, endpoint: Endpoint, org: Option<&OrgId>, waited: Duration) {
        let active = self.lock_active();
        if active.has_org(org) {
            let labels = [endpoint.as_str(), org.map_or("", OrgId::as_str)];
            add(&self.api_throttled, &labels, waited.as_secs_f64());
        }
    }

    fn token_requested(&self, credential: &str, outcome: TokenOutcome) {
        let active = self.lock_active();
        if active.credentials.contains_key(credential) {
            let labels = [credential, outcome.as_str()];
            add(&self.token_requests, &labels, 1.0);
        }
    }

    fn token_expiry_changed(&self, credential: &str, expires_at: Timestamp) {
        let active = self.lock_active();
        if active.credentials.contains_key(credential) {
            set_timestamp(&self.token_expiry, &[credential], expires_at);
        }
    }

    fn token_rejected(&self, credential: &str) {
        // A series that was never created is no error.
        let _ = self.token_expiry.remove_label_values(&[credential]);
    }
}
