//! The families of the inventory, written from it directly: no registry, no map, no copy of a
//! label between two scrapes.

use jiff::{SignedDuration, Timestamp};

use super::catalogue::{self as c, Family};
use super::number;
use super::threshold::Threshold;
use crate::inventory::{Inventory, KeyView, label};

/// How one key looks in a family: appends its line, or nothing where a value is missing.
type WriteKey = fn(&mut Vec<u8>, &Family, KeyView<'_>, Timestamp);

/// How a family is written.
pub(super) enum Form {
    /// A line a key, some keys at a time.
    PerKey(WriteKey),
    /// A few lines an organization.
    PerOrg(fn(&mut Vec<u8>, &Family, &Inventory, &[Threshold], Timestamp)),
}

/// The families of the inventory in the order of the exposition.
pub(super) const FAMILIES: &[(Family, Form)] = &[
    (c::KEYS, Form::PerOrg(counts)),
    (c::KEYS_IDLE, Form::PerOrg(idle_counts)),
    (c::KEY_INFO, Form::PerKey(info)),
    (c::KEY_CREATED, Form::PerKey(created)),
    (c::KEY_LAST_USED, Form::PerKey(last_used)),
    (c::KEY_LAST_USED_AGE, Form::PerKey(last_used_age)),
    (c::KEY_IDLE, Form::PerKey(idle)),
    (c::KEY_USED, Form::PerKey(used)),
];

/// Appends the HELP and TYPE lines.
pub(super) fn head(out: &mut Vec<u8>, family: &Family) {
    for part in [
        "# HELP ",
        family.name,
        " ",
        family.help,
        "\n# TYPE ",
        family.name,
        " ",
        family.kind.as_str(),
        "\n",
    ] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Appends one line up to the value.
fn begin(out: &mut Vec<u8>, family: &Family, labels: &[&str]) {
    out.extend_from_slice(family.name.as_bytes());
    let mut separator = b'{';
    for part in labels {
        out.push(separator);
        out.extend_from_slice(part.as_bytes());
        separator = b',';
    }
    out.extend_from_slice(b"} ");
}

fn info(out: &mut Vec<u8>, family: &Family, key: KeyView<'_>, _: Timestamp) {
    begin(out, family, &[key.identity, key.description]);
    out.extend_from_slice(b"1\n");
}

fn created(out: &mut Vec<u8>, family: &Family, key: KeyView<'_>, _: Timestamp) {
    if let Some(at) = key.created {
        begin(out, family, &[key.identity]);
        number::timestamp(out, at);
        out.push(b'\n');
    }
}

fn last_used(out: &mut Vec<u8>, family: &Family, key: KeyView<'_>, _: Timestamp) {
    if let Some(at) = key.last_used {
        begin(out, family, &[key.identity]);
        number::timestamp(out, at);
        out.push(b'\n');
    }
}

fn last_used_age(out: &mut Vec<u8>, family: &Family, key: KeyView<'_>, now: Timestamp) {
    if let Some(at) = key.last_used {
        begin(out, family, &[key.identity]);
        number::age(out, now, at);
        out.push(b'\n');
    }
}

fn idle(out: &mut Vec<u8>, family: &Family, key: KeyView<'_>, now: Timestamp) {
    if let Some(since) = key.idle_since {
        begin(out, family, &[key.identity]);
        number::age(out, now, since);
        out.push(b'\n');
    }
}

fn used(out: &mut Vec<u8>, family: &Family, key: KeyView<'_>, _: Timestamp) {
    if let Some(used) = key.used {
        begin(out, family, &[key.identity]);
        out.extend_from_slice(if used { b"1\n" } else { b"0\n" });
    }
}

fn counts(
    out: &mut Vec<u8>,
    family: &Family,
    inventory: &Inventory,
    _: &[Threshold],
    _: Timestamp,
) {
    for count in inventory.counts() {
        let labels = roll_up(inventory, count.project.as_str(), "status", &count.status);
        begin(out, family, &[&labels]);
        number::whole(out, count.keys);
        out.push(b'\n');
    }
}

fn idle_counts(
    out: &mut Vec<u8>,
    family: &Family,
    inventory: &Inventory,
    thresholds: &[Threshold],
    now: Timestamp,
) {
    for project in inventory.idle() {
        for threshold in thresholds {
            let length = SignedDuration::try_from(threshold.length).unwrap_or(SignedDuration::MAX);
            let limit = now.saturating_sub(length).unwrap_or(Timestamp::MIN);
            let labels = roll_up(
                inventory,
                project.project.as_str(),
                "threshold",
                &threshold.label,
            );
            begin(out, family, &[&labels]);
            number::whole(out, project.idle_since(limit));
            out.push(b'\n');
        }
    }
}

fn roll_up(inventory: &Inventory, project: &str, name: &str, value: &str) -> String {
    let mut labels = String::with_capacity(128);
    label(&mut labels, "org_id", inventory.org().as_str());
    labels.push(',');
    label(&mut labels, "project_id", project);
    labels.push(',');
    label(&mut labels, name, value);
    labels
}
