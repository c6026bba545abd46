//! The web configuration, read strictly: an unknown member is a mistake, and so is what this
//! program cannot do. The format is that of
//! <https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md>.

use std::path::Path;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::basic_auth::BasicAuthUsers;
use super::rate_limit::RateLimit;
use super::reader::{ConfigReader, join_path, truncate};
use super::{WebConfig, WebConfigError, WebConfigLoad, tls};
use crate::yaml::{self, YamlValue};

const TLS: &str = "tls_server_config";
const HTTP: &str = "http_server_config";
const USERS: &str = "basic_auth_users";
const RATE: &str = "rate_limit";

/// The headers that may be added to answers, with their values where these are a closed list.
const ALLOWED_HEADERS: &[(&str, &[&str])] = &[
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

/// Most bytes of the file itself.
const MAX_BYTES: u64 = 4 << 20;

/// What a file without any protection must be, so that a cut or empty one is not taken for it.
const UNPROTECTED_ERROR: &str = "expected tls_server_config or basic_auth_users, got neither; a file that is {} and nothing else \
                    lets everybody in";

pub(super) fn load(path: &Path) -> WebConfigLoad {
    let mut reader = ConfigReader::new(path);
    let root = reader
        .read_file(path.to_owned(), MAX_BYTES)
        .and_then(|bytes| {
            let text = std::str::from_utf8(&bytes).map_err(|_| "expected UTF-8".to_owned())?;
            yaml::parse(text)
        });
    let access = match root {
        Ok(root) => Some(parse_root(&mut reader, &root)),
        Err(why) => {
            reader.add_error("the file", why);
            None
        }
    };
    let content = reader.content_digest();
    let ConfigReader {
        files,
        is_transient,
        errors: mistakes,
        warnings,
        ..
    } = reader;
    let access = match access {
        Some(access) if mistakes.is_empty() => Ok(WebConfig { warnings, ..access }),
        _ => Err(WebConfigError {
            file: path.to_owned(),
            errors: mistakes,
        }),
    };
    WebConfigLoad {
        files,
        config: access,
        content_digest: content,
        is_transient,
    }
}

fn parse_root(reader: &mut ConfigReader<'_>, root: &YamlValue) -> WebConfig {
    match root {
        YamlValue::Null => reader.add_error("the file", UNPROTECTED_ERROR),
        YamlValue::Mapping(_) => reader.reject_nulls(root, ""),
        _ => {}
    }
    reader.mapping(Some(root), "", &[TLS, HTTP, USERS, RATE]);
    let (http2, headers) = parse_http_server(reader, root.get(HTTP));
    let tls = tls::parse_tls_server(reader, root.get(TLS), TLS, http2);
    let users = parse_users(reader, root.get(USERS));
    let rate = parse_rate_limit(reader, root.get(RATE));
    let is_open = tls.is_none() && users.is_none();
    let is_empty = matches!(root, YamlValue::Mapping(members) if members.is_empty());
    if is_open && !is_empty && reader.errors.is_empty() {
        reader.add_error("the file", UNPROTECTED_ERROR);
    }
    if tls.is_none() && users.is_some() {
        reader.warnings.push(format!(
            "{USERS} without {TLS}: passwords cross the network in the clear"
        ));
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

fn parse_http_server(reader: &mut ConfigReader<'_>, node: Option<&YamlValue>) -> (bool, HeaderMap) {
    reader.mapping(node, HTTP, &["http2", "headers"]);
    let get = |name| node.and_then(|node| node.get(name));
    let http2 = reader.boolean(get("http2"), &join_path(HTTP, "http2"), true);
    let place = join_path(HTTP, "headers");
    let names: Vec<&str> = ALLOWED_HEADERS.iter().map(|(name, _)| *name).collect();
    let mut headers = HeaderMap::new();
    for (name, value) in reader.mapping(get("headers"), &place, &names) {
        let Some((_, right)) = ALLOWED_HEADERS.iter().find(|(known, _)| known == name) else {
            continue;
        };
        let place = join_path(&place, name);
        let text = reader.string(Some(value), &place).unwrap_or_default();
        if !right.is_empty() && !right.contains(&text) {
            let right = right.join(" or ");
            reader.add_error(
                &place,
                format!("{:?} will not do; it must be {right}", truncate(text)),
            );
            continue;
        }
        // HeaderValue takes any byte from 0x80 on as well
        let is_visible = text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
        match (
            HeaderName::try_from(name.as_str()),
            HeaderValue::from_str(text),
        ) {
            (Ok(name), Ok(value)) if is_visible => {
                headers.insert(name, value);
            }
            _ => reader.add_error(&place, "invalid header value: expected visible ASCII"),
        }
    }
    (http2, headers)
}

fn parse_users(reader: &mut ConfigReader<'_>, node: Option<&YamlValue>) -> Option<BasicAuthUsers> {
    let members = match node? {
        YamlValue::Mapping(members) => members,
        YamlValue::Null => return None,
        other => {
            reader.add_error(USERS, format!("it is {}, and must have members: a name and the bcrypt hash of a password each", other.type_name()));
            return None;
        }
    };
    let mut hashes = Vec::new();
    for (name, value) in members {
        let place = join_path(USERS, name);
        let text = reader.string(Some(value), &place).unwrap_or_default();
        if name.contains(|letter: char| letter == ':' || letter.is_control()) {
            // RFC 7617: the first colon ends the name
            reader.add_error(
                &place,
                "invalid user name: nobody can log in with a colon or a control character in it",
            );
        }
        match super::basic_auth::BcryptHash::parse(text) {
            Ok(hash) => {
                if let Some(warning) = hash.warning() {
                    reader.warnings.push(format!("{place}: {warning}"));
                }
                hashes.push((name.clone(), hash));
            }
            Err(why) => reader.add_error(&place, why),
        }
    }
    (!hashes.is_empty()).then(|| BasicAuthUsers::new(hashes))
}

fn parse_rate_limit(reader: &mut ConfigReader<'_>, node: Option<&YamlValue>) -> Option<RateLimit> {
    reader.mapping(node, RATE, &["interval", "burst"]);
    let get = |name| node.and_then(|node| node.get(name));
    let place = join_path(RATE, "interval");
    let Some(text) = reader.string(get("interval"), &place) else {
        if get("burst").is_some() {
            reader.add_error(&place, "expected an interval beside burst, got none");
        }
        return None;
    };
    let interval = match super::rate_limit::parse_go_duration(text) {
        Some(interval)
            if interval.is_zero() && text.bytes().any(|byte| matches!(byte, b'1'..=b'9')) =>
        {
            reader.add_error(&place, "expected at least 1ns, or 0 for no limit");
            return None;
        }
        Some(interval) if interval.is_zero() => return None,
        Some(interval) => interval,
        None => {
            reader.add_error(
                &place,
                format!(
                    "{:?} will not do; it must be a duration such as 100ms, 1s or 1m30s, or 0",
                    truncate(text)
                ),
            );
            return None;
        }
    };
    let place = join_path(RATE, "burst");
    let text = reader.string(get("burst"), &place).unwrap_or("0");
    if let Ok(burst @ 1..) = text.parse() {
        return Some(RateLimit::new(interval, burst));
    }
    reader.add_error(
        &place,
        format!(
            "{:?} will not do; it must be a whole number from 1, or nothing would ever be answered",
            truncate(text)
        ),
    );
    None
}
