//! The configuration file. Each flag has a key of the same name: `--atlas.poll-interval` has the key `poll_interval` in
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
/// Sections without flags. The modules that read these sections check their keys.
const LIST_SECTIONS: [&str; 3] = [CREDENTIALS_KEY, "exemptions", "owners"];

impl ConfigFile {
    pub(super) fn load(path: PathBuf) -> Result<Self, Diagnostic> {
        // The location is the file, not the flag that names it: the value of the flag is valid.
        let error = |message: String| Diagnostic::new(path.display().to_string(), message);
        let root = yaml::load_file(&path).map_err(error)?;
        match &root {
            YamlValue::Mapping(_) => Ok(Self { path, root }),
            // A truncated file can be empty.
            YamlValue::Null => Err(error(
                "file is empty: expected fields, or {} for none".to_owned(),
            )),
            other => Err(error(format!(
                "expected fields ({}), got {}",
                sections().join(", "),
                other.type_name()
            ))),
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

    /// Returns a section.
    pub(super) fn section(&self, name: &str) -> Option<&YamlValue> {
        self.root.get(name)
    }

    /// Returns the values of a flag from the file.
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
                    // The flag expects a comma-separated list.
                    vec![texts.join(",")]
                }
            }
            YamlValue::Null | YamlValue::Mapping(_) => return None,
        };
        let source = self.source(format!("{section}.{key}"));
        Some(FlagValues { values, source })
    }

    /// Reports each unknown field, and each value with an invalid type.
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
                error("expected fields, got nothing (is the file truncated?)".to_owned())
            }
            other => error(format!("expected fields, got {}", other.type_name())),
        }
    }
}

/// Returns the error of a key in a section.
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
    let error = || format!("expected a text{list}, got {}", value.type_name());
    (!is_valid).then(error)
}

fn unknown_key(known: &[impl std::borrow::Borrow<str>]) -> String {
    format!("unknown field: expected one of {}", known.join(", "))
}

/// Returns the section and the key of a flag; `None` for `--config.file`.
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

/// Shortens the name of an unknown field for an error. Without a space after the colon, the name contains the secret.
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
