//! The exporter's metrics about itself. Callers report events; this module alone decides which series an event changes.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use jiff::Timestamp;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry};

use super::families::{self, FamilyDef};
use super::metric_snapshot::MetricSnapshot;
use mongodb_atlas_client::unix_seconds;

/// Upper bounds of the request duration histogram, in seconds.
const REQUEST_DURATION_BUCKETS: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The exporter's own metrics: one instance per process, shared by everything that reports events.
pub struct ExporterMetrics {
    registry: Registry,
    /// Locked shared while an event changes several series, and exclusively while they are gathered: no scrape sees half
    /// of an event.
    update_lock: RwLock<()>,
    org_up: GaugeVec,
    org_last_poll_failed: GaugeVec,
    org_last_success: GaugeVec,
    org_last_attempt: GaugeVec,
    org_poll_interval: GaugeVec,
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
    key_changes: CounterVec,
    config_reload_successful: GaugeVec,
    config_reload_success: GaugeVec,
    storage_failures: CounterVec,
}

/// Creates a family of the catalogue and registers it.
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

/// Converts a count; 53 bits, as Prometheus itself has them.
#[expect(clippy::cast_precision_loss, reason = "53 bits are enough")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

impl ExporterMetrics {
    /// Creates and registers every family.
    ///
    /// # Errors
    /// When the catalogue has a duplicate or invalid name, which a test rules out.
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
            key_changes: counter(&families::KEY_CHANGES)?,
            config_reload_successful: gauge(&families::CONFIG_RELOAD_SUCCESSFUL)?,
            config_reload_success: gauge(&families::CONFIG_RELOAD_SUCCESS)?,
            storage_failures: counter(&families::STORAGE_FAILURES)?,
            registry: r.clone(),
            update_lock: RwLock::new(()),
        };
        // Families without labels are present from the start.
        set(&metrics.config_reload_successful, &[], 0.0);
        set(&metrics.config_reload_success, &[], 0.0);
        add(&metrics.storage_failures, &[], 0.0);
        Ok(metrics)
    }

    fn begin_update(&self) -> RwLockReadGuard<'_, ()> {
        self.update_lock
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Initializes the series of an organization; every failure reason and every change starts at 0. `endpoint` is the
    /// one that its polls use.
    pub fn init_org<'a>(
        &self,
        org: &str,
        endpoint: &str,
        reasons: impl IntoIterator<Item = &'a str>,
        changes: impl IntoIterator<Item = &'a str>,
    ) {
        let _update = self.begin_update();
        set(&self.org_up, &[org], 0.0);
        set(&self.org_inventory_restored, &[org], 0.0);
        add(&self.api_throttled, &[endpoint, org], 0.0);
        for reason in reasons {
            add(&self.org_poll_failures, &[org, reason], 0.0);
            set(&self.org_last_poll_failed, &[org, reason], 0.0);
        }
        for change in changes {
            add(&self.key_changes, &[org, change], 0.0);
        }
    }

    /// Removes every series of an organization.
    pub fn remove_org(&self, org: &str, endpoints: &[&str], reasons: &[&str], changes: &[&str]) {
        let _update = self.begin_update();
        // Series that were never created are no error.
        for gauge in [
            &self.org_last_success,
            &self.org_last_attempt,
            &self.org_poll_interval,
            &self.org_poll_duration,
            &self.org_up,
            &self.org_poll_pages,
            &self.org_inventory_restored,
        ] {
            let _ = gauge.remove_label_values(&[org]);
        }
        for labels in reasons.iter().map(|reason| [org, reason]) {
            let _ = self.org_poll_failures.remove_label_values(&labels);
            let _ = self.org_last_poll_failed.remove_label_values(&labels);
        }
        for change in changes {
            let _ = self.key_changes.remove_label_values(&[org, change]);
        }
        for labels in endpoints.iter().map(|endpoint| [*endpoint, org]) {
            let _ = self.api_rate_limit_capacity.remove_label_values(&labels);
            let _ = self.api_rate_limit_remaining.remove_label_values(&labels);
            let _ = self.api_throttled.remove_label_values(&labels);
        }
    }

    /// Sets the effective poll interval of an organization.
    pub fn set_poll_interval(&self, org: &str, interval: Duration) {
        set(&self.org_poll_interval, &[org], interval.as_secs_f64());
    }

    /// Records that a stored inventory is exported, from a poll that ran between these times.
    pub fn inventory_restored(
        &self,
        org: &str,
        started_at: Timestamp,
        completed_at: Timestamp,
        up: bool,
    ) {
        let _update = self.begin_update();
        set(&self.org_inventory_restored, &[org], 1.0);
        set(&self.org_up, &[org], f64::from(up));
        set_timestamp(&self.org_last_attempt, &[org], started_at);
        set_timestamp(&self.org_last_success, &[org], completed_at);
    }

    /// Initializes the counters of an endpoint with 0.
    pub fn init_endpoint<'a>(&self, endpoint: &str, retries: impl IntoIterator<Item = &'a str>) {
        self.api_request_duration.with_label_values(&[endpoint]);
        add(&self.api_requests, &[endpoint, "200"], 0.0);
        for reason in retries {
            add(&self.api_retries, &[endpoint, reason], 0.0);
        }
    }

    /// Initializes the counters of a credential that requests tokens with 0.
    pub fn init_credential<'a>(
        &self,
        credential: &str,
        outcomes: impl IntoIterator<Item = &'a str>,
    ) {
        for outcome in outcomes {
            add(&self.token_requests, &[credential, outcome], 0.0);
        }
    }

    /// Removes every series of a credential.
    pub fn remove_credential<'a>(
        &self,
        credential: &str,
        outcomes: impl IntoIterator<Item = &'a str>,
    ) {
        self.remove_token_expiry(credential);
        for outcome in outcomes {
            let labels = [credential, outcome];
            let _ = self.token_requests.remove_label_values(&labels);
        }
    }

    /// Records an attempt to load the configuration.
    pub fn config_reloaded(&self, success: bool, at: Timestamp) {
        set(&self.config_reload_successful, &[], f64::from(success));
        if success {
            set_timestamp(&self.config_reload_success, &[], at);
        }
    }

    /// Counts a failed write to the state directory.
    pub fn storage_failed(&self) {
        add(&self.storage_failures, &[], 1.0);
    }

    /// Counts keys that have changed.
    pub fn keys_changed(&self, org: &str, change: &str, keys: u64) {
        add(&self.key_changes, &[org, change], to_f64(keys));
    }

    /// Records the start of a poll.
    pub fn poll_started(&self, org: &str, at: Timestamp) {
        set_timestamp(&self.org_last_attempt, &[org], at);
    }

    /// Records a complete poll.
    pub fn poll_succeeded(&self, org: &str, at: Timestamp, pages: u32, took: Duration) {
        let _update = self.begin_update();
        set(&self.org_up, &[org], 1.0);
        set_timestamp(&self.org_last_success, &[org], at);
        set(&self.org_poll_duration, &[org], took.as_secs_f64());
        set(&self.org_poll_pages, &[org], pages.into());
        set(&self.org_inventory_restored, &[org], 0.0);
    }

    /// Records a failed poll. The timestamp of the last success does not change.
    pub fn poll_failed(&self, org: &str, reason: &str, took: Duration) {
        let _update = self.begin_update();
        set(&self.org_up, &[org], 0.0);
        set(&self.org_poll_duration, &[org], took.as_secs_f64());
        add(&self.org_poll_failures, &[org, reason], 1.0);
    }

    /// Sets the state of the last poll: `failed` is the one of `reasons` it failed for, none if it succeeded.
    pub fn set_last_poll_failure(&self, org: &str, reasons: &[&str], failed: Option<&str>) {
        for reason in reasons {
            let is_failed = f64::from(failed == Some(reason));
            set(&self.org_last_poll_failed, &[org, reason], is_failed);
        }
    }

    /// Records the end of a request to Atlas.
    pub fn request_completed(&self, endpoint: &str, code: &str, took: Duration) {
        add(&self.api_requests, &[endpoint, code], 1.0);
        let duration = self.api_request_duration.with_label_values(&[endpoint]);
        duration.observe(took.as_secs_f64());
    }

    /// Counts a retry of a request to Atlas.
    pub fn request_retried(&self, endpoint: &str, reason: &str) {
        add(&self.api_retries, &[endpoint, reason], 1.0);
    }

    /// Adds time spent waiting for the rate limit.
    pub fn add_throttled_time(&self, endpoint: &str, org: &str, wait: Duration) {
        add(&self.api_throttled, &[endpoint, org], wait.as_secs_f64());
    }

    /// Sets what Atlas reported about its token bucket.
    pub fn set_rate_limit(
        &self,
        endpoint: &str,
        org: &str,
        capacity: Option<u64>,
        remaining: Option<u64>,
    ) {
        for (gauge, value) in [
            (&self.api_rate_limit_capacity, capacity),
            (&self.api_rate_limit_remaining, remaining),
        ] {
            if let Some(value) = value {
                set(gauge, &[endpoint, org], to_f64(value));
            }
        }
    }

    /// Counts a token request.
    pub fn token_requested(&self, credential: &str, outcome: &str) {
        add(&self.token_requests, &[credential, outcome], 1.0);
    }

    /// Sets the expiry of the token in use.
    pub fn set_token_expiry(&self, credential: &str, at: Timestamp) {
        set_timestamp(&self.token_expiry, &[credential], at);
    }

    /// Removes the expiry of a token that was rejected or is no longer used.
    pub fn remove_token_expiry(&self, credential: &str) {
        // A series that was never created is no error.
        let _ = self.token_expiry.remove_label_values(&[credential]);
    }

    /// Returns the number of requests to an endpoint so far, whatever their outcome.
    pub fn request_count(&self, endpoint: &str) -> f64 {
        let families = self.api_requests.collect();
        let metrics = families.iter().flat_map(MetricFamily::get_metric);
        let of_endpoint = metrics.filter(|metric| {
            let mut labels = metric.get_label().iter();
            labels.any(|label| label.value() == endpoint)
        });
        of_endpoint
            .map(|metric| metric.get_counter().get_value())
            .sum()
    }

    /// Gathers all series. Call this before the inventories of a scrape are read, so that no scrape reports a
    /// successful poll together with keys from before it.
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
