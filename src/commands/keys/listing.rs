//! The keys that were asked for, in their order. Only places are put into order; a row is made when it
//! is written, so that a million keys need no second copy.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Serialize;

use super::filter::{matches_project, matches_status};
use crate::config::KeysOptions;
use crate::inventory::{Inventory, InventorySnapshot, KeyView, unescape};
use mongodb_atlas_client::ProjectId;

/// One key. What Atlas left out is empty, or none. The serialized fields are the columns of CSV and JSON.
#[derive(Debug, Serialize)]
pub(super) struct KeyRow {
    pub(super) org_id: String,
    pub(super) org_name: String,
    pub(super) project_id: String,
    pub(super) project_name: String,
    pub(super) api_key_id: String,
    pub(super) name: String,
    pub(super) status: String,
    pub(super) created_at: Option<Timestamp>,
    /// Empty unless it is asked for, since it is personal data.
    pub(super) created_by: String,
    pub(super) last_used_at: Option<Timestamp>,
    /// Seconds since the last use, or since the creation of a key that was never used.
    pub(super) idle_seconds: Option<u64>,
    /// Whether `lastUsedAt` is set; none when it cannot be read.
    #[serde(skip)]
    pub(super) used: Option<bool>,
}

/// The keys that were asked for.
pub(super) struct KeyListing<'a> {
    snapshot: &'a InventorySnapshot,
    display_names: Vec<DisplayNames<'a>>,
    order: Vec<(usize, usize)>,
    now: Timestamp,
    created_by: bool,
}

/// What an organization and its projects are called.
struct DisplayNames<'a> {
    org_name: &'a str,
    project_names: HashMap<&'a ProjectId, &'a str>,
}

impl<'a> KeyListing<'a> {
    pub(super) fn new(shown: &'a InventorySnapshot, choice: &KeysOptions, now: Timestamp) -> Self {
        let names: Vec<DisplayNames<'a>> = shown
            .inventories
            .iter()
            .map(|inventory| display_names(shown, inventory))
            .collect();
        let idle = i64::try_from(choice.idle.as_micros()).unwrap_or(i64::MAX);
        let limit = now.as_microsecond().saturating_sub(idle);
        let mut places: Vec<(i64, usize, usize)> = Vec::new();
        for (org, (inventory, names)) in shown.inventories.iter().zip(&names).enumerate() {
            for (key, view) in inventory.keys().enumerate() {
                if matches_filter(choice, names, &view, limit) {
                    // keys of which nothing is known come last
                    places.push((view.idle_since().unwrap_or(i64::MAX), org, key));
                }
            }
        }
        places.sort_unstable();
        Self {
            snapshot: shown,
            display_names: names,
            order: places.into_iter().map(|(_, org, key)| (org, key)).collect(),
            now,
            created_by: choice.created_by,
        }
    }

    /// Whether the creators of the keys are shown.
    pub(super) fn shows_created_by(&self) -> bool {
        self.created_by
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Keys that there are, asked for or not.
    pub(super) fn total(&self) -> usize {
        let lengths = self.snapshot.inventories.iter();
        lengths.map(|inventory| inventory.len()).sum()
    }

    /// When the oldest of what is shown was read.
    pub(super) fn oldest_read_at(&self) -> Option<Timestamp> {
        let inventories = self.snapshot.inventories.iter();
        inventories.map(|inventory| inventory.completed_at()).min()
    }

    /// Most idle first.
    pub(super) fn rows(&self) -> impl Iterator<Item = KeyRow> {
        self.order
            .iter()
            .filter_map(|(org, key)| self.row(*org, *key))
    }

    fn row(&self, org: usize, key: usize) -> Option<KeyRow> {
        let inventory = self.snapshot.inventories.get(org)?;
        let names = self.display_names.get(org)?;
        let view = inventory.key_at(key)?;
        let kind = view.attributes();
        let time = |micros: i64| Timestamp::from_microsecond(micros).ok();
        let since = view.idle_since().and_then(time);
        Some(KeyRow {
            org_id: inventory.org().to_string(),
            org_name: names.org_name.to_owned(),
            project_id: view.project().to_string(),
            project_name: names.project_name(view.project()).to_owned(),
            api_key_id: unescape(view.id()).into_owned(),
            name: unescape(view.name()).into_owned(),
            status: kind.status.clone(),
            created_at: view.created().and_then(time),
            created_by: if self.created_by {
                kind.created_by.clone()
            } else {
                String::new()
            },
            last_used_at: view.last_used().and_then(time),
            // a time in the future of the clock reads as an age of 0
            idle_seconds: since
                .map(|since| self.now.as_second() - since.as_second())
                .map(|seconds| u64::try_from(seconds).unwrap_or(0)),
            used: view.was_used(),
        })
    }
}

fn display_names<'a>(shown: &'a InventorySnapshot, inventory: &Inventory) -> DisplayNames<'a> {
    let details = shown.details.iter().find(|(org, _)| org == inventory.org());
    let details = details.map(|(_, details)| details);
    let projects = details.into_iter().flat_map(|details| &details.projects);
    DisplayNames {
        org_name: details
            .and_then(|details| details.name.as_deref())
            .unwrap_or_default(),
        project_names: projects
            .map(|project| (&project.id, project.name.as_str()))
            .collect(),
    }
}

impl<'a> DisplayNames<'a> {
    fn project_name(&self, id: &ProjectId) -> &'a str {
        self.project_names.get(id).copied().unwrap_or_default()
    }
}

/// Whether a key is one that was asked for; `limit` is the last moment from which on it would not be
/// idle for long enough.
fn matches_filter(
    choice: &KeysOptions,
    names: &DisplayNames<'_>,
    view: &KeyView<'_>,
    limit: i64,
) -> bool {
    let status = &view.attributes().status;
    let project = view.project();
    let (statuses, projects) = (&choice.statuses.values, &choice.projects.values);
    let has_status = |value: &String| matches_status(value, status);
    let is_project =
        |value: &String| matches_project(value, project.as_str(), names.project_name(project));
    (choice.idle.is_zero() || view.idle_since().is_some_and(|since| since <= limit))
        && (!choice.never_used || view.was_used() == Some(false))
        && (statuses.is_empty() || statuses.iter().any(has_status))
        && (projects.is_empty() || projects.iter().any(is_project))
}
