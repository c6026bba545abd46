//! The form of an organization's file: a line that says what it is, a line for each key, and a
//! line with a checksum of all that is before it.

use std::borrow::Cow;
use std::io::{self, BufRead, Read as _, Write};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::atomic_file::LoadError;
use crate::inventory::{
    Inventory, InventoryBuilder, KeyAttributes, KeyRecord, Moment, StatusCount,
};
use crate::poll::ChangeCounts;
use mongodb_atlas_client::{KeyId, OrgId, ProjectId};

const FORMAT: &str = "atlas-ai-keys-exporter inventory";
const VERSION: u32 = 1;

/// Most bytes of a file: no walk reads more.
pub(super) const MAX_FILE_BYTES: u64 = 2 << 30;
/// Most bytes of a line. The longest is that of the header, with a status or two for each project.
const MAX_LINE_BYTES: u64 = 16 << 20;
/// Most keys: no walk reads more.
const MAX_KEYS: usize = 2_000_000;
/// The highest count that is believed; more can be added to it without an overflow.
const MAX_COUNT: u64 = u64::MAX / 2;

/// What is kept of an organization.
#[derive(Debug)]
pub struct InventoryRef<'a> {
    /// The last complete walk.
    pub inventory: &'a Inventory,
    /// Requests that it took.
    pub requests: u32,
    /// How often each change has happened.
    pub change_counts: &'a ChangeCounts,
}

/// What was kept of an organization.
#[derive(Debug)]
pub struct StoredInventory {
    /// The last complete walk.
    pub inventory: Inventory,
    /// Requests that it took.
    pub requests: u32,
    /// How often each change has happened.
    pub change_counts: ChangeCounts,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InventoryHeader<'a> {
    org: Cow<'a, str>,
    begun_at: Timestamp,
    read_at: Timestamp,
    keys: usize,
    dropped: u64,
    requests: u32,
    /// A status once seen for a project is shown as 0, not left out.
    statuses: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    changes: Cow<'a, ChangeCounts>,
}

/// What every version of the head has, and nothing that only some have.
#[derive(Serialize, Deserialize)]
struct FormatHeader<'a> {
    format: Cow<'a, str>,
    version: u32,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct KeyLine {
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
struct Trailer {
    crc32: u32,
}

struct ChecksumWriter<'a> {
    output: &'a mut dyn Write,
    crc: crc32fast::Hasher,
}

impl ChecksumWriter<'_> {
    fn write_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(value)?;
        text.push(b'\n');
        self.crc.update(&text);
        self.output.write_all(&text)
    }
}

/// Writes all of it.
pub(super) fn write_inventory(output: &mut dyn Write, saved: &InventoryRef<'_>) -> io::Result<()> {
    let inventory = saved.inventory;
    let mut checked = ChecksumWriter {
        output,
        crc: crc32fast::Hasher::new(),
    };
    checked.write_line(&FormatHeader {
        format: FORMAT.into(),
        version: VERSION,
    })?;
    checked.write_line(&InventoryHeader {
        org: inventory.org().as_str().into(),
        begun_at: inventory.started_at(),
        read_at: inventory.completed_at(),
        keys: inventory.len(),
        dropped: inventory.invalid_keys(),
        requests: saved.requests,
        statuses: inventory
            .status_counts()
            .iter()
            .map(|count| (count.project.as_str().into(), count.status.as_str().into()))
            .collect(),
        changes: Cow::Borrowed(saved.change_counts),
    })?;
    for key in inventory.keys() {
        checked.write_line(&to_key_line(key.to_record()))?;
    }
    let crc32 = checked.crc.clone().finalize();
    checked.write_line(&Trailer { crc32 })
}

fn to_key_line(record: KeyRecord) -> KeyLine {
    let time = |moment| match moment {
        Moment::Valid(at) => Some(at),
        Moment::Missing | Moment::Invalid => None,
    };
    KeyLine {
        id: record.id.as_str().to_owned(),
        project: record.project.as_str().to_owned(),
        name: record.name,
        name_truncated: record.name_truncated,
        status: record.attributes.status,
        cloud: record.attributes.cloud,
        geography: record.attributes.geography,
        endpoint: record.attributes.endpoint,
        created_by: record.attributes.created_by,
        masked_secret: record.masked_secret,
        created: time(record.created),
        last_used: time(record.last_used),
        last_used_unreadable: record.last_used == Moment::Invalid,
    }
}

fn from_key_line(line: KeyLine) -> KeyRecord {
    KeyRecord {
        id: KeyId::new(line.id),
        project: ProjectId::new(line.project),
        name: line.name,
        name_truncated: line.name_truncated,
        masked_secret: line.masked_secret,
        attributes: KeyAttributes {
            status: line.status,
            cloud: line.cloud,
            geography: line.geography,
            endpoint: line.endpoint,
            created_by: line.created_by,
        },
        created: line.created.map_or(Moment::Missing, Moment::Valid),
        last_used: match line.last_used {
            Some(at) => Moment::Valid(at),
            None if line.last_used_unreadable => Moment::Invalid,
            None => Moment::Missing,
        },
    }
}

struct ChecksumReader<R> {
    input: R,
    crc: crc32fast::Hasher,
    line: Vec<u8>,
}

impl<R: BufRead> ChecksumReader<R> {
    /// The next line, and the checksum of all lines before it.
    fn read_line(&mut self) -> Result<(&[u8], u32), LoadError> {
        let before = self.crc.clone().finalize();
        self.line.clear();
        let line = self.input.by_ref().take(MAX_LINE_BYTES);
        { line }.read_until(b'\n', &mut self.line)?;
        if self.line.last() != Some(&b'\n') {
            return Err(LoadError::invalid("truncated"));
        }
        self.crc.update(&self.line);
        Ok((&self.line, before))
    }

    fn parse_line<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T, LoadError> {
        let (text, _) = self.read_line()?;
        serde_json::from_slice(text).map_err(|_| LoadError::invalid("damaged"))
    }
}

/// Reads what [`write_inventory()`] has written for `org`.
pub(super) fn read_inventory(
    input: impl BufRead,
    org: &OrgId,
) -> Result<StoredInventory, LoadError> {
    let mut lines = ChecksumReader {
        input,
        crc: crc32fast::Hasher::new(),
        line: Vec::new(),
    };
    let mark: FormatHeader<'static> = lines.parse_line()?;
    if mark.format != FORMAT {
        return Err(LoadError::invalid("not an inventory file"));
    }
    if mark.version != VERSION {
        return Err(LoadError::Invalid(format!(
            "expected version {VERSION}, got version {}",
            mark.version
        )));
    }
    let head: InventoryHeader<'static> = lines.parse_line()?;
    if head.org != org.as_str() {
        return Err(LoadError::invalid("inventory of another organization"));
    }
    if head.keys > MAX_KEYS {
        return Err(LoadError::invalid("too many keys"));
    }
    let mut keys = InventoryBuilder::default();
    for _ in 0..head.keys {
        keys.insert(&from_key_line(lines.parse_line()?));
    }
    let (text, sum) = lines.read_line()?;
    let foot: Trailer = serde_json::from_slice(text).map_err(|_| LoadError::invalid("damaged"))?;
    if foot.crc32 != sum {
        return Err(LoadError::invalid("checksum mismatch"));
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
    Ok(StoredInventory {
        inventory: keys.build(org.clone(), times, head.dropped.min(MAX_COUNT), &known),
        requests: head.requests,
        change_counts: head
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

    fn sample() -> (Inventory, ChangeCounts) {
        let record = |id: &str, last_used| KeyRecord {
            id: KeyId::new(id),
            project: ProjectId::new("p"),
            name: "a \"name\"\nof two lines \\".into(),
            name_truncated: id == "a",
            attributes: KeyAttributes {
                status: "ACTIVE".into(),
                created_by: "Ada".into(),
                ..KeyAttributes::default()
            },
            masked_secret: "al-****odu2".into(),
            created: Moment::Valid(at(5)),
            last_used,
        };
        let records = vec![
            record("a", Moment::Valid(at(7))),
            record("b", Moment::Missing),
            record("c", Moment::Invalid),
        ];
        let known = [StatusCount {
            project: ProjectId::new("gone"),
            status: "INACTIVE".into(),
            keys: 0,
        }];
        let counts = ChangeCounts::from([("created".to_owned(), 3)]);
        (
            Inventory::new(org(), (at(8), at(9)), records, 1, &known),
            counts,
        )
    }

    fn written() -> Vec<u8> {
        let (inventory, counts) = sample();
        let mut out = Vec::new();
        let saved = InventoryRef {
            inventory: &inventory,
            requests: 4,
            change_counts: &counts,
        };
        write_inventory(&mut out, &saved).expect("a vector takes all");
        out
    }

    #[test]
    fn written_inventory_is_read_back() {
        let (inventory, counts) = sample();
        let stored = read_inventory(&*written(), &org()).expect("whole");
        let records = |inventory: &Inventory| {
            inventory
                .keys()
                .map(|key| key.to_record())
                .collect::<Vec<_>>()
        };
        assert_eq!(records(&stored.inventory), records(&inventory));
        assert_eq!(stored.inventory.status_counts(), inventory.status_counts());
        assert_eq!(
            (
                stored.inventory.completed_at(),
                stored.inventory.started_at(),
                stored.inventory.invalid_keys()
            ),
            (at(9), at(8), 1)
        );
        assert_eq!((stored.change_counts, stored.requests), (counts, 4));
    }

    #[test]
    fn truncated_or_damaged_file_is_rejected() {
        let whole = written();
        for length in 0..whole.len() {
            assert!(
                read_inventory(&whole[..length], &org()).is_err(),
                "cut at {length}"
            );
        }
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 1;
            assert!(
                read_inventory(&*damaged, &org()).is_err(),
                "damaged at {place}"
            );
        }
    }

    #[test]
    fn foreign_or_newer_file_is_rejected_with_a_reason() {
        let text = String::from_utf8(written()).expect("text");
        let refused = |text: &str, org: &OrgId| {
            read_inventory(text.as_bytes(), org)
                .expect_err("unfit")
                .to_string()
        };
        let newer = text.replacen("\"version\":1", "\"version\":2", 1);
        assert!(refused(&newer, &org()).contains("version 2"));
        let foreign = text.replacen("inventory\"", "cookbook\"", 1);
        assert!(refused(&foreign, &org()).contains("not an inventory file"));
        let other = OrgId::parse("000000000000000000000000").expect("an id");
        assert!(refused(&text, &other).contains("another organization"));
        assert!(read_inventory(&b"\n\n"[..], &org()).is_err());
    }
}
