//! Web configuration (`--web.config.file`) in the format of Prometheus' exporter-toolkit: TLS, client certificates, basic
//! authentication, headers, rate limit.
//!
//! | module | purpose |
//! | --- | --- |
//! | `parse` | parses the file strictly |
//! | `reader` | reads fields, and collects errors and warnings |
//! | `tls` | certificates, versions, cipher suites, curves |
//! | `client_auth` | client certificates |
//! | `basic_auth` | passwords |
//! | `bcrypt_queue` | order of password checks |
//! | `rate_limit` | requests per second |
//! | `middleware` | authenticates each request |
//! | `shared` | the configuration in force, replaced at a reload |

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
#[error("the web configuration {} is wrong in {} place{}:\n{}", file.display(), errors.len(), if errors.len() == 1 { "" } else { "s" }, errors.iter().map(|error| format!("  - {error}")).collect::<Vec<_>>().join("\n"))]
pub struct WebConfigError {
    file: PathBuf,
    /// The errors. They hold no secret.
    pub errors: Vec<Diagnostic>,
}

/// A web configuration. The default serves everything to every client in plain text.
#[derive(Default)]
pub struct WebConfig {
    /// Whether the configuration comes from a file.
    is_configured: bool,
    tls: Option<TlsSettings>,
    users: Option<BasicAuthUsers>,
    headers: HeaderMap,
    rate: Option<RateLimit>,
    /// Values that are valid, but may not be intended.
    pub warnings: Vec<Diagnostic>,
}

/// Identifies the content of a web configuration and of all files that it names.
pub type ContentDigest = [u8; 32];

/// Result of loading a web configuration, and the files that it depends on.
pub struct WebConfigLoad {
    /// The file and those that it names: when one of them changes, the configuration has to be loaded again.
    pub files: Vec<PathBuf>,
    /// The configuration.
    pub config: Result<WebConfig, WebConfigError>,
    /// Content of all files: two loads with the same digest have read the same content.
    pub content_digest: ContentDigest,
    /// Whether a file could not be read for a reason that may disappear without a change of the file.
    pub is_transient: bool,
}

/// Interval between two reads that must have the same content. It detects a writer that truncates a file and then fills
/// it.
const REREAD_INTERVAL: Duration = Duration::from_millis(200);
/// Maximum number of reads of a file that changes each time.
const MAX_READS: usize = 5;

/// The certificates that a client has presented over TLS, its own first; `None` for a connection in plain text.
pub(crate) type PeerCertificates<'a> = Option<&'a [CertificateDer<'static>]>;

impl WebConfig {
    /// Loads a web configuration and all files that it names. Blocks on the file system.
    pub fn load(path: &Path) -> WebConfigLoad {
        parse::load(path)
    }

    /// Loads a web configuration off the async threads, until two consecutive reads have the same content. A panic, a
    /// file system that does not respond and a file that keeps changing are errors: none of them means "no protection".
    pub async fn load_stable(path: &Path) -> WebConfigLoad {
        load_until_stable(path, Self::load).await
    }

    /// Returns the names of the fields whose protection `new` lacks. A file that was truncated while it was written looks
    /// like one from which they were removed, so a reload must not drop any of them.
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

    /// Returns the fields that can protect, and whether they do.
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

    /// Returns whether a client that opened a connection with these certificates could open it now.
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
    let message = "the files keep changing while they are read";
    failed(files, message.to_owned())
}

#[cfg(test)]
mod tests;
