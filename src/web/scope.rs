//! Selects the series of a scrape: those of some organizations (`?org=ID`), or those of the process (`?scope=exporter`).

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use mongodb_atlas_client::OrgId;

/// The series that a scrape selects. Prometheus can scrape each organization and the process as separate targets, which
/// together have every series exactly once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ScrapeScope {
    /// All series.
    All,
    /// The series of these organizations, sorted and without duplicates.
    Orgs(Vec<OrgId>),
    /// The series of the process, which belong to no organization.
    Exporter,
}

/// The value of `scope` that selects the series of the process.
pub(super) const EXPORTER_SCOPE: &str = "exporter";

/// The error of an invalid query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ScopeError {
    #[error("unknown organization id. See /sd for all organizations")]
    UnknownOrg,
    #[error("invalid value of scope: expected {EXPORTER_SCOPE}")]
    UnknownScope,
    #[error("duplicate parameter scope")]
    DuplicateScope,
    #[error("conflicting parameters: expected either org or scope")]
    Conflict,
}

impl IntoResponse for ScopeError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::UnknownOrg => StatusCode::NOT_FOUND,
            Self::UnknownScope | Self::DuplicateScope | Self::Conflict => StatusCode::BAD_REQUEST,
        };
        (status, format!("{status}: {self}.\n")).into_response()
    }
}

impl ScrapeScope {
    /// Parses the query of a request. Other parameters are ignored.
    ///
    /// # Errors
    /// [`ScopeError`] if an id is unknown, or if `scope` is invalid, repeated, or combined with `org`.
    pub(super) fn from_query(query: Option<&str>, targets: &[OrgId]) -> Result<Self, ScopeError> {
        let (mut org_values, mut scope) = (Vec::new(), None);
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "org" => org_values.push(value),
                "scope" if scope.is_some() => return Err(ScopeError::DuplicateScope),
                "scope" => scope = Some(value),
                _ => {}
            }
        }
        if let Some(scope) = scope {
            return match (scope == EXPORTER_SCOPE, org_values.is_empty()) {
                (false, _) => Err(ScopeError::UnknownScope),
                (true, false) => Err(ScopeError::Conflict),
                (true, true) => Ok(Self::Exporter),
            };
        }
        let orgs = org_values.into_iter().map(|value| {
            let org = OrgId::parse(&value).ok()?;
            targets.binary_search(&org).is_ok().then_some(org)
        });
        let orgs: Option<Vec<OrgId>> = orgs.collect();
        let mut orgs = orgs.ok_or(ScopeError::UnknownOrg)?;
        orgs.sort_unstable();
        orgs.dedup();
        Ok(if orgs.is_empty() {
            Self::All
        } else {
            Self::Orgs(orgs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn org_parameters_select_organizations_and_unknown_ids_are_rejected() {
        let ids: Vec<OrgId> = (0..3)
            .map(|n| OrgId::parse(&format!("{n:024x}")).expect("an id"))
            .collect();
        let (targets, unknown_id) = (&ids[..2], &ids[2]);
        let parse = |query: &str| ScrapeScope::from_query(Some(query), targets);
        for all in ["", "x=1", "organization=1", "scopes=exporter", "Scope=x"] {
            assert_eq!(parse(all), Ok(ScrapeScope::All), "{all}");
        }
        let both = format!("org={}&x&org={}&org={}", ids[1], ids[0], ids[1]);
        assert_eq!(parse(&both), Ok(ScrapeScope::Orgs(targets.to_vec())));
        let unknown = format!("org={}&org={unknown_id}", ids[0]);
        for bad in [
            unknown.as_str(),
            "org=",
            "org",
            "org=x",
            "org=%00",
            "org=%ff",
        ] {
            assert_eq!(parse(bad), Err(ScopeError::UnknownOrg), "{bad}");
        }
        assert_eq!(ScrapeScope::from_query(None, targets), Ok(ScrapeScope::All));
    }

    #[test]
    fn scope_parameter_must_be_exporter_once_without_org() {
        let id = OrgId::parse(&format!("{:024x}", 1)).expect("an id");
        let parse = |query: &str| ScrapeScope::from_query(Some(query), std::slice::from_ref(&id));
        for good in ["scope=exporter", "x&scope=%65xporter&y=scope"] {
            assert_eq!(parse(good), Ok(ScrapeScope::Exporter), "{good}");
        }
        let (before, after) = (
            format!("org={id}&scope=exporter"),
            format!("scope=exporter&org={id}"),
        );
        for (bad, error) in [
            ("scope", ScopeError::UnknownScope),
            ("scope=", ScopeError::UnknownScope),
            ("scope=all", ScopeError::UnknownScope),
            ("scope=Exporter", ScopeError::UnknownScope),
            ("scope=exporter,exporter", ScopeError::UnknownScope),
            ("scope=exporter&scope=exporter", ScopeError::DuplicateScope),
            ("scope=exporter&scope=", ScopeError::DuplicateScope),
            ("scope&scope", ScopeError::DuplicateScope),
            (&before, ScopeError::Conflict),
            (&after, ScopeError::Conflict),
            ("scope=exporter&org=x", ScopeError::Conflict),
            ("org=&scope=exporter", ScopeError::Conflict),
        ] {
            assert_eq!(parse(bad), Err(error), "{bad}");
        }
    }
}
