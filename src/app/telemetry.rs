//! Passes the events of the scheduler on to the metrics and the statuses.

use std::sync::Arc;

use crate::metrics::ExporterMetrics;
use crate::poll::{PollEvent, PollObserver};
use crate::status::OrgStatuses;

/// The exporter's own metrics, and the status of each organization.
pub(super) struct Telemetry {
    pub(super) metrics: Arc<ExporterMetrics>,
    pub(super) statuses: Arc<OrgStatuses>,
}

impl PollObserver for Telemetry {
    fn on_event(&self, event: PollEvent<'_>) {
        self.metrics.on_event(event);
        self.statuses.on_event(event);
    }
}
