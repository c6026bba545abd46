//! The families of the inventory, written from it directly: no registry, no map, no copy of a
//! label between two scrapes.

use super::encoder::{Encoder, FamilyHeader, SampleValue};
use super::families::{self as c, FamilyDef};
use super::selection::KeyLabel;
use super::snapshot::{ScrapeSnapshot, idle_cutoff_at};
use crate::inventory::{Inventory, KeyView, ModelRateLimit, OrgDetails, ProjectKeys};
use mongodb_atlas_client::OrgId;

/// Takes a sample's labels and value.
type Emit<'a> = &'a mut dyn FnMut(&[(&str, &str)], SampleValue);

/// Where the samples of a family come from.
#[derive(Clone, Copy)]
pub(super) enum SampleSource {
    /// One of each key, at a scene's `now`; nothing where a value is missing.
    Keys(fn(KeyView<'_>, i64) -> Option<SampleValue>),
    /// One of each key, always 1, with what is known of it.
    Info,
    /// A few of each inventory.
    Inventory(fn(&Inventory, &ScrapeSnapshot, Emit<'_>)),
    /// A few of what is known of each organization beside its keys.
    Details(fn(&OrgId, &OrgDetails, Emit<'_>)),
}

/// A family of the inventory.
pub(super) struct FamilyWriter {
    pub(super) family: &'static FamilyDef,
    pub(super) source: SampleSource,
}

const fn family_writer(family: &'static FamilyDef, source: SampleSource) -> FamilyWriter {
    FamilyWriter { family, source }
}

/// Families of the keys that change with a walk only, in the order of the exposition.
pub(super) static STATIC_FAMILIES: &[FamilyWriter] = &[
    family_writer(&c::KEY_INFO, SampleSource::Info),
    family_writer(
        &c::KEY_CREATED,
        SampleSource::Keys(|key, _| key.created().map(SampleValue::Micros)),
    ),
    family_writer(
        &c::KEY_LAST_USED,
        SampleSource::Keys(|key, _| key.last_used().map(SampleValue::Micros)),
    ),
    family_writer(
        &c::KEY_USED,
        SampleSource::Keys(|key, _| key.was_used().map(|used| SampleValue::Int(used.into()))),
    ),
];

/// The other families, behind those.
pub(super) static DYNAMIC_FAMILIES: &[FamilyWriter] = &[
    family_writer(
        &c::KEY_LAST_USED_AGE,
        SampleSource::Keys(|key, now| key.last_used().map(|at| age_value(now, at))),
    ),
    family_writer(
        &c::KEY_IDLE,
        SampleSource::Keys(|key, now| key.idle_since().map(|at| age_value(now, at))),
    ),
    family_writer(&c::KEYS, SampleSource::Inventory(write_status_counts)),
    family_writer(&c::KEYS_IDLE, SampleSource::Inventory(write_idle_counts)),
    family_writer(&c::KEYS_DROPPED, SampleSource::Inventory(write_dropped)),
    family_writer(
        &c::NAMES_TRUNCATED,
        SampleSource::Inventory(write_names_truncated),
    ),
    family_writer(
        &c::LIMIT_REQUESTS,
        SampleSource::Details(write_request_limits),
    ),
    family_writer(&c::LIMIT_TOKENS, SampleSource::Details(write_token_limits)),
    family_writer(&c::ORG_INFO, SampleSource::Details(write_org_info)),
    family_writer(&c::PROJECT_INFO, SampleSource::Details(write_project_info)),
];

/// How long ago `then` is; 0 for a time to come. Milliseconds: more would be noise that does not
/// pack.
fn age_value(now: i64, then: i64) -> SampleValue {
    SampleValue::Millis(now.saturating_sub(then).max(0) / 1000)
}

impl FamilyWriter {
    pub(super) fn header(&self) -> FamilyHeader<'static> {
        FamilyHeader {
            name: self.family.name,
            help: self.family.help,
            kind: self.family.kind,
        }
    }

    /// Organizations that it goes through.
    pub(super) fn org_count(&self, scene: &ScrapeSnapshot) -> usize {
        match self.source {
            SampleSource::Details(_) => scene.visible.details.len(),
            SampleSource::Keys(_) | SampleSource::Info if !scene.has_key_series() => 0,
            _ => scene.visible.inventories.len(),
        }
    }

    /// Appends the samples of the organization at place `org`, from the key at `from` on, until
    /// there are `enough` bytes in `out` or `most` keys were looked at. The place of the next key
    /// if that was before the end.
    pub(super) fn write<E: Encoder>(
        &self,
        out: &mut Vec<u8>,
        scene: &ScrapeSnapshot,
        (org, from): (usize, usize),
        (enough, most): (usize, usize),
    ) -> Option<usize> {
        let head = self.header();
        let mut emit =
            |labels: &[(&str, &str)], value: SampleValue| E::write_sample(out, head, labels, value);
        match self.source {
            SampleSource::Details(lines) => {
                let (org, details) = scene.visible.details.get(org)?;
                lines(org, details, &mut emit);
                None
            }
            SampleSource::Inventory(lines) => {
                lines(scene.visible.inventories.get(org)?, scene, &mut emit);
                None
            }
            SampleSource::Keys(value) => {
                let inventory = scene.visible.inventories.get(org)?;
                let bounds = (from, enough, most);
                for_each_key::<E>(out, head, inventory, bounds, |out, prefix, key| {
                    if let Some(value) = value(key, scene.now_micros)
                        && scene.includes(&key)
                    {
                        E::write_key_sample(out, prefix, key.id(), &[], value);
                    }
                })
            }
            SampleSource::Info => {
                let inventory = scene.visible.inventories.get(org)?;
                let labels = InfoLabels::<E>::new(inventory, &scene.options.labels);
                let mut scratch = Vec::with_capacity(256);
                let bounds = (from, enough, most);
                for_each_key::<E>(out, head, inventory, bounds, |out, prefix, key| {
                    if scene.includes(&key) {
                        scratch.clear();
                        labels.write(&mut scratch, key);
                        E::write_key_sample(out, prefix, key.id(), &scratch, SampleValue::Int(1));
                    }
                })
            }
        }
    }
}

fn for_each_key<E: Encoder>(
    out: &mut Vec<u8>,
    head: FamilyHeader<'_>,
    inventory: &Inventory,
    (from, enough, most): (usize, usize, usize),
    mut write: impl FnMut(&mut Vec<u8>, &[u8], KeyView<'_>),
) -> Option<usize> {
    let mut place = from;
    let rest = |project: &&ProjectKeys| project.range.end > from;
    for project in inventory.projects().iter().filter(rest) {
        let prefix = E::key_prefix(head, inventory.org(), &project.project);
        for key in inventory.project_keys(project, place) {
            if out.len() >= enough || place - from >= most {
                return Some(place);
            }
            write(out, &prefix, key);
            place += 1;
        }
    }
    None
}

/// The labels of the info metric, as far as they can be rendered once for many keys.
struct InfoLabels<E> {
    segments: Vec<LabelSegment>,
    encoder: std::marker::PhantomData<E>,
}

enum LabelSegment {
    /// For each kind of key, the labels that it decides.
    Shared(Vec<Vec<u8>>),
    Name,
    MaskedSecret,
}

impl<E: Encoder> InfoLabels<E> {
    fn new(inventory: &Inventory, labels: &[KeyLabel]) -> Self {
        let is_own = |label: &KeyLabel| matches!(label, KeyLabel::Name | KeyLabel::MaskedSecret);
        let parts = labels
            .chunk_by(|a, b| !is_own(a) && !is_own(b))
            .map(|group| match group {
                [KeyLabel::Name] => LabelSegment::Name,
                [KeyLabel::MaskedSecret] => LabelSegment::MaskedSecret,
                group => LabelSegment::Shared(
                    inventory
                        .attributes()
                        .iter()
                        .map(|kind| {
                            let labels: Vec<(&str, &str)> = group
                                .iter()
                                .filter_map(|label| {
                                    Some((label.as_str(), label.shared_value(kind)?))
                                })
                                .collect();
                            let mut rendered = Vec::new();
                            E::write_labels(&mut rendered, &labels);
                            rendered
                        })
                        .collect(),
                ),
            })
            .collect();
        Self {
            segments: parts,
            encoder: std::marker::PhantomData,
        }
    }

    fn write(&self, out: &mut Vec<u8>, key: KeyView<'_>) {
        for part in &self.segments {
            match part {
                LabelSegment::Shared(kinds) => {
                    let rendered = kinds.get(key.attributes_index());
                    out.extend_from_slice(rendered.map_or(&[], Vec::as_slice));
                }
                LabelSegment::Name => {
                    E::write_escaped_label(out, KeyLabel::Name.as_str(), key.name());
                }
                LabelSegment::MaskedSecret => {
                    E::write_escaped_label(
                        out,
                        KeyLabel::MaskedSecret.as_str(),
                        key.masked_secret(),
                    );
                }
            }
        }
    }
}

fn write_status_counts(inventory: &Inventory, _: &ScrapeSnapshot, emit: Emit<'_>) {
    for count in inventory.status_counts() {
        let labels = [
            ("org_id", inventory.org().as_str()),
            ("project_id", count.project.as_str()),
            ("status", &count.status),
        ];
        emit(&labels, SampleValue::Int(count.keys));
    }
}

fn write_idle_counts(inventory: &Inventory, scene: &ScrapeSnapshot, emit: Emit<'_>) {
    for project in inventory.idle_times() {
        for threshold in &*scene.options.thresholds {
            let labels = [
                ("org_id", inventory.org().as_str()),
                ("project_id", project.project.as_str()),
                ("threshold", &threshold.label),
            ];
            let keys = project.count_idle_since(idle_cutoff_at(scene.now_micros, threshold));
            emit(&labels, SampleValue::Int(keys));
        }
    }
}

fn write_dropped(inventory: &Inventory, scene: &ScrapeSnapshot, emit: Emit<'_>) {
    let keys = inventory.invalid_keys() + scene.dropped_by_max_keys(inventory);
    emit(
        &[("org_id", inventory.org().as_str())],
        SampleValue::Int(keys),
    );
}

fn write_names_truncated(inventory: &Inventory, _: &ScrapeSnapshot, emit: Emit<'_>) {
    let keys = inventory.names_truncated();
    emit(
        &[("org_id", inventory.org().as_str())],
        SampleValue::Int(keys),
    );
}

fn write_org_info(org: &OrgId, details: &OrgDetails, emit: Emit<'_>) {
    if let Some(name) = &details.name {
        let labels = [("org_id", org.as_str()), ("org_name", name)];
        emit(&labels, SampleValue::Int(1));
    }
}

fn write_project_info(org: &OrgId, details: &OrgDetails, emit: Emit<'_>) {
    for project in &details.projects {
        let labels = [
            ("org_id", org.as_str()),
            ("project_id", project.id.as_str()),
            ("project_name", &project.name),
        ];
        emit(&labels, SampleValue::Int(1));
    }
}

fn write_request_limits(org: &OrgId, details: &OrgDetails, emit: Emit<'_>) {
    for limit in &details.limits {
        write_rate_limit(org, limit, limit.requests_per_minute, emit);
    }
}

fn write_token_limits(org: &OrgId, details: &OrgDetails, emit: Emit<'_>) {
    for limit in &details.limits {
        write_rate_limit(org, limit, limit.tokens_per_minute, emit);
    }
}

fn write_rate_limit(org: &OrgId, limit: &ModelRateLimit, value: Option<u64>, emit: Emit<'_>) {
    if let Some(value) = value {
        let labels = [
            ("org_id", org.as_str()),
            ("model_group", &limit.group),
            ("cloud", &limit.cloud),
            ("geography", &limit.geography),
        ];
        emit(&labels, SampleValue::Int(value));
    }
}
