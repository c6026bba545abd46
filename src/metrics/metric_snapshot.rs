//! The exporter's own metrics as one scrape exports them.

use prometheus::proto::{self, Metric, MetricFamily};

use super::families::MetricType;
use super::negotiate::Format;
use super::text::{self, FamilyHeader, SampleValue};
use mongodb_atlas_client::OrgId;

/// The exporter's own metrics at one moment.
pub struct MetricSnapshot(pub(super) Vec<MetricFamily>);

impl MetricSnapshot {
    /// Removes the families with a name that starts with `prefix`.
    #[must_use]
    pub fn exclude_prefix(mut self, prefix: &str) -> Self {
        self.0.retain(|family| !family.name().starts_with(prefix));
        self
    }

    /// Removes all series except those of `orgs`, which are sorted.
    #[must_use]
    pub fn retain_orgs(self, orgs: &[OrgId]) -> Self {
        self.retain(|org| orgs.binary_search_by(|it| it.as_str().cmp(org)).is_ok())
    }

    /// Removes the series of organizations.
    #[must_use]
    pub fn retain_process(self) -> Self {
        self.retain(str::is_empty)
    }

    /// Removes the series of organizations that are not selected. A series without the label `org_id`, or with an empty
    /// one (Prometheus does not distinguish them), has the organization "".
    fn retain(mut self, is_selected: impl Fn(&str) -> bool) -> Self {
        let is_retained = |metric: &Metric| {
            let mut labels = metric.get_label().iter();
            let org = labels.find(|label| label.name() == "org_id");
            is_selected(org.map_or("", |label| label.value()))
        };
        for family in &mut self.0 {
            family.mut_metric().retain(is_retained);
        }
        self.0.retain(|family| !family.get_metric().is_empty());
        self
    }

    /// Appends every family and the end of the exposition.
    pub(super) fn write(&self, out: &mut Vec<u8>, format: Format) {
        for family in &self.0 {
            let metric_type = match family.get_field_type() {
                proto::MetricType::COUNTER => MetricType::Counter,
                proto::MetricType::HISTOGRAM => MetricType::Histogram,
                _ => MetricType::Gauge,
            };
            let (name, help) = (family.name(), family.help());
            let header = FamilyHeader {
                name,
                help,
                metric_type,
            };
            header.write(out, format);
            for metric in family.get_metric() {
                let labels = metric.get_label().iter();
                let labels: Vec<_> = labels.map(|it| (it.name(), it.value())).collect();
                let value = match metric_type {
                    MetricType::Gauge => metric.get_gauge().get_value(),
                    MetricType::Counter => metric.get_counter().get_value(),
                    MetricType::Histogram => {
                        let histogram = metric.get_histogram();
                        text::write_histogram(out, format, name, &labels, histogram);
                        continue;
                    }
                };
                text::write_sample(out, name, "", &labels, SampleValue::Float(value));
            }
        }
        text::write_end(out, format);
    }
}
