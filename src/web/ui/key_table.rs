//! The keys that a reader asks for. Looks at every key, so it is done where a thread may be kept
//! busy.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::humanize;
use super::query::{PageQuery, SortColumn};
use crate::inventory::{Inventory, InventorySnapshot, KeyView, OrgDetails, unescape};
use crate::metrics::{KeyLabel, KeySeriesOptions};
use mongodb_atlas_client::ProjectId;

/// Keys on one page.
pub(super) const PAGE_SIZE: usize = 50;

/// A moment, for people and for programs.
pub(super) struct TimeAgo {
    /// How long ago.
    pub(super) ago: String,
    /// RFC 3339, in UTC.
    pub(super) at: String,
}

/// When a key was used last.
pub(super) enum LastUsed {
    /// `lastUsedAt` is not set.
    Never,
    /// Then.
    At(TimeAgo),
    /// Atlas has given something that is no time.
    Unknown,
}

/// One key as the page shows it; what is empty is not shown.
pub(super) struct KeyTableRow {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) status: String,
    pub(super) project: String,
    pub(super) project_id: String,
    pub(super) org: String,
    pub(super) created: Option<TimeAgo>,
    pub(super) used: LastUsed,
    pub(super) idle: Option<TimeAgo>,
    pub(super) created_by: String,
    pub(super) masked_secret: String,
}

/// One part of the keys that were found.
pub(super) struct KeyPage {
    pub(super) rows: Vec<KeyTableRow>,
    /// Keys that were found in all.
    pub(super) total: usize,
    /// Which part this is, and how many there are; from 0.
    pub(super) page: usize,
    pub(super) pages: usize,
}

/// Where a key is.
#[derive(Clone, Copy)]
struct KeyRef {
    org: u32,
    key: u32,
}

/// The keys of some inventories, and what is needed to find and to show them.
pub(super) struct KeyTable<'a> {
    snapshot: &'a InventorySnapshot,
    options: &'a KeySeriesOptions,
    projects: Vec<HashMap<&'a ProjectId, &'a str>>,
    now: Timestamp,
}

impl<'a> KeyTable<'a> {
    pub(super) fn new(
        shown: &'a InventorySnapshot,
        selection: &'a KeySeriesOptions,
        now: Timestamp,
    ) -> Self {
        let projects = shown.inventories.iter().map(|inventory| {
            let projects = find_details(shown, inventory).map(|details| details.projects.iter());
            let names = projects.into_iter().flatten();
            names
                .map(|project| (&project.id, project.name.as_str()))
                .collect()
        });
        Self {
            snapshot: shown,
            options: selection,
            projects: projects.collect(),
            now,
        }
    }

    fn exports(&self, label: KeyLabel) -> bool {
        self.options.labels.contains(&label)
    }

    /// The part of the keys that is asked for.
    pub(super) fn find(&self, query: &PageQuery) -> KeyPage {
        let needle = query.filter.to_lowercase();
        let mut places = Vec::new();
        for (org, inventory) in (0..).zip(&self.snapshot.inventories) {
            if query
                .org
                .as_ref()
                .is_none_or(|asked| asked == inventory.org())
            {
                self.find_in_inventory(org, inventory, &needle, &mut places);
            }
        }
        let total = places.len();
        let pages = total.div_ceil(PAGE_SIZE).max(1);
        let page = query.page.min(pages - 1);
        let (from, to) = (page * PAGE_SIZE, (page * PAGE_SIZE + PAGE_SIZE).min(total));
        let order = |a: &KeyRef, b: &KeyRef| self.compare(query, *a, *b);
        // only what is shown is put into order
        if from > 0 && from < total {
            places.select_nth_unstable_by(from, order);
        }
        let mut rest = places.split_off(from);
        if to - from < rest.len() {
            rest.select_nth_unstable_by(to - from, order);
            rest.truncate(to - from);
        }
        rest.sort_unstable_by(order);
        KeyPage {
            rows: rest
                .into_iter()
                .filter_map(|place| self.to_row(place))
                .collect(),
            total,
            page,
            pages,
        }
    }

    fn find_in_inventory(
        &self,
        org: u32,
        inventory: &Inventory,
        needle: &str,
        places: &mut Vec<KeyRef>,
    ) {
        let named = self.exports(KeyLabel::Name);
        let has_status = self.exports(KeyLabel::Status);
        for project in inventory.projects() {
            let all = needle.is_empty()
                || contains_ignore_case(project.project.as_str(), needle)
                || contains_ignore_case(self.project_name(org, &project.project), needle);
            let numbered = (0..).skip(project.range.start);
            for (key, view) in numbered.zip(inventory.project_keys(project, 0)) {
                let fits = all
                    || contains_ignore_case(view.id(), needle)
                    || (named && contains_ignore_case(&unescape(view.name()), needle))
                    || (has_status && contains_ignore_case(&view.attributes().status, needle));
                if fits {
                    places.push(KeyRef { org, key });
                }
            }
        }
    }

    fn project_name(&self, org: u32, project: &ProjectId) -> &'a str {
        let names = self.projects.get(org as usize);
        names
            .and_then(|names| names.get(project))
            .copied()
            .unwrap_or_default()
    }

    fn get_key(&self, place: KeyRef) -> Option<(&'a Inventory, KeyView<'a>)> {
        let inventory = self.snapshot.inventories.get(place.org as usize)?;
        Some((inventory, inventory.key_at(place.key as usize)?))
    }

    /// The order that is asked for. Keys without a value come last, whichever way round; keys that
    /// are alike keep to the order of organization, project and id.
    fn compare(&self, query: &PageQuery, a: KeyRef, b: KeyRef) -> Ordering {
        let (Some((_, of_a)), Some((_, of_b))) = (self.get_key(a), self.get_key(b)) else {
            return Ordering::Equal;
        };
        let turned = |order: Ordering| {
            if query.descending() {
                order.reverse()
            } else {
                order
            }
        };
        let order = match query.column {
            // since when a key is idle, the other way round than for how long
            SortColumn::Idle => none_last(of_a.idle_since(), of_b.idle_since(), |a, b| {
                turned(b.cmp(a))
            }),
            SortColumn::Created => {
                none_last(of_a.created(), of_b.created(), |a, b| turned(a.cmp(b)))
            }
            SortColumn::Used => {
                none_last(of_a.last_used(), of_b.last_used(), |a, b| turned(a.cmp(b)))
            }
            SortColumn::Name => {
                let (a, b) = (self.display_name(of_a), self.display_name(of_b));
                turned(case_folded(&a).cmp(case_folded(&b)))
            }
            SortColumn::Project => {
                let name = |place: KeyRef, view: KeyView<'a>| match self
                    .project_name(place.org, view.project())
                {
                    "" => view.project().as_str(),
                    name => name,
                };
                turned(case_folded(name(a, of_a)).cmp(case_folded(name(b, of_b))))
            }
        };
        order.then((a.org, a.key).cmp(&(b.org, b.key)))
    }

    /// What a key is called: its name, or its id where names are not shown.
    fn display_name(&self, view: KeyView<'a>) -> Cow<'a, str> {
        unescape(if self.exports(KeyLabel::Name) {
            view.name()
        } else {
            view.id()
        })
    }

    fn to_row(&self, place: KeyRef) -> Option<KeyTableRow> {
        let (inventory, view) = self.get_key(place)?;
        let exported = |label, text: Cow<'_, str>| {
            if self.exports(label) {
                text.into_owned()
            } else {
                String::new()
            }
        };
        let org_name =
            find_details(self.snapshot, inventory).and_then(|details| details.name.clone());
        Some(KeyTableRow {
            name: exported(KeyLabel::Name, unescape(view.name())),
            id: unescape(view.id()).into_owned(),
            status: exported(KeyLabel::Status, view.attributes().status.as_str().into()),
            project: self.project_name(place.org, view.project()).to_owned(),
            project_id: view.project().to_string(),
            org: org_name.unwrap_or_else(|| inventory.org().to_string()),
            created: view.created().and_then(|at| self.time_ago(at)),
            used: match (
                view.was_used(),
                view.last_used().and_then(|at| self.time_ago(at)),
            ) {
                (Some(false), _) => LastUsed::Never,
                (_, Some(when)) => LastUsed::At(when),
                _ => LastUsed::Unknown,
            },
            idle: view.idle_since().and_then(|since| self.time_ago(since)),
            created_by: exported(
                KeyLabel::CreatedBy,
                view.attributes().created_by.as_str().into(),
            ),
            masked_secret: exported(KeyLabel::MaskedSecret, unescape(view.masked_secret())),
        })
    }

    fn time_ago(&self, micros: i64) -> Option<TimeAgo> {
        Some(time_ago(
            Timestamp::from_microsecond(micros).ok()?,
            self.now,
        ))
    }
}

/// A moment as it is shown at `now`.
pub(super) fn time_ago(at: Timestamp, now: Timestamp) -> TimeAgo {
    TimeAgo {
        ago: humanize::format_duration(humanize::elapsed(at, now)),
        at: at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    }
}

/// What is known of the organization of an inventory beside its keys.
pub(super) fn find_details<'a>(
    shown: &'a InventorySnapshot,
    inventory: &Inventory,
) -> Option<&'a Arc<OrgDetails>> {
    let place = shown
        .details
        .binary_search_by(|(org, _)| org.cmp(inventory.org()));
    place
        .ok()
        .and_then(|place| shown.details.get(place))
        .map(|(_, details)| details)
}

fn none_last<T>(a: Option<T>, b: Option<T>, order: impl FnOnce(&T, &T) -> Ordering) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => order(&a, &b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

/// The characters of a text without regard to their case.
fn case_folded(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_lowercase)
}

/// Whether a text contains another, which is in lower case, without regard to case.
fn contains_ignore_case(text: &str, needle: &str) -> bool {
    let text = if text.is_ascii() {
        if !needle.is_ascii() || text.len() < needle.len() {
            return false;
        }
        let (text, needle) = (text.as_bytes(), needle.as_bytes());
        return needle.is_empty()
            || text
                .windows(needle.len())
                .any(|part| part.eq_ignore_ascii_case(needle));
    } else {
        Cow::Owned::<str>(text.to_lowercase())
    };
    text.contains(needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{KeyRecord, Moment};
    use crate::metrics::{IdleThreshold, PerKeyMode};
    use mongodb_atlas_client::{KeyId, OrgId};

    fn shown(keys: usize) -> InventorySnapshot {
        let at = Timestamp::UNIX_EPOCH;
        let records = (0..keys).map(|n| KeyRecord {
            id: KeyId::new(format!("id{n:04}")),
            project: ProjectId::new(format!("project{}", n % 3)),
            name: format!("Ключ \"{n}\" <b>"),
            created: Moment::Valid(at),
            last_used: match n % 5 {
                0 => Moment::Missing,
                1 => Moment::Invalid,
                _ => Moment::Valid(
                    Timestamp::from_second(i64::try_from(n).expect("small")).expect("a time"),
                ),
            },
            ..KeyRecord::default()
        });
        let org = OrgId::parse("0000000000000000000000aa").expect("an id");
        InventorySnapshot {
            inventories: vec![Arc::new(Inventory::new(org, (at, at), records, 0, &[]))],
            details: Vec::new(),
        }
    }

    fn selection(labels: &[KeyLabel]) -> KeySeriesOptions {
        KeySeriesOptions {
            per_key: PerKeyMode::All,
            labels: labels.into(),
            max_keys: 1000,
            thresholds: [IdleThreshold::new(std::time::Duration::from_mins(1))].into(),
        }
    }

    fn find(query: &PageQuery, labels: &[KeyLabel]) -> KeyPage {
        let (shown, selection) = (shown(120), selection(labels));
        let now = Timestamp::from_second(1000).expect("a time");
        KeyTable::new(&shown, &selection, now).find(query)
    }

    #[test]
    fn pages_cover_all_keys_in_every_sort_order() {
        for column in SortColumn::ALL {
            for reversed in [false, true] {
                let parts = (0..3).map(|page| {
                    let query = PageQuery {
                        column,
                        reversed,
                        page,
                        ..PageQuery::default()
                    };
                    find(&query, &[KeyLabel::Name])
                });
                let mut ids: Vec<String> = parts
                    .flat_map(|found| found.rows)
                    .map(|row| row.id)
                    .collect();
                assert_eq!(ids.len(), 120, "{column:?}");
                ids.sort();
                ids.dedup();
                assert_eq!(ids.len(), 120, "{column:?}");
            }
        }
    }

    #[test]
    fn most_idle_keys_come_first_and_unknown_ones_last() {
        let first = find(&PageQuery::default(), &[KeyLabel::Name]);
        assert_eq!((first.total, first.pages, first.rows.len()), (120, 3, 50));
        assert!(matches!(first.rows[0].used, LastUsed::Never) && first.rows[0].idle.is_some());
        let last = find(
            &PageQuery {
                page: 99,
                ..PageQuery::default()
            },
            &[KeyLabel::Name],
        );
        assert_eq!((last.page, last.rows.len()), (2, 20));
        assert!(
            last.rows
                .iter()
                .all(|row| matches!(row.used, LastUsed::Unknown))
        );
        let least = find(
            &PageQuery {
                reversed: true,
                ..PageQuery::default()
            },
            &[],
        );
        assert_eq!(
            least.rows[0].idle.as_ref().map(|idle| idle.ago.as_str()),
            Some("14 minutes 41 seconds")
        );
    }

    #[test]
    fn filter_ignores_case() {
        let total = |filter: &str, labels: &[KeyLabel]| {
            find(
                &PageQuery {
                    filter: filter.to_owned(),
                    ..PageQuery::default()
                },
                labels,
            )
            .total
        };
        assert_eq!(total("КЛЮЧ \"7\"", &[KeyLabel::Name]), 1);
        assert_eq!(total("ключ", &[KeyLabel::Name]), 120);
        assert_eq!(total("ключ", &[]), 0, "a name that is nobody's business");
        assert_eq!(total("ID0119", &[]), 1);
        assert_eq!(total("Project2", &[]), 40);
        assert_eq!(total("nothing of it", &[KeyLabel::Name]), 0);
    }

    #[test]
    fn unexported_labels_are_hidden() {
        assert!(
            find(&PageQuery::default(), &[])
                .rows
                .iter()
                .all(|row| row.name.is_empty())
        );
    }
}
