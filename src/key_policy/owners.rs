//! Owners of projects.

use std::sync::Arc;

use super::{ProjectPattern, ProjectRef};

/// A rule that assigns an owner to projects.
#[derive(Debug, Clone)]
pub struct OwnerRule {
    /// Patterns of the projects.
    pub projects: Vec<ProjectPattern>,
    /// Owner of the projects.
    pub owner: Arc<str>,
}

/// Rules of the section `owners`, in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct OwnerRules(Vec<OwnerRule>);

impl OwnerRules {
    /// Creates the rules. The first rule that selects a project takes precedence.
    pub fn new(rules: Vec<OwnerRule>) -> Self {
        Self(rules)
    }

    /// Returns the owner of `project`; `None` if no rule selects it.
    pub fn find(&self, project: ProjectRef<'_>) -> Option<&Arc<str>> {
        let selects = |rule: &&OwnerRule| rule.projects.iter().any(|it| it.matches(project));
        self.0.iter().find(selects).map(|rule| &rule.owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb_atlas_client::ProjectId;

    #[test]
    fn first_matching_owner_rule_takes_precedence() {
        let rule = |projects: &[&str], owner: &str| OwnerRule {
            projects: projects
                .iter()
                .map(|text| ProjectPattern::parse(text).expect("a glob"))
                .collect(),
            owner: owner.into(),
        };
        let rules = OwnerRules::new(vec![
            rule(&["search-*", "69681d39c9e8cfd375386316"], "search"),
            rule(&["search-old", "{a,b}"], "legacy"),
        ]);
        let owner = |id: &str, name: &str| {
            let id = ProjectId::new(id);
            rules
                .find(ProjectRef { id: &id, name })
                .map(ToString::to_string)
        };
        assert_eq!(owner("1", "search-old").as_deref(), Some("search"));
        assert_eq!(
            owner("1", "search-a/b").as_deref(),
            Some("search"),
            "`*` includes `/`"
        );
        assert_eq!(owner("1", "b").as_deref(), Some("legacy"));
        assert_eq!(
            owner("69681D39C9E8CFD375386316", "").as_deref(),
            Some("search")
        );
        assert_eq!(owner("1", "Search-old"), None, "names are case-sensitive");
        assert_eq!(owner("1", ""), None);
        assert!(ProjectPattern::parse("a[").is_err());
    }
}
