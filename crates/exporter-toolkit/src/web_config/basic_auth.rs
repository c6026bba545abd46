//! Basic authentication (RFC 7617) with bcrypt hashes, as the exporter-toolkit has it. bcrypt runs off the async threads,
//! and correct passwords are cached, so that a scrape does not pay for bcrypt.

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

/// How long a login waits for bcrypt.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(20);
/// Minimum cost of bcrypt.
const MIN_COST: u32 = 4;
/// Cost from which on a login takes a second or more.
const SLOW_COST: u32 = 15;

/// The bcrypt hash of a password.
#[derive(Clone)]
pub(super) struct BcryptHash {
    cost: u32,
    /// In the format of the bcrypt crate.
    text: Arc<str>,
}

impl BcryptHash {
    /// Parses a hash as leniently as Go's implementation does. The error repeats nothing of it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let invalid = |reason: &str| {
            format!(
                "it is no bcrypt hash ({reason}); it must be one such as `htpasswd -nBC 10 \"\"` prints: $2y$, the cost, and 53 characters"
            )
        };
        let rest = ["$2a$", "$2b$", "$2x$", "$2y$", "$2$"]
            .iter()
            .find_map(|version| text.strip_prefix(version))
            .ok_or_else(|| invalid("it does not begin with $2a$, $2b$ or $2y$"))?;
        let (cost, hash) = rest
            .split_once('$')
            .ok_or_else(|| invalid("there is no cost"))?;
        let is_two_digits = cost.len() == 2 && cost.bytes().all(|b| b.is_ascii_digit());
        let cost = cost
            .parse()
            .ok()
            .filter(|cost| is_two_digits && (MIN_COST..=31).contains(cost))
            .ok_or_else(|| invalid("the cost is not from 04 to 31"))?;
        if hash.len() != 53 {
            return Err(invalid("its length is another"));
        }
        // bcrypt's own parser rejects bits to spare in the last character, which some implementations set.
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"./".contains(&byte);
        if !hash.bytes().all(is_base64) {
            return Err(invalid("it has characters that are none of its alphabet"));
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
                "a cost of {} makes each login take seconds, or for ever; 10 to 12 is usual",
                self.cost
            )
        })
    }
}

/// Reason why a request is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AuthError {
    /// The user name or the password is wrong or missing.
    Unauthorized,
    /// Too many other passwords are being checked.
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

    /// Returns the cost of every failed check, whatever the user name: the highest cost of all users. Slow costs are
    /// excluded, so that one such user does not make each guess of any name that slow.
    fn failure_cost(&self) -> u32 {
        let costs = self.hashes.iter().map(|(_, hash)| hash.cost);
        let usual = costs.clone().filter(|cost| *cost < SLOW_COST).max();
        usual.or(costs.min()).unwrap_or(MIN_COST)
    }

    /// Returns the costs of the decoy hashes that are computed when a check fails, so that timing does not reveal valid
    /// user names: a failed check takes as long as one hash of [`Self::failure_cost`]. A cost of `n` takes `2^n` steps,
    /// so the difference to a hash of cost `n` are hashes of the costs from `n` on.
    fn decoy_costs(&self, hash: Option<&BcryptHash>) -> Range<u32> {
        let cost = self.failure_cost();
        hash.map_or(cost..cost + 1, |hash| hash.cost..cost)
    }
}

/// Checks passwords, and caches correct ones. Outlives every configuration: a cache entry is valid while the hash of the
/// user is the same.
#[derive(Debug)]
pub(super) struct Authenticator {
    queue: Arc<BcryptQueue>,
    /// Random, of this process. Where the system has no random numbers, nothing is cached.
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
    /// Checks whether the password is that of the user. `client` gets a fair share of the checks.
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

    /// Runs bcrypt off the async threads once `client` is next. Returns `None` when the queue is full.
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
            // Held until bcrypt has ended, even after the request has timed out.
            let _permit = permit;
            verify_password(password.as_bytes(), hash.as_deref(), decoy_costs)
        };
        tokio::task::spawn_blocking(run).await.ok()
    }

    /// Returns whether a password of this client was correct before, which tells nothing about its next one.
    pub(super) fn is_verified(&self, client: ClientNetwork) -> bool {
        self.queue.is_verified(client)
    }

    /// Removes the cached passwords of users that do not exist any more.
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

/// Runs bcrypt, which takes milliseconds to hours, depending on the costs. `hash` is `None` where the user does not exist.
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

/// User name and password of a request. Wiped on drop.
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
