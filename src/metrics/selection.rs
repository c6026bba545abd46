//! Which keys have per-key series, and the labels of the info metric.

use std::sync::Arc;

use super::threshold::IdleThreshold;
use crate::inventory::KeyAttributes;

/// A label of the info metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyLabel {
    /// Atlas field `name`.
    Name,
    /// `status`.
    Status,
    /// `cloud`.
    Cloud,
    /// `geography`.
    Geography,
    /// `endpoint`.
    Endpoint,
    /// `createdBy`: personal data.
    CreatedBy,
    /// `maskedSecret`.
    MaskedSecret,
}

impl KeyLabel {
    /// Every label.
    pub const ALL: [Self; 7] = [
        Self::Name,
        Self::Status,
        Self::Cloud,
        Self::Geography,
        Self::Endpoint,
        Self::CreatedBy,
        Self::MaskedSecret,
    ];

    /// Returns the name of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Status => "status",
            Self::Cloud => "cloud",
            Self::Geography => "geography",
            Self::Endpoint => "endpoint",
            Self::CreatedBy => "created_by",
            Self::MaskedSecret => "masked_secret",
        }
    }

    /// Returns the label of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|label| label.as_str() == name)
    }

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

/// Which keys have per-key series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PerKeyMode {
    /// Every key.
    All,
    /// Keys that have been idle for the smallest threshold.
    Idle,
    /// No key; only the roll-ups are exported.
    None,
}

impl PerKeyMode {
    /// Returns the mode of that name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "all" => Self::All,
            "idle" => Self::Idle,
            "none" => Self::None,
            _ => return None,
        })
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
