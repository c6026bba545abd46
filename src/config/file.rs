//! The configuration file. Each flag is a key of the same name: `--atlas.poll-interval` is the key `poll_interval` of
//! the section `atlas`. Only `credentials`, `owners` and `exemptions` have no flag.

use std::path::{Path, PathBuf};

use exporter_toolkit::diagnostic::Diagnostic;
use exporter_toolkit::yaml::{self, YamlValue};

use crate::cli::{FLAGS, Flag, FlagValues, ValueSource};

/// A parsed configuration file.
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    root: YamlValue,
}

/// Key of the list of credentials.
const CREDENTIALS_KEY: &str = "credentials";
/// Sections without flags, which are checked where they are read.
const LIST_SECTIONS: [&str; 3] = [CREDENTIALS_KEY, "exemptions", "owners"];

impl ConfigFile {
    pub(super) fn load(path: PathBuf) -> Result<Self, String> {
        let shown = path.display();
        let root = yaml::load_file(&path).map_err(|error| format!("{shown}: {error}"))?;
        match &root {
            YamlValue::Mapping(_) => Ok(Self { path, root }),
            // A file that was truncated while it was written is empty.
            YamlValue::Null => Err(format!(
                "{shown} is empty: expected fields, or {{}} for none"
            )),
            other => Err(format!(
                "{shown} is {}, and must have members: {}",
                other.type_name(),
                sections().join(", ")
            )),
        }
    }

    /// Returns the source of the value at `key`.
    pub(super) fn source(&self, key: impl Into<String>) -> ValueSource {
        ValueSource::File {
            path: self.path.clone(),
            key: key.into(),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    pub(super) fn credentials(&self) -> Option<&YamlValue> {
        self.section(CREDENTIALS_KEY)
    }

    /// Returns a section as the file has it.
    pub(super) fn section(&self, name: &str) -> Option<&YamlValue> {
        self.root.get(name)
    }

    /// Returns the values of a flag in the file.
    pub(super) fn get(&self, flag: &Flag) -> Option<FlagValues> {
        let (section, key) = yaml_path(flag)?;
        let values = match self.root.get(&section)?.get(&key)? {
            YamlValue::Scalar(text) if flag.repeatable => {
                text.split(',').map(|part| part.trim().to_owned()).collect()
            }
            YamlValue::Scalar(text) => vec![text.to_string()],
            YamlValue::Sequence(items) => {
                let texts = items.iter().filter_map(YamlValue::as_str);
                let texts: Vec<_> = texts.map(str::to_owned).collect();
                if flag.repeatable {
                    texts
                } else {
                    // A list of durations; the flag takes it with commas.
                    vec![texts.join(",")]
                }
            }
            YamlValue::Null | YamlValue::Mapping(_) => return None,
        };
        let source = self.source(format!("{section}.{key}"));
        Some(FlagValues { values, source })
    }

    /// Reports each key that is unknown or has the wrong type.
    pub(super) fn unknown_keys(&self) -> Vec<Diagnostic> {
        let YamlValue::Mapping(entries) = &self.root else {
            return Vec::new();
        };
        let sections = entries
            .iter()
            .filter(|(name, _)| !LIST_SECTIONS.contains(&name.as_str()));
        sections
            .flat_map(|(name, value)| self.check_section(name, value))
            .collect()
    }

    fn check_section(&self, section: &str, value: &YamlValue) -> Vec<Diagnostic> {
        let flags = FLAGS.iter().filter_map(|flag| {
            let (flag_section, key) = yaml_path(flag)?;
            (flag_section == section).then_some((key, flag))
        });
        let known: Vec<(String, &Flag)> = flags.collect();
        let error = |message: String| {
            let source = self.source(redact_key(section));
            vec![Diagnostic::new(source.to_string(), message)]
        };
        match value {
            _ if known.is_empty() => error(unknown_key(&sections())),
            YamlValue::Mapping(entries) => entries
                .iter()
                .filter_map(|(key, value)| {
                    let source = self.source(format!("{section}.{}", redact_key(key)));
                    Some(Diagnostic::new(
                        source.to_string(),
                        check_key(key, value, &known)?,
                    ))
                })
                .collect(),
            YamlValue::Null => {
                error("expected fields, got nothing; a file that was cut ends so".to_owned())
            }
            other => error(format!(
                "it is {}, and must have members",
                other.type_name()
            )),
        }
    }
}

/// Returns the error in a key of a section.
fn check_key(key: &str, value: &YamlValue, known: &[(String, &Flag)]) -> Option<String> {
    let Some((_, flag)) = known.iter().find(|(name, _)| name == key) else {
        let names: Vec<_> = known.iter().map(|(name, _)| name.as_str()).collect();
        return Some(unknown_key(&names));
    };
    let takes_list = flag.repeatable || flag.value_name == "LIST";
    let is_valid = match value {
        YamlValue::Scalar(_) => true,
        YamlValue::Sequence(items) => {
            takes_list && items.iter().all(|item| item.as_str().is_some())
        }
        YamlValue::Null | YamlValue::Mapping(_) => false,
    };
    let list = if takes_list {
        " or a list of texts"
    } else {
        ""
    };
    let error = || format!("it is {}, and must be a text{list}", value.type_name());
    (!is_valid).then(error)
}

fn unknown_key(known: &[impl std::borrow::Borrow<str>]) -> String {
    format!(
        "there is no such member; it must be one of {}",
        known.join(", ")
    )
}

/// Returns the section and the key of a flag; none for the path of the file itself.
fn yaml_path(flag: &Flag) -> Option<(String, String)> {
    if flag.name == "config.file" {
        return None;
    }
    let (section, key) = flag.name.split_once('.')?;
    Some((section.to_owned(), key.replace(['-', '.'], "_")))
}

fn sections() -> Vec<String> {
    let flags = FLAGS.iter().filter_map(yaml_path);
    let mut sections: Vec<String> = flags.map(|(section, _)| section).collect();
    sections.extend(LIST_SECTIONS.map(str::to_owned));
    sections.sort_unstable();
    sections.dedup();
    sections
}

/// Returns an unknown key as it may be shown in an error: without the space after a colon, a secret is part of the key.
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
