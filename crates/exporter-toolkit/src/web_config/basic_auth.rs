//! Passwords: bcrypt hashes as the exporter-toolkit has them, checked where nobody else waits for
//! the thread, and remembered so that a scrape does not pay for bcrypt.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::BCRYPT;
use base64::engine::{GeneralPurpose, general_purpose::NO_PAD};
use ring::hmac;
use ring::rand::SystemRandom;
use zeroize::Zeroizing;

use super::bcrypt_queue::{BcryptQueue, ClientNetwork};

/// How long a login waits for bcrypt.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(20);
/// The lowest cost that bcrypt has.
const MIN_COST: u32 = 4;
/// A cost from which on a login takes a second and more.
const SLOW_COST: u32 = 15;

/// The bcrypt hash of a password.
#[derive(Clone)]
pub(super) struct BcryptHash {
    cost: u32,
    /// In the form that the bcrypt crate reads.
    text: Arc<str>,
}

impl BcryptHash {
    /// Takes a hash apart, as Go's implementation does; the error repeats nothing of it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "it is no bcrypt hash ({why}); it must be one such as `htpasswd -nBC 10 \"\"` prints: $2y$, the cost, and 53 characters"
            )
        };
        let rest = ["$2a$", "$2b$", "$2x$", "$2y$", "$2$"]
            .iter()
            .find_map(|version| text.strip_prefix(version))
            .ok_or_else(|| wrong("it does not begin with $2a$, $2b$ or $2y$"))?;
        let (cost, hash) = rest
            .split_once('$')
            .ok_or_else(|| wrong("there is no cost"))?;
        let two_digits = cost.len() == 2 && cost.bytes().all(|b| b.is_ascii_digit());
        let cost = cost
            .parse()
            .ok()
            .filter(|cost| two_digits && (4..=31).contains(cost))
            .ok_or_else(|| wrong("the cost is not from 04 to 31"))?;
        if hash.len() != 53 {
            return Err(wrong("its length is another"));
        }
        let base = GeneralPurpose::new(&BCRYPT, NO_PAD);
        let lenient = |part: Option<&str>| {
            // the last character has bits to spare, in which some write what they like
            part.is_some_and(|part| {
                let mut whole = Zeroizing::new(part.to_owned());
                whole.pop();
                while whole.len() % 4 != 0 {
                    whole.pop();
                }
                base.decode(whole.as_bytes()).is_ok()
                    && part
                        .bytes()
                        .all(|b| BCRYPT.as_str().as_bytes().contains(&b))
            })
        };
        if !(lenient(hash.get(..22)) && lenient(hash.get(22..))) {
            return Err(wrong("it has characters that are none of its alphabet"));
        }
        Ok(Self {
            cost,
            text: format!("$2b${cost:02}${hash}").into(),
        })
    }

    /// What an operator should know of it.
    pub(super) fn warning(&self) -> Option<String> {
        (self.cost >= SLOW_COST).then(|| {
            format!(
                "a cost of {} makes each login take seconds, or for ever; 10 to 12 is usual",
                self.cost
            )
        })
    }
}

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AuthError {
    /// The name or the password is wrong, or there is none.
    Unauthorized,
    /// Too many others are being checked.
    Busy,
}

/// Who may log in.
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

    /// The cost whose work every check that fails does, whatever the name: the highest one of all users. A cost that is
    /// too slow is left out, so that one such user does not make each guess of any name that slow.
    fn failure_cost(&self) -> u32 {
        let costs = self.hashes.iter().map(|(_, hash)| hash.cost);
        let usual = costs.clone().filter(|cost| *cost < SLOW_COST).max();
        usual.or(costs.min()).unwrap_or(MIN_COST)
    }

    /// Costs of the decoys that are computed when a check fails, so that the time says nothing of the name: it is that
    /// of one hash with [`Self::failure_cost`] whether or not there is such a user. A cost of `n` takes `2^n` steps, so
    /// what is missing behind a hash of cost `n` are hashes of the costs from `n` on.
    fn decoy_costs(&self, hash: Option<&BcryptHash>) -> std::ops::Range<u32> {
        let cost = self.failure_cost();
        hash.map_or(cost..cost + 1, |hash| hash.cost..cost)
    }
}

/// Checks passwords, and remembers those that were right so that a scrape does not pay for bcrypt. Outlives every
/// configuration: what was right stays so for as long as the hash of the user is the same.
#[derive(Debug)]
pub(super) struct Authenticator {
    queue: Arc<BcryptQueue>,
    /// Random, of this process. Where the system has no random numbers, nothing is remembered.
    key: Option<hmac::Key>,
    /// The last password of each user that was right, as a keyed hash of it and of the user's bcrypt hash.
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
    /// Checks whether the password is that of the user. `client` is who asks, for a fair share of the checks.
    pub(super) async fn check(
        &self,
        users: &BasicAuthUsers,
        login: &BasicCredentials,
        client: ClientNetwork,
    ) -> Result<(), AuthError> {
        let hash = users.get(&login.user);
        let tag = hash.and_then(|hash| self.cache_tag(login, hash));
        if tag.is_some() && self.verified().get(&**login.user).copied() == tag {
            self.queue.on_remembered_success(client);
            return Ok(());
        }
        let check = PasswordCheck {
            password: Zeroizing::new(login.password.to_string()),
            hash: hash.map(|hash| Arc::clone(&hash.text)),
            decoy_costs: users.decoy_costs(hash),
        };
        if !run_check(&self.queue, client, check).await? {
            return Err(AuthError::Unauthorized);
        }
        self.queue.on_success(client);
        if let Some(tag) = tag {
            self.verified().insert(login.user.to_string(), tag);
        }
        Ok(())
    }

    /// Whether a password of this client has been right before. Says nothing of the one that it sends now.
    pub(super) fn has_passed(&self, client: ClientNetwork) -> bool {
        self.queue.has_passed(client)
    }

    /// Forgets the passwords of users that are no longer there.
    pub(super) fn retain_users(&self, users: Option<&BasicAuthUsers>) {
        self.verified()
            .retain(|name, _| users.is_some_and(|users| users.get(name).is_some()));
    }

    fn verified(&self) -> MutexGuard<'_, HashMap<String, [u8; 32]>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache_tag(&self, login: &BasicCredentials, hash: &BcryptHash) -> Option<[u8; 32]> {
        let mut signed = hmac::Context::with_key(self.key.as_ref()?);
        for part in [
            login.user.as_bytes(),
            hash.text.as_bytes(),
            login.password.as_bytes(),
        ] {
            signed.update(&(part.len() as u64).to_be_bytes());
            signed.update(part);
        }
        signed.sign().as_ref().try_into().ok()
    }
}

/// A password, and what it is checked against.
struct PasswordCheck {
    password: Zeroizing<String>,
    /// None where there is no such user.
    hash: Option<Arc<str>>,
    decoy_costs: std::ops::Range<u32>,
}

impl PasswordCheck {
    /// Runs bcrypt: for milliseconds, or for ever, as the costs say.
    fn run(self) -> bool {
        let password = self.password.as_bytes();
        let verify = |hash: Arc<str>| bcrypt::verify(password, &hash).unwrap_or(false);
        if self.hash.is_some_and(verify) {
            return true;
        }
        for cost in self.decoy_costs {
            let decoy = bcrypt::hash_with_salt(password, cost, [0; 16]);
            std::hint::black_box(decoy.is_ok());
        }
        false
    }
}

/// Runs bcrypt off the threads that serve, when it is the turn of `client`.
async fn run_check(
    queue: &Arc<BcryptQueue>,
    client: ClientNetwork,
    check: PasswordCheck,
) -> Result<bool, AuthError> {
    let run = async {
        let permit = queue.acquire(client).await?;
        let run = move || {
            let is_right = check.run();
            // held until bcrypt has ended, also when nobody waits for it any more
            drop(permit);
            is_right
        };
        tokio::task::spawn_blocking(run).await.ok()
    };
    tokio::time::timeout(VERIFY_TIMEOUT, run)
        .await
        .ok()
        .flatten()
        .ok_or(AuthError::Busy)
}

/// What a client says of itself. Wiped when dropped.
pub(super) struct BasicCredentials {
    user: Zeroizing<String>,
    password: Zeroizing<String>,
}

impl BasicCredentials {
    /// Reads the value of an `Authorization` header.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let scheme = value.get(..6)?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return None;
        }
        let encoded = value.get(6..)?.trim_ascii();
        let mut decoded = Zeroizing::new(vec![0; encoded.len()]);
        let length = base64::engine::general_purpose::STANDARD
            .decode_slice(encoded, &mut decoded)
            .ok()?;
        let text = std::str::from_utf8(decoded.get(..length)?).ok()?;
        let (user, password) = text.split_once(':')?;
        Some(Self {
            user: Zeroizing::new(user.to_owned()),
            password: Zeroizing::new(password.to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::super::bcrypt_queue::BcryptPermit;
    use super::*;

    fn login(text: &str) -> Option<BasicCredentials> {
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        BasicCredentials::parse(format!("Basic {encoded}").as_bytes())
    }

    fn hash(password: &str, cost: u32) -> BcryptHash {
        BcryptHash::parse(&bcrypt::hash(password, cost).expect("a hash")).expect("a hash")
    }

    fn users(costs: &[(&str, u32)]) -> BasicAuthUsers {
        let hashes = costs.iter().map(|(name, cost)| {
            let hash = hash(&format!("password of {name}"), *cost);
            ((*name).to_owned(), hash)
        });
        BasicAuthUsers::new(hashes.collect())
    }

    async fn check(
        authenticator: &Authenticator,
        users: &BasicAuthUsers,
        text: &str,
    ) -> Result<(), AuthError> {
        let login = login(text).expect("a login");
        authenticator.check(users, &login, None.into()).await
    }

    /// Takes all permits, so that only what is remembered gets through.
    fn block(authenticator: &Authenticator) -> Vec<BcryptPermit> {
        let mut permits = Vec::new();
        while let Some(permit) = authenticator.queue.acquire(None.into()).now_or_never() {
            permits.extend(permit);
        }
        permits
    }

    #[test]
    fn bcrypt_hashes_are_parsed() {
        let good = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";
        assert_eq!(BcryptHash::parse(good).map(|hash| hash.cost), Ok(10));
        for minor in ["$2a$", "$2b$", "$2x$", "$2$"] {
            assert!(
                BcryptHash::parse(&good.replace("$2y$", minor)).is_ok(),
                "{minor}"
            );
        }
        for bad in [
            "",
            "secret",
            "$1$x",
            "$2y$3$",
            "$2y$32$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi",
            &good[..59],
            &good.replace('Q', "!"),
        ] {
            let error = BcryptHash::parse(bad).err().expect(bad);
            assert!(
                error.contains("htpasswd") && (bad.is_empty() || !error.contains(bad)),
                "{error}"
            );
        }
        assert!(
            BcryptHash::parse(&good.replace("$10$", "$31$"))
                .is_ok_and(|hash| hash.warning().is_some())
        );
    }

    #[test]
    fn authorization_headers_are_parsed() {
        let named = login("ada:a:b").expect("a login");
        assert_eq!(
            (named.user.as_str(), named.password.as_str()),
            ("ada", "a:b")
        );
        assert!(login("ada").is_none());
        for bad in [
            &b"Basic"[..],
            b"Basic !",
            b"Bearer YTpi",
            b"",
            b"Basic \xff",
            b"basic /w==",
        ] {
            assert!(BasicCredentials::parse(bad).is_none());
        }
        assert!(
            BasicCredentials::parse(b"bAsIc  YTpi ").is_some(),
            "the scheme's case is no matter"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn correct_passwords_are_cached_and_wrong_ones_are_not() {
        let users = users(&[("ada", 4), ("bob", 4)]);
        let authenticator = Authenticator::default();
        let check = async |text| check(&authenticator, &users, text).await;
        assert_eq!(check("ada:password of ada").await, Ok(()));
        assert_eq!(authenticator.verified().len(), 1);
        assert_eq!(check("ada:password of ada").await, Ok(()));
        for wrong in [
            "ada:password of bob",
            "ada:",
            "bob:password of ada",
            "eve:password of ada",
            ":",
            "ada:\0",
        ] {
            assert_eq!(check(wrong).await, Err(AuthError::Unauthorized), "{wrong}");
        }
        assert_eq!(authenticator.verified().len(), 1);
        // nobody gets through on what is remembered when nothing can be checked
        let _permits = block(&authenticator);
        assert_eq!(check("ada:password of ada").await, Ok(()));
        assert_eq!(check("bob:password of bob").await, Err(AuthError::Busy));
        // and a name that nobody has is checked like any other
        assert_eq!(check("eve:password of eve").await, Err(AuthError::Busy));
    }

    #[tokio::test(start_paused = true)]
    async fn reload_keeps_cached_passwords_of_unchanged_hashes() {
        let authenticator = Authenticator::default();
        let before = users(&[("ada", 4), ("bob", 4), ("cyd", 4)]);
        for name in ["ada", "bob", "cyd"] {
            let text = format!("{name}:password of {name}");
            assert_eq!(check(&authenticator, &before, &text).await, Ok(()));
        }
        let mut after = BasicAuthUsers::new(before.hashes.clone());
        // bob has another hash of the same password, and cyd is gone
        after.hashes[1].1 = hash("password of bob", 4);
        after.hashes.truncate(2);
        authenticator.retain_users(Some(&after));
        assert_eq!(authenticator.verified().len(), 2);
        let _permits = block(&authenticator);
        for (name, result) in [
            ("ada", Ok(())),
            ("bob", Err(AuthError::Busy)),
            ("cyd", Err(AuthError::Busy)),
        ] {
            let text = format!("{name}:password of {name}");
            assert_eq!(check(&authenticator, &after, &text).await, result, "{name}");
        }
        authenticator.retain_users(None);
        assert!(authenticator.verified().is_empty());
    }

    #[test]
    fn failed_checks_cost_the_same_for_every_name() {
        let work = |users: &BasicAuthUsers, name: &str| {
            let hash = users.get(name);
            let own: u64 = hash.map_or(0, |hash| 1 << hash.cost);
            let decoys = users.decoy_costs(hash).map(|cost| 1_u64 << cost);
            own + decoys.sum::<u64>()
        };
        for costs in [
            &[("ada", 4)][..],
            &[("ada", 4), ("bob", 4)],
            &[("ada", 4), ("bob", 7), ("cyd", 5)],
        ] {
            let (users, reloaded) = (users(costs), users(costs));
            let right = 1 << costs.iter().map(|(_, cost)| cost).max().expect("a cost");
            for name in ["ada", "bob", "cyd", "eve", "", "mallory"] {
                assert_eq!(work(&users, name), right, "{name}");
                assert_eq!(work(&reloaded, name), right, "{name}");
            }
        }
        // one user whose hash takes for ever does not make every guess take so long
        let slow = "$2y$31$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";
        let slow = ("bob".to_owned(), BcryptHash::parse(slow).expect("a hash"));
        let users = BasicAuthUsers::new(vec![("ada".to_owned(), hash("x", 4)), slow.clone()]);
        assert_eq!((work(&users, "ada"), work(&users, "eve")), (16, 16));
        assert_eq!(work(&BasicAuthUsers::new(vec![slow]), "eve"), 1 << 31);
    }
}
