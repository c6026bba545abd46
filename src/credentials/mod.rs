//! Locations of the secrets of credentials, and how secrets are read.
//!
//! A [`SecretLocation`] is a location, never a value. A secret is read when it is needed, and its memory is cleared after
//! use. A rotated file therefore takes effect immediately.
//!
//! | module | purpose |
//! | --- | --- |
//! | `environment` | environment variables |
//! | `location` | locations of secrets, and how secrets are read |
//! | `validation` | detection of values that are not credentials |

mod environment;
mod location;
mod validation;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use exporter_toolkit::bounded_file;
use mongodb_atlas_client::{Credential as ClientCredential, SecretError, SecretSource};
use zeroize::Zeroizing;

pub use environment::Environment;
pub use location::SecretLocation;

crate::closed_list::closed_list! {
    /// A kind of credential that Atlas accepts.
    pub enum CredentialKind {
        /// OAuth 2.0 client credentials.
        ServiceAccount = "service account",
        /// HTTP Digest with a public and a private key.
        ApiKey = "programmatic API key",
        /// A token that was issued elsewhere.
        AccessToken = "access token",
    }
}

/// A credential, as the locations of its fields.
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
    /// An access token that was issued elsewhere.
    AccessToken {
        /// The token.
        token: SecretLocation,
    },
}

impl Credential {
    /// Returns the kind of the credential.
    pub fn kind(&self) -> CredentialKind {
        match self {
            Self::ServiceAccount { .. } => CredentialKind::ServiceAccount,
            Self::ApiKey { .. } => CredentialKind::ApiKey,
            Self::AccessToken { .. } => CredentialKind::AccessToken,
        }
    }

    /// Returns the credential for the Atlas client.
    pub fn to_client(&self) -> ClientCredential {
        let source =
            |location: &SecretLocation| Arc::new(location.clone()) as Arc<dyn SecretSource>;
        match self {
            Self::ServiceAccount { id, secret } => ClientCredential::ServiceAccount {
                id: source(id),
                secret: source(secret),
            },
            Self::ApiKey { public, private } => ClientCredential::ApiKey {
                public: source(public),
                private: source(private),
            },
            Self::AccessToken { token } => ClientCredential::AccessToken {
                token: source(token),
            },
        }
    }

    /// Returns the location of the secret field.
    pub fn secret(&self) -> &SecretLocation {
        match self {
            Self::ServiceAccount { secret, .. } => secret,
            Self::ApiKey { private, .. } => private,
            Self::AccessToken { token } => token,
        }
    }

    /// Returns all fields with their locations, the public field first.
    fn fields(&self) -> impl Iterator<Item = (&'static CredentialField, &SecretLocation)> {
        let identity = match self {
            Self::ServiceAccount { id, .. } => Some(id),
            Self::ApiKey { public, .. } => Some(public),
            Self::AccessToken { .. } => None,
        };
        let kind = self.kind();
        let all: &'static [CredentialField] = &FIELDS;
        let fields = all.iter().filter(move |field| field.kind == kind);
        let locations = identity.into_iter().chain([self.secret()]);
        fields.zip(locations)
    }

    /// Returns the files that contain fields of the credential.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.fields().filter_map(|(_, location)| location.file())
    }

    /// Returns the error of each field that cannot be read.
    pub fn validate(&self) -> Vec<SecretError> {
        self.unreadable_fields()
            .map(|(_, _, error)| error)
            .collect()
    }

    /// Returns each field that cannot be read, with its location and its error.
    pub fn unreadable_fields(
        &self,
    ) -> impl Iterator<Item = (&'static CredentialField, &SecretLocation, SecretError)> {
        self.fields()
            .filter_map(|(field, location)| Some((field, location, location.read().err()?)))
    }
}

/// A field of a credential, with its names.
#[derive(Debug)]
pub struct CredentialField {
    /// Key in the configuration file.
    pub config_key: &'static str,
    /// Name of the file in `$CREDENTIALS_DIRECTORY`.
    pub file_name: &'static str,
    /// Environment variable.
    pub env: &'static str,
    /// Kind of credential to which the field belongs.
    kind: CredentialKind,
    /// Whether the field is a secret; other fields are public identifiers.
    pub is_secret: bool,
    /// Description, a noun phrase.
    pub description: &'static str,
}

macro_rules! fields {
    ($($key:literal $file:literal $env:literal $kind:ident, $secret:literal, $description:literal;)*) => {
        [$(CredentialField {
            config_key: $key,
            file_name: $file,
            env: $env,
            kind: CredentialKind::$kind,
            is_secret: $secret,
            description: $description,
        }),*]
    };
}

/// All fields: two of a service account, two of an API key, and the access token.
pub const FIELDS: [CredentialField; 5] = fields! {
    "client_id" "client-id" "MONGODB_ATLAS_CLIENT_ID" ServiceAccount, false, "Client id of a service account";
    "client_secret" "client-secret" "MONGODB_ATLAS_CLIENT_SECRET" ServiceAccount, true, "Client secret of the service account";
    "public_api_key" "public-api-key" "MONGODB_ATLAS_PUBLIC_API_KEY" ApiKey, false, "Public key of a programmatic API key";
    "private_api_key" "private-api-key" "MONGODB_ATLAS_PRIVATE_API_KEY" ApiKey, true, "Private key of the programmatic API key";
    "access_token" "access-token" "MONGODB_ATLAS_ACCESS_TOKEN" AccessToken, true, "Access token that was issued elsewhere";
};

/// The ways to set a credential.
const SETUP_HELP: &str = "set MONGODB_ATLAS_CLIENT_ID and MONGODB_ATLAS_CLIENT_SECRET (service account, recommended), \
MONGODB_ATLAS_PUBLIC_API_KEY and MONGODB_ATLAS_PRIVATE_API_KEY (programmatic API key), \
or MONGODB_ATLAS_ACCESS_TOKEN (access token); append _FILE to a variable to read the value from a file";

/// Error for a missing or incomplete credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// No field is set.
    #[error("no credential found")]
    Missing,
    /// Only one of two fields is set.
    #[error("incomplete {kind}: {location} is set but no {} was found", missing.replace('_', " "))]
    Incomplete {
        /// Kind of the credential.
        kind: CredentialKind,
        /// Location of the field that is set.
        location: SecretLocation,
        /// Name of the missing field in the configuration file.
        missing: &'static str,
        /// Environment variable of the missing field.
        variable: &'static str,
    },
}

impl CredentialError {
    /// Returns the remedy.
    pub fn help(&self) -> String {
        match self {
            Self::Missing => SETUP_HELP.to_owned(),
            Self::Incomplete { variable, .. } => {
                format!("set {variable}, or {variable}_FILE to read the value from a file")
            }
        }
    }
}

/// Finds the credential in the environment. For each field, the first location takes precedence: the directory of systemd,
/// then the variable with `_FILE`, then the variable without `_FILE`. If several credentials are complete, the location of
/// the secret decides in the same order; between equal locations, the service account takes precedence.
///
/// # Errors
/// [`CredentialError::Incomplete`] for each incomplete credential, or [`CredentialError::Missing`].
pub fn from_env(environment: &Environment) -> Result<Credential, Vec<CredentialError>> {
    from_file_and_env(environment, FIELDS.each_ref().map(|_| None))
}

/// Finds the credential with the fields from the configuration file, in the order of [`FIELDS`]. Takes missing fields of
/// the same credential from the environment, as [`from_env`] does.
///
/// # Errors
/// As [`from_env`].
pub fn from_file_and_env(
    environment: &Environment,
    locations: [Option<SecretLocation>; 5],
) -> Result<Credential, Vec<CredentialError>> {
    let fields = FIELDS.iter().zip(&locations);
    let kinds: Vec<CredentialKind> = fields
        .filter_map(|(field, location)| location.as_ref().map(|_| field.kind))
        .collect();
    let mut locations = locations.into_iter();
    select(FIELDS.each_ref().map(|field| {
        match locations.next().flatten() {
            Some(location) => Some(Candidate {
                precedence: 0,
                location,
            }),
            // Fields of another kind in the environment belong to another credential.
            None if kinds.is_empty() || kinds.contains(&field.kind) => {
                find_source(environment, field)
            }
            None => None,
        }
    }))
}

/// A location of a field, with its precedence. The lowest value takes precedence.
struct Candidate {
    precedence: u8,
    location: SecretLocation,
}

/// Selects the complete credential with the lowest precedence value of its secret.
fn select(found: [Option<Candidate>; 5]) -> Result<Credential, Vec<CredentialError>> {
    let [id, secret, public, private, token] = found;
    let mut complete: Vec<(u8, Credential)> = Vec::new();
    let mut errors = Vec::new();
    let mut add = |identity: Option<Candidate>,
                   secret: Option<Candidate>,
                   [identity_field, secret_field]: [&CredentialField; 2],
                   build: fn(SecretLocation, SecretLocation) -> Credential| {
        let (location, missing) = match (identity, secret) {
            (Some(identity), Some(secret)) => {
                let credential = build(identity.location, secret.location);
                return complete.push((secret.precedence, credential));
            }
            (Some(identity), None) => (identity.location, secret_field),
            (None, Some(secret)) => (secret.location, identity_field),
            (None, None) => return,
        };
        errors.push(CredentialError::Incomplete {
            kind: missing.kind,
            location,
            missing: missing.config_key,
            variable: missing.env,
        });
    };
    let [id_field, secret_field, public_field, private_field, _] = &FIELDS;
    add(id, secret, [id_field, secret_field], |id, secret| {
        Credential::ServiceAccount { id, secret }
    });
    let fields = [public_field, private_field];
    add(public, private, fields, |public, private| {
        Credential::ApiKey { public, private }
    });
    if let Some(Candidate {
        precedence,
        location: token,
    }) = token
    {
        complete.push((precedence, Credential::AccessToken { token }));
    }
    // `min_by_key` returns the first of several equal values, in the order above.
    match complete
        .into_iter()
        .min_by_key(|(precedence, _)| *precedence)
    {
        Some((_, credential)) => Ok(credential),
        None if errors.is_empty() => Err(vec![CredentialError::Missing]),
        None => Err(errors),
    }
}

/// Finds the first location of a field.
fn find_source(environment: &Environment, field: &CredentialField) -> Option<Candidate> {
    let variable = field.env;
    let directory = environment.get("CREDENTIALS_DIRECTORY");
    let path = directory.map(|directory| PathBuf::from(directory).join(field.file_name));
    if let Some(path) = path.filter(|path| bounded_file::metadata(path).is_ok()) {
        return Some(Candidate {
            precedence: 1,
            location: SecretLocation::File(path),
        });
    }
    if let Some(path) = environment.get(&format!("{variable}_FILE")) {
        return Some(Candidate {
            precedence: 2,
            location: SecretLocation::File(path.into()),
        });
    }
    environment
        .get(variable)
        .map(Zeroizing::new)
        .map(|_| Candidate {
            precedence: 3,
            location: SecretLocation::EnvVar {
                name: variable.to_owned(),
                environment: environment.clone(),
            },
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
            panic!("the secret of the service account has an earlier location");
        };
        assert_eq!(
            secret.read().expect("readable").expose_secret(),
            "from-systemd"
        );
    }

    #[test]
    fn incomplete_credentials_differ_from_missing_ones() {
        let none = from_env(&Environment::from_vars([("X", "y")])).expect_err("there is none");
        assert_eq!(none[0].to_string(), "no credential found");
        assert!(
            none[0].help().contains("MONGODB_ATLAS_PRIVATE_API_KEY"),
            "{none:?}"
        );
        let incomplete = |variable: &str| {
            let error = from_env(&Environment::from_vars([(variable, "x")]));
            let error = error.expect_err("incomplete").remove(0);
            (error.to_string(), error.help())
        };
        assert_eq!(
            incomplete("MONGODB_ATLAS_CLIENT_ID"),
            (
                "incomplete service account: environment variable MONGODB_ATLAS_CLIENT_ID is set but no client secret was found".to_owned(),
                "set MONGODB_ATLAS_CLIENT_SECRET, or MONGODB_ATLAS_CLIENT_SECRET_FILE to read the value from a file".to_owned(),
            )
        );
        let (error, help) = incomplete("MONGODB_ATLAS_PRIVATE_API_KEY");
        assert!(
            error.starts_with("incomplete programmatic API key: "),
            "{error}"
        );
        assert!(
            help.starts_with("set MONGODB_ATLAS_PUBLIC_API_KEY,"),
            "{help}"
        );
    }
}
