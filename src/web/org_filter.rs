//! The organizations that a request selects: `?org=ID`, which can be repeated.

use mongodb_atlas_client::OrgId;

/// The organizations that a request selects; all of them when it names none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OrgFilter {
    /// Every target.
    All,
    /// These, sorted and without duplicates.
    Only(Vec<OrgId>),
}

/// One of the ids is not that of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnknownOrg;

impl OrgFilter {
    /// Parses the query of a request. Other parameters are ignored.
    pub(super) fn from_query(query: Option<&str>, targets: &[OrgId]) -> Result<Self, UnknownOrg> {
        let mut orgs = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if name == "org" {
                let org = OrgId::parse(&value).map_err(|_| UnknownOrg)?;
                targets.binary_search(&org).map_err(|_| UnknownOrg)?;
                orgs.push(org);
            }
        }
        orgs.sort_unstable();
        orgs.dedup();
        Ok(if orgs.is_empty() {
            Self::All
        } else {
            Self::Only(orgs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn org_filter_parses_repeated_ids_and_rejects_unknown_ones() {
        let ids: Vec<OrgId> = (0..3)
            .map(|n| OrgId::parse(&format!("{n:024x}")).expect("an id"))
            .collect();
        let (targets, unknown_id) = (&ids[..2], &ids[2]);
        let of = |query: &str| OrgFilter::from_query(Some(query), targets);
        for all in ["", "x=1", "organization=1"] {
            assert_eq!(of(all), Ok(OrgFilter::All), "{all}");
        }
        let both = format!("org={}&x&org={}&org={}", ids[1], ids[0], ids[1]);
        assert_eq!(of(&both), Ok(OrgFilter::Only(targets.to_vec())));
        let unknown = format!("org={}&org={unknown_id}", ids[0]);
        for bad in [
            unknown.as_str(),
            "org=",
            "org",
            "org=x",
            "org=%00",
            "org=%ff",
        ] {
            assert_eq!(of(bad), Err(UnknownOrg), "{bad}");
        }
        assert_eq!(OrgFilter::from_query(None, targets), Ok(OrgFilter::All));
    }
}
