//! The files of a credential: its organizations and rate limits, and its access token. The credential itself is never stored.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use tracing::warn;

use super::atomic_file::{self, LoadError};
use super::{StateFile, Storage, StorageError};
use exporter_toolkit::bounded_file::{self, FileMode};
use mongodb_atlas_client::{ClientSecret, EndpointSet, StoredToken, TokenStore};

/// The organizations, rate limits and client secrets of a credential, as of the last requests.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialSnapshot {
    /// Time of the last organization list.
    pub listed_at: Option<Timestamp>,
    /// The organizations, with their names.
    pub orgs: Vec<(String, Option<String>)>,
    /// Time of the last request for the rate limits.
    pub limits_at: Option<Timestamp>,
    /// The rate limits.
    pub limits: Vec<EndpointSet>,
    /// The client secrets of the service account.
    #[serde(default)]
    pub client_secrets: ClientSecretsSnapshot,
}

/// The known client secrets of a service account: ids and timestamps.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientSecretsSnapshot {
    /// Time of the last request.
    pub fetched_at: Option<Timestamp>,
    /// The organization that was tried last.
    pub org: Option<String>,
    /// The secrets, if the service account belongs to that organization.
    pub secrets: Option<Vec<ClientSecret>>,
}

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialFile {
    version: u32,
    credential: String,
    account: CredentialSnapshot,
}

impl Storage {
    /// Loads the organizations and rate limits of the credential of that name.
    pub fn load_credential(&self, name: &Arc<str>) -> Option<CredentialSnapshot> {
        let file: CredentialFile = self.load(&StateFile::Credential(Arc::clone(name)))?;
        (file.version == VERSION && *file.credential == **name).then_some(file.account)
    }

    /// Stores the organizations and rate limits of the credential of that name.
    ///
    /// # Errors
    /// As [`Storage::save_inventory`].
    pub fn save_credential(
        &self,
        name: &Arc<str>,
        snapshot: CredentialSnapshot,
    ) -> Result<(), StorageError> {
        let file = CredentialFile {
            version: VERSION,
            credential: name.to_string(),
            account: snapshot,
        };
        self.save(&StateFile::Credential(Arc::clone(name)), &file)
    }

    /// Returns the store for the access token of the credential of that name.
    pub fn token_store(&self, name: &Arc<str>) -> Arc<dyn TokenStore> {
        Arc::new(TokenFile {
            credential: Arc::clone(name),
            path: self.path(&StateFile::Token(Arc::clone(name))),
        })
    }
}

/// The file of one access token, readable by its owner only.
#[derive(Debug, Clone)]
struct TokenFile {
    credential: Arc<str>,
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenRecord {
    version: u32,
    #[serde(rename = "client")]
    client_fingerprint: String,
    #[serde(rename = "ends_at")]
    expires_at: Timestamp,
    #[serde(serialize_with = "serialize_secret")]
    token: SecretString,
}

fn serialize_secret<S: Serializer>(
    secret: &SecretString,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

impl TokenStore for TokenFile {
    fn load(&self) -> BoxFuture<'_, Option<StoredToken>> {
        Box::pin(async { self.run_blocking(Self::read).await.flatten() })
    }

    fn save(&self, token: StoredToken) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.run_blocking(move |file| file.write(token)).await;
        })
    }

    fn clear(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.run_blocking(Self::remove).await;
        })
    }
}

impl TokenFile {
    /// Runs `access` on a blocking thread. Returns `None` if the file system does not respond in time.
    async fn run_blocking<T: Send + 'static>(
        &self,
        access: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Option<T> {
        let file = self.clone();
        let result = bounded_file::run_blocking(&self.path, move || access(&file)).await;
        result
            .inspect_err(|error| {
                warn!(credential = &*self.credential, path = %self.path.display(), %error, "failed to access token file");
            })
            .ok()
    }

    fn read(&self) -> Option<StoredToken> {
        let read = |input: atomic_file::BoundedReader| {
            if is_owner_only(input.get_ref().get_ref()) {
                return atomic_file::read_json(input);
            }
            Err(LoadError::Unreadable(
                "expected a file that only the exporter's user can access".to_owned(),
            ))
        };
        let record: TokenRecord =
            atomic_file::load_or_quarantine(&self.path, atomic_file::MAX_JSON_BYTES, read)?;
        (record.version == VERSION).then_some(StoredToken {
            client_fingerprint: record.client_fingerprint,
            token: record.token,
            expires_at: record.expires_at,
        })
    }

    fn write(&self, token: StoredToken) {
        let record = TokenRecord {
            version: VERSION,
            client_fingerprint: token.client_fingerprint,
            expires_at: token.expires_at,
            token: token.token,
        };
        if let Err(error) = atomic_file::save_json(&self.path, &record) {
            warn!(%error, "failed to save access token");
        }
    }

    fn remove(&self) {
        if let Err(error) = atomic_file::remove_if_exists(&self.path) {
            warn!(%error, "failed to remove stored access token");
        }
    }
}

/// Returns whether the file belongs to the user of this process, and its mode denies access to other users.
fn is_owner_only(file: &File) -> bool {
    file.metadata().is_ok_and(|data| {
        FileMode::from(&data).is_owner_only() && data.uid() == rustix::process::geteuid().as_raw()
    })
}
