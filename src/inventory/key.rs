//! One key: the record, the packed entry and the view.

use std::borrow::Cow;

use jiff::Timestamp;

use super::escape::unescape;
use mongodb_atlas_client::{KeyId, ProjectId};

/// A time that may be missing or invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Moment {
    /// A valid time.
    Valid(Timestamp),
    /// Null, or not present: for `lastUsedAt`, the key was never used.
    #[default]
    Missing,
    /// A value that is no time.
    Invalid,
}

/// One key. Texts that Atlas leaves out are empty, which Prometheus treats like a missing label.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRecord {
    /// `apiKeyId`.
    pub id: KeyId,
    /// `groupId`.
    pub project: ProjectId,
    /// `name`.
    pub name: String,
    /// Whether the name is truncated.
    pub name_truncated: bool,
    /// `maskedSecret`; empty unless it is exported.
    pub masked_secret: String,
    /// Fields that many keys have in common.
    pub attributes: KeyAttributes,
    /// `createdAt`.
    pub created: Moment,
    /// `lastUsedAt`.
    pub last_used: Moment,
}

/// The fields of a key with values that many keys share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct KeyAttributes {
    /// `status`.
    pub status: String,
    /// `cloud`.
    pub cloud: String,
    /// `geography`.
    pub geography: String,
    /// `endpoint`.
    pub endpoint: String,
    /// `createdBy`; empty unless it is exported.
    pub created_by: String,
}

/// A time in 8 bytes: microseconds since the Unix epoch, or one of two values that are no valid time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PackedTime(i64);

impl PackedTime {
    const MISSING: Self = Self(i64::MIN);
    const INVALID: Self = Self(i64::MIN + 1);

    pub(super) fn new(moment: Moment) -> Self {
        match moment {
            Moment::Valid(at) => Self(at.as_microsecond()),
            Moment::Missing => Self::MISSING,
            Moment::Invalid => Self::INVALID,
        }
    }

    pub(super) fn micros(self) -> Option<i64> {
        (self > Self::INVALID).then_some(self.0)
    }

    fn to_moment(self) -> Moment {
        match self {
            Self::MISSING => Moment::Missing,
            Self::INVALID => Moment::Invalid,
            Self(micros) => {
                Timestamp::from_microsecond(micros).map_or(Moment::Invalid, Moment::Valid)
            }
        }
    }
}

/// A packed key. Its texts are adjacent in the arena: id, name and masked secret.
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
    pub(super) project: &'a ProjectId,
    pub(super) attributes: &'a KeyAttributes,
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

    /// Returns the project.
    pub fn project(&self) -> &'a ProjectId {
        self.project
    }

    /// Returns the fields that many keys have in common.
    pub fn attributes(&self) -> &'a KeyAttributes {
        self.attributes
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
    pub fn to_record(&self) -> KeyRecord {
        let [id, name, masked_secret] = self.entry.texts(self.arena).map(unescape);
        KeyRecord {
            id: KeyId::new(Cow::into_owned(id)),
            project: self.project.clone(),
            name: name.into_owned(),
            name_truncated: self.entry.name_truncated,
            masked_secret: masked_secret.into_owned(),
            attributes: self.attributes.clone(),
            created: self.entry.created.to_moment(),
            last_used: self.entry.last_used.to_moment(),
        }
    }
}
