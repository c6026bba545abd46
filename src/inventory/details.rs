//! Names and model rate limits of an organization.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use mongodb_atlas_client::ProjectId;

/// Names and model rate limits of an organization, refreshed less often than its keys. Values that cannot be read keep
/// their last value; they are empty if they were never read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrgDetails {
    /// Name of the organization.
    pub name: Option<String>,
    /// Names of its projects.
    pub projects: Vec<ProjectName>,
    /// Its model rate limits.
    pub limits: Vec<ModelRateLimit>,
    /// Time of the last refresh.
    #[serde(rename = "asked_at")]
    pub fetched_at: Option<Timestamp>,
}

/// Name of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectName {
    /// The project.
    pub id: ProjectId,
    /// Its name.
    pub name: String,
}

/// The rate limit of a group of models.
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
