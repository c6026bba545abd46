//! Which keys have per-key series, and the labels of the info metric.

use std::sync::Arc;

use super::threshold::IdleThreshold;
use crate::closed_list::closed_list;
use crate::inventory::KeyAttributes;

closed_list! {
    /// A label of the info metric.
    #[derive(Hash)]
    pub enum KeyLabel {
        /// Atlas field `name`.
        Name = "name",
        /// `status`.
        Status = "status",
        /// `cloud`.
        Cloud = "cloud",
        /// `geography`.
        Geography = "geography",
        /// `endpoint`.
        Endpoint = "endpoint",
        /// `createdBy`: personal data.
        CreatedBy = "created_by",
        /// `maskedSecret`.
        MaskedSecret = "masked_secret",
    }
}

impl KeyLabel {
    /// Returns the value of the label, if it is one that many keys share.
    pub(super) fn shared_value(self, attributes: &KeyAttributes) -> Option<&str> {
        match self {
            Self::Name | Self::MaskedSecret => None,
            Self::Status => Some(&attributes.status),
            Self::Cloud => Some(&attributes.cloud),
            Self::Geography => Some(&attributes.geography),
            Self::Endpoint => Some(&attributes.endpoint),
            Self::CreatedBy => Some(&attributes.created_by),
        }
    }
}

closed_list! {
    /// Which keys have per-key series.
    pub enum PerKeyMode {
        /// Every key.
        All = "all",
        /// Keys that have been idle for the smallest threshold.
        Idle = "idle",
        /// No key; only the roll-ups are exported.
        None = "none",
    }
}

/// The configuration of per-key series and of the idle roll-up.
#[derive(Debug, Clone)]
pub struct KeySeriesOptions {
    /// Which keys have per-key series.
    pub per_key: PerKeyMode,
    /// Labels of the info metric, in order.
    pub labels: Arc<[KeyLabel]>,
    /// Maximum number of keys with per-key series.
    pub max_keys: usize,
    /// Thresholds of the idle roll-up, in order.
    pub thresholds: Arc<[IdleThreshold]>,
}
