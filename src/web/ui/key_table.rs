//! The keys that a reader asks for. Looks at every key, so it is done where a thread may be kept
//! busy.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::humanize;
use super::query::{Column, Query};
use crate::inventory::{Details, Inventory, KeyView, Shown, unescape};
use crate::metrics::{KeyLabel, Selection};
use mongodb_atlas_client::ProjectId;

/// Keys on one page.
pub(super) const PAGE: usize = 50;

/// A moment, for people and for programs.
pub(super) struct When {
    /// How long ago.
    pub(super) ago: String,
    /// RFC 3339, in UTC.
    pub(super) at: String,
}

/// When a key was used last.
pub(super) enum Used {
    /// `lastUsedAt` is not set.
    Never,
    /// Then.
    At(When),
    /// Atlas has given something that is no time.
    Unknown,
}

/// One key as the page shows it; what is empty is not shown.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) status: String,
    pub(super) project: String,
    pub(super) project_id: String,
    pub(super) org: String,
    pub(super) created: Option<When>,
    pub(super) used: Used,
    pub(super) idle: Option<When>,
    pub(super) created_by: String,
    pub(super) masked_secret: String,
}

/// One part of the keys that were found.
pub(super) struct Found {
    pub(super) rows: Vec<Row>,
    /// Keys that were found in all.
    pub(super) total: usize,
    /// Which part this is, and how many there are; from 0.
    pub(super) page: usize,
    pub(super) pages: usize,
}

/// Where a key is.
#[derive(Clone, Copy)]
struct Place {
    org: u32,
    key: u32,
}

/// The keys of some inventories, and what is needed to find and to show them.
pub(super) struct Keys<'a> {
    shown: &'a Shown,
    selection: &'a Selection,
    projects: Vec<HashMap<&'a ProjectId, &'a str>>,
    now: Timestamp,
}

impl<'a> Keys<'a> {
    pub(super) fn new(shown: &'a Shown, selection: &'a Selection, now: Timestamp) -> Self {
        let projects = shown.inventories.iter().map(|inventory| {
            let projects = details(shown, inventory).map(|details| details.projects.iter());
            let names = projects.into_iter().flatten();
            names
                .map(|project| (&project.id, project.name.as_str()))
                .collect()
        });
        Self {
            shown,
            selection,
            projects: projects.collect(),
            now,
        }
    }

    fn exports(&self, label: KeyLabel) -> bool {
        self.selection.labels.contains(&label)
    }

    /// The part of the keys that is asked for.
    pub(super) fn find(&self, query: &Query) -> Found {
        let needle = query.filter.to_lowercase();
        let mut places = Vec::new();
        for (org, inventory) in (0..).zip(&self.shown.inventories) {
            if query
                .org
                .as_ref()
                .is_none_or(|asked| asked == inventory.org())
            {
                self.find_in(org, inventory, &needle, &mut places);
            }
        }
        let total = places.len();
        let pages = total.div_ceil(PAGE).max(1);
        let page = query.page.min(pages - 1);
        let (from, to) = (page * PAGE, (page * PAGE + PAGE).min(total));
        let order = |a: &Place, b: &Place| self.order(query, *a, *b);
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
        Found {
            rows: rest
                .into_iter()
                .filter_map(|place| self.row(place))
                .collect(),
            total,
            page,
            pages,
        }
    }

    fn find_in(&self, org: u32, inventory: &Inventory, needle: &str, places: &mut Vec<Place>) {
        let named = self.exports(KeyLabel::Name);
        let has_status = self.exports(KeyLabel::Status);
        for project in inventory.projects() {
            let all = needle.is_empty()
                || contains(project.project.as_str(), needle)
                || contains(self.project_name(org, &project.project), needle);
            let numbered = (0..).skip(project.range.start);
            for (key, view) in numbered.zip(inventory.keys_of(project, 0)) {
                let fits = all
                    || contains(view.id(), needle)
                    || (named && contains(&unescape(view.name()), needle))
                    || (has_status && contains(&view.kind().status, needle));
                if fits {
                    places.push(Place { org, key });
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

    fn view(&self, place: Place) -> Option<(&'a Inventory, KeyView<'a>)> {
        let inventory = self.shown.inventories.get(place.org as usize)?;
        Some((inventory, inventory.key(place.key as usize)?))
    }

    /// The order that is asked for. Keys without a value come last, whichever way round; keys that
    /// are alike keep to the order of organization, project and id.
    fn order(&self, query: &Query, a: Place, b: Place) -> Ordering {
        let (Some((_, of_a)), Some((_, of_b))) = (self.view(a), self.view(b)) else {
            return Ordering::Equal;
        };
        let turned = |order: Ordering| {
            if query.descends() {
                order.reverse()
            } else {
                order
            }
        };
        let order = match query.column {
            // since when a key is idle, the other way round than for how long
            Column::Idle => last_if_none(of_a.idle_since(), of_b.idle_since(), |a, b| {
                turned(b.cmp(a))
            }),
            Column::Created => {
                last_if_none(of_a.created(), of_b.created(), |a, b| turned(a.cmp(b)))
            }
            Column::Used => {
                last_if_none(of_a.last_used(), of_b.last_used(), |a, b| turned(a.cmp(b)))
            }
            Column::Name => {
                let (a, b) = (self.label_of(of_a), self.label_of(of_b));
                turned(folded(&a).cmp(folded(&b)))
            }
            Column::Project => {
                let name = |place: Place, view: KeyView<'a>| match self
                    .project_name(place.org, view.project())
                {
                    "" => view.project().as_str(),
                    name => name,
                };
                turned(folded(name(a, of_a)).cmp(folded(name(b, of_b))))
            }
        };
        order.then((a.org, a.key).cmp(&(b.org, b.key)))
    }

    /// What a key is called: its name, or its id where names are not shown.
    fn label_of(&self, view: KeyView<'a>) -> Cow<'a, str> {
        unescape(if self.exports(KeyLabel::Name) {
            view.name()
        } else {
            view.id()
        })
    }

    fn row(&self, place: Place) -> Option<Row> {
        let (inventory, view) = self.view(place)?;
        let exported = |label, text: Cow<'_, str>| {
            if self.exports(label) {
                text.into_owned()
            } else {
                String::new()
            }
        };
        let org_name = details(self.shown, inventory).and_then(|details| details.name.clone());
        Some(Row {
            name: exported(KeyLabel::Name, unescape(view.name())),
            id: unescape(view.id()).into_owned(),
            status: exported(KeyLabel::Status, view.kind().status.as_str().into()),
            project: self.project_name(place.org, view.project()).to_owned(),
            project_id: view.project().to_string(),
            org: org_name.unwrap_or_else(|| inventory.org().to_string()),
            created: view.created().and_then(|at| self.when(at)),
            used: match (view.used(), view.last_used().and_then(|at| self.when(at))) {
                (Some(false), _) => Used::Never,
                (_, Some(when)) => Used::At(when),
                _ => Used::Unknown,
            },
            idle: view.idle_since().and_then(|since| self.when(since)),
            created_by: exported(KeyLabel::CreatedBy, view.kind().created_by.as_str().into()),
            masked_secret: exported(KeyLabel::MaskedSecret, unescape(view.masked_secret())),
        })
    }

    fn when(&self, micros: i64) -> Option<When> {
        Some(when(Timestamp::from_microsecond(micros).ok()?, self.now))
    }
}

/// A moment as it is shown at `now`.
pub(super) fn when(at: Timestamp, now: Timestamp) -> When {
    When {
        ago: humanize::length(humanize::between(at, now)),
        at: at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    }
}

/// What is known of the organization of an inventory beside its keys.
pub(super) fn details<'a>(shown: &'a Shown, inventory: &Inventory) -> Option<&'a Arc<Details>> {
    let place = shown
        .details
        .binary_search_by(|(org, _)| org.cmp(inventory.org()));
    place
        .ok()
        .and_then(|place| shown.details.get(place))
        .map(|(_, details)| details)
}

fn last_if_none<T>(a: Option<T>, b: Option<T>, order: impl FnOnce(&T, &T) -> Ordering) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => order(&a, &b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

/// The characters of a text without regard to their case.
fn folded(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_lowercase)
}

/// Whether a text contains another, which is in lower case, without regard to case.
fn contains(text: &str, needle: &str) -> bool {
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
    use crate::metrics::{PerKey, Threshold};
    use mongodb_atlas_client::{KeyId, OrgId};

    fn shown(keys: usize) -> Shown {
        let at = Timestamp::UNIX_EPOCH;
        let records = (0..keys).map(|n| KeyRecord {
            id: KeyId::new(format!("id{n:04}")),
            project: ProjectId::new(format!("project{}", n % 3)),
            name: format!("Ключ \"{n}\" <b>"),
            created: Moment::At(at),
            last_used: match n % 5 {
                0 => Moment::Missing,
                1 => Moment::Unreadable,
                _ => Moment::At(
                    Timestamp::from_second(i64::try_from(n).expect("small")).expect("a time"),
                ),
            },
            ..KeyRecord::default()
        });
        let org = OrgId::parse("0000000000000000000000aa").expect("an id");
        Shown {
            inventories: vec![Arc::new(Inventory::new(org, (at, at), records, 0, &[]))],
            details: Vec::new(),
        }
    }

    fn selection(labels: &[KeyLabel]) -> Selection {
        Selection {
            per_key: PerKey::All,
            labels: labels.into(),
            max_keys: 1000,
            thresholds: [Threshold::new(std::time::Duration::from_mins(1))].into(),
        }
    }

    fn find(query: &Query, labels: &[KeyLabel]) -> Found {
        let (shown, selection) = (shown(120), selection(labels));
        let now = Timestamp::from_second(1000).expect("a time");
        Keys::new(&shown, &selection, now).find(query)
    }

    #[test]
    fn parts_make_up_the_whole_in_every_order() {
        for column in Column::ALL {
            for reversed in [false, true] {
                let parts = (0..3).map(|page| {
                    let query = Query {
                        column,
                        reversed,
                        page,
                        ..Query::default()
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
    fn the_most_idle_come_first_and_the_unknown_last() {
        let first = find(&Query::default(), &[KeyLabel::Name]);
        assert_eq!((first.total, first.pages, first.rows.len()), (120, 3, 50));
        assert!(matches!(first.rows[0].used, Used::Never) && first.rows[0].idle.is_some());
        let last = find(
            &Query {
                page: 99,
                ..Query::default()
            },
            &[KeyLabel::Name],
        );
        assert_eq!((last.page, last.rows.len()), (2, 20));
        assert!(
            last.rows
                .iter()
                .all(|row| matches!(row.used, Used::Unknown))
        );
        let least = find(
            &Query {
                reversed: true,
                ..Query::default()
            },
            &[],
        );
        assert_eq!(
            least.rows[0].idle.as_ref().map(|idle| idle.ago.as_str()),
            Some("14 minutes 41 seconds")
        );
    }

    #[test]
    fn a_filter_finds_without_regard_to_case() {
        let total = |filter: &str, labels: &[KeyLabel]| {
            find(
                &Query {
                    filter: filter.to_owned(),
                    ..Query::default()
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
    fn what_is_not_exported_is_not_shown() {
        assert!(
            find(&Query::default(), &[])
                .rows
                .iter()
                .all(|row| row.name.is_empty())
        );
    }
}
