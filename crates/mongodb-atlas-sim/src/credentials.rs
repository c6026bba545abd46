//! The credentials that all organizations accept, and the access tokens of the service account.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use crate::random::{ALPHANUMERIC, random_hex, random_string};

/// Maximum number of valid tokens per service account; further token requests get 403.
const MAX_LIVE_TOKENS: usize = 100;

/// The accepted credentials, one of each kind. They are not secret.
#[derive(Debug, Clone)]
pub struct SimCredentials {
    /// Client id of the service account.
    pub client_id: String,
    /// Client secret of the service account.
    pub client_secret: String,
    /// Second valid client secret, as during a rotation.
    pub next_client_secret: Option<String>,
    /// Public part of the programmatic API key.
    pub public_key: String,
    /// Private part of the programmatic API key.
    pub private_key: String,
    /// Access token that does not expire.
    pub access_token: String,
    /// Lifetime of issued tokens in seconds.
    pub(crate) token_lifetime_seconds: u64,
    /// Expiry of each issued token.
    tokens: HashMap<String, Timestamp>,
    rng: fastrand::Rng,
}

fn random_token(rng: &mut fastrand::Rng) -> String {
    format!("simtok.{}", random_string(rng, 64, ALPHANUMERIC))
}

impl SimCredentials {
    pub(crate) fn new(seed: u64, token_lifetime_seconds: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
        Self {
            client_id: format!("mdb_sa_id_{}", random_hex(&mut rng, 24)),
            client_secret: format!("mdb_sa_sk_{}", random_string(&mut rng, 40, ALPHANUMERIC)),
            next_client_secret: None,
            public_key: random_string(&mut rng, 8, b"abcdefghijklmnopqrstuvwxyz"),
            private_key: [8, 4, 4, 4, 12]
                .map(|length| random_hex(&mut rng, length))
                .join("-"),
            access_token: random_token(&mut rng),
            token_lifetime_seconds,
            tokens: HashMap::new(),
            rng,
        }
    }

    pub(crate) fn accepts_client(&self, id: &str, secret: &str) -> bool {
        id == self.client_id
            && (secret == self.client_secret || self.next_client_secret.as_deref() == Some(secret))
    }

    pub(crate) fn accepts_token(&self, token: &str, now: Timestamp) -> bool {
        let expires_at = self.tokens.get(token);
        token == self.access_token || expires_at.is_some_and(|expires_at| *expires_at > now)
    }

    /// Issues an access token. Returns `None` if the limit of valid tokens is reached.
    pub(crate) fn issue_token(&mut self, now: Timestamp) -> Option<String> {
        if self.live_token_count(now) >= MAX_LIVE_TOKENS {
            return None;
        }
        let token = random_token(&mut self.rng);
        let lifetime = i64::try_from(self.token_lifetime_seconds).unwrap_or(i64::MAX);
        let expires_at = now.saturating_add(SignedDuration::from_secs(lifetime));
        self.tokens
            .insert(token.clone(), expires_at.unwrap_or(Timestamp::MAX));
        Some(token)
    }

    pub(crate) fn revoke_token(&mut self, token: &str) {
        self.tokens.remove(token);
    }

    pub(crate) fn revoke_all_tokens(&mut self) {
        self.tokens.clear();
    }

    pub(crate) fn live_token_count(&self, now: Timestamp) -> usize {
        let valid = self.tokens.values().filter(|expires_at| **expires_at > now);
        valid.count()
    }
}
