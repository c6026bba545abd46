//! The families of the inventory, written from it directly: no registry, no map, no copy of a
//! label between two scrapes.

use jiff::{SignedDuration, Timestamp};

use super::catalogue::{self as c, Family};
use super::number;
use super::threshold::Threshold;
use crate::ids::OrgId;
use crate::inventory::{Details, Inventory, KeyView, Limit, label};

/// How one key looks in a family: appends its line, or nothing where a value is missing.
type WriteKey = fn(&mut Vec<u8>, &Family, KeyView<'_>, Timestamp);

/// How a family is written.
pub(super) enum Form {
    /// A line a key, some keys at a time.
    Keys(WriteKey),
    /// A few lines an organization.
    Inventory(fn(&mut Vec<u8>, &Family, &Inventory, &[Threshold], Timestamp)),
    /// A few lines an organization, of what is known beside its keys.
    Details(fn(&mut Vec<u8>, &Family, &OrgId, &Details)),
}

/// The families of the inventory in the order of the exposition.
pub(super) const FAMILIES: &[(Family, Form)] = &[
    (c::KEYS, Form::Inventory(counts)),
    (c::KEYS_IDLE, Form::Inventory(idle_counts)),
    (c::KEY_INFO, Form::Keys(info)),
    (c::KEY_CREATED, Form::Keys(created)),
    (c::KEY_LAST_USED, Form::Keys(last_used)),
    (c::KEY_LAST_USED_AGE, Form::Keys(last_used_age)),
    (c::KEY_IDLE, Form::Keys(idle)),
    (c::KEY_USED, Form::Keys(used)),
    (c::LIMIT_REQUESTS, Form::Details(request_limits)),
    (c::LIMIT_TOKENS, Form::Details(token_limits)),
    (c::ORG_INFO, Form::Details(org_info)),
    (c::PROJECT_INFO, Form::Details(project_info)),
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
        let labels = block(&[
            ("org_id", inventory.org().as_str()),
            ("project_id", count.project.as_str()),
            ("status", &count.status),
        ]);
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
            let labels = block(&[
                ("org_id", inventory.org().as_str()),
                ("project_id", project.project.as_str()),
                ("threshold", &threshold.label),
            ]);
            begin(out, family, &[&labels]);
            number::whole(out, project.idle_since(limit));
            out.push(b'\n');
        }
    }
}

fn org_info(out: &mut Vec<u8>, family: &Family, org: &OrgId, details: &Details) {
    if let Some(name) = &details.name {
        let labels = block(&[("org_id", org.as_str()), ("org_name", name)]);
        begin(out, family, &[&labels]);
        out.extend_from_slice(b"1\n");
    }
}

fn project_info(out: &mut Vec<u8>, family: &Family, org: &OrgId, details: &Details) {
    for project in &details.projects {
        let labels = block(&[
            ("org_id", org.as_str()),
            ("project_id", project.id.as_str()),
            ("project_name", &project.name),
        ]);
        begin(out, family, &[&labels]);
        out.extend_from_slice(b"1\n");
    }
}

fn request_limits(out: &mut Vec<u8>, family: &Family, org: &OrgId, details: &Details) {
    for limit in &details.limits {
        write_limit(out, family, org, limit, limit.requests_per_minute);
    }
}

fn token_limits(out: &mut Vec<u8>, family: &Family, org: &OrgId, details: &Details) {
    for limit in &details.limits {
        write_limit(out, family, org, limit, limit.tokens_per_minute);
    }
}

fn write_limit(out: &mut Vec<u8>, family: &Family, org: &OrgId, limit: &Limit, value: Option<u64>) {
    if let Some(value) = value {
        let labels = block(&[
            ("org_id", org.as_str()),
            ("model_group", &limit.group),
            ("cloud", &limit.cloud),
            ("geography", &limit.geography),
        ]);
        begin(out, family, &[&labels]);
        number::whole(out, value);
        out.push(b'\n');
    }
}

fn block(labels: &[(&str, &str)]) -> String {
    let mut text = String::with_capacity(128);
    for (index, (name, value)) in labels.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        label(&mut text, name, value);
    }
    text
}
