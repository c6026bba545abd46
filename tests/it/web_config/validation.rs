//! Tests of invalid web configurations.

use crate::common::ChildProcess;
use crate::common::pki::{TLS_CONFIG, TestPki, bcrypt_hash, indent};
use exporter_toolkit::web_config::WebConfig;

#[test]
fn web_config_errors_are_reported_without_secrets() {
    let pki = TestPki::new();
    let key = pki.read("server.key");
    let inline = indent(&key);
    let text = format!(
        "nonsense: 1\ntls_server_config:\n  cert_file: missing.pem\n  key: |\n{inline}  key_file: server.key\n  client_auth_type: Sometimes\n  min_version: TLS10\n  cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]\n  curve_preferences: [CurveP521]\n  ciphers: x\nhttp_server_config:\n  http2: perhaps\n  headers:\n    Server: x\n    X-Frame-Options: none\nbasic_auth_users:\n  ada: hunter2\nrate_limit:\n  interval: 5\n"
    );
    let error = WebConfig::load(&pki.write("web.yml", &text))
        .config
        .unwrap_err();
    let error_text = error.to_string();
    for part in [
        "web.yml (13 errors):\n  - ",
        "nonsense: unknown field: expected one of tls_server_config,",
        "tls_server_config.ciphers: unknown field: expected one of",
        "missing.pem): cannot be read: file not found",
        "tls_server_config.key_file: conflicts with tls_server_config.key: expected only one",
        "invalid value \"Sometimes\": expected one of NoClientCert,",
        "invalid value \"TLS10\": expected one of TLS12, TLS13",
        "unsupported value \"TLS_RSA_WITH_AES_128_CBC_SHA\": expected one of",
        "unsupported value \"CurveP521\": expected one of",
        "invalid value \"perhaps\": expected true or false",
        "http_server_config.headers.Server: unknown field: expected one of",
        "invalid value \"none\": expected deny or sameorigin",
        "basic_auth_users.ada: invalid bcrypt hash: expected the prefix $2a$, $2b$ or $2y$\n    help: create the hash with `htpasswd -nBC 10 \"\" | tr -d ':\\n'`",
        "invalid value \"5\": expected a duration (for example",
    ] {
        assert!(error_text.contains(part), "{part} in\n{error_text}");
    }
    let of_key = key.lines().nth(1).unwrap();
    assert!(
        !error_text.contains("hunter2") && !error_text.contains(of_key),
        "{error_text}"
    );
}

#[test]
fn web_config_load_lists_files_even_on_error() {
    let pki = TestPki::new();
    let path = pki.write("web.yml", &TLS_CONFIG.replace("server.key", "client.key"));
    let loaded = WebConfig::load(&path);
    assert_eq!(
        loaded.files,
        ["web.yml", "server.pem", "client.key"].map(|name| pki.path(name))
    );
    let error_text = loaded.config.unwrap_err().to_string();
    assert!(
        error_text.contains("use the private key of this certificate"),
        "{error_text}"
    );
}

#[test]
fn unprotected_web_config_must_be_explicit() {
    let pki = TestPki::new();
    let load = |text: &str| WebConfig::load(&pki.write("web.yml", text)).config;
    for text in [
        "{}",
        "{}\n",
        "# open on purpose\n{}\n",
        "---\n{}\n",
        "{ }  # open",
    ] {
        assert!(load(text).is_ok(), "{text:?}");
    }
    let users = format!("basic_auth_users:\n  ada: {}\n", bcrypt_hash("secret"));
    for text in [
        "",
        "\n\n",
        "# only\n# comments\n",
        "---\n",
        "null",
        "~",
        "tls_server_config: {}\n",
        "basic_auth_users: {}\n",
        "basic_auth_users:\n",
        "tls_server_config:\n",
        "tls_server_config:\nbasic_auth_users:\n",
        "http_server_config: {http2: true}\n",
        "rate_limit: {interval: 1s, burst: 2}\n",
        "tls_server_config: {min_version: TLS13}\n",
        "tls_server_config: {cert_file: '', key_file: ''}\n",
        // A truncated file ends with a field without a value.
        &format!("{TLS_CONFIG}basic_auth_users:\n"),
        &format!("{TLS_CONFIG}  client_auth_type:\n"),
        &format!("{TLS_CONFIG}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file:\n"),
        &format!("{TLS_CONFIG}  client_auth_type: RequireAnyClientCert\n  client_allowed_sans:\n"),
        &format!("{TLS_CONFIG}rate_limit:\n"),
        &format!("{TLS_CONFIG}  cipher_suites: [~]\n"),
        &format!("{users}tls_server_config:\n"),
        &format!("{users}http_server_config:\n  headers:\n"),
    ] {
        let error = load(text).expect_err(text).to_string();
        assert!(error.contains("{}"), "{text:?}: {error}");
    }
    assert!(load(&users).is_ok_and(|access| access.warnings.len() == 1));
}

#[test]
fn empty_web_config_fails_startup() {
    let pki = TestPki::new();
    let variables = [
        ("MONGODB_ATLAS_ORG_ID", "32b6e34b3d91647abb20e7b8"),
        ("MONGODB_ATLAS_ACCESS_TOKEN", "x"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (code, output, _) = ChildProcess::exporter(
        &[
            "--web.listen-address=127.0.0.1:0",
            &pki.web_config_flag("# nothing\n"),
        ],
        &variables,
    )
    .wait_exit();
    assert_eq!(code, Some(2), "{output}");
    assert!(output.contains("write {} and nothing else"), "{output}");
}

#[test]
fn invalid_header_and_user_values_are_rejected() {
    let pki = TestPki::new();
    let load = |text: &str| WebConfig::load(&pki.write("web.yml", text)).config;
    let users = |name: &str| format!("basic_auth_users:\n  {name}: {}\n", bcrypt_hash("secret"));
    let header = |value: &str| {
        let headers = format!("http_server_config:\n  headers:\n    X-XSS-Protection: {value}\n");
        format!("{}{headers}", users("ada"))
    };
    for condition in ["'0'", "'1; mode=block'", "\"a\\tb\"", "'~ !'"] {
        assert!(load(&header(condition)).is_ok(), "{condition}");
    }
    for bad in [
        "'\u{e9}'",
        "'\u{1f600}'",
        "\"\\x7f\"",
        "\"a\\nb\"",
        "\"\\0\"",
    ] {
        let error = load(&header(bad)).expect_err(bad).to_string();
        assert!(error.contains("expected visible ASCII"), "{bad}: {error}");
    }
    for condition in ["ada", "'ada lovelace'", "\u{e9}va", "''"] {
        assert!(load(&users(condition)).is_ok(), "{condition}");
    }
    for bad in ["'a:b'", "':'", "\"a\\tb\"", "\"a\\x85\""] {
        let error = load(&users(bad)).expect_err(bad).to_string();
        assert!(error.contains("invalid user name"), "{bad}: {error}");
    }
}

#[test]
fn rate_limit_without_effect_is_rejected() {
    let pki = TestPki::new();
    let load = |rate: &str| {
        let text = format!(
            "basic_auth_users:\n  ada: {}\nrate_limit: {rate}\n",
            bcrypt_hash("x")
        );
        WebConfig::load(&pki.write("web.yml", &text)).config
    };
    for condition in ["{interval: 0, burst: 5}", "{interval: 1ns, burst: 5}"] {
        assert!(load(condition).is_ok(), "{condition}");
    }
    for bad in ["{burst: 5}", "{interval: 0.1ns, burst: 5}"] {
        let error = load(bad).expect_err(bad).to_string();
        assert!(error.contains("rate_limit.interval"), "{bad}: {error}");
    }
}
