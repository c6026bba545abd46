//! Reads the fields of the web configuration, and collects errors and warnings.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use ring::digest;
use zeroize::Zeroizing;

use super::{WebConfig, WebConfigError, WebConfigLoad};
use crate::bounded_file::{self, FileError, ReadOptions};
use crate::diagnostic::Diagnostic;
use crate::yaml::{self, YamlValue};

/// The maximum size of a certificate or key file.
const MAX_BYTES: u64 = 1 << 20;

/// Reads fields, and collects errors and warnings, which contain no text that may be a secret.
pub(super) struct ConfigReader<'a> {
    path: &'a Path,
    files: Vec<PathBuf>,
    digest: digest::Context,
    is_transient: bool,
    pub(super) errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

/// A field and its path.
pub(super) struct Field<'n> {
    pub(super) path: String,
    pub(super) value: Option<&'n YamlValue>,
}

impl Field<'_> {
    /// Returns the field `name` of a mapping.
    pub(super) fn get(&self, name: &str) -> Self {
        Self {
            path: join_path(&self.path, name),
            value: self.value.and_then(|value| value.get(name)),
        }
    }

    /// Returns whether the field has a value that is not empty.
    pub(super) fn is_set(&self) -> bool {
        self.value
            .is_some_and(|value| !matches!(value, YamlValue::Null) && value.as_str() != Some(""))
    }
}

impl<'a> ConfigReader<'a> {
    pub(super) fn new(path: &'a Path) -> Self {
        Self {
            path,
            files: Vec::new(),
            digest: digest::Context::new(&digest::SHA256),
            is_transient: false,
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Finishes the load: returns the configuration, or the errors if there are any.
    pub(super) fn finish(self, config: WebConfig) -> WebConfigLoad {
        let config = if self.errors.is_empty() {
            Ok(WebConfig {
                warnings: self.warnings,
                ..config
            })
        } else {
            Err(WebConfigError {
                file: self.path.to_owned(),
                errors: self.errors,
            })
        };
        let digest = self.digest.finish();
        WebConfigLoad {
            files: self.files,
            config,
            content_digest: digest.as_ref().try_into().unwrap_or_default(),
            is_transient: self.is_transient,
        }
    }

    /// Reads a file, and adds it to the files and the digest of the configuration.
    pub(super) fn read_file(
        &mut self,
        path: PathBuf,
        max_bytes: u64,
    ) -> Result<Zeroizing<Vec<u8>>, String> {
        let result = bounded_file::read(&path, ReadOptions::regular(max_bytes));
        let (is_read, bytes) = match &result {
            Ok(bytes) => (1, &***bytes),
            Err(error) => {
                self.is_transient |= matches!(error, FileError::TimedOut(_) | FileError::Io(_));
                (0, &[][..])
            }
        };
        for part in [path.as_os_str().as_encoded_bytes(), &[is_read], bytes] {
            self.digest.update(&(part.len() as u64).to_be_bytes());
            self.digest.update(part);
        }
        self.files.push(path);
        result.map_err(|error| error.explain())
    }

    /// Rejects every field without a value. A file that is truncated while it is written can end with such a field, which must
    /// not disable protection.
    pub(super) fn reject_nulls(&mut self, value: &YamlValue, path: &str) {
        match value {
            YamlValue::Null => {
                let help = "write an empty value as {}, [] or ''";
                self.reject(path, "expected a value, got nothing", help);
            }
            YamlValue::Scalar(_) => {}
            YamlValue::Sequence(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.reject_nulls(item, &format!("{path}[{index}]"));
                }
            }
            YamlValue::Mapping(fields) => {
                for (name, value) in fields {
                    self.reject_nulls(value, &join_path(path, name));
                }
            }
        }
    }

    pub(super) fn add_error(&mut self, path: &str, message: impl Into<String>) {
        self.errors.push(Diagnostic::new(path, message));
    }

    /// Adds an error with help.
    pub(super) fn reject(
        &mut self,
        path: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.errors
            .push(Diagnostic::new(path, message).with_help(help));
    }

    /// Adds an error about an invalid value.
    pub(super) fn reject_value(&mut self, field: &Field<'_>, text: &str, expected: impl Display) {
        let message = format!("invalid value {:?}: expected {expected}", truncate(text));
        self.add_error(&field.path, message);
    }

    pub(super) fn warn(&mut self, path: &str, message: impl Into<String>) {
        self.warnings.push(Diagnostic::new(path, message));
    }

    /// Converts the value; returns `None` if it is not set. Adds an error if it has another type than `expected`.
    pub(super) fn convert<'n, T>(
        &mut self,
        path: &str,
        value: Option<&'n YamlValue>,
        expected: &str,
        convert: impl FnOnce(&'n YamlValue) -> Option<T>,
    ) -> Option<T> {
        let value = value.filter(|value| !matches!(value, YamlValue::Null))?;
        let converted = convert(value);
        if converted.is_none() {
            let message = format!("expected {expected}, got {}", value.type_name());
            self.add_error(path, message);
        }
        converted
    }

    /// Returns the fields of a mapping; empty if it is not set. Adds an error for each field that is not `known`.
    pub(super) fn mapping<'n>(
        &mut self,
        field: &Field<'n>,
        known: &[&str],
    ) -> &'n [(String, YamlValue)] {
        let fields = self.convert(&field.path, field.value, "a mapping", YamlValue::as_mapping);
        let fields = fields.unwrap_or_default();
        for (name, _) in fields {
            if !known.contains(&name.as_str()) {
                let message = format!("unknown field: expected one of {}", known.join(", "));
                self.add_error(&join_path(&field.path, name), message);
            }
        }
        fields
    }

    /// Returns the string of a field; `None` if it is not set or empty.
    pub(super) fn string<'n>(&mut self, field: &Field<'n>) -> Option<&'n str> {
        self.convert(&field.path, field.value, "a text", YamlValue::as_str)
            .filter(|text| !text.is_empty())
    }

    /// Returns the strings of a list; `None` if it is not set.
    pub(super) fn strings<'n>(&mut self, field: &Field<'n>) -> Option<Vec<&'n str>> {
        let items = self.convert(&field.path, field.value, "a list", YamlValue::as_sequence)?;
        let strings = items.iter().enumerate().filter_map(|(index, item)| {
            let path = format!("{}[{index}]", field.path);
            self.convert(&path, Some(item), "a text", YamlValue::as_str)
        });
        Some(strings.collect())
    }

    /// Returns the choice with the name in a field; `default` if the field is not set or has an invalid value.
    pub(super) fn choice<T: Copy>(
        &mut self,
        field: &Field<'_>,
        choices: &[(&str, T)],
        default: T,
    ) -> T {
        let Some(text) = self.string(field) else {
            return default;
        };
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return *value;
        }
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        self.reject_value(field, text, format!("one of {}", names.join(", ")));
        default
    }

    pub(super) fn boolean(&mut self, field: &Field<'_>, default: bool) -> bool {
        let Some(text) = self.string(field) else {
            return default;
        };
        yaml::parse_bool(text).unwrap_or_else(|| {
            self.reject_value(field, text, "true or false");
            default
        })
    }

    /// Returns the PEM of the field `name`, or of the file in the field `name_file`.
    pub(super) fn pem_source(&mut self, section: &Field<'_>, name: &str) -> Option<PemSource> {
        let inline = section.get(name);
        let file = section.get(&format!("{name}_file"));
        match (self.string(&inline), self.string(&file)) {
            (Some(_), Some(_)) => {
                let message = format!("conflicts with {}: expected only one", inline.path);
                self.add_error(&file.path, message);
                None
            }
            (Some(text), None) => Some(PemSource {
                path: inline.path,
                bytes: Zeroizing::new(text.as_bytes().to_vec()),
            }),
            (None, Some(file_path)) => {
                let base_dir = self.path.parent().unwrap_or(Path::new(""));
                let file_path = base_dir.join(file_path);
                let path = format!("{} ({})", file.path, file_path.display());
                match self.read_file(file_path, MAX_BYTES) {
                    Ok(bytes) => Some(PemSource { path, bytes }),
                    Err(message) => {
                        self.add_error(&path, message);
                        None
                    }
                }
            }
            (None, None) => None,
        }
    }
}

/// The bytes of certificates or of a key, and their field or file. Cleared on drop.
pub(super) struct PemSource {
    pub(super) path: String,
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

/// Returns the path of the field `name` of a section.
fn join_path(section: &str, name: &str) -> String {
    let name = truncate(name);
    if section.is_empty() {
        name
    } else {
        format!("{section}.{name}")
    }
}

/// Returns at most 100 characters of a text, for an error message.
pub(super) fn truncate(text: &str) -> String {
    text.chars().take(100).collect()
}
