//! Parses the web configuration strictly: unknown fields and unsupported values are errors. The format:
//! <https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md>.

use std::path::Path;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::basic_auth::{BasicAuthUsers, BcryptHash, CREATE_HASH};
use super::rate_limit::{RateLimit, parse_go_duration};
use super::reader::{ConfigReader, Field};
use super::{WebConfig, WebConfigLoad, tls};
use crate::yaml::{self, YamlValue};

const TLS: &str = "tls_server_config";
const HTTP: &str = "http_server_config";
const USERS: &str = "basic_auth_users";
const RATE: &str = "rate_limit";

/// The headers that can be added to responses, each with its allowed values; all values if the list is empty.
const ALLOWED_HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

/// The maximum size of the web configuration file.
const MAX_BYTES: u64 = 4 << 20;

/// The path in errors about the whole file, which the header of the errors names.
const FILE: &str = "";

pub(super) fn load(path: &Path) -> WebConfigLoad {
    let mut reader = ConfigReader::new(path);
    let root = reader
        .read_file(path.to_owned(), MAX_BYTES)
        .and_then(|bytes| {
            let text = std::str::from_utf8(&bytes)
                .map_err(|_| "invalid encoding: expected UTF-8 text".to_owned())?;
            yaml::parse(text)
        });
    let config = match root {
        Ok(root) => parse_root(&mut reader, &root),
        Err(message) => {
            reader.add_error(FILE, message);
            WebConfig::default()
        }
    };
    reader.finish(config)
}

fn parse_root(reader: &mut ConfigReader<'_>, value: &YamlValue) -> WebConfig {
    let root = Field {
        path: String::new(),
        value: Some(value),
    };
    match value {
        YamlValue::Null => reject_unprotected(reader),
        YamlValue::Mapping(_) => reader.reject_nulls(value, ""),
        _ => {}
    }
    reader.mapping(&root, &[TLS, HTTP, USERS, RATE]);
    let (http2, headers) = parse_http_server(reader, &root.get(HTTP));
    let tls = tls::parse_tls_server(reader, &root.get(TLS), http2);
    let users = parse_users(reader, &root.get(USERS));
    let rate = parse_rate_limit(reader, &root.get(RATE));
    let is_protected = tls.is_some() || users.is_some();
    let is_empty = matches!(value, YamlValue::Mapping(fields) if fields.is_empty());
    if !is_protected && !is_empty && reader.errors.is_empty() {
        reject_unprotected(reader);
    }
    if tls.is_none() && users.is_some() {
        let text = format!("{USERS} without {TLS}: passwords are sent in plain text");
        reader.warn("", text);
    }
    WebConfig {
        is_configured: true,
        tls,
        users,
        headers,
        rate,
        warnings: Vec::new(),
    }
}

/// Rejects a file without any protection, because a truncated or empty file must not disable protection. Only `{}` does.
fn reject_unprotected(reader: &mut ConfigReader<'_>) {
    let message = format!("expected {TLS} or {USERS}, got neither");
    let help = "to serve without TLS and passwords, write {} and nothing else";
    reader.reject(FILE, message, help);
}

fn parse_http_server(reader: &mut ConfigReader<'_>, section: &Field<'_>) -> (bool, HeaderMap) {
    reader.mapping(section, &["http2", "headers"]);
    let http2 = reader.boolean(&section.get("http2"), true);
    let section = section.get("headers");
    let mut headers = HeaderMap::new();
    for (name, _) in reader.mapping(&section, &ALLOWED_HEADERS.map(|(name, _)| name)) {
        let Some((_, allowed)) = ALLOWED_HEADERS.iter().find(|(known, _)| known == name) else {
            continue;
        };
        let field = section.get(name);
        let text = reader.string(&field).unwrap_or_default();
        if !allowed.is_empty() && !allowed.contains(&text) {
            reader.reject_value(&field, text, allowed.join(" or "));
            continue;
        }
        // HeaderValue also accepts all bytes from 0x80.
        let is_visible = text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
        match (HeaderName::try_from(name), HeaderValue::from_str(text)) {
            (Ok(name), Ok(value)) if is_visible => {
                headers.insert(name, value);
            }
            _ => reader.add_error(&field.path, "invalid header value: expected visible ASCII"),
        }
    }
    (http2, headers)
}

fn parse_users(reader: &mut ConfigReader<'_>, section: &Field<'_>) -> Option<BasicAuthUsers> {
    const EXPECTED: &str = "a mapping of user names to bcrypt hashes";
    let users = reader.convert(USERS, section.value, EXPECTED, YamlValue::as_mapping)?;
    let mut hashes = Vec::new();
    for (name, _) in users {
        let field = section.get(name);
        let text = reader.string(&field).unwrap_or_default();
        if name.contains(|letter: char| letter == ':' || letter.is_control()) {
            // RFC 7617: the first colon ends the name.
            let text = "invalid user name: expected no colon and no control character";
            reader.add_error(&field.path, text);
        }
        match BcryptHash::parse(text) {
            Ok(hash) => {
                if let Some(warning) = hash.warning() {
                    reader.warn(&field.path, warning);
                }
                hashes.push((name.clone(), hash));
            }
            Err(message) => reader.reject(&field.path, message, CREATE_HASH),
        }
    }
    (!hashes.is_empty()).then(|| BasicAuthUsers::new(hashes))
}

fn parse_rate_limit(reader: &mut ConfigReader<'_>, section: &Field<'_>) -> Option<RateLimit> {
    reader.mapping(section, &["interval", "burst"]);
    let (interval, burst) = (section.get("interval"), section.get("burst"));
    let Some(text) = reader.string(&interval) else {
        if burst.value.is_some() {
            reader.add_error(&interval.path, "missing: burst requires an interval");
        }
        return None;
    };
    let Some(period) = parse_go_duration(text) else {
        let expected = "a duration (for example 100ms, 1s or 1m30s) or 0";
        reader.reject_value(&interval, text, expected);
        return None;
    };
    if period.is_zero() {
        if text.bytes().any(|byte| matches!(byte, b'1'..=b'9')) {
            reader.reject_value(&interval, text, "at least 1ns, or 0 for no limit");
        }
        return None;
    }
    let text = reader.string(&burst).unwrap_or("0");
    if let Ok(burst @ 1..) = text.parse() {
        return Some(RateLimit::new(period, burst));
    }
    reader.reject_value(&burst, text, "an integer of at least 1");
    None
}
