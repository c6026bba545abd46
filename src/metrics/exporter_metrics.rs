//! The exporter's own metrics, updated by events of the Atlas clients and the scheduler. Counters start at 0, so that the
//! first event is an increase and not a new series.

mod observers;

use std::collections::BTreeMap;
use std::mem::take;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use jiff::Timestamp;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry};

use super::families::{self, FamilyDef};
use super::metric_snapshot::MetricSnapshot;
use crate::poll::Change;
use mongodb_atlas_client::{
    ClientSecret, Endpoint, FailureReason, OrgId, RetryReason, TokenOutcome, unix_seconds,
};

/// Upper bounds of the request duration histogram, in seconds.
const REQUEST_DURATION_BUCKETS: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The exporter's own metrics: one instance per process, shared by everything that reports events.
pub struct ExporterMetrics {
    registry: Registry,
    /// Locked shared while an event changes several series, and exclusively while they are gathered, so that no scrape
    /// exports an event partially.
    update_lock: RwLock<()>,
    org_up: GaugeVec,
    org_last_poll_failed: GaugeVec,
    org_last_success: GaugeVec,
    org_last_attempt: GaugeVec,
    org_poll_interval: GaugeVec,
    org_configured_poll_interval: GaugeVec,
    org_poll_duration: GaugeVec,
    org_poll_pages: GaugeVec,
    org_poll_failures: CounterVec,
    org_inventory_restored: GaugeVec,
    api_requests: CounterVec,
    api_request_duration: HistogramVec,
    api_retries: CounterVec,
    api_rate_limit_capacity: GaugeVec,
    api_rate_limit_remaining: GaugeVec,
    api_throttled: CounterVec,
    token_expiry: GaugeVec,
    token_requests: CounterVec,
    client_secret_expiry: GaugeVec,
    client_secret_last_used: GaugeVec,
    key_changes: CounterVec,
    config_reload_successful: GaugeVec,
    config_reload_success: GaugeVec,
    exemptions_unmatched: GaugeVec,
    storage_failures: CounterVec,
    storage_last_write_failed: GaugeVec,
    active: Mutex<ActiveLabels>,
}

/// The organizations and credentials that have series. A request that is in progress when its organization or credential
/// is removed must not create them again.
#[derive(Default)]
struct ActiveLabels {
    /// The organizations, with the token bucket that their polls use.
    orgs: BTreeMap<OrgId, RateLimit>,
    /// The credentials, with the ids of their client secrets.
    credentials: BTreeMap<String, Vec<String>>,
}

impl ActiveLabels {
    /// Returns whether `org` has series. Requests without an organization are always counted.
    fn has_org(&self, org: Option<&OrgId>) -> bool {
        org.is_none_or(|org| self.orgs.contains_key(org))
    }
}

/// The token bucket that the polls of an organization use, as Atlas reported it; 0 if Atlas did not.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RateLimit {
    pub(crate) capacity: u64,
    pub(crate) remaining: u64,
}

/// Creates a family of the list in `families` and registers it.
fn register<T: Collector + Clone + 'static>(
    registry: &Registry,
    family: &FamilyDef,
    create: impl FnOnce(Opts, &[&str]) -> prometheus::Result<T>,
) -> prometheus::Result<T> {
    let collector = create(Opts::new(family.name, family.help), family.labels)?;
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn set(gauge: &GaugeVec, labels: &[&str], value: f64) {
    gauge.with_label_values(labels).set(value);
}

fn set_timestamp(gauge: &GaugeVec, labels: &[&str], at: Timestamp) {
    set(gauge, labels, unix_seconds(at));
}

fn add(counter: &CounterVec, labels: &[&str], value: f64) {
    counter.with_label_values(labels).inc_by(value);
}

/// Converts a count. A float of Prometheus has 53 bits as well.
#[expect(clippy::cast_precision_loss, reason = "53 bits are enough")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

impl ExporterMetrics {
    /// Creates and registers every family.
    ///
    /// # Errors
    /// When the list of families has a duplicate or invalid name, which a test excludes.
    pub fn new() -> prometheus::Result<Self> {
        let r = &Registry::new();
        let gauge = |family| register(r, family, GaugeVec::new);
        let counter = |family| register(r, family, CounterVec::new);
        let build = gauge(&families::BUILD_INFO)?;
        let (revision, rustversion) = (env!("BUILD_REVISION"), env!("BUILD_RUSTVERSION"));
        set(
            &build,
            &[env!("CARGO_PKG_VERSION"), revision, rustversion],
            1.0,
        );
        #[cfg(target_os = "linux")]
        r.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        let metrics = Self {
            org_up: gauge(&families::ORG_UP)?,
            org_last_poll_failed: gauge(&families::ORG_LAST_POLL_FAILED)?,
            org_last_success: gauge(&families::ORG_LAST_SUCCESS)?,
            org_last_attempt: gauge(&families::ORG_LAST_ATTEMPT)?,
            org_poll_interval: gauge(&families::ORG_POLL_INTERVAL)?,
            org_configured_poll_interval: gauge(&families::ORG_CONFIGURED_POLL_INTERVAL)?,
            org_poll_duration: gauge(&families::ORG_POLL_DURATION)?,
            org_poll_pages: gauge(&families::ORG_POLL_PAGES)?,
            org_poll_failures: counter(&families::ORG_POLL_FAILURES)?,
            org_inventory_restored: gauge(&families::ORG_INVENTORY_RESTORED)?,
            api_requests: counter(&families::API_REQUESTS)?,
            api_request_duration: register(r, &families::API_REQUEST_DURATION, |opts, labels| {
                let buckets = REQUEST_DURATION_BUCKETS.to_vec();
                HistogramVec::new(HistogramOpts::from(opts).buckets(buckets), labels)
            })?,
            api_retries: counter(&families::API_RETRIES)?,
            api_rate_limit_capacity: gauge(&families::API_RATE_LIMIT_CAPACITY)?,
            api_rate_limit_remaining: gauge(&families::API_RATE_LIMIT_REMAINING)?,
            api_throttled: counter(&families::API_THROTTLED)?,
            token_expiry: gauge(&families::TOKEN_EXPIRY)?,
            token_requests: counter(&families::TOKEN_REQUESTS)?,
            client_secret_expiry: gauge(&families::CLIENT_SECRET_EXPIRY)?,
            client_secret_last_used: gauge(&families::CLIENT_SECRET_LAST_USED)?,
            key_changes: counter(&families::KEY_CHANGES)?,
            config_reload_successful: gauge(&families::CONFIG_RELOAD_SUCCESSFUL)?,
            config_reload_success: gauge(&families::CONFIG_RELOAD_SUCCESS)?,
            exemptions_unmatched: gauge(&families::EXEMPTIONS_UNMATCHED)?,
            storage_failures: counter(&families::STORAGE_FAILURES)?,
            storage_last_write_failed: gauge(&families::STORAGE_LAST_WRITE_FAILED)?,
            active: Mutex::default(),
            registry: r.clone(),
            update_lock: RwLock::new(()),
        };
        metrics.init_process();
        Ok(metrics)
    }

    /// Initializes the series that are present from the start.
    fn init_process(&self) {
        set(&self.config_reload_successful, &[], 0.0);
        set(&self.config_reload_success, &[], 0.0);
        add(&self.storage_failures, &[], 0.0);
        for endpoint in Endpoint::ALL {
            // The series of token endpoints are initialized with a credential that requests tokens.
            if !matches!(endpoint, Endpoint::Token | Endpoint::Revoke) {
                self.init_endpoint(endpoint);
                for labels in RetryReason::ALL.map(|it| [endpoint.as_str(), it.as_str()]) {
                    add(&self.api_retries, &labels, 0.0);
                }
            }
        }
    }

    /// Initializes the series of an organization; every failure reason and every change starts at 0.
    fn init_org(&self, org: &OrgId) {
        self.lock_active().orgs.entry(org.clone()).or_default();
        let org = org.as_str();
        set(&self.org_up, &[org], 0.0);
        set(&self.org_inventory_restored, &[org], 0.0);
        // Polls use this endpoint.
        let endpoint = Endpoint::AiModelApiKeys.as_str();
        add(&self.api_throttled, &[endpoint, org], 0.0);
        for reason in FailureReason::ALL {
            add(&self.org_poll_failures, &[org, reason.as_str()], 0.0);
        }
        self.set_last_poll_failure(org, None);
        for change in Change::ALL {
            add(&self.key_changes, &[org, change.as_str()], 0.0);
        }
    }

    /// Removes every series of an organization.
    fn remove_org(&self, org: &OrgId) {
        let mut active = self.lock_active();
        active.orgs.remove(org);
        let org = org.as_str();
        // Series that were never created are no error.
        for gauge in [
            &self.org_last_success,
            &self.org_last_attempt,
            &self.org_poll_interval,
            &self.org_configured_poll_interval,
            &self.org_poll_duration,
            &self.org_up,
            &self.org_poll_pages,
            &self.org_inventory_restored,
        ] {
            let _ = gauge.remove_label_values(&[org]);
        }
        for labels in FailureReason::ALL.map(|reason| [org, reason.as_str()]) {
            let _ = self.org_poll_failures.remove_label_values(&labels);
            let _ = self.org_last_poll_failed.remove_label_values(&labels);
        }
        for labels in Change::ALL.map(|change| [org, change.as_str()]) {
            let _ = self.key_changes.remove_label_values(&labels);
        }
        for labels in Endpoint::ALL.map(|endpoint| [endpoint.as_str(), org]) {
            let _ = self.api_rate_limit_capacity.remove_label_values(&labels);
            let _ = self.api_rate_limit_remaining.remove_label_values(&labels);
            let _ = self.api_throttled.remove_label_values(&labels);
        }
    }

    /// Sets the state of the last poll: the failure reason, or `None` after a successful poll.
    fn set_last_poll_failure(&self, org: &str, failed: Option<FailureReason>) {
        for reason in FailureReason::ALL {
            let is_failed = f64::from(failed == Some(reason));
            set(
                &self.org_last_poll_failed,
                &[org, reason.as_str()],
                is_failed,
            );
        }
    }

    /// Sets whether the last write of any state file has failed; `None` without a state directory.
    fn set_last_write_failed(&self, failed: Option<bool>) {
        let gauge = &self.storage_last_write_failed;
        match failed {
            Some(failed) => set(gauge, &[], f64::from(failed)),
            // A series that was never created is no error.
            None => drop(gauge.remove_label_values::<&str>(&[])),
        }
    }

    /// Initializes the request duration and the request counter of an endpoint.
    fn init_endpoint(&self, endpoint: Endpoint) {
        let endpoint = endpoint.as_str();
        self.api_request_duration.with_label_values(&[endpoint]);
        add(&self.api_requests, &[endpoint, "200"], 0.0);
    }

    /// Initializes the counters of a credential that requests tokens with 0.
    pub fn init_credential(&self, credential: &str) {
        let mut active = self.lock_active();
        active.credentials.entry(credential.to_owned()).or_default();
        drop(active);
        self.init_endpoint(Endpoint::Token);
        for labels in TokenOutcome::ALL.map(|outcome| [credential, outcome.as_str()]) {
            add(&self.token_requests, &labels, 0.0);
        }
    }

    /// Removes every series of a credential.
    pub fn remove_credential(&self, credential: &str) {
        self.set_client_secrets(credential, &[]);
        let mut active = self.lock_active();
        active.credentials.remove(credential);
        let _ = self.token_expiry.remove_label_values(&[credential]);
        for labels in TokenOutcome::ALL.map(|outcome| [credential, outcome.as_str()]) {
            let _ = self.token_requests.remove_label_values(&labels);
        }
    }

    /// Sets the number of exemptions that match no key; `None` if it is not known.
    pub fn set_exemptions_unmatched(&self, unmatched: Option<usize>) {
        match unmatched {
            Some(unmatched) => set(&self.exemptions_unmatched, &[], to_f64(unmatched as u64)),
            None => self.exemptions_unmatched.reset(),
        }
    }

    /// Replaces the series of a credential's client secrets.
    fn set_client_secrets(&self, credential: &str, secrets: &[ClientSecret]) {
        let mut active = self.lock_active();
        let Some(known) = active.credentials.get_mut(credential) else {
            return;
        };
        for id in take(known) {
            let labels = [credential, &id];
            let _ = self.client_secret_expiry.remove_label_values(&labels);
            let _ = self.client_secret_last_used.remove_label_values(&labels);
        }
        for secret in secrets {
            let labels = &[credential, &secret.id];
            set_timestamp(&self.client_secret_expiry, labels, secret.expires_at);
            if let Some(at) = secret.last_used_at {
                set_timestamp(&self.client_secret_last_used, labels, at);
            }
            known.push(secret.id.clone());
        }
    }

    /// Records an attempt to load the configuration.
    pub fn config_reloaded(&self, success: bool, at: Timestamp) {
        set(&self.config_reload_successful, &[], f64::from(success));
        if success {
            set_timestamp(&self.config_reload_success, &[], at);
        }
    }

    /// Locks the active labels. Hold the lock while series with these labels are created or removed.
    fn lock_active(&self) -> MutexGuard<'_, ActiveLabels> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the token bucket that the polls of an organization use.
    pub(crate) fn poll_rate_limit(&self, org: &OrgId) -> RateLimit {
        let active = self.lock_active();
        active.orgs.get(org).copied().unwrap_or_default()
    }

    /// Returns the number of requests to an endpoint so far, successful or not.
    pub fn request_count(&self, endpoint: Endpoint) -> f64 {
        let families = self.api_requests.collect();
        let metrics = families.iter().flat_map(MetricFamily::get_metric);
        let of_endpoint = metrics.filter(|metric| {
            let mut labels = metric.get_label().iter();
            labels.any(|label| label.value() == endpoint.as_str())
        });
        of_endpoint
            .map(|metric| metric.get_counter().get_value())
            .sum()
    }

    /// Gathers all series. Call this before the inventories of a scrape are read, so that no scrape reports a successful
    /// poll together with keys of an earlier poll.
    pub fn gather(&self) -> MetricSnapshot {
        let _exclusive = self
            .update_lock
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        MetricSnapshot(self.registry.gather())
    }
}

#[cfg(test)]
mod tests;
