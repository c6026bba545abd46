//! Predefined situations.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::buckets::BucketConfig;
use crate::endpoint::SimEndpoint;
use crate::faults::{Effect, Fault};

/// A situation to simulate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scenario {
    /// No faults.
    #[default]
    Calm,
    /// Half of the keys have not been used for a long time.
    Stale,
    /// Atlas responds for a minute, then with 503.
    Outage,
    /// The smallest known token bucket.
    Throttled,
    /// The credentials are accepted for a minute, then rejected.
    Revoked,
    /// Keys are created and deleted frequently, and idle ones are used again.
    Churn,
    /// The client secret expires in four days.
    Expiring,
}

impl Scenario {
    /// All scenarios.
    pub const ALL: [Self; 7] = [
        Self::Calm,
        Self::Stale,
        Self::Outage,
        Self::Throttled,
        Self::Revoked,
        Self::Churn,
        Self::Expiring,
    ];

    /// Returns the name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Stale => "stale",
            Self::Outage => "outage",
            Self::Throttled => "throttled",
            Self::Revoked => "revoked",
            Self::Churn => "churn",
            Self::Expiring => "expiring",
        }
    }

    /// Returns the faults of the scenario, which become active after one minute, or earlier at a higher speed.
    pub(crate) fn faults(self, speed: f64) -> Vec<Fault> {
        let after_a_minute = |endpoint, status| Fault {
            after_seconds: 60.0 / speed.max(1.0),
            ..Fault::new(endpoint, Effect::error_status(status))
        };
        match self {
            Self::Outage => vec![
                after_a_minute(SimEndpoint::AiModelApiKeys, 503),
                after_a_minute(SimEndpoint::ServiceAccount, 503),
            ],
            Self::Revoked => vec![
                after_a_minute(SimEndpoint::AiModelApiKeys, 401),
                after_a_minute(SimEndpoint::ServiceAccount, 401),
                after_a_minute(SimEndpoint::Token, 401),
            ],
            Self::Calm | Self::Stale | Self::Throttled | Self::Churn | Self::Expiring => Vec::new(),
        }
    }

    pub(crate) fn org_bucket(self) -> Option<BucketConfig> {
        (self == Self::Throttled).then_some(BucketConfig::SMALLEST)
    }

    pub(crate) fn stale_percent(self) -> u32 {
        if self == Self::Stale { 50 } else { 12 }
    }

    /// Returns the number of days until the client secret expires.
    pub(crate) fn secret_days_left(self) -> i64 {
        if self == Self::Expiring { 4 } else { 90 }
    }

    pub(crate) fn speed_factor(self) -> f64 {
        if self == Self::Churn { 200.0 } else { 1.0 }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
