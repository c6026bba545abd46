//! What is known of an organization beside its keys.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use mongodb_atlas_client::ProjectId;

/// Names and limits of one organization, read now and then. What could not be read stays as it
/// was; what was never read is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrgDetails {
    /// The organization's name.
    pub name: Option<String>,
    /// Names of its projects.
    pub projects: Vec<ProjectName>,
    /// Its limits for the models.
    pub limits: Vec<ModelRateLimit>,
    /// When they were last asked for.
    pub asked_at: Option<Timestamp>,
}

/// A project's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectName {
    /// The project.
    pub id: ProjectId,
    /// Its name.
    pub name: String,
}

/// A limit for a group of models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRateLimit {
    /// `modelGroupName`.
    pub group: String,
    /// `cloud`.
    pub cloud: String,
    /// `geography`.
    pub geography: String,
    /// `requestsPerMinuteLimit`.
    pub requests_per_minute: Option<u64>,
    /// `tokensPerMinuteLimit`.
    pub tokens_per_minute: Option<u64>,
}
