//! The exporter's metrics about itself. Others tell it what happened, in verbs; what that does to
//! which counter is decided here alone.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use prometheus::core::Collector;
use prometheus::proto::{Metric, MetricFamily, MetricType};
use prometheus::{
    CounterVec, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use super::encoder::{Encoder, FamilyHeader, HistogramData, SampleValue};
use super::families::{self as c, FamilyDef, Kind};
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::unix_seconds;

/// Upper bounds of the request histogram, in seconds.
const REQUEST_DURATION_BUCKETS: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The exporter's own metrics at one moment.
pub struct MetricSnapshot(pub(super) Vec<MetricFamily>);

impl MetricSnapshot {
    /// The same without families whose names begin so.
    #[must_use]
    pub fn exclude_prefix(mut self, prefix: &str) -> Self {
        self.0.retain(|family| !family.name().starts_with(prefix));
        self
    }

    /// The same without what concerns other organizations than these, which are in order.
    #[must_use]
    pub fn retain_orgs(mut self, orgs: &[OrgId]) -> Self {
        let concerned = |metric: &Metric| {
            let mut labels = metric.get_label().iter();
            labels
                .find(|label| label.name() == "org_id")
                .is_none_or(|label| {
                    let org = label.value();
                    org.is_empty()
                        || orgs
                            .binary_search_by(|chosen| chosen.as_str().cmp(org))
                            .is_ok()
                })
        };
        for family in &mut self.0 {
            family.mut_metric().retain(concerned);
        }
        self.0.retain(|family| !family.get_metric().is_empty());
        self
    }
}

/// The exporter's own metrics. One for the process, shared by everyone who has something to tell.
pub struct ExporterMetrics {
    registry: Registry,
    /// Held shared while an event changes several series, and exclusively while they are gathered: no scrape sees half
    /// of an event.
    update_lock: RwLock<()>,
    org_up: IntGaugeVec,
    org_last_poll_failed: IntGaugeVec,
    org_last_success: GaugeVec,
    org_last_attempt: GaugeVec,
    org_poll_interval: GaugeVec,
    org_poll_duration: GaugeVec,
    org_poll_pages: IntGaugeVec,
    org_poll_failures: IntCounterVec,
    org_inventory_restored: IntGaugeVec,
    api_requests: IntCounterVec,
    api_request_duration: HistogramVec,
    api_retries: IntCounterVec,
    api_rate_limit_capacity: IntGaugeVec,
    api_rate_limit_remaining: IntGaugeVec,
    api_throttled: CounterVec,
    token_expiry: GaugeVec,
    token_requests: IntCounterVec,
    key_changes: IntCounterVec,
    config_reload_successful: IntGauge,
    config_reload_success: Gauge,
    storage_failures: IntCounter,
}

fn opts(family: &FamilyDef) -> Opts {
    Opts::new(family.name, family.help)
}

/// Registers what `make` makes of a family of the catalogue.
fn register<T: Collector + Clone + 'static>(
    registry: &Registry,
    family: &FamilyDef,
    make: impl FnOnce(Opts, &[&str]) -> prometheus::Result<T>,
) -> prometheus::Result<T> {
    let made = make(opts(family), family.labels)?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}

impl ExporterMetrics {
    /// Makes and registers every family.
    ///
    /// # Errors
    /// When the catalogue names a family twice or badly, which a test rules out.
    pub fn new() -> prometheus::Result<Self> {
        let r = &Registry::new();
        let build = register(r, &c::BUILD_INFO, IntGaugeVec::new)?;
        let version = env!("CARGO_PKG_VERSION");
        build
            .with_label_values(&[version, env!("BUILD_REVISION"), env!("BUILD_RUSTVERSION")])
            .set(1);
        #[cfg(target_os = "linux")]
        r.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        Ok(Self {
            org_up: register(r, &c::ORG_UP, IntGaugeVec::new)?,
            org_last_poll_failed: register(r, &c::ORG_LAST_POLL_FAILED, IntGaugeVec::new)?,
            org_last_success: register(r, &c::ORG_LAST_SUCCESS, GaugeVec::new)?,
            org_last_attempt: register(r, &c::ORG_LAST_ATTEMPT, GaugeVec::new)?,
            org_poll_interval: register(r, &c::ORG_POLL_INTERVAL, GaugeVec::new)?,
            org_poll_duration: register(r, &c::ORG_POLL_DURATION, GaugeVec::new)?,
            org_poll_pages: register(r, &c::ORG_POLL_PAGES, IntGaugeVec::new)?,
            org_poll_failures: register(r, &c::ORG_POLL_FAILURES, IntCounterVec::new)?,
            org_inventory_restored: register(r, &c::ORG_INVENTORY_RESTORED, IntGaugeVec::new)?,
            api_requests: register(r, &c::API_REQUESTS, IntCounterVec::new)?,
            api_request_duration: register(r, &c::API_REQUEST_DURATION, |opts, labels| {
                HistogramVec::new(
                    HistogramOpts::from(opts).buckets(REQUEST_DURATION_BUCKETS.to_vec()),
                    labels,
                )
            })?,
            api_retries: register(r, &c::API_RETRIES, IntCounterVec::new)?,
            api_rate_limit_capacity: register(r, &c::API_RATE_LIMIT_CAPACITY, IntGaugeVec::new)?,
            api_rate_limit_remaining: register(r, &c::API_RATE_LIMIT_REMAINING, IntGaugeVec::new)?,
            api_throttled: register(r, &c::API_THROTTLED, CounterVec::new)?,
            token_expiry: register(r, &c::TOKEN_EXPIRY, GaugeVec::new)?,
            token_requests: register(r, &c::TOKEN_REQUESTS, IntCounterVec::new)?,
            key_changes: register(r, &c::KEY_CHANGES, IntCounterVec::new)?,
            config_reload_successful: register(r, &c::CONFIG_RELOAD_SUCCESSFUL, |opts, _| {
                IntGauge::with_opts(opts)
            })?,
            config_reload_success: register(r, &c::CONFIG_RELOAD_SUCCESS, |opts, _| {
                Gauge::with_opts(opts)
            })?,
            storage_failures: register(r, &c::STORAGE_FAILURES, |opts, _| {
                IntCounter::with_opts(opts)
            })?,
            registry: r.clone(),
            update_lock: RwLock::new(()),
        })
    }

    /// An organization is watched from now on: its series begin, every failure reason and every
    /// change at 0. `endpoint` is the one that its walks ask.
    pub fn init_org<'a>(
        &self,
        org: &str,
        endpoint: &str,
        reasons: impl IntoIterator<Item = &'a str>,
        changes: impl IntoIterator<Item = &'a str>,
    ) {
        let _event = self
            .update_lock
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        self.org_up.with_label_values(&[org]).set(0);
        self.org_inventory_restored.with_label_values(&[org]).set(0);
        self.api_throttled.with_label_values(&[endpoint, org]);
        for reason in reasons {
            self.org_poll_failures.with_label_values(&[org, reason]);
            self.org_last_poll_failed.with_label_values(&[org, reason]);
        }
        for change in changes {
            self.key_changes.with_label_values(&[org, change]);
        }
    }

    /// An organization is watched no more: none of its series is left.
    pub fn remove_org(&self, org: &str, endpoints: &[&str], reasons: &[&str], changes: &[&str]) {
        let _event = self
            .update_lock
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        // a series that never was is no error worth telling
        for gauge in [
            &self.org_last_success,
            &self.org_last_attempt,
            &self.org_poll_interval,
            &self.org_poll_duration,
        ] {
            let _ = gauge.remove_label_values(&[org]);
        }
        for gauge in [
            &self.org_up,
            &self.org_poll_pages,
            &self.org_inventory_restored,
        ] {
            let _ = gauge.remove_label_values(&[org]);
        }
        for reason in reasons {
            let _ = self.org_poll_failures.remove_label_values(&[org, reason]);
            let _ = self
                .org_last_poll_failed
                .remove_label_values(&[org, reason]);
        }
        for change in changes {
            let _ = self.key_changes.remove_label_values(&[org, change]);
        }
        for endpoint in endpoints {
            let labels = [*endpoint, org];
            let _ = self.api_rate_limit_capacity.remove_label_values(&labels);
            let _ = self.api_rate_limit_remaining.remove_label_values(&labels);
            let _ = self.api_throttled.remove_label_values(&labels);
        }
    }

    /// The interval between two walks of the organization that is in force.
    pub fn set_poll_interval(&self, org: &str, interval: Duration) {
        self.org_poll_interval
            .with_label_values(&[org])
            .set(interval.as_secs_f64());
    }

    /// What an earlier process has left is shown, from a walk that began and ended at these times.
    pub fn inventory_restored(&self, org: &str, begun: Timestamp, ended: Timestamp, up: bool) {
        let _event = self
            .update_lock
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        self.org_inventory_restored.with_label_values(&[org]).set(1);
        self.org_up.with_label_values(&[org]).set(i64::from(up));
        self.org_last_attempt
            .with_label_values(&[org])
            .set(unix_seconds(begun));
        self.org_last_success
            .with_label_values(&[org])
            .set(unix_seconds(ended));
    }

    /// An endpoint is asked from now on: its counters begin at 0.
    pub fn init_endpoint<'a>(&self, endpoint: &str, retries: impl IntoIterator<Item = &'a str>) {
        self.api_request_duration.with_label_values(&[endpoint]);
        self.api_requests.with_label_values(&[endpoint, "200"]);
        for reason in retries {
            self.api_retries.with_label_values(&[endpoint, reason]);
        }
    }

    /// A credential may ask for tokens from now on: its counters begin at 0.
    pub fn init_credential<'a>(
        &self,
        credential: &str,
        outcomes: impl IntoIterator<Item = &'a str>,
    ) {
        for outcome in outcomes {
            self.token_requests
                .with_label_values(&[credential, outcome]);
        }
    }

    /// A credential is used no more: none of its series is left.
    pub fn remove_credential<'a>(
        &self,
        credential: &str,
        outcomes: impl IntoIterator<Item = &'a str>,
    ) {
        let _ = self.token_expiry.remove_label_values(&[credential]);
        for outcome in outcomes {
            let labels = [credential, outcome];
            let _ = self.token_requests.remove_label_values(&labels);
        }
    }

    /// The configuration was loaded, or the new one was bad.
    pub fn config_reloaded(&self, good: bool, at: Timestamp) {
        self.config_reload_successful.set(i64::from(good));
        if good {
            self.config_reload_success.set(unix_seconds(at));
        }
    }

    /// Something could not be kept for the next start.
    pub fn storage_failed(&self) {
        self.storage_failures.inc();
    }

    /// A change has happened to so many keys more.
    pub fn keys_changed(&self, org: &str, change: &str, keys: u64) {
        self.key_changes
            .with_label_values(&[org, change])
            .inc_by(keys);
    }

    /// A walk begins.
    pub fn poll_started(&self, org: &str, at: Timestamp) {
        self.org_last_attempt
            .with_label_values(&[org])
            .set(unix_seconds(at));
    }

    /// A walk was complete.
    pub fn poll_succeeded(&self, org: &str, at: Timestamp, pages: u32, took: Duration) {
        let _event = self
            .update_lock
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        self.org_up.with_label_values(&[org]).set(1);
        self.org_last_success
            .with_label_values(&[org])
            .set(unix_seconds(at));
        self.org_poll_duration
            .with_label_values(&[org])
            .set(took.as_secs_f64());
        self.org_poll_pages
            .with_label_values(&[org])
            .set(i64::from(pages));
        self.org_inventory_restored.with_label_values(&[org]).set(0);
    }

    /// A walk failed. The time of the last success does not move.
    pub fn poll_failed(&self, org: &str, reason: &str, took: Duration) {
        let _event = self
            .update_lock
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        self.org_up.with_label_values(&[org]).set(0);
        self.org_poll_duration
            .with_label_values(&[org])
            .set(took.as_secs_f64());
        self.org_poll_failures
            .with_label_values(&[org, reason])
            .inc();
    }

    /// Sets the state of the last poll: `failed` is the one of `reasons` it failed for, none if it succeeded.
    pub fn set_last_poll_failure(&self, org: &str, reasons: &[&str], failed: Option<&str>) {
        for reason in reasons {
            self.org_last_poll_failed
                .with_label_values(&[org, reason])
                .set(i64::from(failed == Some(reason)));
        }
    }

    /// A request to Atlas has ended.
    pub fn request_completed(&self, endpoint: &str, code: &str, took: Duration) {
        self.api_requests.with_label_values(&[endpoint, code]).inc();
        self.api_request_duration
            .with_label_values(&[endpoint])
            .observe(took.as_secs_f64());
    }

    /// A request to Atlas is sent again.
    pub fn request_retried(&self, endpoint: &str, reason: &str) {
        self.api_retries
            .with_label_values(&[endpoint, reason])
            .inc();
    }

    /// Time that is spent waiting because Atlas asked to.
    pub fn add_throttled_time(&self, endpoint: &str, org: &str, wait: Duration) {
        self.api_throttled
            .with_label_values(&[endpoint, org])
            .inc_by(wait.as_secs_f64());
    }

    /// Atlas told about its token bucket.
    pub fn set_rate_limit(
        &self,
        endpoint: &str,
        org: &str,
        capacity: Option<u64>,
        remaining: Option<u64>,
    ) {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        if let Some(capacity) = capacity {
            self.api_rate_limit_capacity
                .with_label_values(&[endpoint, org])
                .set(number(capacity));
        }
        if let Some(remaining) = remaining {
            self.api_rate_limit_remaining
                .with_label_values(&[endpoint, org])
                .set(number(remaining));
        }
    }

    /// A token was asked for.
    pub fn token_requested(&self, credential: &str, outcome: &str) {
        self.token_requests
            .with_label_values(&[credential, outcome])
            .inc();
    }

    /// The token in use ends then.
    pub fn set_token_expiry(&self, credential: &str, at: Timestamp) {
        self.token_expiry
            .with_label_values(&[credential])
            .set(unix_seconds(at));
    }

    /// The token that was in use is refused, so that it has no end any more.
    pub fn remove_token_expiry(&self, credential: &str) {
        // one that never was is no error worth telling
        let _ = self.token_expiry.remove_label_values(&[credential]);
    }

    /// Requests to an endpoint so far, whatever became of them.
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

    /// What stands now. Taken before the inventories of a scrape, so that no scrape says of an
    /// organization that all is well and shows keys from before it was.
    pub fn gather(&self) -> MetricSnapshot {
        let _events = self
            .update_lock
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        MetricSnapshot(self.registry.gather())
    }
}

/// Appends every family that was gathered.
pub(super) fn write_families<E: Encoder>(out: &mut Vec<u8>, gathered: &MetricSnapshot) {
    let mut body = Vec::new();
    for family in &gathered.0 {
        let head = FamilyHeader {
            name: family.name(),
            help: family.help(),
            kind: match family.get_field_type() {
                MetricType::COUNTER => Kind::Counter,
                MetricType::HISTOGRAM => Kind::Histogram,
                _ => Kind::Gauge,
            },
        };
        body.clear();
        for metric in family.get_metric() {
            let labels: Vec<(&str, &str)> = metric
                .get_label()
                .iter()
                .map(|label| (label.name(), label.value()))
                .collect();
            write_metric::<E>(&mut body, head, &labels, metric);
        }
        E::write_header(out, head, body.len());
        out.extend_from_slice(&body);
    }
}

fn write_metric<E: Encoder>(
    out: &mut Vec<u8>,
    head: FamilyHeader<'_>,
    labels: &[(&str, &str)],
    metric: &Metric,
) {
    match head.kind {
        Kind::Gauge => {
            let value = metric.get_gauge().get_value();
            E::write_sample(out, head, labels, SampleValue::Float(value));
        }
        Kind::Counter => {
            let value = metric.get_counter().get_value();
            E::write_sample(out, head, labels, SampleValue::Float(value));
        }
        Kind::Histogram => {
            let histogram = metric.get_histogram();
            let bounds: Vec<(f64, u64)> = histogram
                .get_bucket()
                .iter()
                .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
                .collect();
            let buckets = HistogramData {
                bounds: &bounds,
                sum: histogram.get_sample_sum(),
                count: histogram.get_sample_count(),
            };
            E::write_histogram(out, head, labels, &buckets);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_families_register() {
        ExporterMetrics::new().expect("the catalogue is sound");
    }

    #[test]
    fn last_poll_failed_is_set_for_at_most_one_reason() {
        let own = ExporterMetrics::new().expect("the catalogue is sound");
        let reasons = ["forbidden", "timeout"];
        own.init_org("o1", "keys", reasons, []);
        let failed = || -> Vec<String> {
            let families = own.org_last_poll_failed.collect();
            let metrics = families.iter().flat_map(MetricFamily::get_metric);
            let failed = metrics.filter(|metric| metric.get_gauge().get_value() == 1.0);
            failed
                .map(|metric| metric.get_label()[1].value().to_owned())
                .collect()
        };
        assert!(failed().is_empty(), "before the first poll");
        for reason in reasons {
            own.set_last_poll_failure("o1", &reasons, Some(reason));
            assert_eq!(failed(), [reason]);
        }
        own.set_last_poll_failure("o1", &reasons, None);
        assert!(failed().is_empty());
        own.remove_org("o1", &[], &reasons, &[]);
        assert!(
            own.org_last_poll_failed.collect()[0]
                .get_metric()
                .is_empty()
        );
    }
}
