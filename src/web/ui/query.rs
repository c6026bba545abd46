//! What a reader of the page asks for: which keys, in which order, which part of them.

use std::fmt::Write as _;

use axum::http::Uri;

use mongodb_atlas_client::OrgId;

/// Characters of a filter that count.
const FILTER: usize = 100;

/// By what keys are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Column {
    /// How long nobody has used them; the longest first.
    #[default]
    Idle,
    /// Their name, or their id where names are not shown.
    Name,
    /// The name of their project, or its id.
    Project,
    /// When they were made.
    Created,
    /// When they were last used.
    Used,
}

impl Column {
    pub(super) const ALL: [Self; 5] = [
        Self::Name,
        Self::Project,
        Self::Created,
        Self::Used,
        Self::Idle,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Name => "name",
            Self::Project => "project",
            Self::Created => "created",
            Self::Used => "used",
        }
    }

    /// Its head.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Name => "Key",
            Self::Project => "Project",
            Self::Created => "Created",
            Self::Used => "Last used",
        }
    }

    /// Whether it is usually read from its greatest value down.
    fn descends(self) -> bool {
        matches!(self, Self::Idle | Self::Created | Self::Used)
    }
}

/// What is asked for. Whatever a request has that makes no sense counts as not there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Query {
    /// What a key's name, id or project has to contain.
    pub(super) filter: String,
    pub(super) org: Option<OrgId>,
    pub(super) column: Column,
    /// The other way round than the column is usually read.
    pub(super) reversed: bool,
    /// Which part of the keys, from 0.
    pub(super) page: usize,
    /// Which part of the organizations, from 0.
    pub(super) orgs: usize,
}

impl Query {
    pub(super) fn of(uri: &Uri) -> Self {
        let mut query = Self::default();
        let parts = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        let place = |text: &str| text.parse::<usize>().unwrap_or(1).saturating_sub(1);
        for (name, value) in parts {
            match &*name {
                "q" => query.filter = value.trim().chars().take(FILTER).collect(),
                "org" => query.org = OrgId::parse(&value).ok(),
                "sort" => {
                    let known = Column::ALL
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
    pub(super) fn descends(&self) -> bool {
        self.column.descends() != self.reversed
    }

    /// The same sorted by a column: the other way round if it is that column already.
    pub(super) fn sorted(&self, column: Column) -> Self {
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
        if self.column != Column::default() {
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

    fn of(query: &str) -> Query {
        Query::of(&format!("/?{query}").parse().expect("a path"))
    }

    #[test]
    fn a_link_leads_to_what_it_was_made_of() {
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
    fn nonsense_is_left_alone() {
        for text in [
            "page=0",
            "page=-1",
            "page=x&sort=y&org=z&order=",
            "%ff%00=%ff",
            "&&=&",
            "q=+",
        ] {
            assert_eq!(of(text), Query::default(), "{text}");
        }
        assert_eq!(of(&format!("q={}", "x".repeat(1000))).filter.len(), FILTER);
        assert_eq!(
            of("page=18446744073709551615").link(),
            "?page=18446744073709551615"
        );
    }

    #[test]
    fn a_column_once_more_is_the_other_way_round() {
        let idle = Query::default();
        assert!(idle.descends());
        let reversed = idle.sorted(Column::Idle);
        assert!(!reversed.descends() && reversed.sorted(Column::Idle).descends());
        assert!(!reversed.sorted(Column::Name).reversed);
    }
}
