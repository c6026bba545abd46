//! Tests that the exporter accepts and rejects the same web configurations as `promtool check web-config`.

use std::process::Command;

use crate::common::pki::{TLS_CONFIG, TestPki};
use crate::common::run_command;
use exporter_toolkit::web_config::WebConfig;

use ExpectedVerdict::{Accepted, OnlyRejectedHere, Rejected};

const VALID_HASH: &str = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";

/// The expected verdicts of promtool and of the exporter on a file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ExpectedVerdict {
    Accepted,
    Rejected,
    /// Accepted by promtool, and rejected by the exporter for this reason.
    OnlyRejectedHere(#[allow(dead_code, reason = "documents the table")] &'static str),
    /// Rejected by promtool, and accepted by the exporter for this reason.
    OnlyAcceptedHere(#[allow(dead_code, reason = "documents the table")] &'static str),
}

const NEWER_FIELD: ExpectedVerdict =
    ExpectedVerdict::OnlyAcceptedHere("the field is newer than Debian's promtool");

const UNSUPPORTED_TLS: ExpectedVerdict = ExpectedVerdict::OnlyRejectedHere(
    "rustls does not support insecure versions, suites or curves",
);

const UNUSABLE: ExpectedVerdict =
    ExpectedVerdict::OnlyRejectedHere("no client could connect or authenticate");

const UNPROTECTED: ExpectedVerdict = ExpectedVerdict::OnlyRejectedHere(
    "only {} disables protection, so that a truncated file does not",
);

const TRUNCATED: ExpectedVerdict =
    ExpectedVerdict::OnlyRejectedHere("a truncated file can end with a field without a value");

const CASES: &[(&str, ExpectedVerdict)] = &[
    ("", UNPROTECTED),
    ("{}", Accepted),
    ("# nothing\n", UNPROTECTED),
    ("null", UNPROTECTED),
    ("[]", Rejected),
    ("text", Rejected),
    ("tls_server_config: [", Rejected),
    ("nonsense: 1", Rejected),
    ("tls_server_config:\n", TRUNCATED),
    ("tls_server_config: {}", UNPROTECTED),
    ("tls_server_config: []", Rejected),
    ("tls_server_config: text", Rejected),
    (
        "tls_server_config:\n  cert_file: ''\n  key_file: ''\n",
        UNPROTECTED,
    ),
    ("tls_server_config:\n  cert_file: server.pem\n", Rejected),
    ("tls_server_config:\n  key_file: server.key\n", Rejected),
    (
        "tls_server_config:\n  cert_file: ''\n  key_file: server.key\n",
        Rejected,
    ),
    (
        "tls_server_config:\n  cert_file: missing.pem\n  key_file: server.key\n",
        Rejected,
    ),
    (
        "tls_server_config:\n  cert_file: server.pem\n  key_file: missing.key\n",
        Rejected,
    ),
    (
        "tls_server_config:\n  cert_file: server.pem\n  key_file: client.key\n",
        Rejected,
    ),
    (
        "tls_server_config:\n  cert_file: server.key\n  key_file: server.pem\n",
        Rejected,
    ),
    (
        "tls_server_config:\n  cert_file: [server.pem]\n  key_file: server.key\n",
        Rejected,
    ),
    (
        "tls_server_config:\n  client_auth_type: RequireAnyClientCert\n",
        Rejected,
    ),
    ("tls_server_config:\n  client_ca_file: ca.pem\n", Rejected),
    ("tls_server_config:\n  min_version: TLS13\n", UNPROTECTED),
    (
        "tls_server_config:\n  cert_file: server.pem\n  cert_file: server.pem\n  key_file: server.key\n",
        Rejected,
    ),
    (
        "tls_server_config:\n  cert_filename: server.pem\n",
        Rejected,
    ),
    ("http_server_config:\n", TRUNCATED),
    ("http_server_config: {}", Accepted),
    ("http_server_config: 1", Rejected),
    ("http_server_config:\n  http2: true\n", Accepted),
    ("http_server_config:\n  http2: false\n", Accepted),
    ("http_server_config:\n  http2: yes\n", Accepted),
    ("http_server_config:\n  http2: Off\n", Accepted),
    ("http_server_config:\n  http2: perhaps\n", Rejected),
    ("http_server_config:\n  http2: 1\n", Rejected),
    ("http_server_config:\n  http2: [true]\n", Rejected),
    ("http_server_config:\n  http3: true\n", Rejected),
    ("http_server_config:\n  headers:\n", TRUNCATED),
    ("http_server_config:\n  headers: {}\n", Accepted),
    ("http_server_config:\n  headers: []\n", Rejected),
    (
        "http_server_config:\n  headers:\n    Strict-Transport-Security: max-age=31536000\n",
        Accepted,
    ),
    (
        "http_server_config:\n  headers:\n    X-Content-Type-Options: nosniff\n",
        Accepted,
    ),
    (
        "http_server_config:\n  headers:\n    X-Content-Type-Options: none\n",
        Rejected,
    ),
    (
        "http_server_config:\n  headers:\n    X-Content-Type-Options: ''\n",
        Rejected,
    ),
    (
        "http_server_config:\n  headers:\n    X-Frame-Options: deny\n",
        Accepted,
    ),
    (
        "http_server_config:\n  headers:\n    X-Frame-Options: sameorigin\n",
        Accepted,
    ),
    (
        "http_server_config:\n  headers:\n    X-Frame-Options: DENY\n",
        Rejected,
    ),
    (
        "http_server_config:\n  headers:\n    X-XSS-Protection: 1; mode=block\n",
        Accepted,
    ),
    (
        "http_server_config:\n  headers:\n    X-XSS-Protection: 0\n",
        Accepted,
    ),
    (
        "http_server_config:\n  headers:\n    Content-Security-Policy: default-src 'self'\n",
        Accepted,
    ),
    (
        "http_server_config:\n  headers:\n    Content-Security-Policy: ''\n",
        Accepted,
    ),
    (
        "http_server_config:\n  headers:\n    Server: me\n",
        Rejected,
    ),
    (
        "http_server_config:\n  headers:\n    x-frame-options: deny\n",
        Rejected,
    ),
    (
        "http_server_config:\n  headers:\n    X-XSS-Protection: \"a\\nb\"\n",
        OnlyRejectedHere("invalid header value"),
    ),
    ("basic_auth_users:\n", TRUNCATED),
    ("basic_auth_users: {}", UNPROTECTED),
    ("basic_auth_users: []", Rejected),
    ("basic_auth_users: text", Rejected),
    ("basic_auth_users:\n  ada: secret\n", Rejected),
    ("basic_auth_users:\n  ada: ''\n", Rejected),
    ("basic_auth_users:\n  ada:\n", Rejected),
    ("basic_auth_users:\n  ada: 123\n", Rejected),
    ("basic_auth_users:\n  ada: [x]\n", Rejected),
    ("rate_limit:\n  interval: 1s\n  burst: 20\n", NEWER_FIELD),
    ("rate_limit: {}", NEWER_FIELD),
    ("rate_limit:\n  interval: 0\n  burst: 0\n", NEWER_FIELD),
    ("rate_limit:\n  interval: soon\n", Rejected),
    ("rate_limit:\n  interval: 1s\n  burst: 0\n", Rejected),
    ("rate_limit:\n  every: 1s\n", Rejected),
    (
        "http_server_config:\n  headers:\n    X-XSS-Protection: '\u{e9}'\n",
        OnlyRejectedHere("invalid header value"),
    ),
];

fn web_config_cases() -> Vec<(String, ExpectedVerdict)> {
    let mut files: Vec<(String, ExpectedVerdict)> = Vec::new();
    let mut add = |text: &str, verdict| files.push((text.to_owned(), verdict));
    for &(text, verdict) in CASES {
        // These sections contain no protection, so add a user.
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
        (VALID_HASH.to_owned(), Accepted),
        (VALID_HASH.replace("$2y$", "$2a$"), Accepted),
        (VALID_HASH.replace("$2y$", "$2b$"), Accepted),
        (VALID_HASH.replace("$2y$", "$2x$"), Accepted),
        (VALID_HASH.replace("$10$", "$04$"), Accepted),
        (VALID_HASH.replace("$10$", "$31$"), Accepted),
        (VALID_HASH.replace("$10$", "$03$"), Rejected),
        (VALID_HASH.replace("$10$", "$32$"), Rejected),
        (VALID_HASH.replace("$10$", "$xx$"), Rejected),
        (VALID_HASH.replace("$2y$", "$3y$"), Rejected),
        (VALID_HASH.replace("$2y$", "2y$"), Rejected),
        (VALID_HASH[..50].to_owned(), Rejected),
        (format!("{VALID_HASH}x"), UNUSABLE),
        (VALID_HASH.replace('Q', "!"), UNUSABLE),
        (
            VALID_HASH.replace("$2y$", "$2z$"),
            OnlyRejectedHere("the bcrypt version is unknown"),
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
        Rejected,
    );
    for &(more, verdict) in TLS_CASES {
        add(&format!("{TLS_CONFIG}{more}"), verdict);
    }
    files
}

/// Fields that are added to [`TLS_CONFIG`].
const TLS_CASES: &[(&str, ExpectedVerdict)] = &[
    ("", Accepted),
    ("  client_auth_type: NoClientCert\n", Accepted),
    ("  client_auth_type: ''\n", Accepted),
    ("  client_auth_type: RequestClientCert\n", Accepted),
    ("  client_auth_type: RequireAnyClientCert\n", Accepted),
    ("  client_auth_type: RequireClientCert\n", Accepted),
    ("  client_auth_type: VerifyClientCertIfGiven\n", Accepted),
    ("  client_auth_type: RequireAndVerifyClientCert\n", Accepted),
    ("  client_auth_type: requireandverifyclientcert\n", Rejected),
    ("  client_auth_type: Sometimes\n", Rejected),
    (
        "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n",
        Accepted,
    ),
    (
        "  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.pem\n",
        Accepted,
    ),
    (
        "  client_auth_type: RequestClientCert\n  client_ca_file: ca.pem\n",
        Accepted,
    ),
    (
        "  client_auth_type: RequireAnyClientCert\n  client_ca_file: ca.pem\n",
        Accepted,
    ),
    (
        "  client_auth_type: NoClientCert\n  client_ca_file: ca.pem\n",
        Rejected,
    ),
    ("  client_ca_file: ca.pem\n", Rejected),
    (
        "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: missing.pem\n",
        Rejected,
    ),
    (
        "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: server.key\n",
        OnlyRejectedHere(
            "a CA file without a certificate rejects all clients; newer toolkits reject it too",
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
    ("  client_allowed_sans: [a]\n", Rejected),
    (
        "  client_auth_type: VerifyClientCertIfGiven\n  client_allowed_sans: [a]\n",
        Rejected,
    ),
    ("  min_version: TLS12\n", Accepted),
    ("  min_version: TLS13\n", Accepted),
    ("  max_version: TLS12\n", Accepted),
    ("  max_version: TLS13\n", Accepted),
    ("  min_version: TLS12\n  max_version: TLS12\n", Accepted),
    ("  min_version: TLS10\n", UNSUPPORTED_TLS),
    ("  min_version: TLS11\n", UNSUPPORTED_TLS),
    ("  max_version: TLS11\n", UNSUPPORTED_TLS),
    ("  min_version: TLS13\n  max_version: TLS12\n", UNUSABLE),
    ("  min_version: TLS14\n", Rejected),
    ("  min_version: 1.2\n", Rejected),
    ("  min_version: [TLS12]\n", Rejected),
    ("  prefer_server_cipher_suites: true\n", Accepted),
    ("  prefer_server_cipher_suites: false\n", Accepted),
    ("  prefer_server_cipher_suites: never\n", Rejected),
    ("  cipher_suites:\n", TRUNCATED),
    ("  cipher_suites: []\n", Accepted),
    ("  cipher_suites: TLS_AES_128_GCM_SHA256\n", Rejected),
    (
        "  cipher_suites: [TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256]\n",
        Accepted,
    ),
    (
        "  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]\n",
        Accepted,
    ),
    (
        "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]\n",
        Accepted,
    ),
    (
        "  cipher_suites: [TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256]\n",
        Accepted,
    ),
    (
        "  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA]\n",
        UNSUPPORTED_TLS,
    ),
    (
        "  cipher_suites: [TLS_RSA_WITH_AES_128_GCM_SHA256]\n",
        UNSUPPORTED_TLS,
    ),
    ("  cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]\n", Rejected),
    ("  cipher_suites: [tls_aes_128_gcm_sha256]\n", Rejected),
    ("  cipher_suites: [TLS_INVENTED]\n", Rejected),
    ("  cipher_suites: [[x]]\n", Rejected),
    (
        "  max_version: TLS12\n  cipher_suites: [TLS_AES_128_GCM_SHA256]\n",
        UNUSABLE,
    ),
    ("  curve_preferences: []\n", Accepted),
    ("  curve_preferences: [X25519]\n", Accepted),
    (
        "  curve_preferences: [CurveP256, CurveP384, X25519]\n",
        Accepted,
    ),
    ("  curve_preferences: [CurveP521]\n", UNSUPPORTED_TLS),
    ("  curve_preferences: [CurveP257]\n", Rejected),
    ("  curves: [X25519]\n", Rejected),
];

#[test]
fn web_config_verdicts_match_promtool() {
    let pki = TestPki::new();
    let mut differences = Vec::new();
    for (text, verdict) in web_config_cases() {
        let path = pki.write("web.yml", &text);
        let mut promtool = Command::new("promtool");
        let (code, ..) = run_command(promtool.args(["check", "web-config"]).arg(&path), b"");
        let theirs = code == Some(0);
        let ours = WebConfig::load(&path).config;
        let expected = match verdict {
            ExpectedVerdict::Accepted => (true, true),
            ExpectedVerdict::Rejected => (false, false),
            ExpectedVerdict::OnlyRejectedHere(_) => (true, false),
            ExpectedVerdict::OnlyAcceptedHere(_) => (false, true),
        };
        if (theirs, ours.is_ok()) != expected {
            differences.push(format!(
                "{text}\n-> {verdict:?}, promtool {theirs}, we {ours:?}"
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}
