//! One key: the compact entry and the view.

use std::borrow::Cow;

use jiff::Timestamp;

use super::escape::unescape;
use mongodb_atlas_client::{ApiKey, ApiTime, KeyAttributes, KeyId, ProjectId};

crate::closed_list::closed_list! {
    /// An optional field of a key: a label of the info metric.
    #[derive(Hash)]
    pub enum KeyLabel {
        /// Atlas field `name`.
        Name = "name",
        /// `status`.
        Status = "status",
        /// `cloud`.
        Cloud = "cloud",
        /// `geography`.
        Geography = "geography",
        /// `endpoint`, renamed because Prometheus attaches a label `endpoint` to targets.
        ModelEndpoint = "model_endpoint",
        /// `createdBy`: personal data.
        CreatedBy = "created_by",
        /// `maskedSecret`.
        MaskedSecret = "masked_secret",
    }
}

impl KeyLabel {
    /// Returns the value of the label, if the field is one with values that many keys share.
    pub(crate) fn shared_value(self, attributes: &KeyAttributes) -> Option<&str> {
        match self {
            Self::Name | Self::MaskedSecret => None,
            Self::Status => Some(&attributes.status),
            Self::Cloud => Some(&attributes.cloud),
            Self::Geography => Some(&attributes.geography),
            Self::ModelEndpoint => Some(&attributes.endpoint),
            Self::CreatedBy => Some(&attributes.created_by),
        }
    }
}

/// A time in 8 bytes: microseconds since the Unix epoch, or one of two values for a missing and an invalid time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PackedTime(i64);

impl PackedTime {
    const MISSING: Self = Self(i64::MIN);
    const INVALID: Self = Self(i64::MIN + 1);

    pub(super) fn new(time: ApiTime) -> Self {
        match time {
            ApiTime::Valid(at) => Self(at.as_microsecond()),
            ApiTime::Missing => Self::MISSING,
            ApiTime::Invalid => Self::INVALID,
        }
    }

    pub(super) fn micros(self) -> Option<i64> {
        (self > Self::INVALID).then_some(self.0)
    }

    fn to_api_time(self) -> ApiTime {
        match self {
            Self::MISSING => ApiTime::Missing,
            Self::INVALID => ApiTime::Invalid,
            Self(micros) => {
                Timestamp::from_microsecond(micros).map_or(ApiTime::Invalid, ApiTime::Valid)
            }
        }
    }
}

/// A key in compact form. Its texts are adjacent in the arena: id, name and masked secret.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyEntry {
    pub(super) text_start: u32,
    pub(super) id_len: u16,
    pub(super) name_len: u16,
    pub(super) masked_secret_len: u16,
    pub(super) name_truncated: bool,
    pub(super) attributes_index: u32,
    pub(super) created: PackedTime,
    pub(super) last_used: PackedTime,
}

impl KeyEntry {
    /// Returns the last use, or the creation of a key that was never used, in microseconds since the Unix epoch.
    pub(super) fn idle_since(&self) -> Option<i64> {
        match self.last_used {
            PackedTime::MISSING => self.created.micros(),
            used => used.micros(),
        }
    }

    /// Returns id, name and masked secret.
    pub(super) fn texts<'a>(&self, arena: &'a str) -> [&'a str; 3] {
        let mut at = self.text_start as usize;
        [self.id_len, self.name_len, self.masked_secret_len].map(|length| {
            let end = at + usize::from(length);
            let text = arena.get(at..end).unwrap_or_default();
            at = end;
            text
        })
    }
}

/// One key of an [`super::Inventory`]. Texts are escaped as in a label.
#[derive(Debug, Clone, Copy)]
pub struct KeyView<'a> {
    pub(super) entry: &'a KeyEntry,
    pub(super) arena: &'a str,
    /// The project.
    pub project: &'a ProjectId,
    /// The fields with values that many keys share.
    pub attributes: &'a KeyAttributes,
}

impl<'a> KeyView<'a> {
    /// Returns `apiKeyId`, escaped.
    pub fn id(&self) -> &'a str {
        self.entry.texts(self.arena)[0]
    }

    /// Returns `name`, escaped.
    pub fn name(&self) -> &'a str {
        self.entry.texts(self.arena)[1]
    }

    /// Returns `maskedSecret`, escaped; empty unless it is exported.
    pub fn masked_secret(&self) -> &'a str {
        self.entry.texts(self.arena)[2]
    }

    /// Returns the index of [`KeyView::attributes`] in [`super::Inventory::attributes`].
    pub fn attributes_index(&self) -> usize {
        self.entry.attributes_index as usize
    }

    /// Returns `createdAt`, in microseconds since the Unix epoch.
    pub fn created(&self) -> Option<i64> {
        self.entry.created.micros()
    }

    /// Returns `lastUsedAt`, in microseconds since the Unix epoch; `None` for a key that was never used.
    pub fn last_used(&self) -> Option<i64> {
        self.entry.last_used.micros()
    }

    /// Returns `lastUsedAt`, or `createdAt` of a key that was never used, in microseconds since the Unix epoch.
    pub fn idle_since(&self) -> Option<i64> {
        self.entry.idle_since()
    }

    /// Returns whether `lastUsedAt` is present; `None` when it is invalid.
    pub fn was_used(&self) -> Option<bool> {
        match self.entry.last_used {
            PackedTime::INVALID => None,
            used => Some(used != PackedTime::MISSING),
        }
    }

    /// Returns the key as it was inserted.
    pub fn to_api_key(&self) -> ApiKey {
        let [id, name, masked_secret] = self.entry.texts(self.arena).map(unescape);
        ApiKey {
            id: KeyId::new(Cow::into_owned(id)),
            project: self.project.clone(),
            name: name.into_owned(),
            name_truncated: self.entry.name_truncated,
            masked_secret: masked_secret.into_owned(),
            attributes: self.attributes.clone(),
            created: self.entry.created.to_api_time(),
            last_used: self.entry.last_used.to_api_time(),
        }
    }
}
