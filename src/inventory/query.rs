//! Filters, sorts and lists the keys of a snapshot. Only references are sorted, and rows are built on demand, so that a
//! million keys need no second copy.
//!
//! | module | purpose |
//! | --- | --- |
//! | `row` | the fields of a listed key |
//! | `groups` | keys by owner, project or organization, and counts |

mod groups;
mod row;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::Range;

use jiff::Timestamp;
use url::Url;

use super::{
    ClassifiedInventory, DetailsWithOwners, Inventory, InventorySnapshot, KeyLabel, KeyView,
    unescape,
};
pub use groups::{GroupBy, KeyCounts, KeyGroup};
use mongodb_atlas_client::{OrgId, ProjectId};
pub use row::{KeyRow, project_url};

crate::closed_list::closed_list! {
    /// The column that keys are sorted by, in the order of the table.
    #[derive(Default)]
    pub enum SortColumn {
        /// The name, or the id if names are not exported.
        Name = "name",
        /// The name of the project, or its id if the name is unknown.
        Project = "project",
        /// The owner of the project.
        Owner = "owner",
        /// The creation; by default newest first.
        Created = "created",
        /// The last use; by default newest first.
        Used = "used",
        /// The idle time; by default longest first.
        #[default]
        Idle = "idle",
    }
}

impl SortColumn {
    /// Returns whether the greatest value is first by default.
    pub fn descending_by_default(self) -> bool {
        matches!(self, Self::Idle | Self::Created | Self::Used)
    }
}

/// The selection and order of the listed keys. The default lists every key, longest idle first.
#[derive(Debug, Clone, Default)]
pub struct KeyQuery<'a> {
    /// The organization; `None` selects all.
    pub org: Option<&'a OrgId>,
    /// A text that id, name, status, project or owner contains, ignoring case.
    pub text: &'a str,
    /// Statuses, ignoring case; an empty list selects all.
    pub statuses: &'a [String],
    /// Ids or names of projects; an empty list selects all.
    pub projects: &'a [String],
    /// Owners; an empty list selects all. The empty owner selects keys without an owner.
    pub owners: &'a [String],
    /// The idle cutoff, in microseconds since the Unix epoch: keys idle since after this time are excluded.
    pub idle_cutoff: Option<i64>,
    /// Whether only keys that were never used are listed.
    pub never_used: bool,
    /// Whether keys with an active exemption are excluded, and only counted.
    pub without_exempt: bool,
    /// The sort column. Keys without a value are last in either order.
    pub column: SortColumn,
    /// Whether the default order of the column is reversed.
    pub reversed: bool,
    /// Fields that are searched and listed, in addition to ids and times.
    pub labels: &'a [KeyLabel],
    /// Base URL of Atlas, for links to projects.
    pub base_url: Option<&'a Url>,
}

/// The keys of a snapshot that match a query.
pub struct KeySelection<'a> {
    snapshot: &'a InventorySnapshot,
    query: KeyQuery<'a>,
    names: Vec<DisplayNames<'a>>,
    matches: Vec<KeyRef>,
    /// Keys that match but are exempt, unsorted.
    left_out: Vec<KeyRef>,
    listed: Range<usize>,
    now: Timestamp,
}

/// Names of an organization and its projects, and the owners of the projects.
struct DisplayNames<'a> {
    org: &'a str,
    projects: HashMap<&'a ProjectId, ProjectLabels<'a>>,
}

/// Empty if unknown.
#[derive(Clone, Copy, Default)]
struct ProjectLabels<'a> {
    name: &'a str,
    owner: &'a str,
}

/// Index of a key in a snapshot.
#[derive(Debug, Clone, Copy)]
struct KeyRef {
    /// Sort key of columns with times; 0 for the other columns.
    rank: i64,
    org: u32,
    key: u32,
}

impl<'a> KeySelection<'a> {
    /// Selects the keys that match `query`, as of `now`. `page` receives their number and returns the range to list; keys
    /// outside the range are counted, not sorted.
    pub fn new(
        snapshot: &'a InventorySnapshot,
        query: KeyQuery<'a>,
        now: Timestamp,
        page: impl FnOnce(usize) -> Range<usize>,
    ) -> Self {
        let inventories = snapshot.inventories.iter();
        let names = inventories.map(|inventory| DisplayNames::new(snapshot, inventory));
        let mut selection = Self {
            snapshot,
            query,
            names: names.collect(),
            matches: Vec::new(),
            left_out: Vec::new(),
            listed: 0..0,
            now,
        };
        let (mut matches, mut left_out) = (Vec::new(), Vec::new());
        for (org, inventory) in (0..).zip(&snapshot.inventories) {
            if selection.query.org.is_none_or(|id| id == inventory.org()) {
                let start = matches.len();
                selection.find(org, inventory, &mut matches);
                if selection.query.without_exempt {
                    let found = matches.extract_if(start.., |key| selection.is_exempt(*key));
                    left_out.extend(found);
                }
            }
        }
        selection.left_out = left_out;
        selection.listed = page(matches.len());
        selection.sort_listed(&mut matches);
        selection.matches = matches;
        selection
    }

    /// Returns the number of keys that match.
    pub fn len(&self) -> usize {
        self.matches.len()
    }

    /// Returns whether no key matches.
    pub fn is_empty(&self) -> bool {
        self.matches.is_empty()
    }

    /// Returns the number of keys that match but are exempt.
    pub fn left_out(&self) -> usize {
        self.left_out.len()
    }

    /// Returns the number of listed keys.
    pub fn listed(&self) -> usize {
        self.listed.len()
    }

    /// Returns the snapshot.
    pub fn snapshot(&self) -> &'a InventorySnapshot {
        self.snapshot
    }

    /// Returns whether a field is searched and listed.
    pub fn shows(&self, label: KeyLabel) -> bool {
        self.query.labels.contains(&label)
    }

    /// Returns the listed keys.
    pub fn rows(&self) -> impl Iterator<Item = KeyRow> {
        let listed = self.matches.get(self.listed.clone()).unwrap_or_default();
        listed.iter().filter_map(|key| self.row(*key))
    }

    fn is_exempt(&self, key: KeyRef) -> bool {
        let now = self.now.as_microsecond();
        let inventory = self.snapshot.inventories.get(key.org as usize);
        let exemption = inventory.and_then(|it| it.classes.exemption(key.key as usize, now));
        exemption.is_some()
    }

    fn find(&self, org: u32, inventory: &Inventory, matches: &mut Vec<KeyRef>) {
        let text = self.query.text.to_lowercase();
        for project in inventory.projects() {
            let id = project.project.as_str();
            let ProjectLabels { name, owner } = self.project_labels(org, &project.project);
            let KeyQuery {
                projects, owners, ..
            } = self.query;
            if !(projects.is_empty() || projects.iter().any(|it| matches_project(it, id, name)))
                || !(owners.is_empty() || owners.iter().any(|it| it == owner))
            {
                continue;
            }
            let mut texts = [id, name, owner].into_iter();
            let project_matches = texts.any(|it| contains_ignore_case(it, &text));
            let keys = inventory.project_keys(project, 0);
            for (key, view) in (0..).skip(project.range.start).zip(keys) {
                if self.matches(&view) && (project_matches || self.contains(&view, &text)) {
                    let rank = if self.query.column == SortColumn::Owner && owner.is_empty() {
                        i64::MAX
                    } else {
                        self.rank(&view)
                    };
                    matches.push(KeyRef { rank, org, key });
                }
            }
        }
    }

    fn matches(&self, view: &KeyView<'_>) -> bool {
        let query = &self.query;
        let status = &view.attributes.status;
        let is_idle = |cutoff| view.idle_since().is_some_and(|since| since <= cutoff);
        query.idle_cutoff.is_none_or(is_idle)
            && (!query.never_used || view.was_used() == Some(false))
            && (query.statuses.is_empty()
                || query.statuses.iter().any(|it| matches_status(it, status)))
    }

    /// Returns whether a field of the key contains a text in lower case.
    fn contains(&self, view: &KeyView<'_>, text: &str) -> bool {
        contains_ignore_case(view.id(), text)
            || (self.shows(KeyLabel::Name) && contains_ignore_case(&unescape(view.name()), text))
            || (self.shows(KeyLabel::Status) && contains_ignore_case(&view.attributes.status, text))
    }

    fn sort_listed(&self, matches: &mut [KeyRef]) {
        let compare = |a: &KeyRef, b: &KeyRef| self.compare(a, b);
        let Range { start, end } = self.listed;
        if start > 0 && start < matches.len() {
            matches.select_nth_unstable_by(start, compare);
        }
        let mut listed = matches.get_mut(start..).unwrap_or_default();
        let len = end - start;
        if len < listed.len() {
            listed.select_nth_unstable_by(len, compare);
            listed = listed.get_mut(..len).unwrap_or_default();
        }
        listed.sort_unstable_by(compare);
    }

    fn is_descending(&self) -> bool {
        self.query.column.descending_by_default() != self.query.reversed
    }

    fn rank(&self, view: &KeyView<'_>) -> i64 {
        let time = match self.query.column {
            // The longest idle time is the earliest `idle_since`.
            SortColumn::Idle => view.idle_since().map(|since| -since),
            SortColumn::Created => view.created(),
            SortColumn::Used => view.last_used(),
            SortColumn::Name | SortColumn::Project | SortColumn::Owner => return 0,
        };
        let rank = time.map(|time| if self.is_descending() { -time } else { time });
        rank.unwrap_or(i64::MAX)
    }

    /// Keys that are equal in the column are sorted by organization, project and id.
    fn compare(&self, a: &KeyRef, b: &KeyRef) -> Ordering {
        let by_text = || match (self.sort_text(a), self.sort_text(b)) {
            (Some(a), Some(b)) if self.is_descending() => case_folded(&b).cmp(case_folded(&a)),
            (Some(a), Some(b)) => case_folded(&a).cmp(case_folded(&b)),
            _ => Ordering::Equal,
        };
        a.rank
            .cmp(&b.rank)
            .then_with(by_text)
            .then_with(|| (a.org, a.key).cmp(&(b.org, b.key)))
    }

    /// Returns the text of the column; `None` for columns with times.
    fn sort_text(&self, key: &KeyRef) -> Option<Cow<'a, str>> {
        match self.query.column {
            SortColumn::Name => {
                let (_, view) = self.view(key)?;
                let shows_name = self.shows(KeyLabel::Name);
                Some(unescape(if shows_name { view.name() } else { view.id() }))
            }
            SortColumn::Project => {
                let (_, view) = self.view(key)?;
                let name = self.project_labels(key.org, view.project).name;
                let id = view.project.as_str();
                Some(if name.is_empty() { id } else { name }.into())
            }
            SortColumn::Owner => {
                let (_, view) = self.view(key)?;
                Some(self.project_labels(key.org, view.project).owner.into())
            }
            SortColumn::Idle | SortColumn::Created | SortColumn::Used => None,
        }
    }

    fn project_labels(&self, org: u32, project: &ProjectId) -> ProjectLabels<'a> {
        let names = self.names.get(org as usize);
        names.map_or_else(ProjectLabels::default, |names| names.project(project))
    }

    fn view(&self, key: &KeyRef) -> Option<(&'a ClassifiedInventory, KeyView<'a>)> {
        let inventory = self.snapshot.inventories.get(key.org as usize)?;
        Some((inventory, inventory.key_at(key.key as usize)?))
    }
}

impl<'a> DisplayNames<'a> {
    fn new(snapshot: &'a InventorySnapshot, inventory: &Inventory) -> Self {
        let details = snapshot.org_details(inventory.org());
        let projects = details.into_iter().flat_map(DetailsWithOwners::projects);
        let labels = projects.map(|(project, owner)| {
            let (name, owner) = (project.name.as_str(), owner.unwrap_or_default());
            (&project.id, ProjectLabels { name, owner })
        });
        Self {
            org: details
                .and_then(|details| details.name.as_deref())
                .unwrap_or_default(),
            projects: labels.collect(),
        }
    }

    fn project(&self, id: &ProjectId) -> ProjectLabels<'a> {
        self.projects.get(id).copied().unwrap_or_default()
    }
}

/// Returns whether the value of a filter is this project's id or name. Names are compared exactly: two names may differ only
/// in case.
pub fn matches_project(value: &str, id: &str, name: &str) -> bool {
    value.eq_ignore_ascii_case(id) || (value == name && !name.is_empty())
}

/// Returns whether the value of a filter is this status.
pub fn matches_status(value: &str, status: &str) -> bool {
    value.eq_ignore_ascii_case(status)
}

fn case_folded(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_lowercase)
}

/// Returns whether a text contains another one, which is in lower case.
fn contains_ignore_case(text: &str, lowercase: &str) -> bool {
    if lowercase.is_empty() {
        return true;
    }
    if !text.is_ascii() {
        return text.to_lowercase().contains(lowercase);
    }
    let mut windows = text.as_bytes().windows(lowercase.len());
    windows.any(|window| window.eq_ignore_ascii_case(lowercase.as_bytes()))
}
