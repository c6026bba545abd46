//! Credentials, and the sources of their secrets.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};

/// The result of reading a secret.
pub type SecretFuture<'a> =
    Pin<Box<dyn Future<Output = Result<SecretString, SecretError>> + Send + 'a>>;

/// The source of a secret: a file or an environment variable. The source is read each time the secret is needed, so that a
/// rotated secret is used immediately and no secret stays in memory.
///
/// `Display` names the source, never the secret; two sources with the same text are equal.
pub trait SecretSource: fmt::Display + fmt::Debug + Send + Sync {
    /// Reads the current secret. Must not block the thread.
    fn read(&self) -> SecretFuture<'_>;
}

impl PartialEq for dyn SecretSource {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for dyn SecretSource {}

/// The error for an unusable secret. Never contains the secret or a part of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The source cannot be read.
    #[error("{place}: {why}")]
    Unreadable {
        /// The source.
        place: String,
        /// The cause, and what to check.
        why: String,
    },
    /// The source is empty.
    #[error("{place} is empty")]
    Empty {
        /// The source.
        place: String,
    },
    /// The value cannot be a credential of Atlas.
    #[error("invalid value in {place}: {why}")]
    Unusable {
        /// The source.
        place: String,
        /// The expected form, and the actual one.
        why: &'static str,
    },
}

/// A credential of one of Atlas' three kinds, as the sources of its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A service account: OAuth 2.0 client credentials.
    ServiceAccount {
        /// The client id.
        id: Arc<dyn SecretSource>,
        /// The client secret.
        secret: Arc<dyn SecretSource>,
    },
    /// A programmatic API key: HTTP Digest.
    ApiKey {
        /// The public key.
        public: Arc<dyn SecretSource>,
        /// The private key.
        private: Arc<dyn SecretSource>,
    },
    /// An access token that was issued elsewhere.
    AccessToken {
        /// The token.
        token: Arc<dyn SecretSource>,
    },
}

/// Returns whether two secrets are equal.
pub(crate) fn secrets_equal(a: &SecretString, b: &SecretString) -> bool {
    a.expose_secret() == b.expose_secret()
}

/// A secret in memory, such as one from a secret manager's client.
pub struct StaticSecret {
    name: String,
    secret: SecretString,
}

impl StaticSecret {
    /// Creates the source. `name` identifies the secret in errors.
    pub fn new(name: impl Into<String>, secret: impl Into<SecretString>) -> Self {
        Self {
            name: name.into(),
            secret: secret.into(),
        }
    }
}

impl fmt::Display for StaticSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for StaticSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticSecret({:?})", self.name)
    }
}

impl SecretSource for StaticSecret {
    fn read(&self) -> SecretFuture<'_> {
        Box::pin(std::future::ready(Ok(self.secret.clone())))
    }
}
