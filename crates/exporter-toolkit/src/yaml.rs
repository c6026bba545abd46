//! Parses YAML into a tree of strings, so that values of a file and of the command line pass the same checks.
//!
//! A scalar is the exact text of the file: an id that consists of digits is not a number, and `no` is not a boolean, as in
//! Go's YAML for a field of type string. Scalars are cleared when the tree is dropped, because a file may contain secrets.

mod tree_builder;

use std::fmt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::bounded_file::{self, ReadOptions};
use tree_builder::TreeBuilder;

/// A YAML value.
#[derive(Clone)]
pub enum YamlValue {
    /// The value `null` or `~`, or no value.
    Null,
    /// A scalar: the exact text of the file.
    Scalar(Zeroizing<String>),
    /// A sequence.
    Sequence(Vec<YamlValue>),
    /// The fields of a mapping, in the order of the file.
    Mapping(Vec<(String, YamlValue)>),
}

/// The maximum size of a file.
const MAX_BYTES: u64 = 4 << 20;

/// Reads a file with one document. Errors contain neither the name of the file nor its content.
///
/// # Errors
/// Fails when the file cannot be read, is larger than 4 MiB, is invalid YAML, or has a duplicate key.
pub fn load_file(path: &Path) -> Result<YamlValue, String> {
    let text = bounded_file::read_text(path, ReadOptions::regular(MAX_BYTES))
        .map_err(|error| error.explain())?;
    parse(&text)
}

/// Parses a text with one document.
///
/// # Errors
/// Fails as [`load_file`].
pub fn parse(text: &str) -> Result<YamlValue, String> {
    TreeBuilder::new(text).read_document()
}

/// Parses a boolean as YAML 1.1 defines it: `true`, `yes`, `on`, `y` and their opposites, in lower, upper or title case.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => {
            Some(true)
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => {
            Some(false)
        }
        _ => None,
    }
}

impl YamlValue {
    /// Returns the name of the type, for error messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Scalar(_) => "a text",
            Self::Sequence(_) => "a list",
            Self::Mapping(_) => "a mapping",
        }
    }

    /// Returns a field of a mapping.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let mut fields = self.as_mapping()?.iter();
        let field = fields.find(|(field, _)| field == name);
        field.map(|(_, value)| value)
    }

    /// Returns the fields of a mapping.
    pub fn as_mapping(&self) -> Option<&[(String, Self)]> {
        match self {
            Self::Mapping(fields) => Some(fields),
            _ => None,
        }
    }

    /// Returns the items of a sequence.
    pub fn as_sequence(&self) -> Option<&[Self]> {
        match self {
            Self::Sequence(items) => Some(items),
            _ => None,
        }
    }

    /// Returns the text of a scalar.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Scalar(text) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Debug for YamlValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A scalar may be a secret.
        f.write_str(self.type_name())
    }
}

#[cfg(test)]
mod tests;
