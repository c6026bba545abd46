//! Where a member of the web configuration is, and the mistakes that are found on the way.

use std::path::{Path, PathBuf};

use ring::digest;
use zeroize::Zeroizing;

use super::ContentDigest;
use crate::bounded_file::{self, FileError, ReadOptions};
use crate::yaml::YamlValue;

/// Most bytes of a certificate or key file.
const MAX_BYTES: u64 = 1 << 20;

/// Looks members up and collects what is wrong with them. No mistake repeats a text that may be a
/// secret.
pub(super) struct ConfigReader<'a> {
    base_dir: &'a Path,
    pub(super) files: Vec<PathBuf>,
    content: digest::Context,
    pub(super) is_transient: bool,
    pub(super) errors: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl<'a> ConfigReader<'a> {
    pub(super) fn new(path: &'a Path) -> Self {
        Self {
            base_dir: path.parent().unwrap_or(Path::new("")),
            files: Vec::new(),
            content: digest::Context::new(&digest::SHA256),
            is_transient: false,
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Reads a file, and takes note of it and of its content.
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
            self.content.update(&(part.len() as u64).to_be_bytes());
            self.content.update(part);
        }
        self.files.push(path);
        result.map_err(|error| format!("cannot be read: {error}"))
    }

    /// The digest of all that was read.
    pub(super) fn content_digest(&self) -> ContentDigest {
        let digest = self.content.clone().finish();
        digest.as_ref().try_into().unwrap_or_default()
    }

    /// Rejects every field without a value. A file that was cut while it was written ends with one, and "no value" must
    /// not mean "no protection" then.
    pub(super) fn reject_nulls(&mut self, node: &YamlValue, place: &str) {
        let text = "expected a value, got nothing; an empty one is written as {}, [] or ''";
        match node {
            YamlValue::Null => self.add_error(place, text),
            YamlValue::Scalar(_) => {}
            YamlValue::Sequence(items) => {
                for (number, item) in items.iter().enumerate() {
                    self.reject_nulls(item, &format!("{place}[{number}]"));
                }
            }
            YamlValue::Mapping(members) => {
                for (name, value) in members {
                    self.reject_nulls(value, &join_path(place, name));
                }
            }
        }
    }

    pub(super) fn add_error(&mut self, place: &str, what: impl AsRef<str>) {
        self.errors.push(format!("{place}: {}", what.as_ref()));
    }

    /// `node` as members that all have one of the `known` names; empty when there are none.
    pub(super) fn mapping<'n>(
        &mut self,
        node: Option<&'n YamlValue>,
        place: &str,
        known: &[&str],
    ) -> &'n [(String, YamlValue)] {
        match node {
            None | Some(YamlValue::Null) => &[],
            Some(YamlValue::Mapping(members)) => {
                for (name, _) in members {
                    if !known.contains(&name.as_str()) {
                        let known = known.join(", ");
                        let place = join_path(place, name);
                        self.add_error(
                            &place,
                            format!("there is no such member; it must be one of {known}"),
                        );
                    }
                }
                members
            }
            Some(other) => {
                self.add_error(
                    place,
                    format!("it is {}, and must have members", other.type_name()),
                );
                &[]
            }
        }
    }

    /// The text at `place`; none when there is none, or an empty one.
    pub(super) fn string<'n>(
        &mut self,
        node: Option<&'n YamlValue>,
        place: &str,
    ) -> Option<&'n str> {
        match node {
            None | Some(YamlValue::Null) => None,
            Some(YamlValue::Scalar(text)) => Some(text.as_str()).filter(|text| !text.is_empty()),
            Some(other) => {
                self.add_error(
                    place,
                    format!("it is {}, and must be a text", other.type_name()),
                );
                None
            }
        }
    }

    /// The texts of a list; none when there is no list.
    pub(super) fn strings<'n>(
        &mut self,
        node: Option<&'n YamlValue>,
        place: &str,
    ) -> Option<Vec<&'n str>> {
        match node {
            None | Some(YamlValue::Null) => None,
            Some(YamlValue::Sequence(items)) => {
                let mut texts = Vec::new();
                for (number, item) in items.iter().enumerate() {
                    match item.as_str() {
                        Some(text) => texts.push(text),
                        None => self.add_error(
                            &format!("{place}[{number}]"),
                            format!("it is {}, and must be a text", item.type_name()),
                        ),
                    }
                }
                Some(texts)
            }
            Some(other) => {
                self.add_error(
                    place,
                    format!("it is {}, and must be a list", other.type_name()),
                );
                None
            }
        }
    }

    /// A truth value, in any way that YAML 1.1 has for one.
    pub(super) fn boolean(&mut self, node: Option<&YamlValue>, place: &str, default: bool) -> bool {
        let Some(text) = self.string(node, place) else {
            return default;
        };
        let plain = text.to_ascii_lowercase();
        let usual = text == plain || text == text.to_ascii_uppercase() || is_title_case(text);
        match plain.as_str() {
            "true" | "yes" | "on" | "y" if usual => true,
            "false" | "no" | "off" | "n" if usual => false,
            _ => {
                self.add_error(
                    place,
                    format!("{:?} will not do; it must be true or false", truncate(text)),
                );
                default
            }
        }
    }

    /// The content of a member that is given in the file itself, or in a file of its own by the
    /// member `…_file`.
    pub(super) fn pem_source(
        &mut self,
        node: Option<&YamlValue>,
        section: &str,
        name: &str,
    ) -> Option<PemSource> {
        let (inline, file) = (
            join_path(section, name),
            join_path(section, &format!("{name}_file")),
        );
        let get = |name: &str| node.and_then(|node| node.get(name));
        let text = self.string(get(name), &inline);
        let path = self.string(get(&format!("{name}_file")), &file);
        match (text, path) {
            (Some(_), Some(_)) => {
                self.add_error(
                    &file,
                    format!("{inline} is given as well; it must be one of them"),
                );
                None
            }
            (Some(text), None) => Some(PemSource {
                path: inline,
                bytes: Zeroizing::new(text.as_bytes().to_vec()),
            }),
            (None, Some(path)) => {
                let path = self.base_dir.join(path);
                let place = format!("{file} ({})", path.display());
                match self.read_file(path, MAX_BYTES) {
                    Ok(bytes) => Some(PemSource { path: place, bytes }),
                    Err(why) => {
                        self.add_error(&place, why);
                        None
                    }
                }
            }
            (None, None) => None,
        }
    }
}

/// The bytes of a certificate or a key, and where they come from. Wiped when dropped.
pub(super) struct PemSource {
    pub(super) path: String,
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

/// The name of a member within a section.
pub(super) fn join_path(section: &str, name: &str) -> String {
    let name = truncate(name);
    if section.is_empty() {
        name
    } else {
        format!("{section}.{name}")
    }
}

/// As much of a text as a message may have.
pub(super) fn truncate(text: &str) -> String {
    text.chars().take(100).collect()
}

fn is_title_case(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(char::is_uppercase) && chars.all(char::is_lowercase)
}
