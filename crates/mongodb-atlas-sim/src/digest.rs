//! The server side of HTTP Digest authentication (RFC 7616) with MD5 and `qop=auth`, as Atlas offers it.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use md5::{Digest as _, Md5};

use crate::credentials::SimCredentials;
use crate::random::random_hex;

const REALM: &str = "MMS Public API";

/// Issued nonces.
pub(crate) struct Nonces {
    issued: HashMap<String, Nonce>,
    lifetime_seconds: i64,
    rng: fastrand::Rng,
}

struct Nonce {
    issued_at: Timestamp,
    counts_seen: HashSet<u32>,
}

/// Result of verifying an `Authorization` header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Valid,
    /// The credentials are valid, but the nonce has expired.
    Stale,
    Invalid,
}

impl Nonces {
    pub(crate) fn new(seed: u64, lifetime_seconds: u64) -> Self {
        Self {
            issued: HashMap::new(),
            lifetime_seconds: i64::try_from(lifetime_seconds).unwrap_or(i64::MAX),
            rng: fastrand::Rng::with_seed(seed ^ 0x00d1_6e57),
        }
    }

    /// Removes all nonces; unknown nonces are stale.
    pub(crate) fn expire_all(&mut self) {
        self.issued.clear();
    }

    /// Returns a `WWW-Authenticate` value with a new nonce.
    pub(crate) fn challenge(&mut self, stale: bool, now: Timestamp) -> String {
        let nonce = random_hex(&mut self.rng, 32);
        let challenge = format!(
            "Digest realm=\"{REALM}\", domain=\"\", nonce=\"{nonce}\", algorithm=MD5, qop=\"auth\", stale={stale}"
        );
        let issued = Nonce {
            issued_at: now,
            counts_seen: HashSet::new(),
        };
        self.issued.insert(nonce, issued);
        challenge
    }

    /// Verifies the fields of an `Authorization: Digest` header.
    pub(crate) fn verify(
        &mut self,
        header: &str,
        method: &str,
        uri: &str,
        credentials: &SimCredentials,
        now: Timestamp,
    ) -> Verdict {
        let fields = parse_fields(header);
        let get = |name: &str| fields.get(name).map_or("", String::as_str);
        let Ok(count) = u32::from_str_radix(get("nc"), 16) else {
            return Verdict::Invalid;
        };
        let (user, password) = (&credentials.public_key, &credentials.private_key);
        let secret = md5_hex(&format!("{user}:{REALM}:{password}"));
        let request = md5_hex(&format!("{method}:{uri}"));
        let (nonce, nc, cnonce) = (get("nonce"), get("nc"), get("cnonce"));
        let expected = md5_hex(&format!("{secret}:{nonce}:{nc}:{cnonce}:auth:{request}"));
        if get("uri") != uri
            || get("qop") != "auth"
            || get("realm") != REALM
            || get("username") != user
            || get("response") != expected
        {
            return Verdict::Invalid;
        }
        let Some(nonce) = self.issued.get_mut(nonce) else {
            return Verdict::Stale;
        };
        if now.as_second() - nonce.issued_at.as_second() >= self.lifetime_seconds {
            return Verdict::Stale;
        }
        // A count that was used before is a replay.
        if nonce.counts_seen.insert(count) {
            Verdict::Valid
        } else {
            Verdict::Invalid
        }
    }
}

fn md5_hex(text: &str) -> String {
    format!("{:x}", Md5::digest(text))
}

/// Returns the unquoted fields of a Digest header.
fn parse_fields(header: &str) -> HashMap<String, String> {
    let mut fields = HashMap::new();
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
        fields.insert(name.trim().to_owned(), value.trim().to_owned());
        rest = after;
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields_are_parsed_and_unquoted() {
        let fields = parse_fields(r#"username="a, b=c", nc=00000001, qop=auth, uri="/x?y=1&z=2""#);
        assert_eq!(fields.get("username").map(String::as_str), Some("a, b=c"));
        assert_eq!(fields.get("nc").map(String::as_str), Some("00000001"));
        assert_eq!(fields.get("uri").map(String::as_str), Some("/x?y=1&z=2"));
    }
}
