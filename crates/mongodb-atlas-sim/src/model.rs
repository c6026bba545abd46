//! Organizations, projects, keys and the log of their changes.

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

/// An AI model API key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SimKey {
    /// `apiKeyId`.
    pub id: String,
    /// `groupId`.
    pub project: String,
    /// `name`.
    pub name: String,
    /// `status`.
    pub status: String,
    /// `createdAt`.
    #[serde(serialize_with = "serialize_timestamp")]
    pub created: Timestamp,
    /// `lastUsedAt`; `None` until the first use.
    #[serde(serialize_with = "serialize_optional_timestamp")]
    pub last_used: Option<Timestamp>,
    /// `createdBy`.
    pub created_by: String,
    /// `cloud`.
    pub cloud: String,
    /// `geography`.
    pub geography: String,
    /// Relative frequency of use events; 0 disables them.
    #[serde(skip)]
    pub activity: u32,
}

impl SimKey {
    /// Returns whether the key is active.
    pub(crate) fn is_active(&self) -> bool {
        self.status == "ACTIVE"
    }
}

/// A tag of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SimTag {
    /// `key`.
    pub key: String,
    /// `value`.
    pub value: String,
}

impl SimTag {
    /// Returns a tag.
    pub fn new(key: &str, value: &str) -> Self {
        Self {
            key: key.to_owned(),
            value: value.to_owned(),
        }
    }
}

/// A project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimProject {
    /// `id`.
    pub id: String,
    /// `name`.
    pub name: String,
    /// `created`.
    pub created: Timestamp,
    /// `tags`; `None` omits the field.
    pub tags: Option<Vec<SimTag>>,
}

impl SimProject {
    pub(crate) fn to_json(&self, org: &str) -> Value {
        let mut json = json!({
            "id": self.id,
            "orgId": org,
            "name": self.name,
            "created": format_seconds(self.created),
            "clusterCount": 0,
            "links": [],
        });
        if let (Some(tags), Some(fields)) = (&self.tags, json.as_object_mut()) {
            fields.insert("tags".to_owned(), json!(tags));
        }
        json
    }
}

/// An organization.
#[derive(Debug, Clone)]
pub(crate) struct SimOrg {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) projects: Vec<SimProject>,
    /// Whether the credentials can access it.
    pub(crate) visible: bool,
    /// `isDeleted` in the list of organizations.
    pub(crate) deleted: bool,
    /// Keys in order of creation, which is the order of the pages.
    pub(crate) keys: Vec<SimKey>,
}

impl SimOrg {
    pub(crate) fn to_json(&self) -> Value {
        json!({"id": self.id, "name": self.name, "isDeleted": self.deleted, "links": []})
    }
}

/// Kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// The key was created.
    Created,
    /// The key was deleted.
    Deleted,
    /// The key was renamed.
    Renamed,
    /// The status changed.
    StatusChanged,
    /// The key was used for the first time.
    FirstUsed,
    /// The key was used after 90 or more days without use.
    Revived,
}

/// An entry of the change log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoggedChange {
    /// Time of the change.
    #[serde(serialize_with = "serialize_timestamp")]
    pub at: Timestamp,
    /// Organization id.
    pub org: String,
    /// Key id.
    pub key: String,
    /// Kind of the change.
    pub change: ChangeKind,
}

/// Formats a timestamp as Atlas does for projects and service accounts, such as `2026-01-15T16:47:49Z`.
pub(crate) fn format_seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Formats a timestamp as Atlas does for keys, such as `2026-01-15T16:47:49.855000+00:00`.
pub(crate) fn format_timestamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

pub(crate) fn serialize_timestamp<S: Serializer>(
    at: &Timestamp,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_timestamp(*at))
}

#[expect(clippy::ref_option, reason = "the signature that serde requires")]
fn serialize_optional_timestamp<S: Serializer>(
    at: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    at.map(format_timestamp).serialize(serializer)
}
