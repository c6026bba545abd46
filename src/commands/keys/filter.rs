//! Detects filters that match nothing. A misspelled filter must not look like an empty result.

use std::collections::{BTreeMap, BTreeSet};

use crate::cli::FlagValues;
use crate::config::KeysOptions;
use crate::inventory::{
    DISABLED_STATUSES, GroupBy, InventorySnapshot, matches_project, matches_status,
};
use crate::key_policy::KeyPolicy;

/// Maximum number of names that an error suggests.
const MAX_SUGGESTIONS: usize = 5;

/// Filter values that match nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unmatched {
    /// An error for each value.
    pub(super) values: Vec<String>,
    /// Names of projects that could not be read, although the report needs them.
    pub(super) missing_names: Vec<String>,
}

/// A project. Name and owner are empty if unknown.
#[derive(Debug, Clone, Copy, Default)]
struct KnownProject<'a> {
    name: &'a str,
    owner: &'a str,
}

type KnownProjects<'a> = BTreeMap<&'a str, KnownProject<'a>>;

/// Finds filter values that match no project of `shown`, no owner and no status.
pub(super) fn find_unmatched(
    choice: &KeysOptions,
    shown: &InventorySnapshot,
    policy: &KeyPolicy,
) -> Unmatched {
    let mut unmatched = Unmatched::default();
    let projects = list_projects(shown);
    let FlagValues { values, source } = &choice.projects;
    for value in values {
        let mut known = projects.iter();
        if !known.any(|(id, project)| matches_project(value, id, project.name)) {
            let names = projects.iter().map(|(id, project)| [project.name, *id]);
            let message = unknown_value("project", value, names);
            unmatched.values.push(format!("{source}: {message}"));
        }
    }
    let owners: BTreeSet<&str> = projects.values().map(|project| project.owner).collect();
    let FlagValues { values, source } = &choice.owners;
    for value in values {
        // The empty owner selects keys without an owner. No such key may exist.
        if !value.is_empty() && !owners.contains(value.as_str()) {
            let names = owners.iter().filter(|owner| !owner.is_empty());
            let message = unknown_value("owner", value, names.map(|owner| [*owner, ""]));
            unmatched.values.push(format!("{source}: {message}"));
        }
    }
    let shows_unowned = values.iter().any(String::is_empty)
        || (values.is_empty() && choice.group_by == Some(GroupBy::Owner));
    let is_missing = |project: &KnownProject<'_>| project.name.is_empty();
    // An exemption by project cannot be applied to a project without a known name.
    if !unmatched.values.is_empty() || policy.exemptions.depend_on_project_names() {
        unmatched.missing_names = list_missing_names(shown, &projects, is_missing);
    } else if shows_unowned {
        // Without the tags of a project, the owner is unknown unless a rule has the id of the project.
        unmatched.missing_names = list_missing_names(shown, &projects, |project| {
            is_missing(project) && project.owner.is_empty()
        });
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

/// Returns every project by id, including projects without keys.
fn list_projects(shown: &InventorySnapshot) -> KnownProjects<'_> {
    let with_keys = shown.inventories.iter().flat_map(|found| found.projects());
    let with_keys = with_keys.map(|project| (project.project.as_str(), KnownProject::default()));
    let details = shown.details.iter();
    let named = details.flat_map(|(_, details)| details.projects());
    let named = named.map(|(project, owner)| {
        let (name, owner) = (project.name.as_str(), owner.unwrap_or_default());
        (project.id.as_str(), KnownProject { name, owner })
    });
    with_keys
        .chain(named)
        .filter(|(id, _)| !id.is_empty())
        .collect()
}

/// Returns the organizations with keys in projects for which `is_missing`.
fn list_missing_names(
    shown: &InventorySnapshot,
    projects: &KnownProjects<'_>,
    is_missing: impl Fn(&KnownProject<'_>) -> bool,
) -> Vec<String> {
    let orgs = shown.inventories.iter().filter(|found| {
        let mut with_keys = found.projects().iter();
        with_keys.any(|project| {
            projects
                .get(project.project.as_str())
                .is_some_and(&is_missing)
        })
    });
    orgs.map(|found| format!("the project names of organization {}", found.org()))
        .collect()
}

/// Returns the error for a value, with the most similar names of `known`. Each entry has two names; one of them can be empty.
fn unknown_value<'a>(what: &str, value: &str, known: impl Iterator<Item = [&'a str; 2]>) -> String {
    let mut ranked: Vec<(f64, &str)> = known
        .map(|names| {
            let [first, second] = names.map(|name| (similarity(value, name), name));
            if first.1.is_empty() || second.0 > first.0 {
                second
            } else {
                first
            }
        })
        .collect();
    if ranked.is_empty() {
        return format!("unknown {what} {value:?}: no {what}s found");
    }
    ranked.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let count = ranked.len();
    let mut names: Vec<&str> = ranked.into_iter().map(|(_, name)| name).collect();
    names.dedup();
    names.truncate(MAX_SUGGESTIONS);
    let names = quote(&names);
    format!("unknown {what} {value:?}: closest of {count}: {names}")
}

/// Returns the similarity, from 0 (nothing in common) to 1.
fn similarity(value: &str, name: &str) -> f64 {
    let (value, name) = (value.trim().to_lowercase(), name.to_lowercase());
    if !value.is_empty() && name.contains(&value) {
        return 1.0;
    }
    strsim::jaro_winkler(&value, &name)
}

/// Quotes names. Names from Atlas could otherwise control the terminal.
fn quote(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    quoted.join(", ")
}
