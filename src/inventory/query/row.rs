//! The fields of a listed key.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use url::Url;

use super::{KeyRef, KeySelection, ProjectLabels};
use crate::inventory::{KeyLabel, unescape};
use mongodb_atlas_client::ProjectId;

/// One key. Missing texts are empty. The serialized fields are the columns of CSV and JSON.
#[derive(Debug, Serialize)]
pub struct KeyRow {
    /// The organization.
    pub org_id: String,
    /// Name of the organization.
    pub org_name: String,
    /// The project.
    pub project_id: String,
    /// Name of the project.
    pub project_name: String,
    /// Owner of the project.
    pub owner: String,
    /// `apiKeyId`.
    pub api_key_id: String,
    /// `name`.
    pub name: String,
    /// `status`.
    pub status: String,
    /// `createdAt`.
    pub created_at: Option<Timestamp>,
    /// `createdBy`, which is personal data.
    pub created_by: String,
    /// `lastUsedAt`.
    pub last_used_at: Option<Timestamp>,
    /// Seconds since the last use, or the creation of a key that was never used; 0 if that is in the future.
    pub idle_seconds: Option<u64>,
    /// The last day of the active exemption.
    pub exempt_until: Option<Date>,
    /// The reason of the active exemption.
    pub exempt_reason: String,
    /// The URL of the Atlas page where the key can be deleted; empty for a project id that is not valid in a URL.
    pub url: String,
    /// Whether `lastUsedAt` is present; `None` when it is invalid.
    #[serde(skip)]
    pub was_used: Option<bool>,
    /// `maskedSecret`.
    #[serde(skip)]
    pub masked_secret: String,
}

impl KeySelection<'_> {
    pub(super) fn row(&self, key: KeyRef) -> Option<KeyRow> {
        let (inventory, view) = self.view(&key)?;
        let names = self.names.get(key.org as usize)?;
        let ProjectLabels { name, owner } = names.project(view.project);
        let now = self.now.as_microsecond();
        let exemption = inventory.classes.exemption(key.key as usize, now);
        let attributes = view.attributes;
        let shown = |label, text: Cow<'_, str>| {
            let text = self.shows(label).then(|| text.into_owned());
            text.unwrap_or_default()
        };
        let time = |micros: i64| Timestamp::from_microsecond(micros).ok();
        let idle_since = view.idle_since().and_then(time);
        Some(KeyRow {
            org_id: inventory.org().to_string(),
            org_name: names.org.to_owned(),
            project_id: view.project.to_string(),
            project_name: name.to_owned(),
            owner: owner.to_owned(),
            api_key_id: unescape(view.id()).into_owned(),
            name: shown(KeyLabel::Name, unescape(view.name())),
            status: shown(KeyLabel::Status, attributes.status.as_str().into()),
            created_at: view.created().and_then(time),
            created_by: shown(KeyLabel::CreatedBy, attributes.created_by.as_str().into()),
            last_used_at: view.last_used().and_then(time),
            idle_seconds: idle_since
                .map(|since| u64::try_from(self.now.as_second() - since.as_second()).unwrap_or(0)),
            exempt_until: exemption.map(|exemption| exemption.until),
            exempt_reason: exemption.map_or_else(String::new, |it| it.reason.clone()),
            url: self
                .query
                .base_url
                .and_then(|base| project_url(base, view.project))
                .map_or_else(String::new, String::from),
            was_used: view.was_used(),
            masked_secret: shown(KeyLabel::MaskedSecret, unescape(view.masked_secret())),
        })
    }
}

/// Returns the URL of the Atlas page where the keys of a project can be deleted; `None` for an id that is not valid in a URL.
pub fn project_url(base: &Url, project: &ProjectId) -> Option<Url> {
    let id = project.as_str();
    if matches!(id, "" | "." | "..") {
        return None;
    }
    let mut url = base.clone();
    url.path_segments_mut()
        .ok()?
        .pop_if_empty()
        .extend(["v2", id]);
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn project_url_has_the_id_as_one_path_segment() {
        let url = |base: &str, id: &str| {
            let base = Url::parse(base).expect("a URL");
            project_url(&base, &ProjectId::new(id)).map(String::from)
        };
        let base = "https://cloud.mongodb.com/";
        for (id, expected) in [
            ("69681d39c9e8cfd375386316", Some("69681d39c9e8cfd375386316")),
            ("a/../b?c#d", Some("a%2F..%2Fb%3Fc%23d")),
            ("%2e%2e", Some("%252e%252e")),
            ("<a> \"", Some("%3Ca%3E%20%22")),
            ("", None),
            (".", None),
            ("..", None),
        ] {
            let expected = expected.map(|id| format!("{base}v2/{id}"));
            assert_eq!(url(base, id), expected, "{id}");
        }
        let nested = url("http://127.0.0.1:1/mock/", "1");
        assert_eq!(nested.as_deref(), Some("http://127.0.0.1:1/mock/v2/1"));
    }
}
