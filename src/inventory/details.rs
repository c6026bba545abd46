//! The data of an organization besides its keys: names, owners and model rate limits.

use std::ops::Deref;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::key_policy::{KeyPolicy, ProjectRef};
use mongodb_atlas_client::{ModelLimit, Project};

/// Names and model rate limits of an organization, refreshed less often than its keys. If a value cannot be read, the last
/// value remains. Values are empty if they were never read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrgDetails {
    /// Name of the organization.
    pub name: Option<String>,
    /// Its projects, each with its value of the owner tag.
    pub projects: Vec<Project>,
    /// The key of the tag; `None` if no tag was requested.
    #[serde(default)]
    pub owner_tag: Option<String>,
    /// Its model rate limits.
    pub limits: Vec<ModelLimit>,
    /// Time of the last refresh.
    pub fetched_at: Option<Timestamp>,
}

/// The details of an organization with the owners of its projects, according to the active policy.
#[derive(Debug, Default)]
pub struct DetailsWithOwners {
    details: Arc<OrgDetails>,
    /// In the order of the projects.
    owners: Box<[Option<Arc<str>>]>,
}

impl DetailsWithOwners {
    /// Looks up the owner of each project: a rule of `policy`, else the value of the tag. Call this on a blocking thread.
    pub fn new(details: Arc<OrgDetails>, policy: &KeyPolicy) -> Self {
        let owners = details.projects.iter().map(|project| {
            let (id, name) = (&project.id, project.name.as_str());
            let by_rule = policy.owners.find(ProjectRef { id, name }).cloned();
            by_rule.or_else(|| project.tag.as_deref().map(Arc::from))
        });
        Self {
            owners: owners.collect(),
            details,
        }
    }

    /// Returns the details without the owners.
    pub fn details(&self) -> &Arc<OrgDetails> {
        &self.details
    }

    /// Returns each project with its owner, if any.
    pub fn projects(&self) -> impl Iterator<Item = (&Project, Option<&str>)> {
        let owners = self.owners.iter().map(Option::as_deref);
        self.details.projects.iter().zip(owners)
    }
}

impl Deref for DetailsWithOwners {
    type Target = OrgDetails;

    fn deref(&self) -> &OrgDetails {
        &self.details
    }
}
