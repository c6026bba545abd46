//! The web configuration (`--web.config.file`) in the format of Prometheus' exporter-toolkit: TLS, client certificates, basic
//! authentication, headers, rate limit.
//!
//! | module | purpose |
//! | --- | --- |
//! | `parse` | parses the file strictly |
//! | `reader` | reads fields, and collects errors and warnings |
//! | `tls` | certificates, versions, cipher suites, curves |
//! | `client_auth` | client certificates |
//! | `basic_auth` | user names and passwords |
//! | `bcrypt_queue` | orders password checks |
//! | `rate_limit` | limits requests per second |
//! | `middleware` | authenticates each request |
//! | `shared` | the active configuration, which a reload replaces |

mod basic_auth;
mod bcrypt_queue;
mod client_auth;
mod middleware;
mod parse;
mod rate_limit;
mod reader;
mod shared;
mod tls;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::HeaderMap;
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::bounded_file::run_blocking;
use crate::diagnostic::Diagnostic;
use basic_auth::BasicAuthUsers;
use client_auth::ClientVerifier;
pub use middleware::authenticate;
use rate_limit::RateLimit;
pub use shared::SharedWebConfig;
pub(crate) use tls::TlsSettings;

/// All errors of a web configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid web configuration {} ({} error{}):\n{}", file.display(), errors.len(), if errors.len() == 1 { "" } else { "s" }, errors.iter().map(|error| format!("  - {error:#}")).collect::<Vec<_>>().join("\n"))]
pub struct WebConfigError {
    file: PathBuf,
    /// The errors. They contain no secret.
    pub errors: Vec<Diagnostic>,
}

/// A web configuration. The default has neither TLS nor authentication.
#[derive(Default)]
pub struct WebConfig {
    /// Whether the configuration comes from a file.
    is_configured: bool,
    tls: Option<TlsSettings>,
    users: Option<BasicAuthUsers>,
    headers: HeaderMap,
    rate: Option<RateLimit>,
    /// Warnings about valid values that are probably not intended.
    pub warnings: Vec<Diagnostic>,
}

/// The digest of the content of a web configuration and of all files that it refers to.
pub type ContentDigest = [u8; 32];

/// The result of loading a web configuration, and the files that it depends on.
pub struct WebConfigLoad {
    /// The file and the files that it refers to. When one of them changes, the configuration must be reloaded.
    pub files: Vec<PathBuf>,
    /// The configuration.
    pub config: Result<WebConfig, WebConfigError>,
    /// The digest of all files: two loads with the same digest have read the same content.
    pub content_digest: ContentDigest,
    /// Whether a read error may disappear without a change of the files, so that a retry is useful.
    pub is_transient: bool,
}

/// The interval between two reads that must have the same content. Detects a writer that truncates a file and then writes its
/// content.
const REREAD_INTERVAL: Duration = Duration::from_millis(200);
/// The maximum number of reads of a file that keeps changing.
const MAX_READS: usize = 5;

/// The certificates that a client has presented over TLS (its own first); `None` for a connection in plain text.
pub(crate) type PeerCertificates<'a> = Option<&'a [CertificateDer<'static>]>;

impl WebConfig {
    /// Loads a web configuration and all files that it refers to. Blocks on the file system.
    pub fn load(path: &Path) -> WebConfigLoad {
        parse::load(path)
    }

    /// Loads a web configuration outside the async threads, until two consecutive reads have the same content. A panic, a file
    /// system that does not respond, and a file that keeps changing are errors, and never a configuration without protection.
    pub async fn load_stable(path: &Path) -> WebConfigLoad {
        load_until_stable(path, Self::load).await
    }

    /// Returns the names of the protecting fields that `new` lacks. A file that is truncated while it is written looks like a
    /// file without these fields, so a reload must not remove any of them.
    pub fn weakened_by(&self, new: &Self) -> Vec<&'static str> {
        let protections = self.protections().into_iter().zip(new.protections());
        let lost = protections.filter(|((_, before), (_, after))| *before && !*after);
        let mut lost: Vec<_> = lost.map(|((field, _), _)| field).collect();
        lost.dedup();
        let mut headers = self.headers.keys();
        if headers.any(|name| !new.headers.contains_key(name)) {
            lost.push("http_server_config.headers");
        }
        lost
    }

    /// Returns the fields that can protect, and whether each of them is effective.
    fn protections(&self) -> [(&'static str, bool); 9] {
        let tls = self.tls.as_ref();
        let verifier = tls.and_then(|tls| tls.client_verifier.as_deref());
        let verifies = |protects: fn(&ClientVerifier) -> bool| verifier.is_some_and(protects);
        let auth_type = "tls_server_config.client_auth_type";
        let is_tls13_only = tls.is_some_and(|tls| tls.is_tls13_only);
        let has_sans = verifies(|verifier| !verifier.allowed_sans.is_empty());
        [
            ("web.config.file", self.is_configured),
            ("tls_server_config", tls.is_some()),
            ("tls_server_config.min_version", is_tls13_only),
            (auth_type, verifies(|it| it.auth_type.is_required())),
            (auth_type, verifies(|it| it.auth_type.verifies())),
            (
                "tls_server_config.client_ca",
                verifies(|it| it.has_own_authority),
            ),
            ("tls_server_config.client_allowed_sans", has_sans),
            ("basic_auth_users", self.users.is_some()),
            ("rate_limit", self.rate.is_some()),
        ]
    }

    /// Returns whether connections use TLS.
    pub fn uses_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(crate) fn tls(&self) -> Option<TlsSettings> {
        self.tls.clone()
    }

    /// Returns whether a client with these certificates could open a connection now.
    fn admits(&self, certificates: PeerCertificates<'_>, now: UnixTime) -> bool {
        match (&self.tls, certificates) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(tls), Some(certificates)) => {
                let verifier = tls.client_verifier.as_ref();
                verifier.is_none_or(|verifier| verifier.admits(certificates, now))
            }
        }
    }
}

impl fmt::Debug for WebConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebConfig")
            .field("tls", &self.tls.is_some())
            .field("users", &self.users.is_some())
            .finish_non_exhaustive()
    }
}

async fn load_until_stable(
    path: &Path,
    load: impl Fn(&Path) -> WebConfigLoad + Clone + Send + 'static,
) -> WebConfigLoad {
    let failed = |files, message: String| WebConfigLoad {
        files,
        config: Err(WebConfigError {
            file: path.to_owned(),
            errors: vec![Diagnostic::new("", message)],
        }),
        content_digest: ContentDigest::default(),
        is_transient: true,
    };
    let mut files = vec![path.to_owned()];
    let mut previous = None;
    for _ in 0..MAX_READS {
        let read = {
            let (load, path) = (load.clone(), path.to_owned());
            move || load(&path)
        };
        let loaded = match run_blocking(path, read).await {
            Ok(loaded) => loaded,
            Err(error) => {
                return failed(vec![path.to_owned()], format!("cannot be read: {error}"));
            }
        };
        if previous == Some(loaded.content_digest) {
            return loaded;
        }
        previous = Some(loaded.content_digest);
        files = loaded.files;
        tokio::time::sleep(REREAD_INTERVAL).await;
    }
    let message = "cannot be read: the files change between two reads";
    failed(files, message.to_owned())
}

#[cfg(test)]
mod tests;
