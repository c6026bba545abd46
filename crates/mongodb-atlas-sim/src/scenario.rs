//! Situations to play, by name.

use super::buckets::BucketConfig;
use super::faults::{Effect, ErrorBodyFormat, Fault, SimEndpoint};

/// A situation that the simulated Atlas plays from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scenario {
    /// All is well.
    #[default]
    Calm,
    /// Many keys that nobody uses any more.
    Stale,
    /// Atlas answers for a minute, then 503 for good.
    Outage,
    /// The smallest token bucket there is.
    Throttled,
    /// The credential works for a minute, then never again.
    Revoked,
    /// Keys come and go quickly, and stale ones come back.
    Churn,
}

impl Scenario {
    /// Every scenario.
    pub const ALL: &'static [Self] = &[
        Self::Calm,
        Self::Stale,
        Self::Outage,
        Self::Throttled,
        Self::Revoked,
        Self::Churn,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Stale => "stale",
            Self::Outage => "outage",
            Self::Throttled => "throttled",
            Self::Revoked => "revoked",
            Self::Churn => "churn",
        }
    }

    /// The scenario of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|scenario| scenario.name() == name)
    }

    /// What goes wrong, and when: after a minute, or sooner where time runs faster.
    pub(crate) fn faults(self, speed: f64) -> Vec<Fault> {
        let after_a_minute = |endpoint, effect| Fault {
            after_seconds: 60.0 / speed.max(1.0),
            ..Fault::new(endpoint, effect)
        };
        match self {
            Self::Outage => vec![after_a_minute(
                SimEndpoint::AiModelApiKeys,
                Effect::Status {
                    status: 503,
                    body: ErrorBodyFormat::Json,
                    retry_after: None,
                },
            )],
            Self::Revoked => [SimEndpoint::AiModelApiKeys, SimEndpoint::Token]
                .map(|endpoint| {
                    after_a_minute(
                        endpoint,
                        Effect::Status {
                            status: 401,
                            body: ErrorBodyFormat::Json,
                            retry_after: None,
                        },
                    )
                })
                .to_vec(),
            Self::Calm | Self::Stale | Self::Throttled | Self::Churn => Vec::new(),
        }
    }

    pub(crate) fn org_bucket(self) -> Option<BucketConfig> {
        (self == Self::Throttled).then_some(BucketConfig::SMALLEST)
    }

    pub(crate) fn stale_percent(self) -> u32 {
        if self == Self::Stale { 50 } else { 12 }
    }

    pub(crate) fn speed_factor(self) -> f64 {
        if self == Self::Churn { 200.0 } else { 1.0 }
    }
}
