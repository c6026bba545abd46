//! The form of an organization's file: a line that says what it is, a line for each key, and a
//! line with a checksum of all that is before it.

use std::borrow::Cow;
use std::io::{self, BufRead, Read as _, Write};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::atomic_file::Unfit;
use crate::inventory::{Draft, Inventory, KeyKind, KeyRecord, Moment, StatusCount};
use crate::poll::Counts;
use mongodb_atlas_client::{KeyId, OrgId, ProjectId};

const FORMAT: &str = "atlas-ai-keys-exporter inventory";
const VERSION: u32 = 1;

/// Most bytes of a file: no walk reads more.
pub(super) const MAX_BYTES: u64 = 2 << 30;
/// Most bytes of a line. The longest is that of the header, with a status or two for each project.
const MAX_LINE_BYTES: u64 = 16 << 20;
/// Most keys: no walk reads more.
const MAX_KEYS: usize = 2_000_000;
/// The highest count that is believed; more can be added to it without an overflow.
const MAX_COUNT: u64 = u64::MAX / 2;

/// What is kept of an organization.
#[derive(Debug)]
pub struct SavedOrg<'a> {
    /// The last complete walk.
    pub inventory: &'a Inventory,
    /// Requests that it took.
    pub requests: u32,
    /// How often each change has happened.
    pub counts: &'a Counts,
}

/// What was kept of an organization.
#[derive(Debug)]
pub struct Stored {
    /// The last complete walk.
    pub inventory: Inventory,
    /// Requests that it took.
    pub requests: u32,
    /// How often each change has happened.
    pub counts: Counts,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head<'a> {
    org: Cow<'a, str>,
    begun_at: Timestamp,
    read_at: Timestamp,
    keys: usize,
    dropped: u64,
    requests: u32,
    /// A status once seen for a project is shown as 0, not left out.
    statuses: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    changes: Cow<'a, Counts>,
}

/// What every version of the head has, and nothing that only some have.
#[derive(Serialize, Deserialize)]
struct Mark<'a> {
    format: Cow<'a, str>,
    version: u32,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Line {
    id: String,
    project: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    name_truncated: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    cloud: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    geography: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    endpoint: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    created_by: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    masked_secret: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used: Option<Timestamp>,
    /// Atlas gave a `lastUsedAt` that is no time.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    last_used_unreadable: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Foot {
    crc32: u32,
}

struct Checked<'a> {
    output: &'a mut dyn Write,
    sum: crc32fast::Hasher,
}

impl Checked<'_> {
    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(value)?;
        text.push(b'\n');
        self.sum.update(&text);
        self.output.write_all(&text)
    }
}

/// Writes all of it.
pub(super) fn write(output: &mut dyn Write, saved: &SavedOrg<'_>) -> io::Result<()> {
    let inventory = saved.inventory;
    let mut checked = Checked {
        output,
        sum: crc32fast::Hasher::new(),
    };
    checked.line(&Mark {
        format: FORMAT.into(),
        version: VERSION,
    })?;
    checked.line(&Head {
        org: inventory.org().as_str().into(),
        begun_at: inventory.begun_at(),
        read_at: inventory.read_at(),
        keys: inventory.len(),
        dropped: inventory.dropped(),
        requests: saved.requests,
        statuses: inventory
            .counts()
            .iter()
            .map(|count| (count.project.as_str().into(), count.status.as_str().into()))
            .collect(),
        changes: Cow::Borrowed(saved.counts),
    })?;
    for key in inventory.keys() {
        checked.line(&line(key.record()))?;
    }
    let crc32 = checked.sum.clone().finalize();
    checked.line(&Foot { crc32 })
}

fn line(record: KeyRecord) -> Line {
    let time = |moment| match moment {
        Moment::At(at) => Some(at),
        Moment::Missing | Moment::Unreadable => None,
    };
    Line {
        id: record.id.as_str().to_owned(),
        project: record.project.as_str().to_owned(),
        name: record.name,
        name_truncated: record.name_truncated,
        status: record.kind.status,
        cloud: record.kind.cloud,
        geography: record.kind.geography,
        endpoint: record.kind.endpoint,
        created_by: record.kind.created_by,
        masked_secret: record.masked_secret,
        created: time(record.created),
        last_used: time(record.last_used),
        last_used_unreadable: record.last_used == Moment::Unreadable,
    }
}

fn record(line: Line) -> KeyRecord {
    KeyRecord {
        id: KeyId::new(line.id),
        project: ProjectId::new(line.project),
        name: line.name,
        name_truncated: line.name_truncated,
        masked_secret: line.masked_secret,
        kind: KeyKind {
            status: line.status,
            cloud: line.cloud,
            geography: line.geography,
            endpoint: line.endpoint,
            created_by: line.created_by,
        },
        created: line.created.map_or(Moment::Missing, Moment::At),
        last_used: match line.last_used {
            Some(at) => Moment::At(at),
            None if line.last_used_unreadable => Moment::Unreadable,
            None => Moment::Missing,
        },
    }
}

struct Lines<R> {
    input: R,
    sum: crc32fast::Hasher,
    text: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// The next line, and the checksum of all lines before it.
    fn next(&mut self) -> Result<(&[u8], u32), Unfit> {
        let before = self.sum.clone().finalize();
        self.text.clear();
        let line = self.input.by_ref().take(MAX_LINE_BYTES);
        { line }.read_until(b'\n', &mut self.text)?;
        if self.text.last() != Some(&b'\n') {
            return Err(Unfit::invalid("truncated"));
        }
        self.sum.update(&self.text);
        Ok((&self.text, before))
    }

    fn parse<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T, Unfit> {
        let (text, _) = self.next()?;
        serde_json::from_slice(text).map_err(|_| Unfit::invalid("damaged"))
    }
}

/// Reads what [`write()`] has written for `org`.
pub(super) fn read(input: impl BufRead, org: &OrgId) -> Result<Stored, Unfit> {
    let mut lines = Lines {
        input,
        sum: crc32fast::Hasher::new(),
        text: Vec::new(),
    };
    let mark: Mark<'static> = lines.parse()?;
    if mark.format != FORMAT {
        return Err(Unfit::invalid("not an inventory file"));
    }
    if mark.version != VERSION {
        return Err(Unfit::Invalid(format!(
            "expected version {VERSION}, got version {}",
            mark.version
        )));
    }
    let head: Head<'static> = lines.parse()?;
    if head.org != org.as_str() {
        return Err(Unfit::invalid("inventory of another organization"));
    }
    if head.keys > MAX_KEYS {
        return Err(Unfit::invalid("too many keys"));
    }
    let mut keys = Draft::default();
    for _ in 0..head.keys {
        keys.put(&record(lines.parse()?));
    }
    let (text, sum) = lines.next()?;
    let foot: Foot = serde_json::from_slice(text).map_err(|_| Unfit::invalid("damaged"))?;
    if foot.crc32 != sum {
        return Err(Unfit::invalid("checksum mismatch"));
    }
    let known: Vec<StatusCount> = head
        .statuses
        .into_iter()
        .map(|(project, status)| StatusCount {
            project: ProjectId::new(project.into_owned()),
            status: status.into_owned(),
            keys: 0,
        })
        .collect();
    let times = (head.begun_at, head.read_at);
    Ok(Stored {
        inventory: keys.finish(org.clone(), times, head.dropped.min(MAX_COUNT), &known),
        requests: head.requests,
        counts: head
            .changes
            .into_owned()
            .into_iter()
            .map(|(change, count)| (change, count.min(MAX_COUNT)))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn org() -> OrgId {
        OrgId::parse("32b6e34b3d91647abb20e7b8").expect("an id")
    }

    fn sample() -> (Inventory, Counts) {
        let record = |id: &str, last_used| KeyRecord {
            id: KeyId::new(id),
            project: ProjectId::new("p"),
            name: "a \"name\"\nof two lines \\".into(),
            name_truncated: id == "a",
            kind: KeyKind {
                status: "ACTIVE".into(),
                created_by: "Ada".into(),
                ..KeyKind::default()
            },
            masked_secret: "al-****odu2".into(),
            created: Moment::At(at(5)),
            last_used,
        };
        let records = vec![
            record("a", Moment::At(at(7))),
            record("b", Moment::Missing),
            record("c", Moment::Unreadable),
        ];
        let known = [StatusCount {
            project: ProjectId::new("gone"),
            status: "INACTIVE".into(),
            keys: 0,
        }];
        let counts = Counts::from([("created".to_owned(), 3)]);
        (
            Inventory::new(org(), (at(8), at(9)), records, 1, &known),
            counts,
        )
    }

    fn written() -> Vec<u8> {
        let (inventory, counts) = sample();
        let mut out = Vec::new();
        let saved = SavedOrg {
            inventory: &inventory,
            requests: 4,
            counts: &counts,
        };
        write(&mut out, &saved).expect("a vector takes all");
        out
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (inventory, counts) = sample();
        let stored = read(&*written(), &org()).expect("whole");
        let records =
            |inventory: &Inventory| inventory.keys().map(|key| key.record()).collect::<Vec<_>>();
        assert_eq!(records(&stored.inventory), records(&inventory));
        assert_eq!(stored.inventory.counts(), inventory.counts());
        assert_eq!(
            (
                stored.inventory.read_at(),
                stored.inventory.begun_at(),
                stored.inventory.dropped()
            ),
            (at(9), at(8), 1)
        );
        assert_eq!((stored.counts, stored.requests), (counts, 4));
    }

    #[test]
    fn whatever_is_cut_off_or_damaged_is_refused() {
        let whole = written();
        for length in 0..whole.len() {
            assert!(read(&whole[..length], &org()).is_err(), "cut at {length}");
        }
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 1;
            assert!(read(&*damaged, &org()).is_err(), "damaged at {place}");
        }
    }

    #[test]
    fn what_is_foreign_or_newer_is_refused_with_a_reason() {
        let text = String::from_utf8(written()).expect("text");
        let refused =
            |text: &str, org: &OrgId| read(text.as_bytes(), org).expect_err("unfit").to_string();
        let newer = text.replacen("\"version\":1", "\"version\":2", 1);
        assert!(refused(&newer, &org()).contains("version 2"));
        let foreign = text.replacen("inventory\"", "cookbook\"", 1);
        assert!(refused(&foreign, &org()).contains("not an inventory file"));
        let other = OrgId::parse("000000000000000000000000").expect("an id");
        assert!(refused(&text, &other).contains("another organization"));
        assert!(read(&b"\n\n"[..], &org()).is_err());
    }
}
