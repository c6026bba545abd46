//! The server's side of HTTP Digest (RFC 7616) with MD5 and `qop=auth`, as Atlas offers it.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use jiff::Timestamp;
use md5::{Digest as _, Md5};

use super::credentials::SimCredentials;
use super::population::random_hex;

const REALM: &str = "MMS Public API";

/// The nonces that were given out, and what was counted with each.
pub(crate) struct Nonces {
    issued: HashMap<String, Nonce>,
    lifetime_seconds: i64,
    rng: fastrand::Rng,
}

struct Nonce {
    issued_at: Timestamp,
    counts_seen: HashSet<u32>,
    expired: bool,
}

/// What a Digest answer was worth.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Valid,
    /// The password may be right, but the nonce is too old.
    Stale,
    Invalid,
}

impl Nonces {
    pub(crate) fn new(seed: u64, life_seconds: u64) -> Self {
        Self {
            issued: HashMap::new(),
            lifetime_seconds: i64::try_from(life_seconds).unwrap_or(i64::MAX),
            rng: fastrand::Rng::with_seed(seed ^ 0x00d1_6e57),
        }
    }

    pub(crate) fn expire_all(&mut self) {
        for nonce in self.issued.values_mut() {
            nonce.expired = true;
        }
    }

    /// A `WWW-Authenticate` value with a new nonce.
    pub(crate) fn challenge(&mut self, stale: bool, now: Timestamp) -> String {
        let nonce = random_hex(&mut self.rng, 32);
        let challenge = format!(
            "Digest realm=\"{REALM}\", domain=\"\", nonce=\"{nonce}\", algorithm=MD5, qop=\"auth\", stale={stale}"
        );
        self.issued.insert(
            nonce,
            Nonce {
                issued_at: now,
                counts_seen: HashSet::new(),
                expired: false,
            },
        );
        challenge
    }

    /// Judges the value of an `Authorization: Digest` header.
    pub(crate) fn verify(
        &mut self,
        header: &str,
        method: &str,
        uri: &str,
        account: &SimCredentials,
        now: Timestamp,
    ) -> Verdict {
        let members = parse_fields(header);
        let get = |name: &str| members.get(name).map_or("", String::as_str);
        let Ok(count) = u32::from_str_radix(get("nc"), 16) else {
            return Verdict::Invalid;
        };
        if get("uri") != uri
            || get("qop") != "auth"
            || get("realm") != REALM
            || get("username") != account.public_key
        {
            return Verdict::Invalid;
        }
        let secret = md5_hex(&format!(
            "{}:{REALM}:{}",
            account.public_key, account.private_key
        ));
        let request = md5_hex(&format!("{method}:{uri}"));
        let expected = md5_hex(&format!(
            "{secret}:{}:{}:{}:auth:{request}",
            get("nonce"),
            get("nc"),
            get("cnonce")
        ));
        if get("response") != expected {
            return Verdict::Invalid;
        }
        let Some(nonce) = self.issued.get_mut(get("nonce")) else {
            return Verdict::Stale;
        };
        if nonce.expired || now.as_second() - nonce.issued_at.as_second() >= self.lifetime_seconds {
            return Verdict::Stale;
        }
        // a count that came before is a replay
        if nonce.counts_seen.insert(count) {
            Verdict::Valid
        } else {
            Verdict::Invalid
        }
    }
}

fn md5_hex(text: &str) -> String {
    let mut hex = String::with_capacity(32);
    for byte in Md5::digest(text.as_bytes()) {
        // writing to a String cannot fail
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// The members of a Digest header, unquoted.
fn parse_fields(header: &str) -> HashMap<String, String> {
    let mut members = HashMap::new();
    let mut rest = header.trim();
    while let Some((name, value)) = rest.split_once('=') {
        let (value, after) = if let Some(quoted) = value.strip_prefix('"') {
            let Some((value, after)) = quoted.split_once('"') else {
                break;
            };
            (value, after.split_once(',').map_or("", |(_, after)| after))
        } else {
            value.split_once(',').unwrap_or((value, ""))
        };
        members.insert(name.trim().to_owned(), value.trim().to_owned());
        rest = after;
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields_are_parsed_and_unquoted() {
        let members = parse_fields(r#"username="a, b=c", nc=00000001, qop=auth, uri="/x?y=1&z=2""#);
        assert_eq!(members.get("username").map(String::as_str), Some("a, b=c"));
        assert_eq!(members.get("nc").map(String::as_str), Some("00000001"));
        assert_eq!(members.get("uri").map(String::as_str), Some("/x?y=1&z=2"));
    }
}
