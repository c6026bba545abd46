//! Configuration of a simulator.

use crate::buckets::{BucketConfig, BucketScope};
use crate::faults::Fault;
use crate::scenario::Scenario;

/// Configures a simulated Atlas.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// Seed of the population and its events: the same seed gives the same data.
    pub seed: u64,
    /// Number of organizations.
    pub orgs: usize,
    /// Number of keys in all organizations together.
    pub keys: usize,
    /// Situation to simulate.
    pub scenario: Scenario,
    /// Speed factor of key events; 0 disables them. Timestamps are not scaled.
    pub speed: f64,
    /// Token bucket of the key endpoints.
    pub org_bucket: BucketConfig,
    /// Scope of that bucket.
    pub bucket_scope: BucketScope,
    /// Lifetime of an access token in seconds.
    pub token_lifetime_seconds: u64,
    /// Lifetime of a Digest nonce in seconds.
    pub nonce_lifetime_seconds: u64,
    /// Initial faults, in addition to those of the scenario.
    pub faults: Vec<Fault>,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            orgs: 3,
            keys: 1200,
            scenario: Scenario::Calm,
            speed: 1.0,
            org_bucket: BucketConfig::TYPICAL,
            bucket_scope: BucketScope::Organization,
            token_lifetime_seconds: 3600,
            nonce_lifetime_seconds: 30,
            faults: Vec::new(),
        }
    }
}
