//! The configuration file. What the flags say is said there by the same names: `--atlas.poll-interval`
//! is the member `poll_interval` of `atlas`. Only `credentials` has no flag.

use std::path::{Path, PathBuf};

use crate::cli::{FLAGS, Flag, ValueSource};
use exporter_toolkit::yaml::{self, YamlValue};

/// A file that was read, and not yet understood.
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    root: YamlValue,
}

/// The list of credentials.
pub(super) const CREDENTIALS_KEY: &str = "credentials";

impl ConfigFile {
    pub(super) fn load(path: PathBuf) -> Result<Self, String> {
        let root = yaml::load_file(&path).map_err(|why| format!("{}: {why}", path.display()))?;
        match root {
            YamlValue::Mapping(_) => Ok(Self { path, root }),
            // as a file that was cut while it was written
            YamlValue::Null => Err(format!(
                "{} is empty: expected fields, or {{}} for none",
                path.display()
            )),
            other => Err(format!(
                "{} is {}, and must have members: {}",
                path.display(),
                other.type_name(),
                sections().join(", ")
            )),
        }
    }

    /// Names a place in the file.
    pub(super) fn source(&self, member: impl Into<String>) -> ValueSource {
        ValueSource::File {
            path: self.path.clone(),
            key: member.into(),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    pub(super) fn credentials(&self) -> Option<&YamlValue> {
        self.root.get(CREDENTIALS_KEY)
    }

    /// What the file says in the place of a flag.
    pub(super) fn get(&self, flag: &Flag) -> Option<(Vec<String>, ValueSource)> {
        let (section, member) = yaml_path(flag)?;
        let values = match self.root.get(&section)?.get(&member)? {
            YamlValue::Scalar(text) if flag.repeatable => {
                text.split(',').map(|part| part.trim().to_owned()).collect()
            }
            YamlValue::Scalar(text) => vec![text.to_string()],
            YamlValue::Sequence(items) => {
                let texts = items
                    .iter()
                    .filter_map(YamlValue::as_str)
                    .map(str::to_owned);
                if flag.repeatable {
                    texts.collect()
                } else {
                    // a list of durations, which a flag has with commas between
                    vec![texts.collect::<Vec<_>>().join(",")]
                }
            }
            YamlValue::Null | YamlValue::Mapping(_) => return None,
        };
        Some((values, self.source(format!("{section}.{member}"))))
    }

    /// A sentence for each member that is none of this program's, or is of the wrong kind.
    pub(super) fn unknown_keys(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let YamlValue::Mapping(members) = &self.root else {
            return mistakes;
        };
        for (name, value) in members {
            if name == CREDENTIALS_KEY {
                continue;
            }
            let known: Vec<(String, &Flag)> = FLAGS
                .iter()
                .filter_map(|flag| {
                    let (section, member) = yaml_path(flag)?;
                    (section == *name).then_some((member, flag))
                })
                .collect();
            match value {
                _ if known.is_empty() => mistakes.push(format!(
                    "{}: there is no such member; it must be one of {}",
                    self.source(redact_key(name)),
                    sections().join(", ")
                )),
                YamlValue::Mapping(inner) => self.check_section(name, inner, &known, &mut mistakes),
                YamlValue::Null => mistakes.push(format!(
                    "{}: expected fields, got nothing; a file that was cut ends so",
                    self.source(name)
                )),
                other => mistakes.push(format!(
                    "{}: it is {}, and must have members",
                    self.source(name),
                    other.type_name()
                )),
            }
        }
        mistakes
    }

    fn check_section(
        &self,
        section: &str,
        members: &[(String, YamlValue)],
        known: &[(String, &Flag)],
        mistakes: &mut Vec<String>,
    ) {
        for (name, value) in members {
            let origin = self.source(format!("{section}.{}", redact_key(name)));
            let Some((_, flag)) = known.iter().find(|(member, _)| member == name) else {
                let names: Vec<_> = known.iter().map(|(member, _)| member.as_str()).collect();
                mistakes.push(format!(
                    "{origin}: there is no such member; it must be one of {}",
                    names.join(", ")
                ));
                continue;
            };
            let takes_list = flag.repeatable || flag.value_name == "LIST";
            let fits = match value {
                YamlValue::Scalar(_) => true,
                YamlValue::Sequence(items) => {
                    takes_list && items.iter().all(|item| item.as_str().is_some())
                }
                YamlValue::Null | YamlValue::Mapping(_) => false,
            };
            if !fits {
                let right = if takes_list {
                    "a text or a list of texts"
                } else {
                    "a text"
                };
                mistakes.push(format!(
                    "{origin}: it is {}, and must be {right}",
                    value.type_name()
                ));
            }
        }
    }
}

/// The section and the member that say what a flag says; none for the file's own name.
fn yaml_path(flag: &Flag) -> Option<(String, String)> {
    if flag.name == "config.file" {
        return None;
    }
    let (section, member) = flag.name.split_once('.')?;
    Some((section.to_owned(), member.replace(['-', '.'], "_")))
}

fn sections() -> Vec<String> {
    let mut sections: Vec<String> = FLAGS
        .iter()
        .filter_map(yaml_path)
        .map(|(section, _)| section)
        .collect();
    sections.push(CREDENTIALS_KEY.to_owned());
    sections.sort_unstable();
    sections.dedup();
    sections
}
/// An unknown key as it is shown in an error. Where the blank behind a colon is missing, a secret is a part of the key.
pub(super) fn redact_key(key: &str) -> String {
    const MAX_CHARS: usize = 30;
    let name = key.split([':', '=']).next().unwrap_or_default();
    let name = name.split_inclusive("mdb_sa_").next().unwrap_or_default();
    let shown: String = name.chars().take(MAX_CHARS).collect();
    if shown.len() < key.len() {
        return format!("{shown}…");
    }
    shown
}
