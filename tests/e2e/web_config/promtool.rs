//! Verdicts on web configurations match those of `promtool check web-config`.

use std::process::Command;

use crate::common::pki::{TLS_CONFIG, TestPki};
use crate::common::run_command;
use exporter_toolkit::web_config::WebConfig;

use ExpectedVerdict::{Bad, Good, OnlyRejectedHere};

const VALID_HASH: &str = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";

/// Expected verdicts of promtool and of the exporter on a file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ExpectedVerdict {
    Good,
    Bad,
    /// promtool accepts it and the exporter rejects it, for this reason.
    OnlyRejectedHere(#[allow(dead_code, reason = "for who reads this table")] &'static str),
    /// promtool rejects it and the exporter accepts it, for this reason.
    OnlyAcceptedHere(#[allow(dead_code, reason = "for who reads this table")] &'static str),
}

const NEWER_FIELD: ExpectedVerdict =
    ExpectedVerdict::OnlyAcceptedHere("the member is newer than Debian's promtool");

const BROKEN_TLS: ExpectedVerdict =
    ExpectedVerdict::OnlyRejectedHere("rustls has no broken versions, suites or curves");

const UNUSABLE: ExpectedVerdict =
    ExpectedVerdict::OnlyRejectedHere("nobody could ever connect, or log in");

const UNPROTECTED: ExpectedVerdict = ExpectedVerdict::OnlyRejectedHere(
    "a file that lets everybody in must be {}, so that a cut one is not taken for it",
);

const TRUNCATED: ExpectedVerdict = ExpectedVerdict::OnlyRejectedHere(
    "a field without a value is what a file ends with that was cut",
);

const CASES: &[(&str, ExpectedVerdict)] = &[
    ("", UNPROTECTED),
    ("{}", Good),
    ("# nothing\n", UNPROTECTED),
    ("null", UNPROTECTED),
    ("[]", Bad),
    ("text", Bad),
    ("tls_server_config: [", Bad),
    ("nonsense: 1", Bad),
    ("tls_server_config:\n", TRUNCATED),
    ("tls_server_config: {}", UNPROTECTED),
    ("tls_server_config: []", Bad),
    ("tls_server_config: text", Bad),
    (
        "tls_server_config:\n  cert_file: ''\n  key_file: ''\n",
        UNPROTECTED,
    ),
    ("tls_server_config:\n  cert_file: server.pem\n", Bad),
    ("tls_server_config:\n  key_file: server.key\n", Bad),
    (
        "tls_server_config:\n  cert_file: ''\n  key_file: server.key\n",
        Bad,
    ),
    (
        "tls_server_config:\n  cert_file: gone.pem\n  key_file: server.key\n",
        Bad,
    ),
    (
        "tls_server_config:\n  cert_file: server.pem\n  key_file: gone.key\n",
        Bad,
    ),
    (
        "tls_server_config:\n  cert_file: server.pem\n  key_file: client.key\n",
        Bad,
    ),
    (
        "tls_server_config:\n  cert_file: server.key\n  key_file: server.pem\n",
        Bad,
    ),
    (
        "tls_server_config:\n  cert_file: [server.pem]\n  key_file: server.key\n",
        Bad,
    ),
    (
        "tls_server_config:\n  client_auth_type: RequireAnyClientCert\n",
        Bad,
    ),
    ("tls_server_config:\n  client_ca_file: ca.pem\n", Bad),
    ("tls_server_config:\n  min_version: TLS13\n", UNPROTECTED),
    (
        "tls_server_config:\n  cert_file: server.pem\n  cert_file: server.pem\n  key_file: server.key\n",
        Bad,
    ),
    ("tls_server_config:\n  cert_filename: server.pem\n", Bad),
    ("http_server_config:\n", TRUNCATED),
    ("http_server_config: {}", Good),
    ("http_server_config: 1", Bad),
    ("http_server_config:\n  http2: true\n", Good),
    ("http_server_config:\n  http2: false\n", Good),
    ("http_server_config:\n  http2: yes\n", Good),
    ("http_server_config:\n  http2: Off\n", Good),
    ("http_server_config:\n  http2: perhaps\n", Bad),
    ("http_server_config:\n  http2: 1\n", Bad),
    ("http_server_config:\n  http2: [true]\n", Bad),
    ("http_server_config:\n  http3: true\n", Bad),
    ("http_server_config:\n  headers:\n", TRUNCATED),
    ("http_server_config:\n  headers: {}\n", Good),
    ("http_server_config:\n  headers: []\n", Bad),
    (
        "http_server_config:\n  headers:\n    Strict-Transport-Security: max-age=31536000\n",
        Good,
    ),
    (
        "http_server_config:\n  headers:\n    X-Content-Type-Options: nosniff\n",
        Good,
    ),
    (
        "http_server_config:\n  headers:\n    X-Content-Type-Options: none\n",
        Bad,
    ),
    (
        "http_server_config:\n  headers:\n    X-Content-Type-Options: ''\n",
        Bad,
    ),
    (
        "http_server_config:\n  headers:\n    X-Frame-Options: deny\n",
        Good,
    ),
    (
        "http_server_config:\n  headers:\n    X-Frame-Options: sameorigin\n",
        Good,
    ),
    (
        "http_server_config:\n  headers:\n    X-Frame-Options: DENY\n",
        Bad,
    ),
    (
        "http_server_config:\n  headers:\n    X-XSS-Protection: 1; mode=block\n",
        Good,
    ),
    (
        "http_server_config:\n  headers:\n    X-XSS-Protection: 0\n",
        Good,
    ),
    (
        "http_server_config:\n  headers:\n    Content-Security-Policy: default-src 'self'\n",
        Good,
    ),
    (
        "http_server_config:\n  headers:\n    Content-Security-Policy: ''\n",
        Good,
    ),
    ("http_server_config:\n  headers:\n    Server: me\n", Bad),
    (
        "http_server_config:\n  headers:\n    x-frame-options: deny\n",
        Bad,
    ),
    (
        "http_server_config:\n  headers:\n    X-XSS-Protection: \"a\\nb\"\n",
        OnlyRejectedHere("no header can have it"),
    ),
    ("basic_auth_users:\n", TRUNCATED),
    ("basic_auth_users: {}", UNPROTECTED),
    ("basic_auth_users: []", Bad),
    ("basic_auth_users: text", Bad),
    ("basic_auth_users:\n  ada: secret\n", Bad),
    ("basic_auth_users:\n  ada: ''\n", Bad),
    ("basic_auth_users:\n  ada:\n", Bad),
    ("basic_auth_users:\n  ada: 123\n", Bad),
    ("basic_auth_users:\n  ada: [x]\n", Bad),
    ("rate_limit:\n  interval: 1s\n  burst: 20\n", NEWER_FIELD),
    ("rate_limit: {}", NEWER_FIELD),
    ("rate_limit:\n  interval: 0\n  burst: 0\n", NEWER_FIELD),
    ("rate_limit:\n  interval: soon\n", Bad),
    ("rate_limit:\n  interval: 1s\n  burst: 0\n", Bad),
    ("rate_limit:\n  every: 1s\n", Bad),
    (
        "http_server_config:\n  headers:\n    X-XSS-Protection: '\u{e9}'\n",
        OnlyRejectedHere("no header can have it"),
    ),
];

fn web_config_cases() -> Vec<(String, ExpectedVerdict)> {
    let mut files: Vec<(String, ExpectedVerdict)> = Vec::new();
    let mut add = |text: &str, verdict| files.push((text.to_owned(), verdict));
    for &(text, verdict) in CASES {
        // A section without protection is not sufficient.
        let is_section = ["http_server_config", "rate_limit"]
            .iter()
            .any(|name| text.starts_with(name));
        if is_section {
            add(
                &format!(
                    "{}\nbasic_auth_users:\n  ada: {VALID_HASH}\n",
                    text.trim_end()
                ),
                verdict,
            );
        } else {
            add(text, verdict);
        }
    }
    add(
        &format!("basic_auth_users:\n  'a:b': {VALID_HASH}\n"),
        UNUSABLE,
    );
    add("http_server_config: {http2: true}\n", UNPROTECTED);
    for (hash, verdict) in [
        (VALID_HASH.to_owned(), Good),
        (VALID_HASH.replace("$2y$", "$2a$"), Good),
        (VALID_HASH.replace("$2y$", "$2b$"), Good),
        (VALID_HASH.replace("$2y$", "$2x$"), Good),
        (VALID_HASH.replace("$10$", "$04$"), Good),
        (VALID_HASH.replace("$10$", "$31$"), Good),
        (VALID_HASH.replace("$10$", "$03$"), Bad),
        (VALID_HASH.replace("$10$", "$32$"), Bad),
        (VALID_HASH.replace("$10$", "$xx$"), Bad),
        (VALID_HASH.replace("$2y$", "$3y$"), Bad),
        (VALID_HASH.replace("$2y$", "2y$"), Bad),
        (VALID_HASH[..50].to_owned(), Bad),
        (format!("{VALID_HASH}x"), UNUSABLE),
        (VALID_HASH.replace('Q', "!"), UNUSABLE),
        (
            VALID_HASH.replace("$2y$", "$2z$"),
            OnlyRejectedHere("no such version of bcrypt is known"),
        ),
    ] {
        add(&format!("basic_auth_users:\n  ada: {hash}\n"), verdict);
        add(
            &format!("basic_auth_users:\n  bob: '{VALID_HASH}'\n  ada: '{hash}'\n"),
            verdict,
        );
    }
    add(
        &format!("basic_auth_users:\n  ada: {VALID_HASH}\n  ada: {VALID_HASH}\n"),
        Bad,
    );
    for &(more, verdict) in TLS_CASES {
        add(&format!("{TLS_CONFIG}{more}"), verdict);
    }
    files
}

/// Fields that are added to [`TLS_CONFIG`].
const TLS_CASES: &[(&str, ExpectedVerdict)] = &[
    ("", Good),
    ("  client_auth_type: NoClientCert\n", Good),
    ("  client_auth_type: ''\n", Good),
    ("  client_auth_type: RequestClientCert\n", Good),
    ("  client_auth_type: RequireAnyClientCert\n", Good),
    ("  client_auth_type: RequireClientCert\n", Good),
    ("  client_auth_type: VerifyClientCertIfGiven\n", Good),
    ("  client_auth_type: RequireAndVerifyClientCert\n", Good),
    ("  client_auth_type: requireandverifyclientcert\n", Bad),
    ("  client_auth_type: Sometimes\n", Bad),
    (
        "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n",
        Good,
    ),
    (
        "  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.pem\n",
        Good,
    ),
    (
        "  client_auth_type: RequestClientCert\n  client_ca_file: ca.pem\n",
        Good,
    ),
    (
        "  client_auth_type: RequireAnyClientCert\n  client_ca_file: ca.pem\n",
        Good,
    ),
    (
        "  client_auth_type: NoClientCert\n  client_ca_file: ca.pem\n",
        Bad,
    ),
    ("  client_ca_file: ca.pem\n", Bad),
    (
        "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: gone.pem\n",
        Bad,
    ),
    (
        "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: server.key\n",
        OnlyRejectedHere(
            "a CA file without a certificate lets nobody in; newer toolkits refuse it",
        ),
    ),
    (
        "  client_auth_type: RequireAnyClientCert\n  client_allowed_sans: [a]\n",
        NEWER_FIELD,
    ),
    (
        "  client_auth_type: RequireAndVerifyClientCert\n  client_allowed_sans: [a]\n",
        NEWER_FIELD,
    ),
    ("  client_allowed_sans: [a]\n", Bad),
    (
        "  client_auth_type: VerifyClientCertIfGiven\n  client_allowed_sans: [a]\n",
        Bad,
    ),
    ("  min_version: TLS12\n", Good),
    ("  min_version: TLS13\n", Good),
    ("  max_version: TLS12\n", Good),
    ("  max_version: TLS13\n", Good),
    ("  min_version: TLS12\n  max_version: TLS12\n", Good),
    ("  min_version: TLS10\n", BROKEN_TLS),
    ("  min_version: TLS11\n", BROKEN_TLS),
    ("  max_version: TLS11\n", BROKEN_TLS),
    ("  min_version: TLS13\n  max_version: TLS12\n", UNUSABLE),
    ("  min_version: TLS14\n", Bad),
    ("  min_version: 1.2\n", Bad),
    ("  min_version: [TLS12]\n", Bad),
    ("  prefer_server_cipher_suites: true\n", Good),
    ("  prefer_server_cipher_suites: false\n", Good),
    ("  prefer_server_cipher_suites: never\n", Bad),
    ("  cipher_suites:\n", TRUNCATED),
    ("  cipher_suites: []\n", Good),
    ("  cipher_suites: TLS_AES_128_GCM_SHA256\n", Bad),
    (
        "  cipher_suites: [TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256]\n",
        Good,
    ),
    (
        "  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]\n",
        Good,
    ),
    (
        "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]\n",
        Good,
    ),
    (
        "  cipher_suites: [TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256]\n",
        Good,
    ),
    (
        "  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA]\n",
        BROKEN_TLS,
    ),
    (
        "  cipher_suites: [TLS_RSA_WITH_AES_128_GCM_SHA256]\n",
        BROKEN_TLS,
    ),
    ("  cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]\n", Bad),
    ("  cipher_suites: [tls_aes_128_gcm_sha256]\n", Bad),
    ("  cipher_suites: [TLS_INVENTED]\n", Bad),
    ("  cipher_suites: [[x]]\n", Bad),
    (
        "  max_version: TLS12\n  cipher_suites: [TLS_AES_128_GCM_SHA256]\n",
        UNUSABLE,
    ),
    ("  curve_preferences: []\n", Good),
    ("  curve_preferences: [X25519]\n", Good),
    (
        "  curve_preferences: [CurveP256, CurveP384, X25519]\n",
        Good,
    ),
    ("  curve_preferences: [CurveP521]\n", BROKEN_TLS),
    ("  curve_preferences: [CurveP257]\n", Bad),
    ("  curves: [X25519]\n", Bad),
];

#[test]
fn web_config_verdicts_match_promtool() {
    let pki = TestPki::new();
    let mut wrong = Vec::new();
    for (text, verdict) in web_config_cases() {
        let path = pki.write("web.yml", &text);
        let mut promtool = Command::new("promtool");
        let (code, ..) = run_command(promtool.args(["check", "web-config"]).arg(&path), b"");
        let theirs = code == Some(0);
        let ours = WebConfig::load(&path).config;
        let right = match verdict {
            ExpectedVerdict::Good => (true, true),
            ExpectedVerdict::Bad => (false, false),
            ExpectedVerdict::OnlyRejectedHere(_) => (true, false),
            ExpectedVerdict::OnlyAcceptedHere(_) => (false, true),
        };
        if (theirs, ours.is_ok()) != right {
            wrong.push(format!(
                "{text}\n-> {verdict:?}, promtool {theirs}, we {ours:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
