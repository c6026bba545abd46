//! Places of secrets, and what is read there.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::SecretString;
use zeroize::Zeroizing;

use exporter_toolkit::bounded_file::{self, FileError, ReadOptions};
use exporter_toolkit::yaml::{self, YamlValue};
use mongodb_atlas_client::{SecretError, SecretFuture, SecretSource};

/// The environment that configuration and secrets are taken from: the process' own, or one that
/// a test or the demo made.
#[derive(Clone)]
pub enum Environment {
    /// The process' own.
    Process,
    /// These variables and no others.
    Map(Arc<HashMap<String, String>>),
}

impl Environment {
    /// An environment of these variables alone.
    pub fn from_vars<K: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let variables = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        Self::Map(Arc::new(variables.collect()))
    }

    /// The value of `name`; an empty one counts as not set, as shells and unit files leave them.
    pub fn get(&self, name: &str) -> Option<String> {
        let value = match self {
            Self::Process => std::env::var_os(name)?.to_string_lossy().into_owned(),
            Self::Map(variables) => variables.get(name)?.clone(),
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
            (Self::Map(a), Self::Map(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Environment {}

/// Where one secret, or one part of a credential, is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretLocation {
    /// A file. White space around its content does not count.
    File(PathBuf),
    /// An environment variable.
    EnvVar {
        /// Its name.
        name: String,
        /// Where it is looked up.
        environment: Environment,
    },
    /// A member of a credential in the configuration file itself.
    ConfigKey {
        /// The file.
        file: PathBuf,
        /// The credential's name.
        credential: String,
        /// The member.
        key: &'static str,
    },
}

/// Most bytes of a secret's file that are read; Atlas' own secrets have under 100.
const MAX_SECRET_BYTES: u64 = 16 << 10;

impl SecretLocation {
    /// Reads the secret as it is now. Blocks on the file system.
    ///
    /// # Errors
    /// [`SecretError`], naming the place and what to do, when there is no usable secret.
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
                key: member,
            } => read_config_key(file, credential, member, &place)?,
            Self::EnvVar { name, environment } => {
                Zeroizing::new(environment.get(name).unwrap_or_default())
            }
        };
        // editors, shells and copying from a page add white space; no credential of Atlas has any at its ends
        let value = text.trim_matches(is_blank);
        if value.is_empty() {
            return Err(SecretError::Empty { place });
        }
        match find_defect(value) {
            Some(why) => Err(SecretError::Unusable { place, why }),
            None => Ok(SecretString::from(value)),
        }
    }

    /// Reads the secret as [`SecretLocation::read`] does, on a thread that may block, and waits a few seconds for it at most.
    ///
    /// # Errors
    /// As [`SecretLocation::read`], and when the file system does not answer in time.
    pub async fn read_off_thread(&self) -> Result<SecretString, SecretError> {
        let (Self::File(path) | Self::ConfigKey { file: path, .. }) = self else {
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

/// White space, and characters without width that files and pages have at their ends.
fn is_blank(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
}

/// The reason why a value is no credential of Atlas, with the likely cause. Found here, it costs no failed request
/// and no search for a wrong secret.
fn find_defect(value: &str) -> Option<&'static str> {
    let is_quote = |letter| {
        matches!(
            letter,
            '"' | '\'' | '`' | '\u{ab}' | '\u{bb}' | '\u{2018}'..='\u{201f}'
        )
    };
    if value.starts_with(is_quote) || value.ends_with(is_quote) {
        return Some("expected the value alone, got quotes around it");
    }
    if value.starts_with(['{', '[']) {
        return Some("expected the value alone, got JSON");
    }
    if is_assignment(value) {
        return Some("expected the value alone, got a name before it (NAME=VALUE or NAME: VALUE)");
    }
    let is_scheme =
        |scheme: &str| ["bearer", "basic"].contains(&scheme.to_ascii_lowercase().as_str());
    if value
        .split_once(' ')
        .is_some_and(|(first, _)| is_scheme(first))
    {
        return Some("expected the value alone, got an Authorization header");
    }
    if value.starts_with("mdb_sa_id_") && value.contains([':', ' ']) {
        return Some("expected the value alone, got a client id before it");
    }
    let is_within = |open, close| value.starts_with(open) && value.ends_with(close);
    if ["${", "$("].iter().any(|start| value.starts_with(start))
        || is_within('<', '>')
        || is_within('(', ')')
        || value.ends_with([';', ','])
    {
        return Some(
            "expected the value alone, got an unexpanded variable, a placeholder or a separator behind it",
        );
    }
    if !value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Some(
            "expected one line of printable ASCII, got line breaks, control characters or letters beyond ASCII",
        );
    }
    None
}

/// Whether the value follows its own name, as in a shell script, a YAML file or a header.
fn is_assignment(text: &str) -> bool {
    /// The ends of names that credentials are given, without what separates words.
    const NAMES: [&str; 9] = [
        "clientid",
        "clientsecret",
        "apikey",
        "publickey",
        "privatekey",
        "token",
        "secret",
        "password",
        "authorization",
    ];
    let lower = Zeroizing::new(text.to_ascii_lowercase());
    let text = lower.trim_start_matches("$env:");
    if ["export ", "set ", "declare "]
        .iter()
        .any(|command| text.starts_with(command))
    {
        return true;
    }
    let Some((name, value)) = text.split_once(['=', ':']) else {
        return false;
    };
    let name: Zeroizing<String> =
        Zeroizing::new(name.chars().filter(char::is_ascii_alphanumeric).collect());
    // base64 ends in such signs
    let has_value = !value.trim_matches('=').is_empty();
    has_value && NAMES.iter().any(|known| name.ends_with(known))
}

/// Reads the configuration file again for one member: nothing of it is kept in between.
fn read_config_key(
    file: &Path,
    credential: &str,
    member: &str,
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
    let named = entries
        .iter()
        .find(|entry| entry.get("name").and_then(YamlValue::as_str) == Some(credential));
    // a single one needs no name
    let entry = named.or(match entries {
        [only] => Some(only),
        _ => None,
    });
    let text = entry.and_then(|entry| entry.get(member)?.as_str());
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
                key: member,
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
            ("hunter2\nhunter2", "one line of printable ASCII"),
            ("hunter2\u{7f}", "one line of printable ASCII"),
            ("h\u{fc}nter2", "one line of printable ASCII"),
        ] {
            let error = variable(value).read().expect_err(value).to_string();
            assert!(
                error.contains(cause) && !error.contains("hunter2"),
                "{value:?}: {error}"
            );
            assert!(error.contains("MONGODB_ATLAS_CLIENT_SECRET"), "{error}");
        }
        for good in [
            "mdb_sa_id_69681d39c9e8cfd375386316",
            "6c9a2b52-4f1d-4f5b-9a0e-3c1d2e4f5a6b",
            "eyJhbGciOiJFUzUxMiJ9.eyJhIjoxfQ.c2ln-_",
            "c2VjcmV0secret==",
            "token==",
            "a:b=c",
            "it's one & two",
        ] {
            let secret = variable(good).read().expect(good);
            assert_eq!(secret.expose_secret(), good);
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn non_regular_files_are_rejected_at_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        let status = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(status.expect("mkfifo").success());
        let member = SecretLocation::ConfigKey {
            file: path.clone(),
            credential: "default".to_owned(),
            key: "access_token",
        };
        for (source, cause) in [
            (
                SecretLocation::File(path),
                "a pipe, which can be read only once",
            ),
            (member, "a pipe, which can be read only once"),
            (
                SecretLocation::File(directory.path().to_owned()),
                "a directory",
            ),
            (SecretLocation::File("/dev/zero".into()), "a device"),
            (
                SecretLocation::File("/nonexistent".into()),
                "file not found; check",
            ),
        ] {
            let error = source.read_off_thread().await.expect_err(cause).to_string();
            assert!(error.contains(cause), "{error}");
        }
    }
}
