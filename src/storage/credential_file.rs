//! What is kept of a credential: what it can see, and its live access token. Never the credential
//! itself.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use tracing::warn;

use super::atomic_file::LoadError;
use super::{Storage, StorageError, atomic_file};
use exporter_toolkit::bounded_file::{self, FileMode};
use futures_util::future::BoxFuture;
use mongodb_atlas_client::stable_hash;
use mongodb_atlas_client::{EndpointSet, StoredToken, TokenStore};

/// What a credential can see, and when it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialSnapshot {
    /// When the organizations were listed.
    pub listed_at: Option<Timestamp>,
    /// The organizations, with their names.
    pub orgs: Vec<(String, Option<String>)>,
    /// When the rate limits were asked for.
    pub limits_at: Option<Timestamp>,
    /// The token buckets.
    pub limits: Vec<EndpointSet>,
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
    /// What was kept of the credential of that name.
    pub fn load_credential(&self, credential: &str) -> Option<CredentialSnapshot> {
        let body: CredentialFile = atomic_file::load_json(&self.credential_path(credential))?;
        (body.version == VERSION && body.credential == credential).then_some(body.account)
    }

    /// Keeps `account` for the credential of that name.
    ///
    /// # Errors
    /// When the disk is full or read-only; what was there is still there.
    pub fn save_credential(
        &self,
        credential: &str,
        account: &CredentialSnapshot,
    ) -> Result<(), StorageError> {
        let body = CredentialFile {
            version: VERSION,
            credential: credential.to_owned(),
            account: account.clone(),
        };
        atomic_file::save_json(&self.credential_path(credential), &body)
    }

    /// The file of what the credential of that name can see.
    pub fn credential_path(&self, credential: &str) -> PathBuf {
        self.hashed_path("credential", credential)
    }

    /// Where the access token of the credential of that name is kept.
    pub fn token_store(&self, credential: &str) -> Arc<dyn TokenStore> {
        Arc::new(TokenFile {
            credential: credential.to_owned(),
            path: self.token_path(credential),
        })
    }

    /// The file of the access token of the credential of that name.
    pub fn token_path(&self, credential: &str) -> PathBuf {
        self.hashed_path("token", credential)
    }

    fn hashed_path(&self, kind: &str, credential: &str) -> PathBuf {
        // a name is free text, and no file name
        let hash = stable_hash(credential.as_bytes(), 0);
        self.dir.join(format!("{kind}-{hash:016x}.json"))
    }
}

/// The file of one access token. Only the owner may read it.
#[derive(Debug, Clone)]
struct TokenFile {
    credential: String,
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenRecord {
    version: u32,
    client: String,
    ends_at: Timestamp,
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
        Box::pin(async { self.off_thread(Self::read).await.flatten() })
    }

    fn save(&self, token: StoredToken) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.off_thread(move |file| file.write(token)).await;
        })
    }

    fn clear(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.off_thread(Self::remove).await;
        })
    }
}

impl TokenFile {
    /// Returns what `act` does, on a thread that may block; `None` when the file system does not respond in time.
    async fn off_thread<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Option<T> {
        let file = self.clone();
        let result = bounded_file::run_blocking(&self.path, move || act(&file)).await;
        result
            .inspect_err(|error| {
                warn!(credential = &*self.credential, path = %self.path.display(), %error, "token file not accessible");
            })
            .ok()
    }

    fn read(&self) -> Option<StoredToken> {
        let body: TokenRecord = atomic_file::load_or_quarantine(
            &self.path,
            atomic_file::MAX_JSON_BYTES,
            |input| {
                if !is_owner_only(input.get_ref().get_ref()) {
                    let why = "expected a file of the exporter's user alone; a new access token is requested";
                    return Err(LoadError::Unreadable(why.to_owned()));
                }
                atomic_file::read_json(input)
            },
        )?;
        (body.version == VERSION).then_some(StoredToken {
            client_fingerprint: body.client,
            token: body.token,
            expires_at: body.ends_at,
        })
    }

    fn write(&self, token: StoredToken) {
        let body = TokenRecord {
            version: VERSION,
            client: token.client_fingerprint,
            ends_at: token.expires_at,
            token: token.token,
        };
        if let Err(error) = atomic_file::save_json(&self.path, &body) {
            warn!(%error, "the access token cannot be kept; the next start makes a new one");
        }
    }

    fn remove(&self) {
        if let Err(error) = atomic_file::remove_if_exists(&self.path) {
            warn!(%error, "the access token that was kept cannot be removed");
        }
    }
}

/// Whether the file belongs to this process' user, and nobody else may read it.
#[cfg(unix)]
fn is_owner_only(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    file.metadata().is_ok_and(|data| {
        FileMode::from(&data).is_owner_only() && data.uid() == rustix::process::geteuid().as_raw()
    })
}

/// Elsewhere the directory's own rights hold.
#[cfg(not(unix))]
fn is_owner_only(_: &File) -> bool {
    true
}
