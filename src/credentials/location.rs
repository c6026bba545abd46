//! Locations of secrets, and how secrets are read.

use std::fmt;
use std::path::{Path, PathBuf};

use exporter_toolkit::bounded_file::{self, FileError, FileMode, ReadOptions};
use exporter_toolkit::yaml::{self, YamlValue};
use mongodb_atlas_client::{SecretError, SecretFuture, SecretSource};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::environment::Environment;
use super::validation::{find_defect, is_blank};

/// The location of one field of a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretLocation {
    /// A file. Whitespace around its content is ignored.
    File(PathBuf),
    /// An environment variable.
    EnvVar {
        /// Name of the variable.
        name: String,
        /// Environment with the variable.
        environment: Environment,
    },
    /// A key of a credential in the configuration file.
    ConfigKey {
        /// The configuration file.
        file: PathBuf,
        /// The name of the credential.
        credential: String,
        /// The key.
        key: &'static str,
    },
}

/// Maximum size of a file with a secret; secrets of Atlas are shorter than 100 bytes.
const MAX_SECRET_BYTES: u64 = 16 << 10;

impl SecretLocation {
    /// Reads the current secret. Blocks on the file system.
    ///
    /// # Errors
    /// [`SecretError`] with the location and the remedy.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        let place = self.to_string();
        let text = match self {
            Self::File(path) => {
                let read = bounded_file::read_text(path, ReadOptions::regular(MAX_SECRET_BYTES));
                read.map_err(|error| unreadable(&place, &error))?
            }
            Self::ConfigKey {
                file,
                credential,
                key,
            } => read_config_key(file, credential, key, &place)?,
            Self::EnvVar { name, environment } => {
                Zeroizing::new(environment.get(name).unwrap_or_default())
            }
        };
        // Editors, shells and the clipboard add whitespace; no credential of Atlas begins or ends with whitespace.
        let value = text.trim_matches(is_blank);
        if value.is_empty() {
            return Err(SecretError::Empty { place });
        }
        match find_defect(value) {
            Some(why) => Err(SecretError::Unusable { place, why }),
            None => Ok(SecretString::from(value)),
        }
    }

    /// Returns the file that contains the field.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::ConfigKey { file: path, .. } => Some(path),
            Self::EnvVar { .. } => None,
        }
    }

    /// Returns the file and its mode if the file is world-readable. A group-readable file is accepted: this is the usual way
    /// to pass a secret to a service that does not own the file.
    pub fn world_readable_file(&self) -> Option<(&Path, FileMode)> {
        let path = self.file()?;
        let mode = FileMode::from_path(path).ok()?;
        mode.is_world_readable().then_some((path, mode))
    }

    /// Reads the current secret on a thread that may block, with a timeout of a few seconds.
    ///
    /// # Errors
    /// Same as [`SecretLocation::read`], and a timeout of the file system.
    pub async fn read_off_thread(&self) -> Result<SecretString, SecretError> {
        let Some(path) = self.file() else {
            return self.read();
        };
        let source = self.clone();
        bounded_file::run_blocking(path, move || source.read())
            .await
            .unwrap_or_else(|error| Err(unreadable(&self.to_string(), &error)))
    }
}

impl SecretSource for SecretLocation {
    fn read(&self) -> SecretFuture<'_> {
        Box::pin(self.read_off_thread())
    }
}

fn unreadable(place: &str, error: &FileError) -> SecretError {
    SecretError::Unreadable {
        place: place.to_owned(),
        why: error.explain(),
    }
}

/// Reads one field of a credential from the configuration file. The content of the file does not stay in memory.
fn read_config_key(
    file: &Path,
    credential: &str,
    key: &str,
    place: &str,
) -> Result<Zeroizing<String>, SecretError> {
    let root = yaml::load_file(file).map_err(|why| SecretError::Unreadable {
        place: place.to_owned(),
        why,
    })?;
    let entries = match root.get("credentials") {
        Some(YamlValue::Sequence(entries)) => entries.as_slice(),
        _ => &[],
    };
    let has_name = |entry: &&YamlValue| {
        let name = entry.get("name").and_then(YamlValue::as_str);
        // A single credential needs no name.
        name == Some(credential) || entries.len() == 1
    };
    let text = entries
        .iter()
        .find(has_name)
        .and_then(|entry| entry.get(key)?.as_str());
    Ok(Zeroizing::new(text.unwrap_or_default().to_owned()))
}

impl fmt::Display for SecretLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::EnvVar { name, .. } => write!(f, "environment variable {name}"),
            Self::ConfigKey {
                file,
                credential,
                key,
            } => write!(f, "{key} of credential {credential} in {}", file.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn variable(value: &str) -> SecretLocation {
        let name = "MONGODB_ATLAS_CLIENT_SECRET";
        SecretLocation::EnvVar {
            name: name.to_owned(),
            environment: Environment::from_vars([(name, value)]),
        }
    }

    #[test]
    fn secrets_are_reread_and_never_printed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        let source = SecretLocation::File(path.clone());
        assert!(matches!(source.read(), Err(SecretError::Unreadable { .. })));
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
        std::fs::write(&path, b"\xff\xfes\0e\0c\0").expect("written");
        assert!(source.read().is_err(), "UTF-16");
        std::fs::write(&path, vec![b'x'; 1 << 15]).expect("written");
        let error = source.read().expect_err("too large").to_string();
        assert!(error.contains("larger than 16384 bytes"), "{error}");
    }

    #[test]
    fn surrounding_whitespace_is_trimmed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        for padded in [
            "mdb_sa_sk_x",
            "mdb_sa_sk_x \n",
            " \t mdb_sa_sk_x\t\r\n\r\n",
            "\n\nmdb_sa_sk_x",
            "\u{feff}mdb_sa_sk_x\r\n",
            "\u{a0}mdb_sa_sk_x\u{a0}",
            "\u{200b}\u{3000}mdb_sa_sk_x\u{2060}\u{2028}",
            "mdb_sa_sk_x\u{b}\u{c}",
        ] {
            std::fs::write(&path, padded).expect("written");
            for source in [SecretLocation::File(path.clone()), variable(padded)] {
                let secret = source.read().expect(padded);
                assert_eq!(secret.expose_secret(), "mdb_sa_sk_x", "{padded:?}");
            }
        }
        let read = |value: &str| variable(value).read();
        for blank in [" ", "\n", "\u{feff}\n", "\u{a0}"] {
            assert!(
                matches!(read(blank), Err(SecretError::Empty { .. })),
                "{blank:?}"
            );
        }
    }

    #[test]
    fn malformed_secrets_are_reported_with_the_likely_cause() {
        for (value, cause) in [
            ("\"hunter2\"", "quotes"),
            ("'hunter2'", "quotes"),
            ("\"hunter2", "quotes"),
            ("\u{201c}hunter2\u{201d}", "quotes"),
            (" `hunter2` ", "quotes"),
            ("client_secret=hunter2", "NAME=VALUE"),
            ("client-secret: hunter2", "NAME=VALUE"),
            ("clientSecret = hunter2", "NAME=VALUE"),
            ("MONGODB_ATLAS_CLIENT_SECRET=hunter2", "NAME=VALUE"),
            ("export MONGODB_ATLAS_CLIENT_SECRET=hunter2", "NAME=VALUE"),
            ("export ANYTHING='hunter2'x", "NAME=VALUE"),
            ("mdb_sa_id_0123:hunter2", "client id before it"),
            ("${CLIENT_SECRET}", "unexpanded variable"),
            ("<hunter2>", "placeholder"),
            ("hunter2;", "separator"),
            ("$env:MONGODB_ATLAS_PRIVATE_API_KEY = hunter2", "NAME=VALUE"),
            ("ATLAS_TOKEN=hunter2==", "NAME=VALUE"),
            ("client_id=a\nclient_secret=hunter2", "NAME=VALUE"),
            ("Authorization: Bearer hunter2", "NAME=VALUE"),
            ("Bearer hunter2", "Authorization"),
            ("{\"client_secret\": \"hunter2\"}", "JSON"),
            ("hunter2\nhunter2", "a single line of printable ASCII"),
            ("hunter2\u{7f}", "a single line of printable ASCII"),
            ("h\u{fc}nter2", "a single line of printable ASCII"),
        ] {
            let error = variable(value).read().expect_err(value).to_string();
            assert!(
                error.contains(cause) && !error.contains("hunter2"),
                "{value:?}: {error}"
            );
            assert!(error.contains("MONGODB_ATLAS_CLIENT_SECRET"), "{error}");
        }
        for valid in [
            "mdb_sa_id_69681d39c9e8cfd375386316",
            "6c9a2b52-4f1d-4f5b-9a0e-3c1d2e4f5a6b",
            "eyJhbGciOiJFUzUxMiJ9.eyJhIjoxfQ.c2ln-_",
            "c2VjcmV0secret==",
            "token==",
            "a:b=c",
            "it's one & two",
        ] {
            let secret = variable(valid).read().expect(valid);
            assert_eq!(secret.expose_secret(), valid);
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn non_regular_files_are_rejected_without_blocking() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        let status = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(status.expect("mkfifo").success());
        let config_key = SecretLocation::ConfigKey {
            file: path.clone(),
            credential: "default".to_owned(),
            key: "access_token",
        };
        for (source, cause) in [
            (
                SecretLocation::File(path),
                "a pipe, which can be read only once",
            ),
            (config_key, "a pipe, which can be read only once"),
            (
                SecretLocation::File(directory.path().to_owned()),
                "a directory",
            ),
            (SecretLocation::File("/dev/zero".into()), "a device"),
            (
                SecretLocation::File("/nonexistent".into()),
                "file not found",
            ),
        ] {
            let error = source.read_off_thread().await.expect_err(cause).to_string();
            assert!(error.contains(cause), "{error}");
        }
    }
}
