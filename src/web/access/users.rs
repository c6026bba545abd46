//! Passwords: bcrypt hashes as the exporter-toolkit has them, checked where nobody else waits for
//! the thread, and remembered so that a scrape does not pay for bcrypt.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::BCRYPT;
use base64::engine::{GeneralPurpose, general_purpose::NO_PAD};
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Logins that may wait for bcrypt at once; one more is refused.
const WAITING: usize = 64;
/// How long a login waits for bcrypt.
const PATIENCE: Duration = Duration::from_secs(20);
/// Passwords that are remembered at once.
const REMEMBERED: usize = 256;
/// A cost from which on a login takes a second and more.
const DEAR: u32 = 15;

/// The bcrypt hash of a password.
#[derive(Clone)]
pub(super) struct Hash {
    cost: u32,
    /// In the form that the bcrypt crate reads.
    text: Arc<str>,
}

impl Hash {
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
        (self.cost >= DEAR).then(|| {
            format!(
                "a cost of {} makes each login take seconds, or for ever; 10 to 12 is usual",
                self.cost
            )
        })
    }
}

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The name or the password is wrong, or there is none.
    Wrong,
    /// Too many others are being checked.
    Busy,
}

/// How many passwords are checked at once: never so many that no thread is left to serve.
#[derive(Debug)]
pub(super) struct Gate {
    at_once: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Default for Gate {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            at_once: Arc::new(Semaphore::new((cores / 2).max(1))),
            waiting: Semaphore::new(WAITING),
        }
    }
}

/// Who may log in.
pub(super) struct Users {
    hashes: Vec<(String, Hash)>,
    /// Made anew with each configuration, so that what is remembered is worth nothing elsewhere.
    key: hmac::Key,
    remembered: Mutex<HashSet<[u8; 32]>>,
}

impl Users {
    pub(super) fn new(hashes: Vec<(String, Hash)>) -> Result<Self, String> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| "the system gives no random numbers".to_owned())?;
        Ok(Self {
            hashes,
            key,
            remembered: Mutex::default(),
        })
    }

    /// Whether that is the password of that user. An unknown user costs what a known one costs: a
    /// hash that is always the same one for a name is checked in vain.
    pub(super) async fn check(&self, gate: &Gate, login: &Login) -> Result<(), Refusal> {
        let known = self.hashes.iter().find(|(name, _)| *name == *login.user);
        let hash = match known {
            Some((_, hash)) => hash,
            None => self.instead(&login.user).ok_or(Refusal::Wrong)?,
        };
        let tag = self.tag(login, hash);
        if known.is_some() && self.remembered().contains(&tag) {
            return Ok(());
        }
        let right = check_elsewhere(gate, login, hash.text.clone()).await?;
        if known.is_none() || !right {
            return Err(Refusal::Wrong);
        }
        let mut remembered = self.remembered();
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(tag);
        Ok(())
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashSet<[u8; 32]>> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody's hash for a name that nobody has.
    fn instead(&self, user: &str) -> Option<&Hash> {
        let tag = hmac::sign(&self.key, user.as_bytes());
        let number = tag
            .as_ref()
            .iter()
            .take(4)
            .fold(0, |n, byte| n << 8 | usize::from(*byte));
        let place = number.checked_rem(self.hashes.len())?;
        self.hashes.get(place).map(|(_, hash)| hash)
    }

    fn tag(&self, login: &Login, hash: &Hash) -> [u8; 32] {
        let mut signed = hmac::Context::with_key(&self.key);
        for part in [
            login.user.as_bytes(),
            hash.text.as_bytes(),
            login.password.as_bytes(),
        ] {
            signed.update(&(part.len() as u64).to_be_bytes());
            signed.update(part);
        }
        let mut tag = [0; 32];
        for (to, from) in tag.iter_mut().zip(signed.sign().as_ref()) {
            *to = *from;
        }
        tag
    }
}

/// Runs bcrypt off the threads that serve.
async fn check_elsewhere(gate: &Gate, login: &Login, hash: Arc<str>) -> Result<bool, Refusal> {
    let _waiting = gate.waiting.try_acquire().map_err(|_| Refusal::Busy)?;
    let password = Zeroizing::new(login.password.to_string());
    let checked = async {
        let at_once = Arc::clone(&gate.at_once).acquire_owned().await.ok()?;
        let checking = tokio::task::spawn_blocking(move || {
            let right = bcrypt::verify(password.as_bytes(), &hash).unwrap_or(false);
            // held until bcrypt has ended, also when nobody waits for it any more
            drop(at_once);
            right
        });
        checking.await.ok()
    };
    tokio::time::timeout(PATIENCE, checked)
        .await
        .ok()
        .flatten()
        .ok_or(Refusal::Busy)
}

/// What a client says of itself. Wiped when dropped.
pub(super) struct Login {
    user: Zeroizing<String>,
    password: Zeroizing<String>,
}

impl Login {
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
    use super::*;

    fn login(text: &str) -> Option<Login> {
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        Login::parse(format!("Basic {encoded}").as_bytes())
    }

    fn users(names: &[&str], cost: u32) -> Users {
        let hashes = names.iter().map(|name| {
            let hash = bcrypt::hash(format!("password of {name}"), cost).expect("a hash");
            ((*name).to_owned(), Hash::parse(&hash).expect("a hash"))
        });
        Users::new(hashes.collect()).expect("random numbers")
    }

    #[test]
    fn hashes() {
        let good = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";
        assert_eq!(Hash::parse(good).map(|hash| hash.cost), Ok(10));
        for minor in ["$2a$", "$2b$", "$2x$", "$2$"] {
            assert!(Hash::parse(&good.replace("$2y$", minor)).is_ok(), "{minor}");
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
            let error = Hash::parse(bad).err().expect(bad);
            assert!(
                error.contains("htpasswd") && (bad.is_empty() || !error.contains(bad)),
                "{error}"
            );
        }
        assert!(
            Hash::parse(&good.replace("$10$", "$31$")).is_ok_and(|hash| hash.warning().is_some())
        );
    }

    #[test]
    fn what_a_client_says() {
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
            assert!(Login::parse(bad).is_none());
        }
        assert!(
            Login::parse(b"bAsIc  YTpi ").is_some(),
            "the scheme's case is no matter"
        );
    }

    #[tokio::test]
    async fn a_right_password_is_remembered_and_a_wrong_one_is_not() {
        let (users, gate) = (users(&["ada", "bob"], 4), Gate::default());
        let check = async |text| users.check(&gate, &login(text).expect("a login")).await;
        assert_eq!(check("ada:password of ada").await, Ok(()));
        assert_eq!(users.remembered().len(), 1);
        assert_eq!(check("ada:password of ada").await, Ok(()));
        for wrong in [
            "ada:password of bob",
            "ada:",
            "bob:password of ada",
            "eve:password of ada",
            ":",
            "ada:\0",
        ] {
            assert_eq!(check(wrong).await, Err(Refusal::Wrong), "{wrong}");
        }
        assert_eq!(users.remembered().len(), 1);
        // nobody gets through on what is remembered when nothing can be checked
        gate.at_once.close();
        assert_eq!(check("ada:password of ada").await, Ok(()));
        assert_eq!(check("bob:password of bob").await, Err(Refusal::Busy));
        // and a name that nobody has is checked like any other
        assert_eq!(check("eve:password of eve").await, Err(Refusal::Busy));
    }

    #[test]
    fn an_unknown_name_always_gets_the_same_hash() {
        let users = users(&["ada", "bob", "cyd"], 4);
        let of = |name: &str| users.instead(name).map(|hash| hash.text.clone());
        let all: HashSet<_> = (0..100).map(|n| of(&format!("user {n}"))).collect();
        assert_eq!(all.len(), 3, "each known user's cost is met");
        assert_eq!(of("eve"), of("eve"));
    }
}
