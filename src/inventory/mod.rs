//! The keys of one organization as one complete walk saw them: an immutable value, swapped in whole.
//!
//! Everything a scrape needs that cannot change between two walks is worked out here, once: the
//! label blocks, escaped; the counts by status; the idle times of each project in order, so that
//! a roll-up at the scrape is a binary search and not a walk over the keys.

mod details;
mod labels;
mod shelf;

use std::collections::BTreeMap;

use jiff::Timestamp;

pub use details::{Details, Limit, ProjectName};
pub use labels::{label, unescape};
pub use shelf::{Shelf, Shown};

use crate::ids::{KeyId, OrgId, ProjectId};

/// A moment that Atlas may have left out, or written in a way that nobody can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Moment {
    /// Atlas gave this time.
    At(Timestamp),
    /// Atlas gave null or nothing: for `lastUsedAt`, the key was never used.
    #[default]
    Missing,
    /// Atlas gave something that is no time, so nothing is known.
    Unreadable,
}

impl Moment {
    fn at(self) -> Option<Timestamp> {
        match self {
            Self::At(at) => Some(at),
            Self::Missing | Self::Unreadable => None,
        }
    }
}

/// One key, as it goes into an inventory. Texts that Atlas left out are empty, which in
/// Prometheus is the same as a label that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRecord {
    /// `apiKeyId`.
    pub id: KeyId,
    /// `groupId`.
    pub project: ProjectId,
    /// `name`.
    pub name: String,
    /// `status`.
    pub status: String,
    /// `cloud`.
    pub cloud: String,
    /// `geography`.
    pub geography: String,
    /// `endpoint`.
    pub endpoint: String,
    /// `createdAt`.
    pub created: Moment,
    /// `lastUsedAt`.
    pub last_used: Moment,
}

impl KeyRecord {
    /// Since when the key is idle: its last use, or its creation when it was never used.
    fn idle_since(&self) -> Option<Timestamp> {
        match self.last_used {
            Moment::At(at) => Some(at),
            Moment::Missing => self.created.at(),
            Moment::Unreadable => None,
        }
    }
}

/// Part of the inventory's text.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
}

#[derive(Debug)]
struct Key {
    identity: Span,
    description: Span,
    created: Option<Timestamp>,
    last_used: Option<Timestamp>,
    idle_since: Option<Timestamp>,
    used: Option<bool>,
}

/// One key of an [`Inventory`], as the exposition needs it. Label blocks are escaped for the text
/// formats and carry no braces.
#[derive(Debug, Clone, Copy)]
pub struct KeyView<'a> {
    /// `org_id="…",project_id="…",api_key_id="…"`.
    pub identity: &'a str,
    /// `name="…",status="…",cloud="…",geography="…",endpoint="…"`.
    pub description: &'a str,
    /// `createdAt`.
    pub created: Option<Timestamp>,
    /// `lastUsedAt`; none for a key that was never used.
    pub last_used: Option<Timestamp>,
    /// `lastUsedAt`, or `createdAt` for a key that was never used.
    pub idle_since: Option<Timestamp>,
    /// Whether `lastUsedAt` is set; none when it could not be read.
    pub used: Option<bool>,
}

impl<'a> KeyView<'a> {
    /// The value of a label of either block, as it is escaped there; empty when there is none.
    pub fn escaped(&self, label: &str) -> &'a str {
        labels::split(self.identity)
            .chain(labels::split(self.description))
            .find(|(name, _)| *name == label)
            .map_or("", |(_, value)| value)
    }

    /// The key as it went in, but for what is missing: that is the same as what is empty.
    pub fn record(&self) -> KeyRecord {
        let mut record = KeyRecord {
            created: self.created.map_or(Moment::Missing, Moment::At),
            last_used: match (self.last_used, self.used) {
                (Some(at), _) => Moment::At(at),
                (None, Some(_)) => Moment::Missing,
                (None, None) => Moment::Unreadable,
            },
            ..KeyRecord::default()
        };
        for (label, value) in labels::split(self.identity).chain(labels::split(self.description)) {
            let value = unescape(value).into_owned();
            match label {
                "project_id" => record.project = ProjectId::new(value),
                "api_key_id" => record.id = KeyId::new(value),
                "name" => record.name = value,
                "status" => record.status = value,
                "cloud" => record.cloud = value,
                "geography" => record.geography = value,
                "endpoint" => record.endpoint = value,
                _ => {}
            }
        }
        record
    }
}

/// How many keys of a project have a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusCount {
    /// The project.
    pub project: ProjectId,
    /// The status as Atlas writes it.
    pub status: String,
    /// Number of keys; 0 for a status that was seen before and is not now.
    pub keys: u64,
}

/// The idle times of one project's keys, in order.
#[derive(Debug)]
pub struct ProjectIdle {
    /// The project.
    pub project: ProjectId,
    since: Vec<Timestamp>,
}

impl ProjectIdle {
    /// How many keys have been idle since `limit` or longer.
    pub fn idle_since(&self, limit: Timestamp) -> u64 {
        self.since.partition_point(|since| *since <= limit) as u64
    }
}

/// The keys of one organization after one complete walk. Made by the poll room, held by the
/// [`Shelf`] behind an `Arc` until the next complete walk, read by every scrape in between.
#[derive(Debug)]
pub struct Inventory {
    org: OrgId,
    begun_at: Timestamp,
    read_at: Timestamp,
    text: String,
    keys: Vec<Key>,
    counts: Vec<StatusCount>,
    idle: Vec<ProjectIdle>,
    dropped: u64,
}

impl Inventory {
    /// Makes the inventory of `org` from the keys that a complete walk has seen, which began and
    /// ended at these times.
    ///
    /// `dropped` counts keys that the walk had to leave out or could not read wholly. `known` is
    /// what the inventory before has counted: a status that was seen for a project is counted as
    /// 0 here instead of vanishing.
    pub fn new(
        org: OrgId,
        (begun_at, read_at): (Timestamp, Timestamp),
        mut records: Vec<KeyRecord>,
        dropped: u64,
        known: &[StatusCount],
    ) -> Self {
        records.sort_unstable_by(|a, b| (&a.project, &a.id).cmp(&(&b.project, &b.id)));
        let mut text = String::with_capacity(records.len() * 256);
        let keys = records
            .iter()
            .map(|record| Key {
                identity: append(&mut text, |text| identity(text, &org, record)),
                description: append(&mut text, |text| description(text, record)),
                created: record.created.at(),
                last_used: record.last_used.at(),
                idle_since: record.idle_since(),
                used: match record.last_used {
                    Moment::At(_) => Some(true),
                    Moment::Missing => Some(false),
                    Moment::Unreadable => None,
                },
            })
            .collect();
        text.shrink_to_fit();
        let counts = count(&records, known);
        let idle = idle_times(&records, &counts);
        Self {
            org,
            begun_at,
            read_at,
            text,
            keys,
            counts,
            idle,
            dropped,
        }
    }

    /// The organization.
    pub fn org(&self) -> &OrgId {
        &self.org
    }

    /// When the walk that saw these keys began.
    pub fn begun_at(&self) -> Timestamp {
        self.begun_at
    }

    /// When the walk that saw these keys ended.
    pub fn read_at(&self) -> Timestamp {
        self.read_at
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether the organization has no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Keys that are missing from the per-key series, wholly or in part, because Atlas' answer
    /// had no id or no readable date for them.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The key at `index`, in the order of project and id.
    pub fn key(&self, index: usize) -> Option<KeyView<'_>> {
        let key = self.keys.get(index)?;
        Some(KeyView {
            identity: self.part(key.identity),
            description: self.part(key.description),
            created: key.created,
            last_used: key.last_used,
            idle_since: key.idle_since,
            used: key.used,
        })
    }

    /// Every key, in the order of project and id.
    pub fn keys(&self) -> impl Iterator<Item = KeyView<'_>> {
        (0..self.len()).filter_map(|index| self.key(index))
    }

    /// Numbers of keys by project and status, in that order.
    pub fn counts(&self) -> &[StatusCount] {
        &self.counts
    }

    /// The idle times of each project, in the order of projects; a project that lost all its keys
    /// stays, with none.
    pub fn idle(&self) -> &[ProjectIdle] {
        &self.idle
    }

    fn part(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or_default()
    }
}

fn append(text: &mut String, write: impl FnOnce(&mut String)) -> Span {
    let start = text.len();
    write(text);
    Span {
        start,
        end: text.len(),
    }
}

fn identity(text: &mut String, org: &OrgId, record: &KeyRecord) {
    label(text, "org_id", org.as_str());
    text.push(',');
    label(text, "project_id", record.project.as_str());
    text.push(',');
    label(text, "api_key_id", record.id.as_str());
}

fn description(text: &mut String, record: &KeyRecord) {
    let members = [
        ("name", &record.name),
        ("status", &record.status),
        ("cloud", &record.cloud),
        ("geography", &record.geography),
        ("endpoint", &record.endpoint),
    ];
    for (index, (name, value)) in members.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        label(text, name, value);
    }
}

fn count(records: &[KeyRecord], known: &[StatusCount]) -> Vec<StatusCount> {
    let mut counts: BTreeMap<(&ProjectId, &str), u64> = BTreeMap::new();
    for known in known {
        counts.insert((&known.project, &known.status), 0);
    }
    for record in records {
        *counts.entry((&record.project, &record.status)).or_default() += 1;
    }
    counts
        .into_iter()
        .map(|((project, status), keys)| StatusCount {
            project: project.clone(),
            status: status.to_owned(),
            keys,
        })
        .collect()
}

fn idle_times(records: &[KeyRecord], counts: &[StatusCount]) -> Vec<ProjectIdle> {
    let mut idle: BTreeMap<&ProjectId, Vec<Timestamp>> = BTreeMap::new();
    for known in counts {
        idle.entry(&known.project).or_default();
    }
    for record in records {
        if let Some(since) = record.idle_since() {
            idle.entry(&record.project).or_default().push(since);
        }
    }
    idle.into_iter()
        .map(|(project, mut since)| {
            since.sort_unstable();
            ProjectIdle {
                project: project.clone(),
                since,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn org() -> OrgId {
        OrgId::parse("32b6e34b3d91647abb20e7b8").expect("an id")
    }

    fn record(id: &str, project: &str, status: &str, last_used: Moment) -> KeyRecord {
        KeyRecord {
            id: KeyId::new(id),
            project: ProjectId::new(project),
            name: "a \"quoted\" \\ name\nof two lines".into(),
            status: status.into(),
            cloud: "ANY".into(),
            geography: String::new(),
            endpoint: String::new(),
            created: Moment::At(Timestamp::UNIX_EPOCH),
            last_used,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn labels_are_escaped_once() {
        let inventory = Inventory::new(
            org(),
            (at(0), at(0)),
            vec![record("k", "p", "ACTIVE", Moment::Missing)],
            0,
            &[],
        );
        let key = inventory.key(0).expect("a key");
        assert_eq!(
            key.identity,
            "org_id=\"32b6e34b3d91647abb20e7b8\",project_id=\"p\",api_key_id=\"k\""
        );
        assert!(key.description.starts_with(
            r#"name="a \"quoted\" \\ name\nof two lines",status="ACTIVE",cloud="ANY""#
        ));
        assert_eq!(key.used, Some(false));
        assert_eq!(
            key.idle_since,
            Some(Timestamp::UNIX_EPOCH),
            "a key never used is idle since its creation"
        );
    }

    #[test]
    fn a_status_once_seen_goes_to_zero() {
        let first = Inventory::new(
            org(),
            (at(0), at(0)),
            vec![record("k", "p", "INACTIVE", Moment::Missing)],
            0,
            &[],
        );
        let second = Inventory::new(
            org(),
            (at(1), at(1)),
            vec![record("k", "p", "ACTIVE", Moment::Missing)],
            0,
            first.counts(),
        );
        let third = Inventory::new(org(), (at(2), at(2)), vec![], 0, second.counts());
        let counts = |i: &Inventory| {
            i.counts()
                .iter()
                .map(|c| (c.status.clone(), c.keys))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            counts(&second),
            [("ACTIVE".to_owned(), 1), ("INACTIVE".to_owned(), 0)]
        );
        assert_eq!(
            counts(&third),
            [("ACTIVE".to_owned(), 0), ("INACTIVE".to_owned(), 0)]
        );
        assert_eq!(
            third.idle().len(),
            1,
            "the roll-up of a project without keys is 0, not gone"
        );
    }

    #[test]
    fn an_unreadable_date_is_neither_used_nor_unused() {
        let inventory = Inventory::new(
            org(),
            (at(0), at(0)),
            vec![record("k", "p", "ACTIVE", Moment::Unreadable)],
            1,
            &[],
        );
        let key = inventory.key(0).expect("a key");
        assert_eq!(
            (key.used, key.idle_since, key.last_used),
            (None, None, None)
        );
        assert_eq!(inventory.idle()[0].idle_since(at(1_000_000)), 0);
    }

    #[test]
    fn idle_counts_include_the_border() {
        let records =
            [10, 20, 30].map(|s| record(&format!("k{s}"), "p", "ACTIVE", Moment::At(at(s))));
        let inventory = Inventory::new(org(), (at(0), at(0)), records.to_vec(), 0, &[]);
        let project = &inventory.idle()[0];
        assert_eq!(
            [9, 10, 25, 30].map(|s| project.idle_since(at(s))),
            [0, 1, 2, 3]
        );
    }

    #[test]
    fn a_key_comes_out_as_it_went_in() {
        let mut odd = record("k\"\n", "p\\", "", Moment::Unreadable);
        odd.created = Moment::Missing;
        let records = vec![odd, record("k", "p", "ACTIVE", Moment::At(at(7)))];
        let inventory = Inventory::new(org(), (at(0), at(0)), records.clone(), 0, &[]);
        let mut out: Vec<_> = inventory.keys().map(|key| key.record()).collect();
        out.sort_by(|a, b| b.id.cmp(&a.id));
        assert_eq!(out, records);
    }
}
