//! The active web configuration, which a reload replaces.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use rustls::pki_types::UnixTime;
use tokio::sync::watch;
use tokio::time::Instant;

use super::basic_auth::Authenticator;
use super::{PeerCertificates, WebConfig};
use crate::sync::Mutex;

/// The interval between two verifications of the client certificate of an open connection, which may have expired.
const VERIFY_INTERVAL: Duration = Duration::from_mins(1);

/// The active web configuration, and the state that outlives a reload: cached passwords and verified clients.
pub struct SharedWebConfig {
    current: watch::Sender<Arc<WebConfig>>,
    pub(super) authenticator: Authenticator,
    /// The value of `WWW-Authenticate`.
    pub(super) challenge: HeaderValue,
    pub(super) rejection_logged_at: Mutex<Option<Instant>>,
    now: fn() -> UnixTime,
}

impl Default for SharedWebConfig {
    fn default() -> Self {
        Self::new(WebConfig::default())
    }
}

impl fmt::Debug for SharedWebConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl SharedWebConfig {
    /// Creates a shared configuration that starts with `config`.
    pub fn new(config: WebConfig) -> Self {
        Self {
            current: watch::Sender::new(Arc::new(config)),
            authenticator: Authenticator::default(),
            challenge: HeaderValue::from_static("Basic realm=\"metrics\", charset=\"UTF-8\""),
            rejection_logged_at: Mutex::default(),
            now: UnixTime::now,
        }
    }

    /// Sets the realm of basic authentication.
    #[must_use]
    pub fn with_realm(mut self, realm: &str) -> Self {
        let challenge = format!("Basic realm={realm:?}, charset=\"UTF-8\"");
        if let Ok(challenge) = HeaderValue::try_from(challenge) {
            self.challenge = challenge;
        }
        self
    }

    /// Returns the active configuration.
    pub fn get(&self) -> Arc<WebConfig> {
        Arc::clone(&self.current.borrow())
    }

    /// Replaces the configuration. Applies to new connections, and to the next request of each open connection.
    pub fn set(&self, config: WebConfig) {
        self.authenticator.retain_users(config.users.as_ref());
        self.current.send_replace(Arc::new(config));
    }

    /// Waits until the client of an open connection is no longer allowed: a reload has removed the CA of its certificate or
    /// requires a certificate that the client has not presented, or the certificate has expired.
    pub(crate) async fn client_rejected(&self, certificates: PeerCertificates<'_>) {
        let mut changes = self.current.subscribe();
        let expires = certificates.is_some_and(|certificates| !certificates.is_empty());
        loop {
            let config = Arc::clone(&changes.borrow_and_update());
            if !config.admits(certificates, (self.now)()) {
                return;
            }
            drop(config);
            tokio::select! {
                // Does not fail, because `self` owns the sender.
                _ = changes.changed() => {}
                () = tokio::time::sleep(VERIFY_INTERVAL), if expires => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
