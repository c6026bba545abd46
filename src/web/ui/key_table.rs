//! The table of keys. Reads every key, so callers use a blocking thread.

use jiff::Timestamp;
use url::Url;

use super::query::PageQuery;
use crate::humanize::{elapsed, format_duration};
use crate::inventory::{InventorySnapshot, KeyQuery, KeyRow, KeySelection};
use crate::metrics::KeySeriesOptions;

/// The number of keys on one page.
pub(super) const PAGE_SIZE: usize = 50;

/// A time as text.
pub(super) struct TimeAgo {
    /// The elapsed time.
    pub(super) ago: String,
    /// The time in RFC 3339 format, in UTC.
    pub(super) at: String,
}

/// One page of the matching keys.
pub(super) struct KeyPage {
    pub(super) rows: Vec<KeyRow>,
    /// The number of matching keys.
    pub(super) total: usize,
    /// The index of the page, from 0.
    pub(super) page: usize,
    pub(super) pages: usize,
}

/// Returns the requested page, with links to Atlas at `base_url`. Searches and returns only exported labels.
pub(super) fn find_keys(
    snapshot: &InventorySnapshot,
    options: &KeySeriesOptions,
    base_url: &Url,
    query: &PageQuery,
    now: Timestamp,
) -> KeyPage {
    let keys = KeyQuery {
        org: query.org.as_ref(),
        text: &query.filter,
        owners: query.owner.as_slice(),
        column: query.column,
        reversed: query.reversed,
        labels: &options.labels,
        base_url: Some(base_url),
        ..KeyQuery::default()
    };
    let last_page = |total: usize| total.div_ceil(PAGE_SIZE).max(1) - 1;
    let selection = KeySelection::new(snapshot, keys, now, |total| {
        let start = query.page.min(last_page(total)) * PAGE_SIZE;
        start..total.min(start + PAGE_SIZE)
    });
    let total = selection.len();
    KeyPage {
        rows: selection.rows().collect(),
        total,
        page: query.page.min(last_page(total)),
        pages: last_page(total) + 1,
    }
}

/// Formats a time, and the time elapsed since then.
pub(super) fn time_ago(at: Timestamp, now: Timestamp) -> TimeAgo {
    TimeAgo {
        ago: format_duration(elapsed(at, now)),
        at: at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::inventory::{ApiKey, ApiTime, Inventory, SortColumn};
    use crate::metrics::{IdleThreshold, KeyLabel, PerKeyMode};
    use mongodb_atlas_client::{KeyId, OrgId, ProjectId};

    fn shown(keys: usize) -> InventorySnapshot {
        let at = Timestamp::UNIX_EPOCH;
        let records = (0..keys).map(|n| ApiKey {
            id: KeyId::new(format!("id{n:04}")),
            project: ProjectId::new(format!("project{}", n % 3)),
            name: format!("Ключ \"{n}\" <b>"),
            created: ApiTime::Valid(at),
            last_used: match n % 5 {
                0 => ApiTime::Missing,
                1 => ApiTime::Invalid,
                _ => ApiTime::Valid(
                    Timestamp::from_second(i64::try_from(n).expect("small")).expect("a time"),
                ),
            },
            ..ApiKey::default()
        });
        let org = OrgId::parse("0000000000000000000000aa").expect("an id");
        InventorySnapshot {
            inventories: vec![Arc::new(Inventory::from_records(org, at, records)).into()],
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
        let base_url = Url::parse("https://cloud.mongodb.com/").expect("a URL");
        find_keys(&shown, &selection, &base_url, query, now)
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
                    .map(|row| row.api_key_id)
                    .collect();
                assert_eq!(ids.len(), 120, "{column:?}");
                ids.sort();
                ids.dedup();
                assert_eq!(ids.len(), 120, "{column:?}");
            }
        }
    }

    #[test]
    fn keys_are_sorted_by_idle_time_with_unknown_ones_last() {
        let first = find(&PageQuery::default(), &[KeyLabel::Name]);
        assert_eq!((first.total, first.pages, first.rows.len()), (120, 3, 50));
        assert!(first.rows[0].was_used == Some(false) && first.rows[0].idle_seconds.is_some());
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
                .all(|row| row.was_used.is_none() && row.last_used_at.is_none())
        );
        let least = find(
            &PageQuery {
                reversed: true,
                ..PageQuery::default()
            },
            &[],
        );
        assert_eq!(least.rows[0].idle_seconds, Some(14 * 60 + 41));
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
        assert_eq!(total("ключ", &[]), 0, "names are hidden");
        assert_eq!(total("ID0119", &[]), 1);
        assert_eq!(total("Project2", &[]), 40);
        assert_eq!(total("no such key", &[KeyLabel::Name]), 0);
    }

    #[test]
    fn unexported_labels_are_hidden() {
        for (labels, named) in [(&[][..], 0), (&[KeyLabel::Name], 50)] {
            let rows = find(&PageQuery::default(), labels).rows;
            let with_name = rows.iter().filter(|row| !row.name.is_empty());
            assert_eq!((rows.len(), with_name.count()), (50, named), "{labels:?}");
        }
    }
}
