//! Which keys have series of their own, and what their info metric says.

use std::sync::Arc;

use super::threshold::IdleThreshold;
use crate::inventory::KeyAttributes;

/// A label of the info metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyLabel {
    /// Atlas member `name`.
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

    /// The label's name.
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

    /// The label of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|label| label.as_str() == name)
    }

    /// Its value, if it is one that many keys share.
    pub(super) fn shared_value(self, kind: &KeyAttributes) -> Option<&str> {
        match self {
            Self::Name | Self::MaskedSecret => None,
            Self::Status => Some(&kind.status),
            Self::Cloud => Some(&kind.cloud),
            Self::Geography => Some(&kind.geography),
            Self::Endpoint => Some(&kind.endpoint),
            Self::CreatedBy => Some(&kind.created_by),
        }
    }
}

/// Which keys have series of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PerKeyMode {
    /// Every key.
    All,
    /// Those that have been idle for the smallest threshold.
    Idle,
    /// None: there are the roll-ups alone.
    None,
}

impl PerKeyMode {
    /// The mode of that name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "all" => Self::All,
            "idle" => Self::Idle,
            "none" => Self::None,
            _ => return None,
        })
    }
}

/// What is shown of the keys, as the configuration asks.
#[derive(Debug, Clone)]
pub struct KeySeriesOptions {
    /// Which keys have series of their own.
    pub per_key: PerKeyMode,
    /// The labels of the info metric, in order.
    pub labels: Arc<[KeyLabel]>,
    /// How many keys may have series of their own.
    pub max_keys: usize,
    /// Thresholds of the idle roll-up, in order.
    pub thresholds: Arc<[IdleThreshold]>,
}
