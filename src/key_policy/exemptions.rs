//! Keys that may be idle until a date.

use std::collections::HashMap;

use globset::{Glob, GlobSet, GlobSetBuilder};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use super::{ProjectPattern, ProjectRef, parse_glob};
use mongodb_atlas_client::KeyId;

/// Selector of the keys of an exemption.
#[derive(Debug, Clone)]
pub enum KeySelector {
    /// The key with this id.
    Id(KeyId),
    /// Keys with a name that matches a glob, in the selected projects; in all projects without a pattern.
    Name {
        /// Glob on the name of a key.
        name: Glob,
        /// Pattern of the projects.
        project: Option<ProjectPattern>,
    },
}

impl KeySelector {
    /// Parses a glob on names.
    ///
    /// # Errors
    /// A message when the glob is invalid.
    pub fn parse_name(name: &str, project: Option<ProjectPattern>) -> Result<Self, String> {
        let name = parse_glob(name)?;
        Ok(Self::Name { name, project })
    }
}

/// An exemption: keys that may be idle until a date.
#[derive(Debug, Clone)]
pub struct Exemption {
    /// Selector of the keys.
    pub selector: KeySelector,
    /// Reason for the exemption.
    pub reason: String,
    /// Last day of the exemption.
    pub until: Date,
}

impl Exemption {
    /// Returns the end of the exemption: 00:00 UTC of the day after `until`.
    pub fn ends_at(&self) -> Timestamp {
        let next_day = self.until.saturating_add(1.day());
        let midnight = TimeZone::UTC.to_timestamp(next_day.at(0, 0, 0, 0));
        midnight.unwrap_or(Timestamp::MAX)
    }
}

/// Exemptions of the configuration file, in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Exemptions {
    exemptions: Vec<Exemption>,
    by_id: HashMap<String, Vec<usize>>,
    /// Globs on names; `name_exemptions` has the index of the exemption of each glob.
    names: GlobSet,
    name_exemptions: Vec<usize>,
}

impl Exemptions {
    /// Creates the lookup table for keys.
    ///
    /// # Errors
    /// A message when all globs together are too large.
    pub fn new(exemptions: Vec<Exemption>) -> Result<Self, String> {
        let mut by_id: HashMap<String, Vec<usize>> = HashMap::new();
        let mut names = GlobSetBuilder::new();
        let mut name_exemptions = Vec::new();
        for (index, exemption) in exemptions.iter().enumerate() {
            match &exemption.selector {
                KeySelector::Id(id) => {
                    by_id.entry(id.to_string()).or_default().push(index);
                }
                KeySelector::Name { name, .. } => {
                    names.add(name.clone());
                    name_exemptions.push(index);
                }
            }
        }
        Ok(Self {
            names: names.build().map_err(|error| error.to_string())?,
            exemptions,
            by_id,
            name_exemptions,
        })
    }

    /// Returns the exemptions, in the order of the configuration file.
    pub fn as_slice(&self) -> &[Exemption] {
        &self.exemptions
    }

    /// Returns whether there is no exemption.
    pub fn is_empty(&self) -> bool {
        self.exemptions.is_empty()
    }

    /// Returns whether an exemption selects keys by project. Such an exemption cannot be applied if the name of a project is
    /// unknown.
    pub fn depend_on_project_names(&self) -> bool {
        let mut selectors = self.exemptions.iter().map(|it| &it.selector);
        selectors.any(|selector| {
            matches!(
                selector,
                KeySelector::Name {
                    project: Some(_),
                    ..
                }
            )
        })
    }

    /// Returns the exemptions that can apply to keys of `project`.
    pub fn in_project(&self, project: ProjectRef<'_>) -> ProjectExemptions<'_> {
        let names = self.name_exemptions.iter().map(|index| {
            let selector = self.exemptions.get(*index).map(|it| &it.selector);
            match selector {
                Some(KeySelector::Name {
                    project: Some(pattern),
                    ..
                }) => pattern.matches(project),
                _ => true,
            }
        });
        ProjectExemptions {
            exemptions: self,
            name_applies: names.collect(),
            matched_names: Vec::new(),
        }
    }
}

/// Exemptions that can apply to keys of one project.
pub struct ProjectExemptions<'a> {
    exemptions: &'a Exemptions,
    /// For each glob on names, whether its exemption selects the project.
    name_applies: Vec<bool>,
    /// Buffer that is reused for every key.
    matched_names: Vec<usize>,
}

impl ProjectExemptions<'_> {
    /// Calls `found` with the index of each exemption that selects the key with this id and name.
    pub fn for_each_match(&mut self, id: &str, name: &str, mut found: impl FnMut(usize)) {
        for index in self.exemptions.by_id.get(id).into_iter().flatten() {
            found(*index);
        }
        if self.name_applies.is_empty() {
            return;
        }
        let names = &self.exemptions.names;
        names.matches_into(name, &mut self.matched_names);
        for glob in &self.matched_names {
            if self.name_applies.get(*glob) == Some(&true)
                && let Some(index) = self.exemptions.name_exemptions.get(*glob)
            {
                found(*index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb_atlas_client::ProjectId;

    fn exemption(selector: KeySelector) -> Exemption {
        Exemption {
            selector,
            reason: "disaster recovery".into(),
            until: "2027-06-30".parse().expect("a date"),
        }
    }

    fn by_name(name: &str, project: Option<&str>) -> Exemption {
        let project = project.map(|text| ProjectPattern::parse(text).expect("a glob"));
        exemption(KeySelector::parse_name(name, project).expect("a glob"))
    }

    #[test]
    fn exemption_ends_at_the_next_midnight() {
        let ends_at = |until: &str| {
            let until = until.parse().expect("a date");
            let exemption = Exemption {
                until,
                ..by_name("*", None)
            };
            exemption.ends_at().to_string()
        };
        assert_eq!(ends_at("2027-06-30"), "2027-07-01T00:00:00Z");
        assert_eq!(ends_at("2028-02-28"), "2028-02-29T00:00:00Z");
        assert_eq!(ends_at("2027-12-31"), "2028-01-01T00:00:00Z");
        assert_eq!(ends_at("9999-12-31"), Timestamp::MAX.to_string());
    }

    #[test]
    fn keys_are_matched_by_id_and_by_name_within_projects() {
        let exemptions = Exemptions::new(vec![
            exemption(KeySelector::Id(KeyId::new("a86r5kwrfsk5r5ku5tgvhmpj"))),
            by_name("dr-*", Some("search-*")),
            by_name("dr-*", None),
            by_name("break?glass", Some("69681d39c9e8cfd375386316")),
            by_name("*", Some("nowhere")),
        ])
        .expect("globs");
        let matches = |project: &str, project_name: &str, id: &str, name: &str| {
            let project = ProjectId::new(project);
            let project = ProjectRef {
                id: &project,
                name: project_name,
            };
            let mut found = Vec::new();
            let mut in_project = exemptions.in_project(project);
            in_project.for_each_match(id, name, |index| found.push(index));
            found.sort_unstable();
            found
        };
        assert_eq!(matches("1", "search-a", "k", "dr-1"), [1, 2]);
        assert_eq!(matches("1", "other", "k", "dr-1"), [2]);
        assert_eq!(matches("1", "", "a86r5kwrfsk5r5ku5tgvhmpj", ""), [0]);
        assert_eq!(
            matches("1", "", "a86r5kwrfsk5r5ku5tgvhmpj", "dr-\n"),
            [0, 2]
        );
        assert_eq!(
            matches("69681d39c9e8cfd375386316", "", "k", "break glass"),
            [3]
        );
        assert_eq!(matches("1", "x", "k", "break glass"), [0_usize; 0]);
    }
}
