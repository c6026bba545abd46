//! Rules about keys from the configuration file: owners of projects, and exemptions.
//!
//! | module | purpose |
//! | --- | --- |
//! | `owners` | owners of projects |
//! | `exemptions` | keys that may be idle until a date |

mod exemptions;
mod owners;

pub use exemptions::{Exemption, Exemptions, KeySelector};
pub use owners::{OwnerRule, OwnerRules};

use mongodb_atlas_client::ProjectId;

/// Rules about keys from the configuration file.
#[derive(Debug, Clone, Default)]
pub struct KeyPolicy {
    /// Owners of projects; they take precedence over the tags of projects.
    pub owners: OwnerRules,
    /// Keys that may be idle until a date.
    pub exemptions: Exemptions,
}

/// A project that a rule may select.
#[derive(Debug, Clone, Copy)]
pub struct ProjectRef<'a> {
    /// The id.
    pub id: &'a ProjectId,
    /// The name; empty if it is unknown.
    pub name: &'a str,
}

/// A glob on project names, or a project id.
#[derive(Debug, Clone)]
pub struct ProjectPattern {
    text: String,
    glob: globset::GlobMatcher,
}

impl ProjectPattern {
    /// Parses a glob or an id.
    ///
    /// # Errors
    /// A message when the glob is invalid.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self {
            glob: parse_glob(text)?.compile_matcher(),
            text: text.to_owned(),
        })
    }

    /// Returns whether the pattern selects `project`. If the name of the project is unknown, only its id is compared.
    pub fn matches(&self, project: ProjectRef<'_>) -> bool {
        project.id.as_str().eq_ignore_ascii_case(&self.text)
            || (!project.name.is_empty() && self.glob.is_match(project.name))
    }
}

impl std::fmt::Display for ProjectPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Parses a glob. `*` matches any characters, because names are not paths. `globset` matches bytes, so `?` and `[...]` match
/// one ASCII character.
fn parse_glob(text: &str) -> Result<globset::Glob, String> {
    let classes = text.split('[').skip(1);
    let mut classes = classes.map(|rest| rest.split(']').next().unwrap_or_default());
    if classes.any(|class| !class.is_ascii()) {
        return Err(
            "expected ASCII characters in [...]; for other characters, use {a,b}".to_owned(),
        );
    }
    let mut builder = globset::GlobBuilder::new(text);
    builder.literal_separator(false).backslash_escape(true);
    builder.build().map_err(|error| error.kind().to_string())
}
