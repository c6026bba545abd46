//! The format of an inventory file: a line that identifies the format, a header line, one line for each key, and a line with
//! the checksum of all lines before it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, BufRead, Read as _, Write};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::atomic_file::LoadError;
use crate::inventory::{
    ApiKey, ApiTime, Inventory, InventoryBuilder, InventoryInfo, KeyAttributes, StatusCount,
};
use mongodb_atlas_client::{KeyId, OrgId, ProjectId};

const FORMAT: &str = "atlas-ai-keys-exporter inventory";
const VERSION: u32 = 1;

/// Maximum size of a file, equal to the maximum size of a walk.
pub(super) const MAX_FILE_BYTES: u64 = 2 << 30;
/// Maximum size of a line. The longest line is the header, with one or two statuses for each project.
const MAX_LINE_BYTES: u64 = 16 << 20;
/// Maximum number of keys, equal to the maximum of a walk.
const MAX_KEYS: usize = 2_000_000;
/// Maximum value of a counter, so that additions do not overflow.
const MAX_COUNT: u64 = u64::MAX / 2;

/// Number of key changes, by the value of the `change` label.
pub type ChangeCounts = BTreeMap<String, u64>;

/// The state of an organization that is stored with its inventory.
#[derive(Debug)]
pub struct StoredInventory {
    /// The inventory of the last successful poll.
    pub inventory: Arc<Inventory>,
    /// Number of requests of that poll.
    pub requests: u32,
    /// Number of key changes.
    pub change_counts: ChangeCounts,
}

/// The fields of every version.
#[derive(Serialize, Deserialize)]
struct FormatHeader<'a> {
    format: Cow<'a, str>,
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InventoryHeader<'a> {
    org: Cow<'a, str>,
    #[serde(rename = "begun_at")]
    started_at: Timestamp,
    #[serde(rename = "read_at")]
    completed_at: Timestamp,
    keys: usize,
    #[serde(rename = "dropped")]
    invalid_keys: u64,
    requests: u32,
    /// Project and status of every count: a status without keys is exported as 0.
    statuses: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    #[serde(rename = "changes")]
    change_counts: Cow<'a, ChangeCounts>,
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
    /// Whether `lastUsedAt` is an invalid time.
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

/// Writes an inventory file.
pub(super) fn write_inventory(output: &mut dyn Write, stored: &StoredInventory) -> io::Result<()> {
    let inventory = &stored.inventory;
    let mut lines = ChecksumWriter {
        output,
        crc: crc32fast::Hasher::new(),
    };
    lines.write_line(&FormatHeader {
        format: FORMAT.into(),
        version: VERSION,
    })?;
    lines.write_line(&InventoryHeader {
        org: inventory.org().as_str().into(),
        started_at: inventory.started_at(),
        completed_at: inventory.completed_at(),
        keys: inventory.len(),
        invalid_keys: inventory.invalid_keys(),
        requests: stored.requests,
        statuses: inventory
            .status_counts()
            .iter()
            .map(|count| (count.project.as_str().into(), count.status.as_str().into()))
            .collect(),
        change_counts: Cow::Borrowed(&stored.change_counts),
    })?;
    for key in inventory.keys() {
        lines.write_line(&to_key_line(key.to_api_key()))?;
    }
    let crc32 = lines.crc.clone().finalize();
    lines.write_line(&Trailer { crc32 })
}

fn to_key_line(record: ApiKey) -> KeyLine {
    let time = |moment| match moment {
        ApiTime::Valid(at) => Some(at),
        ApiTime::Missing | ApiTime::Invalid => None,
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
        last_used_unreadable: record.last_used == ApiTime::Invalid,
    }
}

fn from_key_line(line: KeyLine) -> ApiKey {
    ApiKey {
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
        created: line.created.map_or(ApiTime::Missing, ApiTime::Valid),
        last_used: match line.last_used {
            Some(at) => ApiTime::Valid(at),
            None if line.last_used_unreadable => ApiTime::Invalid,
            None => ApiTime::Missing,
        },
    }
}

struct ChecksumReader<R> {
    input: R,
    crc: crc32fast::Hasher,
    line: Vec<u8>,
}

impl<R: BufRead> ChecksumReader<R> {
    /// Returns the checksum of the lines so far.
    fn checksum(&self) -> u32 {
        self.crc.clone().finalize()
    }

    fn parse_line<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T, LoadError> {
        self.line.clear();
        let mut input = self.input.by_ref().take(MAX_LINE_BYTES);
        input.read_until(b'\n', &mut self.line)?;
        if self.line.last() != Some(&b'\n') {
            return Err(LoadError::invalid("truncated"));
        }
        self.crc.update(&self.line);
        serde_json::from_slice(&self.line).map_err(|_| LoadError::invalid("invalid line"))
    }
}

/// Reads the inventory file of `org`.
pub(super) fn read_inventory(
    input: impl BufRead,
    org: &OrgId,
) -> Result<StoredInventory, LoadError> {
    let mut lines = ChecksumReader {
        input,
        crc: crc32fast::Hasher::new(),
        line: Vec::new(),
    };
    let header = parse_headers(&mut lines, org)?;
    let mut keys = InventoryBuilder::default();
    for _ in 0..header.keys {
        keys.insert(&from_key_line(lines.parse_line()?));
    }
    let checksum = lines.checksum();
    let trailer: Trailer = lines.parse_line()?;
    if trailer.crc32 != checksum {
        return Err(LoadError::invalid("checksum mismatch"));
    }
    let info = InventoryInfo {
        org: org.clone(),
        started_at: header.started_at,
        completed_at: header.completed_at,
        invalid_keys: header.invalid_keys.min(MAX_COUNT),
    };
    let statuses = header.statuses.into_iter();
    let previous_counts: Vec<StatusCount> = statuses
        .map(|(project, status)| StatusCount {
            project: ProjectId::new(project.into_owned()),
            status: status.into_owned(),
            keys: 0,
        })
        .collect();
    let mut change_counts = header.change_counts.into_owned();
    for count in change_counts.values_mut() {
        *count = MAX_COUNT.min(*count);
    }
    Ok(StoredInventory {
        inventory: Arc::new(keys.build(info, &previous_counts)),
        requests: header.requests,
        change_counts,
    })
}

fn parse_headers(
    lines: &mut ChecksumReader<impl BufRead>,
    org: &OrgId,
) -> Result<InventoryHeader<'static>, LoadError> {
    let format: FormatHeader<'static> = lines.parse_line()?;
    if format.format != FORMAT {
        return Err(LoadError::invalid("not an inventory file"));
    }
    if format.version != VERSION {
        let version = format.version;
        let reason = format!("expected version {VERSION}, got version {version}");
        return Err(LoadError::Invalid(reason));
    }
    let header: InventoryHeader<'static> = lines.parse_line()?;
    if header.org != org.as_str() {
        return Err(LoadError::invalid("inventory of another organization"));
    }
    if header.keys > MAX_KEYS {
        return Err(LoadError::invalid("too many keys"));
    }
    Ok(header)
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

    fn sample() -> StoredInventory {
        let mut keys = InventoryBuilder::default();
        for (id, last_used) in [
            ("a", ApiTime::Valid(at(7))),
            ("b", ApiTime::Missing),
            ("c", ApiTime::Invalid),
        ] {
            keys.insert(&ApiKey {
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
                created: ApiTime::Valid(at(5)),
                last_used,
            });
        }
        let info = InventoryInfo {
            org: org(),
            started_at: at(8),
            completed_at: at(9),
            invalid_keys: 1,
        };
        let previous_counts = [StatusCount {
            project: ProjectId::new("removed"),
            status: "INACTIVE".into(),
            keys: 0,
        }];
        StoredInventory {
            inventory: Arc::new(keys.build(info, &previous_counts)),
            requests: 4,
            change_counts: ChangeCounts::from([("created".to_owned(), 3)]),
        }
    }

    fn written() -> Vec<u8> {
        let mut output = Vec::new();
        write_inventory(&mut output, &sample()).expect("written to memory");
        output
    }

    #[test]
    fn written_inventory_is_restored() {
        let expected = sample();
        let stored = read_inventory(&*written(), &org()).expect("valid");
        let records = |stored: &StoredInventory| {
            let keys = stored.inventory.keys();
            keys.map(|key| key.to_api_key()).collect::<Vec<_>>()
        };
        assert_eq!(records(&stored), records(&expected));
        let (inventory, counts) = (&stored.inventory, expected.inventory.status_counts());
        assert_eq!(inventory.status_counts(), counts);
        assert_eq!(
            (inventory.completed_at(), inventory.started_at()),
            (at(9), at(8))
        );
        assert_eq!(inventory.invalid_keys(), 1);
        assert_eq!(stored.change_counts, expected.change_counts);
        assert_eq!(stored.requests, 4);
    }

    #[test]
    fn truncated_or_damaged_file_is_rejected() {
        let whole = written();
        for length in 0..whole.len() {
            let truncated = &whole[..length];
            assert!(read_inventory(truncated, &org()).is_err(), "at {length}");
        }
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 1;
            assert!(read_inventory(&*damaged, &org()).is_err(), "at {place}");
        }
    }

    #[test]
    fn foreign_or_newer_file_is_rejected_with_a_reason() {
        let text = String::from_utf8(written()).expect("text");
        let refused = |text: &str, org: &OrgId| {
            read_inventory(text.as_bytes(), org)
                .expect_err("an invalid file")
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
