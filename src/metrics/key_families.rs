//! The families of the inventory, written directly from the inventory: without a registry, a map, or copies of labels
//! between scrapes.

mod samples;

use super::families::{self, FamilyDef};
use super::snapshot::ScrapeSnapshot;
use super::text::{self, FamilyHeader, Labels, SampleValue};
use crate::inventory::{
    ClassifiedInventory, DetailsWithOwners, Inventory, KeyClass, KeyLabel, KeyView, ProjectKeys,
    write_label,
};
use SampleSource::{Details, ExemptKeys, Info, Inventory as PerInventory, Keys};
use mongodb_atlas_client::OrgId;
use samples::{
    write_class_counts, write_dropped, write_exempt_counts, write_names_truncated, write_org_info,
    write_project_info, write_rate_limits, write_status_counts,
};

/// Receives the labels and the value of one sample.
type Emit<'a> = &'a mut dyn FnMut(Labels<'_>, SampleValue);

/// The source of the samples of a family.
#[derive(Clone, Copy)]
enum SampleSource {
    /// One sample per key, at the time of the snapshot; none if the value is missing.
    Keys(fn(KeyView<'_>, i64) -> Option<SampleValue>),
    /// One sample per key, always 1, with the attributes of the key as labels.
    Info,
    /// One sample per exempt key: the end of its exemption.
    ExemptKeys,
    /// A few samples per inventory.
    Inventory(fn(&ClassifiedInventory, &ScrapeSnapshot, Emit<'_>)),
    /// A few samples per organization, from its names and limits.
    Details(fn(&OrgId, &DetailsWithOwners, Emit<'_>)),
}

/// A family of the inventory.
pub(super) struct FamilyWriter {
    pub(super) family: &'static FamilyDef,
    source: SampleSource,
}

const fn family(family: &'static FamilyDef, source: SampleSource) -> FamilyWriter {
    FamilyWriter { family, source }
}

/// The number of [`FAMILIES`], from the first one, that change only with a poll.
pub(super) const STATIC_FAMILIES: usize = 4;

/// Every family of the inventory, in the order of the exposition.
pub(super) static FAMILIES: &[FamilyWriter] = &[
    family(&families::KEY_INFO, Info),
    family(
        &families::KEY_CREATED,
        Keys(|key, _| key.created().map(SampleValue::Micros)),
    ),
    family(
        &families::KEY_LAST_USED,
        Keys(|key, _| key.last_used().map(SampleValue::Micros)),
    ),
    family(
        &families::KEY_USED,
        Keys(|key, _| key.was_used().map(|used| SampleValue::Int(used.into()))),
    ),
    family(
        &families::KEY_LAST_USED_AGE,
        Keys(|key, now| key.last_used().map(|at| age_value(now, at))),
    ),
    family(
        &families::KEY_IDLE,
        Keys(|key, now| key.idle_since().map(|at| age_value(now, at))),
    ),
    family(&families::KEY_EXEMPT_UNTIL, ExemptKeys),
    family(&families::KEYS, PerInventory(write_status_counts)),
    family(
        &families::KEYS_IDLE,
        PerInventory(|inventory, snapshot, emit| {
            write_class_counts(inventory, snapshot, KeyClass::Used, emit);
        }),
    ),
    family(
        &families::KEYS_NEVER_USED,
        PerInventory(|inventory, snapshot, emit| {
            write_class_counts(inventory, snapshot, KeyClass::NeverUsed, emit);
        }),
    ),
    family(
        &families::KEYS_DISABLED,
        PerInventory(|inventory, snapshot, emit| {
            write_class_counts(inventory, snapshot, KeyClass::Disabled, emit);
        }),
    ),
    family(&families::KEYS_EXEMPT, PerInventory(write_exempt_counts)),
    family(&families::KEYS_DROPPED, PerInventory(write_dropped)),
    family(
        &families::NAMES_TRUNCATED,
        PerInventory(write_names_truncated),
    ),
    family(
        &families::LIMIT_REQUESTS,
        Details(|org, details, emit| {
            write_rate_limits(org, details, |limit| limit.requests_per_minute, emit);
        }),
    ),
    family(
        &families::LIMIT_TOKENS,
        Details(|org, details, emit| {
            write_rate_limits(org, details, |limit| limit.tokens_per_minute, emit);
        }),
    ),
    family(&families::ORG_INFO, Details(write_org_info)),
    family(&families::PROJECT_INFO, Details(write_project_info)),
];

/// Returns the age of `then`; 0 for a timestamp in the future. The precision is milliseconds: more digits are of no use
/// and compress badly.
fn age_value(now: i64, then: i64) -> SampleValue {
    SampleValue::Millis(now.saturating_sub(then).max(0) / 1000)
}

/// The position in one family.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KeyPosition {
    /// Index of the organization.
    pub(super) org: usize,
    /// Index of the next key of that organization.
    pub(super) key: usize,
}

/// Minimum size of a complete chunk. A chunk can be longer by the roll-ups of one organization, or by one family of the
/// exporter's own metrics.
pub(super) const CHUNK_SIZE: usize = 64 << 10;

impl FamilyWriter {
    pub(super) fn header(&self) -> FamilyHeader<'static> {
        FamilyHeader {
            name: self.family.name,
            help: self.family.help,
            metric_type: self.family.metric_type,
        }
    }

    /// Returns the number of organizations that can have samples.
    pub(super) fn org_count(&self, snapshot: &ScrapeSnapshot) -> usize {
        match self.source {
            Details(_) => snapshot.visible.details.len(),
            Keys(_) | Info | ExemptKeys if !snapshot.has_key_series() => 0,
            ExemptKeys if !snapshot.has_exempt_keys() => 0,
            _ => snapshot.visible.inventories.len(),
        }
    }

    /// Appends the samples of the organization at `position`, starting with the key at `position`, until the chunk is
    /// complete or `max_keys` keys were examined. Returns the index of the next key, `None` after the last key.
    pub(super) fn write(
        &self,
        out: &mut Vec<u8>,
        snapshot: &ScrapeSnapshot,
        position: KeyPosition,
        max_keys: usize,
    ) -> Option<usize> {
        let name = self.family.name;
        let mut emit = |labels: Labels<'_>, value| text::write_sample(out, name, "", labels, value);
        if let Details(write) = self.source {
            let (org, details) = snapshot.visible.details.get(position.org)?;
            write(org, details, &mut emit);
            return None;
        }
        let inventory = snapshot.visible.inventories.get(position.org)?;
        match self.source {
            Details(_) => None,
            PerInventory(write) => {
                write(inventory, snapshot, &mut emit);
                None
            }
            ExemptKeys => self.write_exempt_until(out, inventory, snapshot, position.key, max_keys),
            Keys(value) => self.write_keys(
                out,
                inventory,
                position.key,
                max_keys,
                |out, prefix, key| {
                    if let Some(value) = value(key, snapshot.now_micros)
                        && snapshot.includes(&key)
                    {
                        text::write_key_sample(out, prefix, key.id(), &[], value);
                    }
                },
            ),
            Info => {
                let labels = InfoLabels::new(inventory, &snapshot.options.labels);
                let mut rendered = Vec::with_capacity(256);
                self.write_keys(
                    out,
                    inventory,
                    position.key,
                    max_keys,
                    |out, prefix, key| {
                        if snapshot.includes(&key) {
                            rendered.clear();
                            labels.write(&mut rendered, key);
                            let value = SampleValue::Int(1);
                            text::write_key_sample(out, prefix, key.id(), &rendered, value);
                        }
                    },
                )
            }
        }
    }

    fn write_exempt_until(
        &self,
        out: &mut Vec<u8>,
        inventory: &ClassifiedInventory,
        snapshot: &ScrapeSnapshot,
        from: usize,
        max_keys: usize,
    ) -> Option<usize> {
        let mut prefix = (None, Vec::new());
        for (number, (index, ends_at)) in (from..).zip(inventory.classes.exempt_keys(from)) {
            if out.len() >= CHUNK_SIZE || number - from >= max_keys {
                return Some(number);
            }
            let Some(key) = inventory.key_at(index) else {
                continue;
            };
            if ends_at <= snapshot.now_micros || !snapshot.includes(&key) {
                continue;
            }
            if prefix.0 != Some(key.project) {
                let of_project = text::key_prefix(self.family.name, inventory.org(), key.project);
                prefix = (Some(key.project), of_project);
            }
            let value = SampleValue::Micros(ends_at);
            text::write_key_sample(out, &prefix.1, key.id(), &[], value);
        }
        None
    }

    fn write_keys(
        &self,
        out: &mut Vec<u8>,
        inventory: &Inventory,
        from: usize,
        max_keys: usize,
        mut write: impl FnMut(&mut Vec<u8>, &[u8], KeyView<'_>),
    ) -> Option<usize> {
        let mut index = from;
        let remaining = |project: &&ProjectKeys| project.range.end > from;
        for project in inventory.projects().iter().filter(remaining) {
            let prefix = text::key_prefix(self.family.name, inventory.org(), &project.project);
            for key in inventory.project_keys(project, index) {
                if out.len() >= CHUNK_SIZE || index - from >= max_keys {
                    return Some(index);
                }
                write(out, &prefix, key);
                index += 1;
            }
        }
        None
    }
}

/// The labels of the info metric. Labels that many keys share are rendered once.
struct InfoLabels(Vec<LabelSegment>);

enum LabelSegment {
    /// The labels of each set of attributes.
    Shared(Vec<Vec<u8>>),
    Name,
    MaskedSecret,
}

impl InfoLabels {
    fn new(inventory: &Inventory, labels: &[KeyLabel]) -> Self {
        let is_per_key =
            |label: &KeyLabel| matches!(label, KeyLabel::Name | KeyLabel::MaskedSecret);
        let segments = labels.chunk_by(|a, b| !is_per_key(a) && !is_per_key(b));
        let segments = segments.map(|segment| match segment {
            [KeyLabel::Name] => LabelSegment::Name,
            [KeyLabel::MaskedSecret] => LabelSegment::MaskedSecret,
            shared => {
                let attributes = inventory.attributes().iter();
                let rendered = attributes.map(|attributes| {
                    let mut text = String::with_capacity(64);
                    for label in shared {
                        if let Some(value) = label.shared_value(attributes) {
                            text.push(',');
                            write_label(&mut text, label.as_str(), value);
                        }
                    }
                    text.into_bytes()
                });
                LabelSegment::Shared(rendered.collect())
            }
        });
        Self(segments.collect())
    }

    fn write(&self, out: &mut Vec<u8>, key: KeyView<'_>) {
        for segment in &self.0 {
            let (label, escaped) = match segment {
                LabelSegment::Shared(rendered) => {
                    let rendered = rendered.get(key.attributes_index());
                    out.extend_from_slice(rendered.map_or(&[], Vec::as_slice));
                    continue;
                }
                LabelSegment::Name => (KeyLabel::Name, key.name()),
                LabelSegment::MaskedSecret => (KeyLabel::MaskedSecret, key.masked_secret()),
            };
            text::write_escaped_label(out, label.as_str(), escaped);
        }
    }
}
