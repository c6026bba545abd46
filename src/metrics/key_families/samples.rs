//! The samples of families with a few series per organization or project.

use super::super::snapshot::ScrapeSnapshot;
use super::super::text::SampleValue;
use super::Emit;
use crate::inventory::{ClassifiedInventory, DetailsWithOwners, KeyClass};
use mongodb_atlas_client::{ModelLimit, OrgId};

pub(super) fn write_status_counts(
    inventory: &ClassifiedInventory,
    _: &ScrapeSnapshot,
    emit: Emit<'_>,
) {
    for count in inventory.status_counts() {
        let labels = [
            ("org_id", inventory.org().as_str()),
            ("project_id", count.project.as_str()),
            ("status", &count.status),
        ];
        emit(&labels, SampleValue::Int(count.keys));
    }
}

pub(super) fn write_class_counts(
    inventory: &ClassifiedInventory,
    snapshot: &ScrapeSnapshot,
    class: KeyClass,
    emit: Emit<'_>,
) {
    let now = snapshot.now_micros;
    for project in inventory.classes.projects() {
        for threshold in &*snapshot.options.thresholds {
            let labels = [
                ("org_id", inventory.org().as_str()),
                ("project_id", project.project.as_str()),
                ("threshold", &threshold.label),
            ];
            let keys = project.count(class, threshold.cutoff(now), now);
            emit(&labels, SampleValue::Int(keys));
        }
    }
}

pub(super) fn write_exempt_counts(
    inventory: &ClassifiedInventory,
    snapshot: &ScrapeSnapshot,
    emit: Emit<'_>,
) {
    for project in inventory.classes.projects() {
        let labels = [
            ("org_id", inventory.org().as_str()),
            ("project_id", project.project.as_str()),
        ];
        let keys = project.count_exempt(snapshot.now_micros);
        emit(&labels, SampleValue::Int(keys));
    }
}

pub(super) fn write_dropped(
    inventory: &ClassifiedInventory,
    snapshot: &ScrapeSnapshot,
    emit: Emit<'_>,
) {
    let keys = inventory.invalid_keys() + snapshot.dropped_by_max_keys(inventory);
    let labels = [("org_id", inventory.org().as_str())];
    emit(&labels, SampleValue::Int(keys));
}

pub(super) fn write_names_truncated(
    inventory: &ClassifiedInventory,
    _: &ScrapeSnapshot,
    emit: Emit<'_>,
) {
    let keys = inventory.names_truncated();
    let labels = [("org_id", inventory.org().as_str())];
    emit(&labels, SampleValue::Int(keys));
}

pub(super) fn write_org_info(org: &OrgId, details: &DetailsWithOwners, emit: Emit<'_>) {
    if let Some(name) = &details.name {
        let labels = [("org_id", org.as_str()), ("org_name", name)];
        emit(&labels, SampleValue::Int(1));
    }
}

pub(super) fn write_project_info(org: &OrgId, details: &DetailsWithOwners, emit: Emit<'_>) {
    for (project, owner) in details.projects() {
        let labels = [
            ("org_id", org.as_str()),
            ("project_id", project.id.as_str()),
            ("project_name", &project.name),
            ("owner", owner.unwrap_or_default()),
        ];
        // A project without an owner has no label `owner`.
        let labels = if owner.is_some() {
            &labels[..]
        } else {
            &labels[..3]
        };
        emit(labels, SampleValue::Int(1));
    }
}

pub(super) fn write_rate_limits(
    org: &OrgId,
    details: &DetailsWithOwners,
    value: fn(&ModelLimit) -> Option<u64>,
    emit: Emit<'_>,
) {
    for limit in &details.limits {
        let labels = [
            ("org_id", org.as_str()),
            ("model_group", &limit.model_group),
            ("cloud", &limit.cloud),
            ("geography", &limit.geography),
        ];
        if let Some(value) = value(limit) {
            emit(&labels, SampleValue::Int(value));
        }
    }
}
