//! The throw-away credentials that every organization of the simulated Atlas accepts, and the
//! access tokens of its service account.

use jiff::{SignedDuration, Timestamp};

use super::population::{random_hex, random_string};

/// Live tokens that one service account may have; past them Atlas answers 403.
const MAX_LIVE_TOKENS: usize = 100;

const ALPHANUMERIC: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// The credentials of the simulated Atlas, one of each kind. They protect nothing.
#[derive(Debug, Clone)]
pub struct SimCredentials {
    /// Client id of the service account.
    pub client_id: String,
    /// Client secret of the service account.
    pub client_secret: String,
    /// A second secret, valid beside the first, as while one is being rotated.
    pub next_client_secret: Option<String>,
    /// Public part of the programmatic API key.
    pub public_key: String,
    /// Private part of the programmatic API key.
    pub private_key: String,
    /// A ready access token that does not end.
    pub access_token: String,
    tokens: Vec<(String, Timestamp)>,
    token_lifetime_seconds: u64,
    rng: fastrand::Rng,
}

/// What came of asking for a token.
pub(crate) enum TokenGrant {
    Issued { token: String, expires_in: u64 },
    LimitReached,
}

impl SimCredentials {
    pub(crate) fn new(seed: u64, token_seconds: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
        Self {
            client_id: format!("mdb_sa_id_{}", random_hex(&mut rng, 24)),
            client_secret: format!("mdb_sa_sk_{}", random_string(&mut rng, 40, ALPHANUMERIC)),
            next_client_secret: None,
            public_key: random_string(&mut rng, 8, b"abcdefghijklmnopqrstuvwxyz"),
            private_key: [8, 4, 4, 4, 12]
                .map(|length| random_hex(&mut rng, length))
                .join("-"),
            access_token: format!("simtok.{}", random_string(&mut rng, 64, ALPHANUMERIC)),
            tokens: Vec::new(),
            token_lifetime_seconds: token_seconds,
            rng,
        }
    }

    pub(crate) fn accepts_client(&self, id: &str, secret: &str) -> bool {
        id == self.client_id
            && (secret == self.client_secret || self.next_client_secret.as_deref() == Some(secret))
    }

    pub(crate) fn issue_token(&mut self, now: Timestamp) -> TokenGrant {
        self.tokens.retain(|(_, ends)| *ends > now);
        if self.tokens.len() >= MAX_LIVE_TOKENS {
            return TokenGrant::LimitReached;
        }
        let token = format!("simtok.{}", random_string(&mut self.rng, 64, ALPHANUMERIC));
        let life = SignedDuration::from_secs(
            i64::try_from(self.token_lifetime_seconds).unwrap_or(i64::MAX),
        );
        let ends = now.saturating_add(life).unwrap_or(Timestamp::MAX);
        self.tokens.push((token.clone(), ends));
        TokenGrant::Issued {
            token,
            expires_in: self.token_lifetime_seconds,
        }
    }

    pub(crate) fn revoke_token(&mut self, token: &str) {
        self.tokens.retain(|(live, _)| live != token);
    }

    pub(crate) fn revoke_all_tokens(&mut self) {
        self.tokens.clear();
    }

    pub(crate) fn live_token_count(&self, now: Timestamp) -> usize {
        self.tokens.iter().filter(|(_, ends)| *ends > now).count()
    }

    pub(crate) fn accepts_token(&self, token: &str, now: Timestamp) -> bool {
        token == self.access_token
            || self
                .tokens
                .iter()
                .any(|(live, ends)| live == token && *ends > now)
    }
}
