//! Who is let in: `--web.config.file`, in the format of Prometheus' exporter-toolkit.
//!
//! | module | purpose |
//! | --- | --- |
//! | `parse` | the file, read strictly |
//! | `reader` | where a field is, and the errors that are found |
//! | `tls` | certificates, versions, cipher suites, curves |
//! | `client_auth` | client certificates |
//! | `basic_auth` | passwords |
//! | `bcrypt_queue` | which client's password is checked next |
//! | `rate_limit` | requests a second |
//! | `middleware` | what happens to each request |

mod basic_auth;
mod bcrypt_queue;
mod client_auth;
mod middleware;
mod parse;
mod rate_limit;
mod reader;
mod tls;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::HeaderMap;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::bounded_file::run_blocking;
use basic_auth::{Authenticator, BasicAuthUsers};
pub use middleware::authenticate;
use rate_limit::RateLimit;
pub(crate) use tls::TlsSettings;

/// Everything that is wrong with a web configuration, a sentence each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the web configuration {} is wrong in {} place{}:\n{}", file.display(), errors.len(), if errors.len() == 1 { "" } else { "s" }, errors.iter().map(|m| format!("  - {m}")).collect::<Vec<_>>().join("\n"))]
pub struct WebConfigError {
    file: PathBuf,
    /// What is wrong; repeats no secret.
    pub errors: Vec<String>,
}

/// Who is let in, and how. By default everybody, in plain text.
#[derive(Default)]
pub struct WebConfig {
    /// Whether a web configuration says so.
    is_configured: bool,
    tls: Option<TlsSettings>,
    users: Option<BasicAuthUsers>,
    headers: HeaderMap,
    rate: Option<RateLimit>,
    /// What is allowed, and may still not be what was meant.
    pub warnings: Vec<String>,
}

/// Identifies the content of a web configuration and of all files that it names.
pub type ContentDigest = [u8; 32];

/// What became of a file, and which files its content depends on.
pub struct WebConfigLoad {
    /// The file, and those that it names: when one of them changes, it is to be read again.
    pub files: Vec<PathBuf>,
    /// What it says.
    pub config: Result<WebConfig, WebConfigError>,
    /// What was read: two reads that agree have seen the same content in all files.
    pub content_digest: ContentDigest,
    /// Whether a file could not be read for a reason that may pass without a change of the file.
    pub is_transient: bool,
}

/// Time between two reads that must agree. A writer that truncates a file and then fills it is seen between the two.
const REREAD_INTERVAL: Duration = Duration::from_millis(200);
/// Reads after which a file that is different each time is given up.
const MAX_READS: usize = 5;

impl WebConfig {
    /// Reads a web configuration and all files that it names. Blocks on the file system.
    pub fn load(path: &Path) -> WebConfigLoad {
        parse::load(path)
    }

    /// Reads a web configuration off the threads that serve, until two reads in a row agree. A panic, a file system
    /// that does not answer and a file that keeps changing are errors: none of them means "everybody is let in".
    pub async fn load_stable(path: &Path) -> WebConfigLoad {
        load_until_stable(path, Self::load).await
    }

    /// The protections that `new` lacks and `self` has, by the names of their fields. A file that was cut while it was
    /// written looks like one from which they were removed, so a reload must not drop any of them.
    pub fn weakened_by(&self, new: &Self) -> Vec<&'static str> {
        let is_lost = |is_set: &dyn Fn(&Self) -> bool| is_set(self) && !is_set(new);
        let mut lost = Vec::new();
        if is_lost(&|access| access.is_configured) {
            lost.push("web.config.file");
        }
        match (&self.tls, &new.tls) {
            (Some(_), None) => lost.push("tls_server_config"),
            (Some(old), Some(new)) => lost.extend(old.weakened_by(new)),
            (None, _) => {}
        }
        if is_lost(&|access| access.users.is_some()) {
            lost.push("basic_auth_users");
        }
        if is_lost(&|access| access.rate.is_some()) {
            lost.push("rate_limit");
        }
        if self
            .headers
            .keys()
            .any(|name| !new.headers.contains_key(name))
        {
            lost.push("http_server_config.headers");
        }
        lost
    }

    /// Whether connections are encrypted.
    pub fn uses_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// How connections are encrypted; none when they are not.
    pub(crate) fn tls(&self) -> Option<TlsSettings> {
        self.tls.clone()
    }

    /// Whether a client that opened a connection with these certificates could open it now.
    fn admits(&self, connection: PeerCertificates<'_>, now: UnixTime) -> bool {
        match (&self.tls, connection) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(tls), Some(certificates)) => tls.admits(certificates, now),
        }
    }
}

/// The certificates that a client has shown over TLS, its own first; none for a connection in plain text.
pub(crate) type PeerCertificates<'a> = Option<&'a [CertificateDer<'static>]>;

async fn load_until_stable(
    path: &Path,
    load: impl Fn(&Path) -> WebConfigLoad + Clone + Send + 'static,
) -> WebConfigLoad {
    let failed = |files, error: String| WebConfigLoad {
        files,
        config: Err(WebConfigError {
            file: path.to_owned(),
            errors: vec![error],
        }),
        content_digest: ContentDigest::default(),
        is_transient: true,
    };
    let mut previous: Option<WebConfigLoad> = None;
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
        if let Some(previous) = &previous
            && previous.content_digest == loaded.content_digest
        {
            return loaded;
        }
        previous = Some(loaded);
        tokio::time::sleep(REREAD_INTERVAL).await;
    }
    let files = previous.map_or_else(|| vec![path.to_owned()], |loaded| loaded.files);
    failed(
        files,
        "the files keep changing while they are read".to_owned(),
    )
}

impl fmt::Debug for WebConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("tls", &self.tls.is_some())
            .field("users", &self.users.is_some())
            .finish_non_exhaustive()
    }
}

/// Remote address of the connection that a request came over: a request extension, set by the listener.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerAddr(pub(crate) SocketAddr);

/// How often the certificate of an open connection's client is verified again: it may have expired.
const VERIFY_INTERVAL: Duration = Duration::from_mins(1);

/// The time of day; tests put a simulated one in its place.
struct WallClock(Box<dyn Fn() -> UnixTime + Send + Sync>);

impl Default for WallClock {
    fn default() -> Self {
        Self(Box::new(UnixTime::now))
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallClock")
    }
}

/// The access in force, and what outlives it.
#[derive(Debug)]
pub struct SharedWebConfig {
    current: watch::Sender<Arc<WebConfig>>,
    authenticator: Authenticator,
    rejection_logged_at: Mutex<Option<Instant>>,
    /// Says whether the certificate of an open connection's client has expired.
    clock: WallClock,
}

impl Default for SharedWebConfig {
    fn default() -> Self {
        Self::new(WebConfig::default())
    }
}

impl SharedWebConfig {
    /// Begins with `access`.
    pub fn new(access: WebConfig) -> Self {
        Self {
            current: watch::Sender::new(Arc::new(access)),
            authenticator: Authenticator::default(),
            rejection_logged_at: Mutex::default(),
            clock: WallClock::default(),
        }
    }

    /// That in force.
    pub fn get(&self) -> Arc<WebConfig> {
        Arc::clone(&self.current.borrow())
    }

    /// Puts another in force, for new connections and for the next request of each open one.
    pub fn set(&self, access: WebConfig) {
        self.authenticator.retain_users(access.users.as_ref());
        self.current.send_replace(Arc::new(access));
    }

    /// Returns once the client of an open connection could not open it any more: a reload has removed the authority
    /// that issued its certificate, asks for more than the client has shown, or the certificate has expired.
    pub(crate) async fn client_rejected(&self, connection: PeerCertificates<'_>) {
        let mut changes = self.current.subscribe();
        loop {
            let access = Arc::clone(&changes.borrow_and_update());
            if !access.admits(connection, (self.clock.0)()) {
                return;
            }
            drop(access);
            let expires = connection.is_some_and(|certificates| !certificates.is_empty());
            tokio::select! {
                // `self` holds the sender, so that this does not fail
                _ = changes.changed() => {}
                () = tokio::time::sleep(VERIFY_INTERVAL), if expires => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn loaded(content: u8) -> WebConfigLoad {
        WebConfigLoad {
            files: vec!["web.yml".into()],
            config: Ok(WebConfig::default()),
            content_digest: [content; 32],
            is_transient: false,
        }
    }

    type Load = Box<dyn Fn() -> WebConfigLoad + Send + Sync>;

    #[tokio::test(start_paused = true)]
    async fn panics_and_changing_files_are_errors() {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let loads: [(&str, Load); 4] = [
            ("panic", Box::new(|| panic!("a defect in loading"))),
            ("exit", Box::new(|| std::panic::panic_any(7))),
            (
                "second read panics",
                Box::new(move || {
                    let count = counted.fetch_add(1, Ordering::SeqCst);
                    assert!(count.is_multiple_of(2), "a defect");
                    loaded(0)
                }),
            ),
            (
                "changes",
                Box::new(move || {
                    loaded(u8::try_from(count.fetch_add(1, Ordering::SeqCst)).unwrap_or(0))
                }),
            ),
        ];
        for (name, load) in loads {
            let load = Arc::new(load);
            let result = load_until_stable(Path::new("web.yml"), move |_| load()).await;
            let error = result.config.expect_err(name);
            assert!(result.is_transient, "{name}");
            assert!(error.to_string().contains("web.yml"), "{name}: {error}");
            assert_eq!(result.files, [PathBuf::from("web.yml")]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn consecutive_reads_must_agree() {
        // Work on one path is done one piece at a time in the whole process, and the time of the other test is another.
        let contents = Arc::new(Mutex::new(vec![3, 3, 2, 1]));
        let remaining = Arc::clone(&contents);
        let load = move |_: &Path| loaded(contents.lock().expect("held").pop().unwrap_or(9));
        let result = load_until_stable(Path::new("settled.yml"), load).await;
        assert!(result.config.is_ok());
        assert_eq!(result.content_digest, [3; 32]);
        assert!(remaining.lock().expect("held").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn connections_close_when_the_client_certificate_expires() {
        let folder = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("written");
        };
        let authority = || {
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params
        };
        let key = || rcgen::KeyPair::generate().expect("a key");
        let ca_key = key();
        let ca = authority().self_signed(&ca_key).expect("a certificate");
        let issuer = rcgen::Issuer::new(authority(), ca_key);
        let (started_at, started) = (UnixTime::now(), Instant::now());
        let started_seconds = started_at.as_secs();
        let issue = |lifetime: Duration| {
            let mut params =
                rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
            let not_after = Duration::from_secs(started_seconds) + lifetime;
            params.not_after = (std::time::UNIX_EPOCH + not_after).into();
            let key = key();
            let certificate = params.signed_by(&key, &issuer).expect("a certificate");
            (certificate, key)
        };
        let (server, server_key) = issue(Duration::from_hours(1));
        write("ca.pem", &ca.pem());
        write("server.pem", &server.pem());
        write("server.key", &server_key.serialize_pem());
        write(
            "web.yml",
            "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n",
        );
        let loaded = WebConfig::load(&folder.path().join("web.yml"));
        let mut shared = SharedWebConfig::new(loaded.config.expect("a good file"));
        shared.clock = WallClock(Box::new(move || {
            let seconds = started_at.as_secs() + started.elapsed().as_secs();
            UnixTime::since_unix_epoch(Duration::from_secs(seconds))
        }));
        let rejected_within = async |lifetime, time| {
            let (client, _) = issue(lifetime);
            let client = [client.der().clone()];
            let rejected = shared.client_rejected(Some(&client));
            tokio::time::timeout(time, rejected).await.is_ok()
        };
        let minutes = Duration::from_mins;
        assert!(!rejected_within(minutes(60), minutes(10)).await);
        assert!(rejected_within(minutes(15), minutes(6)).await);
        assert!(rejected_within(minutes(1), minutes(1)).await, "long ago");
    }
}
