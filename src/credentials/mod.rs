//! Where secrets come from, and how they are kept from getting anywhere else.
//!
//! A [`SecretLocation`] is a place, never a value: it is read when a secret is needed and the value is
//! wiped when it was used, so that a rotated file is seen at once and nothing lingers in memory.

mod source;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mongodb_atlas_client::SecretSource;
use zeroize::Zeroizing;

pub use source::{Environment, SecretLocation};

/// A credential of one of the three kinds that Atlas knows, as the places of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A service account: OAuth 2.0 client credentials.
    ServiceAccount {
        /// The client id.
        id: SecretLocation,
        /// The client secret.
        secret: SecretLocation,
    },
    /// A programmatic API key: HTTP Digest.
    ApiKey {
        /// The public key.
        public: SecretLocation,
        /// The private key.
        private: SecretLocation,
    },
    /// An access token that somebody else made.
    AccessToken {
        /// The token.
        token: SecretLocation,
    },
}

impl Credential {
    /// The kind, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ServiceAccount { .. } => "service account",
            Self::ApiKey { .. } => "programmatic API key",
            Self::AccessToken { .. } => "access token",
        }
    }

    /// The same for the Atlas client.
    pub fn to_client(&self) -> mongodb_atlas_client::Credential {
        let source = |source: &SecretLocation| Arc::new(source.clone()) as Arc<dyn SecretSource>;
        match self {
            Self::ServiceAccount { id, secret } => {
                mongodb_atlas_client::Credential::ServiceAccount {
                    id: source(id),
                    secret: source(secret),
                }
            }
            Self::ApiKey { public, private } => mongodb_atlas_client::Credential::ApiKey {
                public: source(public),
                private: source(private),
            },
            Self::AccessToken { token } => mongodb_atlas_client::Credential::AccessToken {
                token: source(token),
            },
        }
    }

    fn sources(&self) -> Vec<&SecretLocation> {
        match self {
            Self::ServiceAccount { id, secret } => vec![id, secret],
            Self::ApiKey { public, private } => vec![public, private],
            Self::AccessToken { token } => vec![token],
        }
    }

    /// The places of what must not be known: ids and public keys are not among them.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretLocation> {
        let source = match self {
            Self::ServiceAccount { secret, .. } => secret,
            Self::ApiKey { private, .. } => private,
            Self::AccessToken { token } => token,
        };
        std::iter::once(source)
    }

    /// The files that it is in.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.sources()
            .into_iter()
            .filter_map(|source| match source {
                SecretLocation::File(path) => Some(path.as_path()),
                SecretLocation::ConfigKey { file, .. } => Some(file.as_path()),
                SecretLocation::EnvVar { .. } => None,
            })
    }

    /// What is wrong with it now, a sentence for each part that cannot be read.
    pub fn validate(&self) -> Vec<String> {
        self.sources()
            .into_iter()
            .filter_map(|source| source.read().err())
            .map(|error| error.to_string())
            .collect()
    }
}

/// A part of a credential, and what it is called where.
#[derive(Debug)]
pub struct CredentialField {
    /// In the configuration file.
    pub config_key: &'static str,
    /// In `$CREDENTIALS_DIRECTORY`.
    pub file_name: &'static str,
    /// In the environment.
    pub env: &'static str,
    /// For people: a noun phrase.
    pub description: &'static str,
    /// Whether it is a secret; the others are names.
    pub is_secret: bool,
}

const fn field(
    member: &'static str,
    file: &'static str,
    variable: &'static str,
    description: &'static str,
    secret: bool,
) -> CredentialField {
    CredentialField {
        config_key: member,
        file_name: file,
        env: variable,
        description,
        is_secret: secret,
    }
}

/// The parts of a credential: those of a service account, of an API key, and a token.
pub const FIELDS: [CredentialField; 5] = [
    field(
        "client_id",
        "client-id",
        "MONGODB_ATLAS_CLIENT_ID",
        "Client id of a service account",
        false,
    ),
    field(
        "client_secret",
        "client-secret",
        "MONGODB_ATLAS_CLIENT_SECRET",
        "Client secret of the service account",
        true,
    ),
    field(
        "public_api_key",
        "public-api-key",
        "MONGODB_ATLAS_PUBLIC_API_KEY",
        "Public key of a programmatic API key",
        false,
    ),
    field(
        "private_api_key",
        "private-api-key",
        "MONGODB_ATLAS_PRIVATE_API_KEY",
        "Private key of the programmatic API key",
        true,
    ),
    field(
        "access_token",
        "access-token",
        "MONGODB_ATLAS_ACCESS_TOKEN",
        "Access token that was issued elsewhere",
        true,
    ),
];

/// The three ways to give a credential, for whoever gave none.
pub const SETUP_HINT: &str = "give one of: a service account (MONGODB_ATLAS_CLIENT_ID and MONGODB_ATLAS_CLIENT_SECRET, recommended), \
a programmatic API key (MONGODB_ATLAS_PUBLIC_API_KEY and MONGODB_ATLAS_PRIVATE_API_KEY), \
or an access token (MONGODB_ATLAS_ACCESS_TOKEN); each as a variable, as a file named by the same variable with _FILE behind it, \
or as a file client-id, client-secret, public-api-key, private-api-key, access-token in systemd's $CREDENTIALS_DIRECTORY";

/// Finds the credential that the environment gives. For each part the first place wins: systemd's
/// directory, then the variable ending in `_FILE`, then the variable itself; of several whole
/// credentials the one whose secret stands in the earliest place, then the service account.
///
/// # Errors
/// Sentences, each a mistake: no credential at all, or only half of one.
pub fn from_env(environment: &Environment) -> Result<Credential, Vec<String>> {
    let found = FIELDS.map(|part| find_source(environment, part.file_name, part.env));
    select(found)
}

/// Makes a credential of the `sources` that the configuration file gives, in the order of [`FIELDS`].
/// The other half of one may stand where [`from_env`] looks; with no part at all, all of it.
///
/// # Errors
/// As [`from_env`].
pub fn from_file_and_env(
    environment: &Environment,
    parts: [Option<SecretLocation>; 5],
) -> Result<Credential, Vec<String>> {
    if parts.iter().all(Option::is_none) {
        return from_env(environment);
    }
    // of the kinds that the file says nothing of, the environment's are another credential's
    let [id, secret, public, private, token] = &parts;
    let account = id.is_some() || secret.is_some();
    let key = public.is_some() || private.is_some();
    let wanted = [account, account, key, key, token.is_some()];
    let mut located = FIELDS
        .map(|part| find_source(environment, part.file_name, part.env))
        .into_iter();
    let mut wanted = wanted.into_iter();
    select(parts.map(|given| {
        let (located, wanted) = (located.next().flatten(), wanted.next() == Some(true));
        match given {
            // the configuration file comes before every other place
            Some(source) => Some((0, source)),
            None => located.filter(|_| wanted),
        }
    }))
}

/// Of several whole credentials the one whose secret stands in the earliest place.
fn select(found: [Option<(u8, SecretLocation)>; 5]) -> Result<Credential, Vec<String>> {
    let [id, secret, public, private, token] = found;
    let mut whole: Vec<(u8, Credential)> = Vec::new();
    let mut halves = Vec::new();
    for (first, second, names, make) in [
        (
            id,
            secret,
            ["client id", "client secret"],
            service_account as fn(SecretLocation, SecretLocation) -> Credential,
        ),
        (
            public,
            private,
            ["public API key", "private API key"],
            api_key,
        ),
    ] {
        match (first, second) {
            (Some((_, first)), Some((rank, second))) => whole.push((rank, make(first, second))),
            (Some((_, there)), None) => halves.push(incomplete_error(&there, names[0], names[1])),
            (None, Some((_, there))) => halves.push(incomplete_error(&there, names[1], names[0])),
            (None, None) => {}
        }
    }
    if let Some((rank, token)) = token {
        whole.push((rank, Credential::AccessToken { token }));
    }
    // stable: of equal ranks the first, in the order above
    whole.sort_by_key(|(rank, _)| *rank);
    match whole.into_iter().next() {
        Some((_, credential)) => Ok(credential),
        None if halves.is_empty() => Err(vec![format!("no credential: {SETUP_HINT}")]),
        None => Err(halves),
    }
}

fn service_account(id: SecretLocation, secret: SecretLocation) -> Credential {
    Credential::ServiceAccount { id, secret }
}

fn api_key(public: SecretLocation, private: SecretLocation) -> Credential {
    Credential::ApiKey { public, private }
}

fn incomplete_error(there: &SecretLocation, has: &str, lacks: &str) -> String {
    format!("half a credential: {there} gives a {has}, but nothing gives a {lacks}; {SETUP_HINT}")
}

/// The first place that gives a part, and its rank.
fn find_source(
    environment: &Environment,
    file: &str,
    variable: &str,
) -> Option<(u8, SecretLocation)> {
    if let Some(directory) = environment.get("CREDENTIALS_DIRECTORY") {
        let path = PathBuf::from(directory).join(file);
        if exporter_toolkit::bounded_file::metadata(&path).is_ok() {
            return Some((1, SecretLocation::File(path)));
        }
    }
    if let Some(path) = environment.get(&format!("{variable}_FILE")) {
        return Some((2, SecretLocation::File(path.into())));
    }
    environment.get(variable).map(Zeroizing::new).map(|_| {
        let source = SecretLocation::EnvVar {
            name: variable.to_owned(),
            environment: environment.clone(),
        };
        (3, source)
    })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn earlier_sources_take_precedence() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("client-secret"), "from-systemd\n").expect("written");
        let environment = Environment::from_vars([
            (
                "CREDENTIALS_DIRECTORY",
                directory.path().to_str().expect("a path"),
            ),
            ("MONGODB_ATLAS_CLIENT_ID", "id"),
            ("MONGODB_ATLAS_CLIENT_SECRET", "from-variable"),
            ("MONGODB_ATLAS_ACCESS_TOKEN", "token"),
        ]);
        let Ok(Credential::ServiceAccount { secret, .. }) = from_env(&environment) else {
            panic!("the service account's secret stands in the earlier place");
        };
        assert_eq!(
            secret.read().expect("readable").expose_secret(),
            "from-systemd"
        );
    }

    #[test]
    fn incomplete_credentials_differ_from_missing_ones() {
        let none = from_env(&Environment::from_vars([("X", "y")])).expect_err("there is none");
        assert!(
            none[0].starts_with("no credential")
                && none[0].contains("MONGODB_ATLAS_PRIVATE_API_KEY"),
            "{none:?}"
        );
        let half = from_env(&Environment::from_vars([("MONGODB_ATLAS_CLIENT_ID", "id")]))
            .expect_err("there is half");
        assert!(half[0].contains("variable MONGODB_ATLAS_CLIENT_ID gives a client id, but nothing gives a client secret"), "{half:?}");
    }
}
