//! Which organizations a request asks for: `?org=ID`, which can be given more than once.

use mongodb_atlas_client::OrgId;

/// Organizations by their ids, in order and none twice; all of them when a request names none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OrgFilter {
    /// Every organization that is watched.
    All,
    /// These.
    Some(Vec<OrgId>),
}

/// One of the ids is not that of an organization that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnknownOrg;

impl OrgFilter {
    /// Reads the query of a request. Other members of it are left alone.
    pub(super) fn from_query(query: Option<&str>, watched: &[OrgId]) -> Result<Self, UnknownOrg> {
        let mut orgs = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if name == "org" {
                let org = OrgId::parse(&value).map_err(|_| UnknownOrg)?;
                watched.binary_search(&org).map_err(|_| UnknownOrg)?;
                orgs.push(org);
            }
        }
        orgs.sort_unstable();
        orgs.dedup();
        Ok(if orgs.is_empty() {
            Self::All
        } else {
            Self::Some(orgs)
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
        let (watched, stranger) = (&ids[..2], &ids[2]);
        let of = |query: &str| OrgFilter::from_query(Some(query), watched);
        for all in ["", "x=1", "organization=1"] {
            assert_eq!(of(all), Ok(OrgFilter::All), "{all}");
        }
        let both = format!("org={}&x&org={}&org={}", ids[1], ids[0], ids[1]);
        assert_eq!(of(&both), Ok(OrgFilter::Some(watched.to_vec())));
        let unknown = format!("org={}&org={stranger}", ids[0]);
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
        assert_eq!(OrgFilter::from_query(None, watched), Ok(OrgFilter::All));
    }
}
