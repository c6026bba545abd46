//! One key: as it goes in, and as it is looked at.

use std::borrow::Cow;

use jiff::Timestamp;

use super::escape::unescape;
pub use mongodb_atlas_client::{ApiKey as KeyRecord, ApiTime as Moment, KeyAttributes};
use mongodb_atlas_client::{KeyId, ProjectId};

/// A moment in 8 bytes: microseconds since the Unix epoch, or one of two values that no time has.
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

/// What an inventory or a draft holds of a key; its texts stand in the arena, one after the other.
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
    /// Since when the key is idle, in microseconds: its last use, or its creation when it was
    /// never used.
    pub(super) fn idle_since(&self) -> Option<i64> {
        match self.last_used {
            PackedTime::MISSING => self.created.micros(),
            used => used.micros(),
        }
    }

    /// The parts of its text: id, name and masked secret.
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

/// One key of an [`super::Inventory`]. Texts are escaped as in a label of the text formats.
#[derive(Debug, Clone, Copy)]
pub struct KeyView<'a> {
    pub(super) entry: &'a KeyEntry,
    pub(super) arena: &'a str,
    pub(super) project: &'a ProjectId,
    pub(super) attributes: &'a KeyAttributes,
}

impl<'a> KeyView<'a> {
    /// `apiKeyId`, escaped.
    pub fn id(&self) -> &'a str {
        self.entry.texts(self.arena)[0]
    }

    /// `name`, escaped.
    pub fn name(&self) -> &'a str {
        self.entry.texts(self.arena)[1]
    }

    /// `maskedSecret`, escaped; empty unless it is exported.
    pub fn masked_secret(&self) -> &'a str {
        self.entry.texts(self.arena)[2]
    }

    /// The project.
    pub fn project(&self) -> &'a ProjectId {
        self.project
    }

    /// What it has in common with many others.
    pub fn attributes(&self) -> &'a KeyAttributes {
        self.attributes
    }

    /// The place of [`KeyView::attributes`] in [`super::Inventory::attributes`].
    pub fn attributes_index(&self) -> usize {
        self.entry.attributes_index as usize
    }

    /// `createdAt`, in microseconds since the Unix epoch.
    pub fn created(&self) -> Option<i64> {
        self.entry.created.micros()
    }

    /// `lastUsedAt`, in microseconds since the Unix epoch; none for a key that was never used.
    pub fn last_used(&self) -> Option<i64> {
        self.entry.last_used.micros()
    }

    /// `lastUsedAt`, or `createdAt` for a key that was never used, in microseconds since the Unix
    /// epoch.
    pub fn idle_since(&self) -> Option<i64> {
        self.entry.idle_since()
    }

    /// Whether `lastUsedAt` is set; none when it could not be read.
    pub fn was_used(&self) -> Option<bool> {
        match self.entry.last_used {
            PackedTime::INVALID => None,
            used => Some(used != PackedTime::MISSING),
        }
    }

    /// The key as it went in.
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
