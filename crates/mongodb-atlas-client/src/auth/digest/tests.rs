use std::fmt::Write as _;

use http_auth::digest::Qop;
use md5::{Digest as _, Md5};

use super::*;
use crate::credential::StaticSecret;

const NONCE: &str = "nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\"";

fn api_key() -> DigestAuth {
    DigestAuth::new(
        Arc::new(StaticSecret::new("a test", "Mufasa")),
        Arc::new(StaticSecret::new("a test", "Circle Of Life")),
    )
}

/// Returns the Digest response to these `WWW-Authenticate` headers; `None` if no attempt can succeed.
async fn respond(key: &DigestAuth, challenges: &[String]) -> Option<Result<String, ErrorKind>> {
    let mut headers = HeaderMap::new();
    for challenge in challenges {
        headers.append(
            WWW_AUTHENTICATE,
            HeaderValue::from_str(challenge).expect("a header"),
        );
    }
    let url = Url::parse("https://x/dir/index.html?a=b").expect("a URL");
    let attempt = key
        .begin(&Method::GET, &url)
        .await
        .expect("no challenge yet");
    if !attempt.on_unauthorized(&headers) {
        return None;
    }
    Some(key.begin(&Method::GET, &url).await.map(|attempt| {
        let header = attempt.header().expect("a response");
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
        let header = respond(&api_key(), &challenges).await;
        let header = header.expect("a supported challenge").expect("a response");
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
        let header = respond(&api_key(), &challenges)
            .await
            .expect("a challenge")
            .expect("a response");
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
        let header = respond(&api_key(), &[challenge])
            .await
            .expect("a challenge")
            .expect("a response");
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
    let challenge = r#"Digest realm="r\"1", nonce="a\"b\\c, d", qop="auth,auth-int""#.to_owned();
    let header = respond(&api_key(), &[challenge])
        .await
        .expect("a challenge")
        .expect("a response");
    assert!(header.contains(r#"nonce="a\"b\\c, d""#), "{header}");
    assert!(header.contains(r#"realm="r\"1""#), "{header}");
}

#[tokio::test]
async fn unsupported_challenge_is_discarded() {
    let key = api_key();
    let only_int = format!("Digest realm=\"r\", {NONCE}, qop=\"auth-int\"");
    let error = respond(&key, &[only_int]).await.expect("a challenge");
    assert!(
        matches!(error, Err(ErrorKind::InvalidResponse(_))),
        "{error:?}"
    );
    let good = format!("Digest realm=\"r\", {NONCE}, qop=\"auth\"");
    respond(&key, &[good])
        .await
        .expect("a challenge")
        .expect("a response");
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
        assert!(respond(&api_key(), &[nonsense]).await.is_none());
    }
}

#[test]
fn parser_returns_the_first_valid_challenge() {
    let header = format!("Digest realm=\"r\", {NONCE}, qop=\"auth,auth-int\", stale=true");
    let client = parse_digest_challenge(&header).expect("a challenge");
    assert!(client.qop() & Qop::Auth && client.stale());
}

/// Returns whether an attempt is retried that was rejected after `uses` uses of the nonce, including this one; 0 for a
/// request before the first challenge.
async fn is_retried(uses: u32, challenge: Option<&str>) -> bool {
    let key = api_key();
    let url = Url::parse("https://x/dir").expect("a URL");
    let begin = || async { key.begin(&Method::GET, &url).await.expect("an attempt") };
    let headers = |challenge: Option<&str>| {
        let mut headers = HeaderMap::new();
        if let Some(challenge) = challenge {
            let challenge = HeaderValue::from_str(challenge).expect("a header");
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        headers
    };
    if uses > 0 {
        let first = format!("Digest realm=\"r\", {NONCE}, qop=\"auth\", stale=false");
        assert!(begin().await.on_unauthorized(&headers(Some(&first))));
    }
    for _ in 1..uses {
        assert!(begin().await.header().is_some(), "accepted by the server");
    }
    let attempt = begin().await;
    assert_eq!(attempt.header().is_some(), uses > 0);
    attempt.on_unauthorized(&headers(challenge))
}

#[tokio::test]
async fn rejected_attempt_is_retried_unless_the_key_is_invalid() {
    for (uses, stale, expected) in [
        (0, false, true),
        (0, true, true),
        (1, false, false),
        (1, true, true),
        (2, false, true),
        (2, true, true),
        (9, false, true),
    ] {
        let challenge =
            format!("Digest realm=\"r\", nonce=\"another\", qop=\"auth\", stale={stale}");
        let retried = is_retried(uses, Some(&challenge)).await;
        assert_eq!(retried, expected, "{uses} uses, stale={stale}");
        assert!(!is_retried(uses, None).await, "{uses} uses, no challenge");
        assert!(!is_retried(uses, Some("Basic realm=\"r\"")).await);
    }
}

#[test]
fn challenge_is_found_after_a_comma_and_up_to_the_maximum_length() {
    let challenge = format!("Digest realm=\"r\", {NONCE}, qop=\"auth\"");
    for (header, is_found) in [
        (format!("Negotiate dG9rZW4=, {challenge}"), true),
        // A word within the value of another scheme is not a scheme.
        (format!("Negotiate dG9rZW4= {challenge}"), false),
        (format!("Negotiate d,dG9rZW4= {challenge}"), false),
    ] {
        let found = parse_digest_challenge(&header);
        assert_eq!(found.is_some(), is_found, "{header}");
    }
    for (length, is_found) in [
        (MAX_CHALLENGE_BYTES - 1, true),
        (MAX_CHALLENGE_BYTES, true),
        (MAX_CHALLENGE_BYTES + 1, false),
    ] {
        let start = format!("{challenge}, opaque=\"");
        let opaque = "x".repeat(length - start.len() - 1);
        let header = format!("{start}{opaque}\"");
        assert_eq!(header.len(), length);
        assert_eq!(parse_digest_challenge(&header).is_some(), is_found);
    }
}
