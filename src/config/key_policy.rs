//! The sections `owners` and `exemptions` of the configuration file.

use exporter_toolkit::yaml::YamlValue;
use jiff::civil::Date;
use mongodb_atlas_client::KeyId;

use super::file::{ConfigFile, redact_key};
use super::resolver::Resolver;
use crate::humanize::is_unprintable;
use crate::key_policy::{
    Exemption, Exemptions, KeyPolicy, KeySelector, OwnerRule, OwnerRules, ProjectPattern,
};

/// Maximum length of an owner and of a reason; the same as for the value of a tag in Atlas.
const MAX_TEXT_CHARS: usize = 255;

const EXPECTED_PROJECTS: &str = "a list of project globs or ids";

/// Reads both sections. Collects errors in `resolver`.
pub(super) fn resolve(resolver: &mut Resolver<'_>) -> KeyPolicy {
    let Some(file) = resolver.file.clone() else {
        return KeyPolicy::default();
    };
    let mut reader = PolicyReader {
        file: &file,
        resolver,
    };
    let owners = reader.entries("owners", PolicyReader::owner_rule);
    let exemptions = reader.entries("exemptions", PolicyReader::exemption);
    let exemptions = Exemptions::new(exemptions).unwrap_or_else(|error| {
        reader.error("exemptions", error);
        Exemptions::default()
    });
    KeyPolicy {
        owners: OwnerRules::new(owners),
        exemptions,
    }
}

struct PolicyReader<'a, 'r> {
    file: &'a ConfigFile,
    resolver: &'a mut Resolver<'r>,
}

impl PolicyReader<'_, '_> {
    fn error(&mut self, path: &str, message: impl Into<String>) {
        self.resolver.error(&self.file.source(path), message);
    }

    /// Reports that the entry at `path` has no field `name`.
    fn missing_field(&mut self, path: &str, name: &str, expected: &str) {
        self.error(path, format!("missing field {name:?}: expected {expected}"));
    }

    /// Parses each entry of a section; `parse` receives the entry and its path. Skips invalid entries.
    fn entries<T>(
        &mut self,
        section: &str,
        parse: fn(&mut Self, &str, &YamlValue) -> Option<T>,
    ) -> Vec<T> {
        let file = self.file;
        match file.section(section) {
            None => Vec::new(),
            Some(YamlValue::Sequence(entries)) => (0..)
                .zip(entries)
                .filter_map(|(index, entry)| parse(self, &format!("{section}[{index}]"), entry))
                .collect(),
            Some(other) => {
                self.error(section, expected("a list", other));
                Vec::new()
            }
        }
    }

    fn owner_rule(&mut self, path: &str, entry: &YamlValue) -> Option<OwnerRule> {
        self.check_fields(path, entry, &["projects", "owner"])?;
        let owner = self.printable_text(path, entry, "owner");
        let projects_path = format!("{path}.projects");
        let texts = match entry.get("projects") {
            Some(YamlValue::Sequence(items)) if items.is_empty() => {
                let message = format!("expected {EXPECTED_PROJECTS}, got an empty list");
                self.error(&projects_path, message);
                return None;
            }
            Some(YamlValue::Sequence(items)) => items.as_slice(),
            Some(other) => {
                self.error(&projects_path, expected(EXPECTED_PROJECTS, other));
                return None;
            }
            None => {
                self.missing_field(path, "projects", EXPECTED_PROJECTS);
                return None;
            }
        };
        let patterns = (0..).zip(texts).map(|(index, item)| {
            let path = format!("{projects_path}[{index}]");
            let Some(text) = item.as_str().filter(|text| !text.is_empty()) else {
                self.error(&path, expected("a project glob or id", item));
                return None;
            };
            self.project_pattern(&path, text)
        });
        let projects: Vec<_> = patterns.collect();
        Some(OwnerRule {
            projects: projects.into_iter().collect::<Option<_>>()?,
            owner: owner?.into(),
        })
    }

    fn exemption(&mut self, path: &str, entry: &YamlValue) -> Option<Exemption> {
        self.check_fields(path, entry, &["key", "name", "project", "reason", "until"])?;
        let selector = self.selector(path, entry);
        let reason = self.printable_text(path, entry, "reason");
        let until = self.required_text(path, entry, "until").and_then(|text| {
            let date = parse_date(text);
            if date.is_none() {
                let path = format!("{path}.until");
                self.error(
                    &path,
                    format!("expected a date such as 2027-06-30, got {text:?}"),
                );
            }
            date
        });
        Some(Exemption {
            selector: selector?,
            reason: reason?.to_owned(),
            until: until?,
        })
    }

    fn selector(&mut self, path: &str, entry: &YamlValue) -> Option<KeySelector> {
        match (entry.get("key"), entry.get("name"), entry.get("project")) {
            (Some(_), None, None) => {
                let id = self.required_text(path, entry, "key")?;
                Some(KeySelector::Id(KeyId::new(id)))
            }
            (None, Some(_), project) => {
                let pattern = if project.is_some() {
                    let text = self.required_text(path, entry, "project")?;
                    Some(self.project_pattern(&format!("{path}.project"), text)?)
                } else {
                    None
                };
                let name = self.required_text(path, entry, "name")?;
                let selector = KeySelector::parse_name(name, pattern);
                selector
                    .map_err(|error| {
                        self.error(&format!("{path}.name"), invalid_glob(name, &error));
                    })
                    .ok()
            }
            (Some(_), _, _) => {
                self.error(
                    path,
                    "expected `key` alone, or `name` with or without `project`",
                );
                None
            }
            (None, None, _) => {
                self.error(
                    path,
                    "missing field \"key\" or \"name\": expected an id in `key` or a glob in `name`",
                );
                None
            }
        }
    }

    fn project_pattern(&mut self, path: &str, text: &str) -> Option<ProjectPattern> {
        ProjectPattern::parse(text)
            .map_err(|error| self.error(path, invalid_glob(text, &error)))
            .ok()
    }

    /// Reports an entry that is not a mapping, and each unknown field of an entry.
    fn check_fields(&mut self, path: &str, entry: &YamlValue, known: &[&str]) -> Option<()> {
        let Some(fields) = entry.as_mapping() else {
            self.error(path, expected("fields", entry));
            return None;
        };
        for (name, _) in fields {
            if !known.contains(&name.as_str()) {
                let path = format!("{path}.{}", redact_key(name));
                self.error(
                    &path,
                    format!("unknown field: expected one of {}", known.join(", ")),
                );
            }
        }
        Some(())
    }

    /// Returns a text that is shown as a label or in a table.
    fn printable_text<'v>(
        &mut self,
        path: &str,
        entry: &'v YamlValue,
        name: &str,
    ) -> Option<&'v str> {
        let text = self.required_text(path, entry, name)?;
        if text.contains(is_unprintable) {
            let expected = "expected a text without control characters";
            self.error(&format!("{path}.{name}"), expected);
            return None;
        }
        let chars = text.chars().count();
        if chars > MAX_TEXT_CHARS {
            let expected = format!("expected at most {MAX_TEXT_CHARS} characters, got {chars}");
            self.error(&format!("{path}.{name}"), expected);
            return None;
        }
        Some(text)
    }

    fn required_text<'v>(
        &mut self,
        path: &str,
        entry: &'v YamlValue,
        name: &str,
    ) -> Option<&'v str> {
        let Some(value) = entry.get(name) else {
            self.missing_field(path, name, "a text");
            return None;
        };
        let text = value.as_str().map(str::trim);
        let text = text.filter(|text| !text.is_empty());
        if text.is_none() {
            let got = match value {
                YamlValue::Scalar(_) => "an empty text",
                other => other.type_name(),
            };
            self.error(
                &format!("{path}.{name}"),
                format!("expected a text, got {got}"),
            );
        }
        text
    }
}

fn expected(what: &str, value: &YamlValue) -> String {
    format!("expected {what}, got {}", value.type_name())
}

fn invalid_glob(text: &str, error: &str) -> String {
    format!("invalid glob {text:?}: {error}")
}

/// Parses `YYYY-MM-DD`.
fn parse_date(text: &str) -> Option<Date> {
    (text.len() == "2027-06-30".len())
        .then(|| text.parse().ok())
        .flatten()
}
