//! The families of the inventory, written from it directly: no registry, no map, no copy of a
//! label between two scrapes.

use super::encoder::{Encoder, Head, Value};
use super::families::{self as c, Family};
use super::selection::KeyLabel;
use super::snapshot::{Scene, idle_limit};
use crate::inventory::{Details, Inventory, KeyView, Limit, ProjectKeys};
use mongodb_atlas_client::OrgId;

/// Takes a sample's labels and value.
type Emit<'a> = &'a mut dyn FnMut(&[(&str, &str)], Value);

/// Where the samples of a family come from.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// One of each key, at a scene's `now`; nothing where a value is missing.
    Keys(fn(KeyView<'_>, i64) -> Option<Value>),
    /// One of each key, always 1, with what is known of it.
    Info,
    /// A few of each inventory.
    Inventory(fn(&Inventory, &Scene, Emit<'_>)),
    /// A few of what is known of each organization beside its keys.
    Details(fn(&OrgId, &Details, Emit<'_>)),
}

/// A family of the inventory.
pub(super) struct Spec {
    pub(super) family: &'static Family,
    pub(super) source: Source,
}

const fn spec(family: &'static Family, source: Source) -> Spec {
    Spec { family, source }
}

/// Families of the keys that change with a walk only, in the order of the exposition.
pub(super) static FIXED: &[Spec] = &[
    spec(&c::KEY_INFO, Source::Info),
    spec(
        &c::KEY_CREATED,
        Source::Keys(|key, _| key.created().map(Value::Micros)),
    ),
    spec(
        &c::KEY_LAST_USED,
        Source::Keys(|key, _| key.last_used().map(Value::Micros)),
    ),
    spec(
        &c::KEY_USED,
        Source::Keys(|key, _| key.used().map(|used| Value::Whole(used.into()))),
    ),
];

/// The other families, behind those.
pub(super) static MOVING: &[Spec] = &[
    spec(
        &c::KEY_LAST_USED_AGE,
        Source::Keys(|key, now| key.last_used().map(|at| age(now, at))),
    ),
    spec(
        &c::KEY_IDLE,
        Source::Keys(|key, now| key.idle_since().map(|at| age(now, at))),
    ),
    spec(&c::KEYS, Source::Inventory(counts)),
    spec(&c::KEYS_IDLE, Source::Inventory(idle_counts)),
    spec(&c::KEYS_DROPPED, Source::Inventory(dropped)),
    spec(&c::NAMES_TRUNCATED, Source::Inventory(names_truncated)),
    spec(&c::LIMIT_REQUESTS, Source::Details(request_limits)),
    spec(&c::LIMIT_TOKENS, Source::Details(token_limits)),
    spec(&c::ORG_INFO, Source::Details(org_info)),
    spec(&c::PROJECT_INFO, Source::Details(project_info)),
];

/// How long ago `then` is; 0 for a time to come. Milliseconds: more would be noise that does not
/// pack.
fn age(now: i64, then: i64) -> Value {
    Value::Millis(now.saturating_sub(then).max(0) / 1000)
}

impl Spec {
    pub(super) fn head(&self) -> Head<'static> {
        Head {
            name: self.family.name,
            help: self.family.help,
            kind: self.family.kind,
        }
    }

    /// Organizations that it goes through.
    pub(super) fn orgs(&self, scene: &Scene) -> usize {
        match self.source {
            Source::Details(_) => scene.shown.details.len(),
            Source::Keys(_) | Source::Info if !scene.has_keys() => 0,
            _ => scene.shown.inventories.len(),
        }
    }

    /// Appends the samples of the organization at place `org`, from the key at `from` on, until
    /// there are `enough` bytes in `out` or `most` keys were looked at. The place of the next key
    /// if that was before the end.
    pub(super) fn write<E: Encoder>(
        &self,
        out: &mut Vec<u8>,
        scene: &Scene,
        (org, from): (usize, usize),
        (enough, most): (usize, usize),
    ) -> Option<usize> {
        let head = self.head();
        let mut emit = |labels: &[(&str, &str)], value: Value| E::sample(out, head, labels, value);
        match self.source {
            Source::Details(lines) => {
                let (org, details) = scene.shown.details.get(org)?;
                lines(org, details, &mut emit);
                None
            }
            Source::Inventory(lines) => {
                lines(scene.shown.inventories.get(org)?, scene, &mut emit);
                None
            }
            Source::Keys(value) => {
                let inventory = scene.shown.inventories.get(org)?;
                let bounds = (from, enough, most);
                each_key::<E>(out, head, inventory, bounds, |out, prefix, key| {
                    if let Some(value) = value(key, scene.now)
                        && scene.shows(&key)
                    {
                        E::key(out, prefix, key.id(), &[], value);
                    }
                })
            }
            Source::Info => {
                let inventory = scene.shown.inventories.get(org)?;
                let labels = InfoLabels::<E>::new(inventory, &scene.selection.labels);
                let mut scratch = Vec::with_capacity(256);
                let bounds = (from, enough, most);
                each_key::<E>(out, head, inventory, bounds, |out, prefix, key| {
                    if scene.shows(&key) {
                        scratch.clear();
                        labels.write(&mut scratch, key);
                        E::key(out, prefix, key.id(), &scratch, Value::Whole(1));
                    }
                })
            }
        }
    }
}

fn each_key<E: Encoder>(
    out: &mut Vec<u8>,
    head: Head<'_>,
    inventory: &Inventory,
    (from, enough, most): (usize, usize, usize),
    mut write: impl FnMut(&mut Vec<u8>, &[u8], KeyView<'_>),
) -> Option<usize> {
    let mut place = from;
    let rest = |project: &&ProjectKeys| project.range.end > from;
    for project in inventory.projects().iter().filter(rest) {
        let prefix = E::prefix(head, inventory.org(), &project.project);
        for key in inventory.keys_of(project, place) {
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
    parts: Vec<Part>,
    form: std::marker::PhantomData<E>,
}

enum Part {
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
                [KeyLabel::Name] => Part::Name,
                [KeyLabel::MaskedSecret] => Part::MaskedSecret,
                group => Part::Shared(
                    inventory
                        .kinds()
                        .iter()
                        .map(|kind| {
                            let labels: Vec<(&str, &str)> = group
                                .iter()
                                .filter_map(|label| Some((label.as_str(), label.shared(kind)?)))
                                .collect();
                            let mut rendered = Vec::new();
                            E::shared_labels(&mut rendered, &labels);
                            rendered
                        })
                        .collect(),
                ),
            })
            .collect();
        Self {
            parts,
            form: std::marker::PhantomData,
        }
    }

    fn write(&self, out: &mut Vec<u8>, key: KeyView<'_>) {
        for part in &self.parts {
            match part {
                Part::Shared(kinds) => {
                    let rendered = kinds.get(key.kind_index());
                    out.extend_from_slice(rendered.map_or(&[], Vec::as_slice));
                }
                Part::Name => E::own_label(out, KeyLabel::Name.as_str(), key.name()),
                Part::MaskedSecret => {
                    E::own_label(out, KeyLabel::MaskedSecret.as_str(), key.masked_secret());
                }
            }
        }
    }
}

fn counts(inventory: &Inventory, _: &Scene, emit: Emit<'_>) {
    for count in inventory.counts() {
        let labels = [
            ("org_id", inventory.org().as_str()),
            ("project_id", count.project.as_str()),
            ("status", &count.status),
        ];
        emit(&labels, Value::Whole(count.keys));
    }
}

fn idle_counts(inventory: &Inventory, scene: &Scene, emit: Emit<'_>) {
    for project in inventory.idle() {
        for threshold in &*scene.selection.thresholds {
            let labels = [
                ("org_id", inventory.org().as_str()),
                ("project_id", project.project.as_str()),
                ("threshold", &threshold.label),
            ];
            let keys = project.idle_since(idle_limit(scene.now, threshold));
            emit(&labels, Value::Whole(keys));
        }
    }
}

fn dropped(inventory: &Inventory, scene: &Scene, emit: Emit<'_>) {
    let keys = inventory.dropped() + scene.cut_of(inventory);
    emit(&[("org_id", inventory.org().as_str())], Value::Whole(keys));
}

fn names_truncated(inventory: &Inventory, _: &Scene, emit: Emit<'_>) {
    let keys = inventory.names_truncated();
    emit(&[("org_id", inventory.org().as_str())], Value::Whole(keys));
}

fn org_info(org: &OrgId, details: &Details, emit: Emit<'_>) {
    if let Some(name) = &details.name {
        let labels = [("org_id", org.as_str()), ("org_name", name)];
        emit(&labels, Value::Whole(1));
    }
}

fn project_info(org: &OrgId, details: &Details, emit: Emit<'_>) {
    for project in &details.projects {
        let labels = [
            ("org_id", org.as_str()),
            ("project_id", project.id.as_str()),
            ("project_name", &project.name),
        ];
        emit(&labels, Value::Whole(1));
    }
}

fn request_limits(org: &OrgId, details: &Details, emit: Emit<'_>) {
    for limit in &details.limits {
        write_limit(org, limit, limit.requests_per_minute, emit);
    }
}

fn token_limits(org: &OrgId, details: &Details, emit: Emit<'_>) {
    for limit in &details.limits {
        write_limit(org, limit, limit.tokens_per_minute, emit);
    }
}

fn write_limit(org: &OrgId, limit: &Limit, value: Option<u64>, emit: Emit<'_>) {
    if let Some(value) = value {
        let labels = [
            ("org_id", org.as_str()),
            ("model_group", &limit.group),
            ("cloud", &limit.cloud),
            ("geography", &limit.geography),
        ];
        emit(&labels, Value::Whole(value));
    }
}
