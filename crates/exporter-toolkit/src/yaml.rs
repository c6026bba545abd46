//! YAML as a tree of strings, so that a value in a file goes through the same checks as one on the command line.
//!
//! A scalar is the exact text of the file: an id of digits only is not a number, and `no` is not a boolean, as in Go's
//! YAML for a field of type string. Scalars are wiped when the tree is dropped, since a file may hold secrets.

mod tree_builder;

use std::fmt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::bounded_file::{self, ReadOptions};
use tree_builder::TreeBuilder;

/// A YAML value.
#[derive(Clone)]
pub enum YamlValue {
    /// `null`, `~`, or no value.
    Null,
    /// A scalar, as the file writes it.
    Scalar(Zeroizing<String>),
    /// A sequence.
    Sequence(Vec<YamlValue>),
    /// The fields of a mapping, in the order of the file.
    Mapping(Vec<(String, YamlValue)>),
}

/// Maximum size of a file.
const MAX_BYTES: u64 = 4 << 20;

/// Reads a file of one document. Errors hold neither the file's name nor any of its content.
///
/// # Errors
/// When the file cannot be read, is not valid YAML, has a duplicate key, or is larger than 4 MiB.
pub fn load_file(path: &Path) -> Result<YamlValue, String> {
    let text = bounded_file::read_text(path, ReadOptions::regular(MAX_BYTES))
        .map_err(|error| error.explain())?;
    parse(&text)
}

/// Parses a text of one document.
///
/// # Errors
/// As [`load_file`].
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
            Self::Mapping(_) => "members",
        }
    }

    /// Returns the field of a mapping.
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
