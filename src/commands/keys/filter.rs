//! Detects filters that match nothing: a typing error must not look like "no such key".

use std::collections::{BTreeMap, BTreeSet};

use crate::cli::FlagValues;
use crate::config::KeysOptions;
use crate::inventory::{InventorySnapshot, matches_project, matches_status};

/// Statuses of keys that cannot be used. Atlas does not document the values.
const DISABLED_STATUSES: [&str; 6] = [
    "INACTIVE",
    "DISABLED",
    "REVOKED",
    "SUSPENDED",
    "EXPIRED",
    "DELETED",
];
/// Maximum number of names that an error suggests.
const MAX_SUGGESTIONS: usize = 5;

/// Filter values that match nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unmatched {
    /// An error for each value.
    pub(super) values: Vec<String>,
    /// Names of projects that could not be read, and could be the values.
    pub(super) missing_names: Vec<String>,
}

/// Finds filter values that match no project of `shown`, and no status.
pub(super) fn find_unmatched(choice: &KeysOptions, shown: &InventorySnapshot) -> Unmatched {
    let mut unmatched = Unmatched::default();
    let projects = list_projects(shown);
    let FlagValues { values, source } = &choice.projects;
    for value in values {
        let is_known = |(id, name): (&&str, &&str)| matches_project(value, id, name);
        if !projects.iter().any(is_known) {
            let nearest = suggest(value, &projects);
            let message = format!("{source}: unknown project {value:?}: {nearest}");
            unmatched.values.push(message);
        }
    }
    if !unmatched.values.is_empty() {
        unmatched.missing_names = list_missing_names(shown, &projects);
    }
    let FlagValues { values, source } = &choice.statuses;
    let seen = shown
        .inventories
        .iter()
        .flat_map(|found| found.status_counts());
    let seen: BTreeSet<&str> = seen.map(|count| count.status.as_str()).collect();
    let mut statuses = vec!["ACTIVE"];
    statuses.extend(DISABLED_STATUSES);
    for status in seen {
        if !statuses.iter().any(|known| matches_status(known, status)) {
            statuses.push(status);
        }
    }
    for value in values {
        if !statuses.iter().any(|status| matches_status(value, status)) {
            unmatched.values.push(format!(
                "{source}: unknown status {value:?}: expected one of {}",
                quote(&statuses)
            ));
        }
    }
    unmatched
}

/// Returns every project with its id and its name, which is empty if unknown; also projects without keys.
fn list_projects(shown: &InventorySnapshot) -> BTreeMap<&str, &str> {
    let with_keys = shown.inventories.iter().flat_map(|found| found.projects());
    let with_keys = with_keys.map(|project| (project.project.as_str(), ""));
    let named = shown
        .details
        .iter()
        .flat_map(|(_, details)| &details.projects);
    let named = named.map(|project| (project.id.as_str(), project.name.as_str()));
    with_keys
        .chain(named)
        .filter(|(id, _)| !id.is_empty())
        .collect()
}

/// Returns the organizations with keys in projects without a name.
fn list_missing_names(shown: &InventorySnapshot, projects: &BTreeMap<&str, &str>) -> Vec<String> {
    let is_unnamed = |id: &str| projects.get(id).is_some_and(|name| name.is_empty());
    let orgs = shown.inventories.iter().filter(|found| {
        let mut with_keys = found.projects().iter();
        with_keys.any(|project| is_unnamed(project.project.as_str()))
    });
    orgs.map(|found| format!("the project names of organization {}", found.org()))
        .collect()
}

/// Returns the projects whose name or id is most similar to `value`.
fn suggest(value: &str, projects: &BTreeMap<&str, &str>) -> String {
    if projects.is_empty() {
        return "there are no projects".to_owned();
    }
    let mut ranked: Vec<(f64, &str)> = projects
        .iter()
        .map(|(id, name)| {
            let by_name = similarity(value, name);
            let by_id = similarity(value, id);
            if by_id > by_name || name.is_empty() {
                (by_id, *id)
            } else {
                (by_name, *name)
            }
        })
        .collect();
    ranked.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let mut names: Vec<&str> = ranked.into_iter().map(|(_, name)| name).collect();
    names.dedup();
    names.truncate(MAX_SUGGESTIONS);
    format!("nearest of {} are {}", projects.len(), quote(&names))
}

/// Returns the similarity from 0, nothing in common, to 1.
fn similarity(value: &str, name: &str) -> f64 {
    let (value, name) = (value.trim().to_lowercase(), name.to_lowercase());
    if !value.is_empty() && name.contains(&value) {
        return 1.0;
    }
    strsim::jaro_winkler(&value, &name)
}

/// Quotes names: they come from Atlas, and could otherwise control the terminal.
fn quote(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    quoted.join(", ")
}
