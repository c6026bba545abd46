//! The query parameters of the page: filter, sort order and page number.

use axum::http::Uri;

use crate::inventory::SortColumn;
use mongodb_atlas_client::OrgId;

/// The value of the owner filter that selects every key. The name of an owner never starts with white space.
pub(super) const ANY_OWNER: &str = " any";
/// The maximum length of a filter, in characters. The rest is ignored.
const MAX_FILTER_LEN: usize = 100;

impl SortColumn {
    /// Returns the column's header.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Name => "Key",
            Self::Project => "Project",
            Self::Owner => "Owner",
            Self::Created => "Created",
            Self::Used => "Last used",
        }
    }
}

/// The query of the page. Invalid parameters are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct PageQuery {
    /// The text to find in name, id, project and owner of a key.
    pub(super) filter: String,
    pub(super) org: Option<OrgId>,
    /// The owner; an empty text selects keys without an owner.
    pub(super) owner: Option<String>,
    pub(super) column: SortColumn,
    /// Whether the default order of the column is reversed.
    pub(super) reversed: bool,
    /// The page of the keys, from 0.
    pub(super) page: usize,
    /// The page of the organizations, from 0.
    pub(super) orgs: usize,
}

impl PageQuery {
    pub(super) fn from_uri(uri: &Uri) -> Self {
        let mut query = Self::default();
        let parts = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        let page_index = |text: &str| text.parse::<usize>().unwrap_or(1).saturating_sub(1);
        for (name, value) in parts {
            match &*name {
                "q" => query.filter = value.trim().chars().take(MAX_FILTER_LEN).collect(),
                "org" => query.org = OrgId::parse(&value).ok(),
                "owner" => query.owner = Some(value.into_owned()).filter(|it| it != ANY_OWNER),
                "sort" => query.column = value.parse().unwrap_or_default(),
                "order" => query.reversed = value == "reversed",
                "page" => query.page = page_index(&value),
                "orgs" => query.orgs = page_index(&value),
                _ => {}
            }
        }
        query
    }

    /// Returns whether the largest value is first.
    pub(super) fn descending(&self) -> bool {
        self.column.descending_by_default() != self.reversed
    }

    /// Returns the query after a change.
    pub(super) fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut query = self.clone();
        change(&mut query);
        query
    }

    /// Returns the query sorted by a column, or in reverse order if it is already sorted by this column.
    pub(super) fn sorted_by(&self, column: SortColumn) -> Self {
        self.with(|query| {
            query.reversed = column == self.column && !self.reversed;
            query.column = column;
            query.page = 0;
        })
    }

    /// Returns a link with this query, relative to the page.
    pub(super) fn link(&self) -> String {
        let mut parts = url::form_urlencoded::Serializer::new(String::new());
        if !self.filter.is_empty() {
            parts.append_pair("q", &self.filter);
        }
        if let Some(org) = &self.org {
            parts.append_pair("org", org.as_str());
        }
        if let Some(owner) = &self.owner {
            parts.append_pair("owner", owner);
        }
        if self.column != SortColumn::default() {
            parts.append_pair("sort", self.column.as_str());
        }
        if self.reversed {
            parts.append_pair("order", "reversed");
        }
        for (name, index) in [("page", self.page), ("orgs", self.orgs)] {
            if index > 0 {
                parts.append_pair(name, &index.saturating_add(1).to_string());
            }
        }
        let parts = parts.finish();
        if parts.is_empty() {
            ".".to_owned()
        } else {
            format!("?{parts}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str) -> PageQuery {
        PageQuery::from_uri(&format!("/?{query}").parse().expect("a path"))
    }

    #[test]
    fn links_round_trip() {
        for text in [
            "q=a+b%26%22&sort=name&order=reversed&page=3&orgs=2",
            "org=0000000000000000000000aa",
            "owner=team-search",
            "owner=",
            "",
        ] {
            let query = of(text);
            let link = query.link();
            assert_eq!(of(link.trim_start_matches(['?', '.'])), query, "{link}");
        }
    }

    #[test]
    fn invalid_query_parameters_are_ignored() {
        for text in [
            "page=0",
            "page=-1",
            "page=x&sort=y&org=z&order=",
            "%ff%00=%ff",
            "&&=&",
            "q=+",
        ] {
            assert_eq!(of(text), PageQuery::default(), "{text}");
        }
        assert_eq!(
            of(&format!("q={}", "x".repeat(1000))).filter.len(),
            MAX_FILTER_LEN
        );
        assert_eq!(
            of("page=18446744073709551615").link(),
            "?page=18446744073709551615"
        );
    }

    #[test]
    fn sorting_twice_reverses_the_order() {
        let idle = PageQuery::default();
        assert!(idle.descending());
        let reversed = idle.sorted_by(SortColumn::Idle);
        assert!(!reversed.descending() && reversed.sorted_by(SortColumn::Idle).descending());
        assert!(!reversed.sorted_by(SortColumn::Name).reversed);
    }
}
