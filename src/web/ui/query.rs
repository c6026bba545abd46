//! What a reader of the page asks for: which keys, in which order, which part of them.

use std::fmt::Write as _;

use axum::http::Uri;

use crate::inventory::SortColumn;
use mongodb_atlas_client::OrgId;

/// Characters of a filter that count.
const MAX_FILTER_LEN: usize = 100;

impl SortColumn {
    /// Returns the value of the `sort` parameter.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Name => "name",
            Self::Project => "project",
            Self::Created => "created",
            Self::Used => "used",
        }
    }

    /// Returns the column's header.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Name => "Key",
            Self::Project => "Project",
            Self::Created => "Created",
            Self::Used => "Last used",
        }
    }
}

/// What is asked for. Whatever a request has that makes no sense counts as not there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct PageQuery {
    /// What a key's name, id or project has to contain.
    pub(super) filter: String,
    pub(super) org: Option<OrgId>,
    pub(super) column: SortColumn,
    /// The other way round than the column is usually read.
    pub(super) reversed: bool,
    /// Which part of the keys, from 0.
    pub(super) page: usize,
    /// Which part of the organizations, from 0.
    pub(super) orgs: usize,
}

impl PageQuery {
    pub(super) fn from_uri(uri: &Uri) -> Self {
        let mut query = Self::default();
        let parts = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        let place = |text: &str| text.parse::<usize>().unwrap_or(1).saturating_sub(1);
        for (name, value) in parts {
            match &*name {
                "q" => query.filter = value.trim().chars().take(MAX_FILTER_LEN).collect(),
                "org" => query.org = OrgId::parse(&value).ok(),
                "sort" => {
                    let known = SortColumn::ALL
                        .into_iter()
                        .find(|column| column.as_str() == value);
                    query.column = known.unwrap_or_default();
                }
                "order" => query.reversed = value == "reversed",
                "page" => query.page = place(&value),
                "orgs" => query.orgs = place(&value),
                _ => {}
            }
        }
        query
    }

    /// Whether greater values come first.
    pub(super) fn descending(&self) -> bool {
        self.column.descending_by_default() != self.reversed
    }

    /// The same sorted by a column: the other way round if it is that column already.
    pub(super) fn sorted_by(&self, column: SortColumn) -> Self {
        Self {
            column,
            reversed: column == self.column && !self.reversed,
            page: 0,
            ..self.clone()
        }
    }

    /// A link to this, relative to the page.
    pub(super) fn link(&self) -> String {
        let mut parts = url::form_urlencoded::Serializer::new(String::new());
        if !self.filter.is_empty() {
            parts.append_pair("q", &self.filter);
        }
        if let Some(org) = &self.org {
            parts.append_pair("org", org.as_str());
        }
        if self.column != SortColumn::default() {
            parts.append_pair("sort", self.column.as_str());
        }
        if self.reversed {
            parts.append_pair("order", "reversed");
        }
        let mut number = String::new();
        for (name, place) in [("page", self.page), ("orgs", self.orgs)] {
            if place > 0 {
                number.clear();
                // a String takes all
                let _ = write!(number, "{}", place.saturating_add(1));
                parts.append_pair(name, &number);
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
