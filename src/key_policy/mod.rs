//! What the configuration file says about keys: the owners of projects, and keys that may be idle.
//!
//! | module | purpose |
//! | --- | --- |
//! | `owners` | the owner of a project |
//! | `exemptions` | keys that may be idle until a date |

mod exemptions;
mod owners;

pub use exemptions::{Exemption, Exemptions, KeySelector};
pub use owners::{OwnerRule, OwnerRules};

use mongodb_atlas_client::ProjectId;

/// The rules of the configuration file about keys.
#[derive(Debug, Clone, Default)]
pub struct KeyPolicy {
    /// The owners of projects, which take precedence over the projects' tags.
    pub owners: OwnerRules,
    /// The keys that may be idle.
    pub exemptions: Exemptions,
}

/// A project, as rules select it.
#[derive(Debug, Clone, Copy)]
pub struct ProjectRef<'a> {
    /// The id.
    pub id: &'a ProjectId,
    /// The name; empty if it is unknown.
    pub name: &'a str,
}

/// A glob on the names of projects, or the id of one.
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

    /// Returns whether the pattern selects `project`. A project whose name is unknown is selected by its id alone.
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

/// Parses a glob in which `*` matches any characters: names are texts, not paths. `globset` matches bytes, so that `?` and
/// `[...]` stand for one ASCII character.
fn parse_glob(text: &str) -> Result<globset::Glob, String> {
    let classes = text.split('[').skip(1);
    let mut classes = classes.map(|rest| rest.split(']').next().unwrap_or_default());
    if classes.any(|class| !class.is_ascii()) {
        return Err("expected ASCII characters in [...]; {a,b} has alternatives of any".to_owned());
    }
    let mut builder = globset::GlobBuilder::new(text);
    builder.literal_separator(false).backslash_escape(true);
    builder.build().map_err(|error| error.kind().to_string())
}
