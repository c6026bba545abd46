//! Programmatic API keys: HTTP Digest. A challenge is paid for once, and its nonce is then used
//! with a rising count for as long as the server takes it.

use std::sync::Arc;

use http_auth::parser::ChallengeParser;
use http_auth::{ChallengeRef, DigestClient, ParamValue, PasswordParams};
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Url};
use secrecy::ExposeSecret as _;
use tokio::sync::{Mutex, MutexGuard};

use super::sensitive_header;
use crate::credential::SecretSource;
use crate::error::ErrorKind;

/// The longest `WWW-Authenticate` header that is parsed; Atlas' own has some 150 bytes.
const MAX_CHALLENGE_BYTES: usize = 16 << 10;
/// Places in a header at which a challenge is looked for.
const MAX_CHALLENGE_OFFSETS: usize = 16;

/// A programmatic API key, and the challenge that it answers at present.
///
/// Requests take turns: a server may refuse a count that is lower than one it has seen, and
/// nothing keeps requests that are under way at once in order.
pub(crate) struct DigestAuth {
    public_key: Arc<dyn SecretSource>,
    private_key: Arc<dyn SecretSource>,
    challenge: Mutex<Option<DigestClient>>,
}

/// One request's turn.
pub(crate) struct DigestAttempt<'a> {
    challenge: MutexGuard<'a, Option<DigestClient>>,
    header: Option<HeaderValue>,
}

impl DigestAuth {
    pub(super) fn new(public: Arc<dyn SecretSource>, private: Arc<dyn SecretSource>) -> Self {
        Self {
            public_key: public,
            private_key: private,
            challenge: Mutex::new(None),
        }
    }

    pub(super) async fn begin(
        &self,
        method: &Method,
        url: &Url,
    ) -> Result<DigestAttempt<'_>, ErrorKind> {
        let mut challenge = self.challenge.lock().await;
        let header = match challenge.as_mut() {
            None => None,
            Some(client) => {
                let public = self.public_key.read().await?;
                let private = self.private_key.read().await?;
                let uri = match url.query() {
                    Some(query) => format!("{}?{query}", url.path()),
                    None => url.path().to_owned(),
                };
                let answer = client.respond(&PasswordParams {
                    username: public.expose_secret(),
                    password: private.expose_secret(),
                    uri: &uri,
                    method: method.as_str(),
                    // Without a body the crate chooses `auth`, as curl does. Its `auth-int` is computed
                    // wrongly: it takes the body where RFC 7616 asks for the body's hash.
                    body: None,
                });
                match answer {
                    Ok(answer) => Some(sensitive_header(&answer)?),
                    // The next request asks for another challenge. This one may be repaired by then, or its
                    // nonce be used up.
                    Err(cause) => {
                        *challenge = None;
                        return Err(ErrorKind::InvalidResponse(format!(
                            "cannot answer the Digest challenge: {cause}"
                        )));
                    }
                }
            }
        };
        Ok(DigestAttempt { challenge, header })
    }
}

impl DigestAttempt<'_> {
    pub(super) fn header(&self) -> Option<HeaderValue> {
        self.header.clone()
    }

    /// Told of a 401: takes the new challenge, and says whether answering it can help.
    pub(super) fn on_unauthorized(mut self, headers: &HeaderMap) -> bool {
        let first_use = self
            .challenge
            .as_ref()
            .is_some_and(|client| client.nonce_count() <= 1);
        let new = headers
            .get_all(WWW_AUTHENTICATE)
            .into_iter()
            .find_map(|value| parse_digest_challenge(value.to_str().ok()?));
        let stale = new.as_ref().is_some_and(DigestClient::stale);
        let answerable = new.is_some();
        let answered = self.header.is_some();
        *self.challenge = new;
        // a fresh nonce that was refused and is not stale means that the key itself is wrong
        answerable && (!answered || stale || !first_use)
    }
}

/// Returns the first Digest challenge in a `WWW-Authenticate` header that can be answered. There may be several schemes and
/// several Digest challenges, the one that the server prefers first.
pub(crate) fn parse_digest_challenge(header: &str) -> Option<DigestClient> {
    if header.len() > MAX_CHALLENGE_BYTES {
        return None;
    }
    // The parser gives up at the first scheme whose value is no list of parameters, such as `Negotiate` with its
    // token. A Digest challenge behind it is found by its name.
    let by_name = header.match_indices(['d', 'D']).filter(|(at, _)| {
        let before = header.get(..*at).unwrap_or_default().trim_end();
        let name = header.get(*at..at + 7);
        before.ends_with(',') && name.is_some_and(|name| name.eq_ignore_ascii_case("digest "))
    });
    std::iter::once(0)
        .chain(by_name.map(|(at, _)| at))
        .take(MAX_CHALLENGE_OFFSETS)
        .filter_map(|at| header.get(at..))
        .find_map(|rest| {
            ChallengeParser::new(rest)
                .map_while(Result::ok)
                .find_map(to_digest_client)
        })
}

/// Returns the challenge as the crate wants it: it knows algorithms in one spelling alone, and no empty `qop`.
fn to_digest_client(mut challenge: ChallengeRef<'_>) -> Option<DigestClient> {
    const ALGORITHMS: [&str; 6] = [
        "MD5",
        "MD5-sess",
        "SHA-256",
        "SHA-256-sess",
        "SHA-512-256",
        "SHA-512-256-sess",
    ];
    challenge.params.retain(|(name, value)| {
        !name.eq_ignore_ascii_case("qop") || !value.as_escaped().trim().is_empty()
    });
    for (name, value) in &mut challenge.params {
        let known = ALGORITHMS
            .iter()
            .find(|known| known.eq_ignore_ascii_case(value.as_escaped()));
        if name.eq_ignore_ascii_case("algorithm")
            && let Some(known) = known
        {
            *value = ParamValue::try_from_escaped(known).ok()?;
        }
    }
    DigestClient::try_from(&challenge).ok()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use http_auth::digest::Qop;
    use md5::{Digest as _, Md5};

    use super::*;
    use crate::credential::tests::StaticSecret;

    const NONCE: &str = "nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\"";

    fn api_key() -> DigestAuth {
        DigestAuth::new(
            Arc::new(StaticSecret("Mufasa")),
            Arc::new(StaticSecret("Circle Of Life")),
        )
    }

    /// The parameters of the answer to these `WWW-Authenticate` headers; none when there is no answer.
    async fn answer(key: &DigestAuth, challenges: &[String]) -> Option<Result<String, ErrorKind>> {
        let mut headers = HeaderMap::new();
        for challenge in challenges {
            headers.append(
                WWW_AUTHENTICATE,
                HeaderValue::from_str(challenge).expect("a header"),
            );
        }
        let url = Url::parse("https://x/dir/index.html?a=b").expect("a URL");
        let turn = key
            .begin(&Method::GET, &url)
            .await
            .expect("no challenge yet");
        if !turn.on_unauthorized(&headers) {
            return None;
        }
        Some(key.begin(&Method::GET, &url).await.map(|turn| {
            let header = turn.header().expect("an answer");
            header.to_str().expect("text").to_owned()
        }))
    }

    fn parameter(header: &str, name: &str) -> String {
        let (_, after) = header.split_once(&format!("{name}=")).expect(name);
        let end = if after.starts_with('"') { "\"" } else { "," };
        let after = after.trim_start_matches('"');
        after.split(end).next().expect("a value").to_owned()
    }

    fn md5(text: &str) -> String {
        Md5::digest(text.as_bytes())
            .iter()
            .fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            })
    }

    #[tokio::test]
    async fn digest_selects_qop_auth_among_alternatives() {
        let digest = |rest: &str| vec![format!("Digest realm=\"a, b\", {NONCE}, {rest}")];
        for challenges in [
            digest("qop=\"auth\""),
            digest("qop=auth"),
            digest("qop=\"auth,auth-int\""),
            digest("qop=\"auth-int, auth\""),
            digest("qop=\"AUTH-INT ,\t AUTH\", algorithm=md5"),
            digest(
                "qop=\"auth,auth-int,token\", algorithm=\"MD5\", opaque=\"x, Digest y\", charset=UTF-8",
            ),
            digest("qop=\"auth\", stale=TRUE, domain=\"/ /x\""),
            vec![format!(
                "Basic realm=\"b\", Digest realm=\"a, b\", {NONCE}, qop=\"auth,auth-int\""
            )],
            vec![format!(
                "Digest realm=\"a, b\", {NONCE}, qop=\"auth\", Basic realm=\"b\""
            )],
            vec![format!(
                "Negotiate dG9rZW4=, Digest realm=\"a, b\", {NONCE}, qop=\"auth\""
            )],
            vec![format!(
                "NTLM, dIgEsT realm=\"a, b\", {NONCE}, qop=\"auth\""
            )],
            vec![
                "Negotiate dG9rZW4==".to_owned(),
                format!("Digest realm=\"a, b\", {NONCE}, qop=\"auth\""),
            ],
            vec![
                format!("Digest realm=\"a, b\", {NONCE}, qop=\"auth\", algorithm=SHA-999"),
                format!("Digest realm=\"a, b\", {NONCE}, qop=\"auth\", algorithm=MD5"),
            ],
            vec![
                format!("Digest realm=\"a, b\", {NONCE}, qop=\"token\""),
                format!("Digest realm=\"a, b\", {NONCE}, qop=\"auth\""),
            ],
        ] {
            let header = answer(&api_key(), &challenges).await;
            let header = header
                .expect("a challenge that can be answered")
                .expect("an answer");
            let secret = md5("Mufasa:a, b:Circle Of Life");
            let request = md5("GET:/dir/index.html?a=b");
            let expected = md5(&format!(
                "{secret}:{}:{}:{}:auth:{request}",
                parameter(&header, "nonce"),
                parameter(&header, "nc"),
                parameter(&header, "cnonce"),
            ));
            assert_eq!(parameter(&header, "qop"), "auth", "{challenges:?}");
            assert_eq!(parameter(&header, "response"), expected, "{challenges:?}");
        }
    }

    #[tokio::test]
    async fn digest_uses_the_first_supported_algorithm() {
        let challenges = ["SHA-256", "MD5"]
            .map(|name| format!("Digest realm=\"r\", {NONCE}, qop=\"auth\", algorithm={name}"));
        for challenges in [challenges.to_vec(), vec![challenges.join(", ")]] {
            let header = answer(&api_key(), &challenges)
                .await
                .expect("a challenge")
                .expect("an answer");
            assert_eq!(parameter(&header, "algorithm"), "SHA-256");
            assert_eq!(parameter(&header, "response").len(), 64);
        }
    }

    #[tokio::test]
    async fn digest_without_qop_uses_rfc2069() {
        for challenge in [
            format!("Digest realm=\"r\", {NONCE}"),
            format!("Digest realm=\"r\", {NONCE}, qop=\"\""),
        ] {
            let header = answer(&api_key(), &[challenge])
                .await
                .expect("a challenge")
                .expect("an answer");
            let expected = md5(&format!(
                "{}:{}:{}",
                md5("Mufasa:r:Circle Of Life"),
                parameter(&header, "nonce"),
                md5("GET:/dir/index.html?a=b")
            ));
            assert_eq!(parameter(&header, "response"), expected);
        }
    }

    #[tokio::test]
    async fn digest_echoes_quoted_nonce_verbatim() {
        let challenge =
            r#"Digest realm="r\"1", nonce="a\"b\\c, d", qop="auth,auth-int""#.to_owned();
        let header = answer(&api_key(), &[challenge])
            .await
            .expect("a challenge")
            .expect("an answer");
        assert!(header.contains(r#"nonce="a\"b\\c, d""#), "{header}");
        assert!(header.contains(r#"realm="r\"1""#), "{header}");
    }

    #[tokio::test]
    async fn unsupported_challenge_is_discarded() {
        let key = api_key();
        let only_int = format!("Digest realm=\"r\", {NONCE}, qop=\"auth-int\"");
        let refused = answer(&key, &[only_int]).await.expect("a challenge");
        assert!(
            matches!(refused, Err(ErrorKind::InvalidResponse(_))),
            "{refused:?}"
        );
        let good = format!("Digest realm=\"r\", {NONCE}, qop=\"auth\"");
        answer(&key, &[good])
            .await
            .expect("a challenge")
            .expect("an answer");
        for nonsense in [
            String::new(),
            "Digest".to_owned(),
            "Digest realm=\"r\"".to_owned(),
            "Digest nonce=\"r\", qop=\"auth".to_owned(),
            "Basic realm=\"r\"".to_owned(),
            "digest ".repeat(8000),
            format!(
                "Digest realm=\"r\", {NONCE}, opaque=\"{}\"",
                "x".repeat(60 << 10)
            ),
            format!("Digest realm=\"r\", {NONCE}, {NONCE}"),
        ] {
            assert!(answer(&api_key(), &[nonsense]).await.is_none());
        }
    }

    #[test]
    fn parser_returns_the_first_valid_challenge() {
        let header = format!("Digest realm=\"r\", {NONCE}, qop=\"auth,auth-int\", stale=true");
        let client = parse_digest_challenge(&header).expect("a challenge");
        assert!(client.qop() & Qop::Auth && client.stale());
    }
}
