//! Basic authentication (RFC 7617) with bcrypt hashes, as in the exporter-toolkit. bcrypt runs outside the async threads, and
//! correct passwords are cached, so that scrapes do not run bcrypt.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::SystemRandom;
use zeroize::Zeroizing;

use super::bcrypt_queue::BcryptQueue;
use crate::client_network::ClientNetwork;
use crate::sync::Mutex;

/// The timeout of a password check.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(20);
/// The minimum cost of bcrypt.
const MIN_COST: u32 = 4;
/// The minimum cost of a slow hash: a password check takes a second or more.
const SLOW_COST: u32 = 15;

/// The help of an error about a bcrypt hash.
pub(super) const CREATE_HASH: &str = "create the hash with `htpasswd -nBC 10 \"\" | tr -d ':\\n'`";

/// The bcrypt hash of a password.
#[derive(Clone)]
pub(super) struct BcryptHash {
    cost: u32,
    /// The hash in the format of the bcrypt crate.
    text: Arc<str>,
}

impl BcryptHash {
    /// Parses a hash as leniently as Go's implementation. The error contains nothing of the hash.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = ["$2a$", "$2b$", "$2x$", "$2y$", "$2$"]
            .iter()
            .find_map(|version| text.strip_prefix(version))
            .ok_or("invalid bcrypt hash: expected the prefix $2a$, $2b$ or $2y$")?;
        let (cost, hash) = rest
            .split_once('$')
            .ok_or("invalid bcrypt hash: missing cost")?;
        let is_two_digits = cost.len() == 2 && cost.bytes().all(|b| b.is_ascii_digit());
        let cost = cost
            .parse()
            .ok()
            .filter(|cost| is_two_digits && (MIN_COST..=31).contains(cost))
            .ok_or("invalid bcrypt hash: expected a cost between 04 and 31")?;
        if hash.len() != 53 {
            return Err("invalid bcrypt hash: expected 53 characters after the cost");
        }
        // bcrypt's own parser rejects unused bits in the last character, which some implementations set.
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"./".contains(&byte);
        if !hash.bytes().all(is_base64) {
            return Err(
                "invalid bcrypt hash: expected only letters, digits, . and / after the cost",
            );
        }
        Ok(Self {
            cost,
            text: format!("$2b${cost:02}${hash}").into(),
        })
    }

    /// Returns a warning about a slow hash.
    pub(super) fn warning(&self) -> Option<String> {
        (self.cost >= SLOW_COST).then(|| {
            format!(
                "slow bcrypt cost {}: each password check takes a second or more (10 to 12 is usual)",
                self.cost
            )
        })
    }
}

/// The reason why a request is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AuthError {
    /// The user name or the password is invalid or missing.
    Unauthorized,
    /// Too many password checks are waiting, or the check has timed out.
    Busy,
}

/// User names and the hashes of their passwords.
pub(super) struct BasicAuthUsers {
    hashes: Vec<(String, BcryptHash)>,
}

impl BasicAuthUsers {
    pub(super) fn new(hashes: Vec<(String, BcryptHash)>) -> Self {
        Self { hashes }
    }

    fn get(&self, name: &str) -> Option<&BcryptHash> {
        let found = self.hashes.iter().find(|(user, _)| user == name);
        found.map(|(_, hash)| hash)
    }

    /// Returns the cost of every failed check, for all user names: the highest cost of all users. Slow costs are excluded, so
    /// that one user with a slow hash does not make every failed check slow.
    fn failure_cost(&self) -> u32 {
        let costs = self.hashes.iter().map(|(_, hash)| hash.cost);
        let usual = costs.clone().filter(|cost| *cost < SLOW_COST).max();
        usual.or(costs.min()).unwrap_or(MIN_COST)
    }

    /// Returns the costs of the decoy hashes that are computed when a check fails, so that timing does not reveal valid user
    /// names: every failed check takes as long as one hash of [`Self::failure_cost`]. A cost of `n` takes `2^n` steps, so a
    /// hash of cost `n` and one decoy of each cost from `n` to below `m` take as long as one hash of cost `m`.
    fn decoy_costs(&self, hash: Option<&BcryptHash>) -> Range<u32> {
        let cost = self.failure_cost();
        hash.map_or(cost..cost + 1, |hash| hash.cost..cost)
    }
}

/// Checks passwords, and caches correct ones. The cache outlives reloads: an entry is valid while the user's hash is the same.
#[derive(Debug)]
pub(super) struct Authenticator {
    queue: Arc<BcryptQueue>,
    /// The random key of this process; `None` if the system has no random numbers, then passwords are not cached.
    key: Option<hmac::Key>,
    /// The last correct password of each user, as a keyed hash of it and of the user's bcrypt hash.
    verified: Mutex<HashMap<String, [u8; 32]>>,
}

impl Default for Authenticator {
    fn default() -> Self {
        Self {
            queue: BcryptQueue::new(),
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok(),
            verified: Mutex::default(),
        }
    }
}

impl Authenticator {
    /// Checks whether the password is correct. Each `client` gets a fair share of the checks.
    pub(super) async fn check(
        &self,
        users: &BasicAuthUsers,
        credentials: &BasicCredentials,
        client: ClientNetwork,
    ) -> Result<(), AuthError> {
        let hash = users.get(&credentials.user);
        let tag = hash.and_then(|hash| self.cache_tag(credentials, hash));
        if tag.is_some() && self.verified.lock().get(&**credentials.user).copied() == tag {
            self.queue.on_cached_success(client);
            return Ok(());
        }
        let verify = self.verify(credentials, hash, users.decoy_costs(hash), client);
        let checked = tokio::time::timeout(VERIFY_TIMEOUT, verify);
        match checked.await {
            Ok(Some(true)) => {}
            Ok(Some(false)) => return Err(AuthError::Unauthorized),
            Ok(None) | Err(_) => return Err(AuthError::Busy),
        }
        self.queue.on_success(client);
        if let Some(tag) = tag {
            self.verified
                .lock()
                .insert(credentials.user.to_string(), tag);
        }
        Ok(())
    }

    /// Runs bcrypt outside the async threads when `client` is next. Returns `None` when the queue is full.
    async fn verify(
        &self,
        credentials: &BasicCredentials,
        hash: Option<&BcryptHash>,
        decoy_costs: Range<u32>,
        client: ClientNetwork,
    ) -> Option<bool> {
        let permit = self.queue.acquire(client).await?;
        let password = credentials.password.clone();
        let hash = hash.map(|hash| Arc::clone(&hash.text));
        let run = move || {
            // Held until bcrypt has finished, even after the request has timed out.
            let _permit = permit;
            verify_password(password.as_bytes(), hash.as_deref(), decoy_costs)
        };
        tokio::task::spawn_blocking(run).await.ok()
    }

    /// Returns whether this client has sent a correct password before. Its next password may be incorrect.
    pub(super) fn is_verified(&self, client: ClientNetwork) -> bool {
        self.queue.is_verified(client)
    }

    /// Removes the cached passwords of removed users.
    pub(super) fn retain_users(&self, users: Option<&BasicAuthUsers>) {
        self.verified
            .lock()
            .retain(|name, _| users.is_some_and(|users| users.get(name).is_some()));
    }

    fn cache_tag(&self, credentials: &BasicCredentials, hash: &BcryptHash) -> Option<[u8; 32]> {
        let mut signed = hmac::Context::with_key(self.key.as_ref()?);
        for part in [
            credentials.user.as_bytes(),
            hash.text.as_bytes(),
            credentials.password.as_bytes(),
        ] {
            signed.update(&(part.len() as u64).to_be_bytes());
            signed.update(part);
        }
        signed.sign().as_ref().try_into().ok()
    }
}

/// Runs bcrypt, which takes milliseconds to hours, depending on the costs. `hash` is `None` if the user does not exist.
fn verify_password(password: &[u8], hash: Option<&str>, decoy_costs: Range<u32>) -> bool {
    if hash.is_some_and(|hash| bcrypt::verify(password, hash).unwrap_or(false)) {
        return true;
    }
    for cost in decoy_costs {
        let decoy = bcrypt::hash_with_salt(password, cost, [0; 16]);
        std::hint::black_box(decoy.is_ok());
    }
    false
}

/// The user name and the password of a request. Cleared on drop.
pub(super) struct BasicCredentials {
    user: Zeroizing<String>,
    password: Zeroizing<String>,
}

impl BasicCredentials {
    /// Parses the value of an `Authorization` header.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let (scheme, encoded) = value.split_at_checked(6)?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return None;
        }
        let encoded = encoded.trim_ascii();
        let mut decoded = Zeroizing::new(vec![0; encoded.len()]);
        let length = STANDARD.decode_slice(encoded, &mut decoded).ok()?;
        let text = std::str::from_utf8(decoded.get(..length)?).ok()?;
        let (user, password) = text.split_once(':')?;
        Some(Self {
            user: Zeroizing::new(user.to_owned()),
            password: Zeroizing::new(password.to_owned()),
        })
    }
}

#[cfg(test)]
mod tests;
