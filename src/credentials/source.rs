//! Places of secrets, and what is read there.

use std::collections::HashMap;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::SecretString;
use zeroize::{Zeroize as _, Zeroizing};

use crate::yaml::{self, Node};

/// The environment that configuration and secrets are taken from: the process' own, or one that
/// a test or the demo made.
#[derive(Clone)]
pub enum Environment {
    /// The process' own.
    Process,
    /// These variables and no others.
    Fixed(Arc<HashMap<String, String>>),
}

impl Environment {
    /// An environment of these variables alone.
    pub fn fixed<K: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let variables = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        Self::Fixed(Arc::new(variables.collect()))
    }

    /// The value of `name`; an empty one counts as not set, as shells and unit files leave them.
    pub fn get(&self, name: &str) -> Option<String> {
        let value = match self {
            Self::Process => std::env::var_os(name)?.to_string_lossy().into_owned(),
            Self::Fixed(variables) => variables.get(name)?.clone(),
        };
        (!value.is_empty()).then_some(value)
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // values may be secrets
        f.write_str("Environment")
    }
}

/// Two are the same when they have the same variables: a new process environment is never seen.
impl PartialEq for Environment {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Process, Self::Process) => true,
            (Self::Fixed(a), Self::Fixed(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Environment {}

/// Where one secret, or one part of a credential, is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, whose trailing newline does not count.
    File(PathBuf),
    /// An environment variable.
    Variable {
        /// Its name.
        name: String,
        /// Where it is looked up.
        environment: Environment,
    },
    /// A member of a credential in the configuration file itself.
    Member {
        /// The file.
        file: PathBuf,
        /// The credential's name.
        credential: String,
        /// The member.
        member: &'static str,
    },
}

/// Why a secret cannot be had. Never holds the secret or a part of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error(
        "{place} cannot be read: {why}; check that it exists and that the exporter's user may read it"
    )]
    Unreadable {
        /// Which source.
        place: String,
        /// What the system says.
        why: String,
    },
    /// There is nothing in it.
    #[error("{place} is empty; put the secret there")]
    Empty {
        /// Which source.
        place: String,
    },
    /// There is something in it that no secret of Atlas has.
    #[error("{place} holds something that is no secret: {why}")]
    Unusable {
        /// Which source.
        place: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Most bytes of a secret's file that are read; Atlas' own secrets have under 100.
const MAX_SECRET_BYTES: u64 = 16 << 10;

impl Source {
    /// Reads the secret as it is now.
    ///
    /// # Errors
    /// [`ReadError`], naming the place and what to do, when there is no usable secret.
    pub fn read(&self) -> Result<SecretString, ReadError> {
        let place = self.to_string();
        let mut text = match self {
            Self::File(path) => read_file(path, &place)?,
            Self::Member {
                file,
                credential,
                member,
            } => read_member(file, credential, member, &place)?,
            Self::Variable { name, environment } => {
                Zeroizing::new(environment.get(name).unwrap_or_default())
            }
        };
        let length = text.trim_end_matches(['\r', '\n']).len();
        text.truncate(length);
        if text.is_empty() {
            return Err(ReadError::Empty { place });
        }
        if !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            return Err(ReadError::Unusable {
                place,
                why: "it has control characters, line breaks or letters beyond ASCII",
            });
        }
        Ok(SecretString::from(std::mem::take(&mut *text)))
    }
}

fn read_file(path: &Path, place: &str) -> Result<Zeroizing<String>, ReadError> {
    let unreadable = |why: std::io::Error| ReadError::Unreadable {
        place: place.to_owned(),
        why: why.to_string(),
    };
    let unusable = |why| ReadError::Unusable {
        place: place.to_owned(),
        why,
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    // room for all of it at once: a buffer that grows leaves copies behind
    let mut bytes = Zeroizing::new(Vec::with_capacity(17 << 10));
    file.take(MAX_SECRET_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(unusable("it is larger than 16 KiB"));
    }
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) => {
            error.into_bytes().zeroize();
            Err(unusable("it is no UTF-8 text"))
        }
    }
}

/// Reads the configuration file again for one member: nothing of it is kept in between.
fn read_member(
    file: &Path,
    credential: &str,
    member: &str,
    place: &str,
) -> Result<Zeroizing<String>, ReadError> {
    let root = yaml::read(file).map_err(|why| ReadError::Unreadable {
        place: place.to_owned(),
        why,
    })?;
    let entries = match root.get("credentials") {
        Some(Node::List(entries)) => entries.as_slice(),
        _ => &[],
    };
    let named = entries
        .iter()
        .find(|entry| entry.get("name").and_then(Node::text) == Some(credential));
    // a single one needs no name
    let entry = named.or(match entries {
        [only] => Some(only),
        _ => None,
    });
    let text = entry.and_then(|entry| entry.get(member)?.text());
    Ok(Zeroizing::new(text.unwrap_or_default().to_owned()))
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable { name, .. } => write!(f, "environment variable {name}"),
            Self::Member {
                file,
                credential,
                member,
            } => write!(
                f,
                "{member} of credential {credential} in {}",
                file.display()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_secret_is_read_again_and_never_printed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        let source = Source::File(path.clone());
        assert!(matches!(source.read(), Err(ReadError::Unreadable { .. })));
        for (content, expected) in [
            ("one\n", Some("one")),
            ("two", Some("two")),
            ("\n", None),
            ("a\nb", None),
            ("\u{e9}", None),
        ] {
            std::fs::write(&path, content).expect("written");
            let read = source.read();
            assert_eq!(
                read.as_ref().ok().map(ExposeSecret::expose_secret),
                expected
            );
            assert!(!format!("{read:?}").contains("two"));
        }
    }
}
