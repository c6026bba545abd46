//! The web configuration, read strictly: an unknown member is a mistake, and so is what this
//! program cannot do. The format is that of
//! <https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md>.

use std::path::Path;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::basic_auth::Users;
use super::rate_limit::RateLimit;
use super::reader::{Reader, shown, within};
use super::{Access, AccessError, Loaded, tls};
use crate::yaml::{self, Node};

const TLS: &str = "tls_server_config";
const HTTP: &str = "http_server_config";
const USERS: &str = "basic_auth_users";
const RATE: &str = "rate_limit";

/// The headers that may be added to answers, with their values where these are a closed list.
const HEADERS: &[(&str, &[&str])] = &[
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

/// Most bytes of the file itself.
const MAX_BYTES: u64 = 4 << 20;

/// What a file without any protection must be, so that a cut or empty one is not taken for it.
const OPEN: &str = "expected tls_server_config or basic_auth_users, got neither; a file that is {} and nothing else \
                    lets everybody in";

pub(super) fn load(path: &Path) -> Loaded {
    let mut reader = Reader::new(path);
    let root = reader
        .read_file(path.to_owned(), MAX_BYTES)
        .and_then(|bytes| {
            let text = std::str::from_utf8(&bytes).map_err(|_| "expected UTF-8".to_owned())?;
            yaml::parse(text)
        });
    let access = match root {
        Ok(root) => Some(read(&mut reader, &root)),
        Err(why) => {
            reader.wrong("the file", why);
            None
        }
    };
    let content = reader.content();
    let Reader {
        files,
        is_transient,
        mistakes,
        warnings,
        ..
    } = reader;
    let access = match access {
        Some(access) if mistakes.is_empty() => Ok(Access { warnings, ..access }),
        _ => Err(AccessError {
            file: path.to_owned(),
            mistakes,
        }),
    };
    Loaded {
        files,
        access,
        content,
        is_transient,
    }
}

fn read(reader: &mut Reader<'_>, root: &Node) -> Access {
    match root {
        Node::Nothing => reader.wrong("the file", OPEN),
        Node::Members(_) => reader.reject_nulls(root, ""),
        _ => {}
    }
    reader.members(Some(root), "", &[TLS, HTTP, USERS, RATE]);
    let (http2, headers) = http(reader, root.get(HTTP));
    let tls = tls::read(reader, root.get(TLS), TLS, http2);
    let users = users(reader, root.get(USERS));
    let rate = rate(reader, root.get(RATE));
    let is_open = tls.is_none() && users.is_none();
    let is_empty = matches!(root, Node::Members(members) if members.is_empty());
    if is_open && !is_empty && reader.mistakes.is_empty() {
        reader.wrong("the file", OPEN);
    }
    if tls.is_none() && users.is_some() {
        reader.warnings.push(format!(
            "{USERS} without {TLS}: passwords cross the network in the clear"
        ));
    }
    Access {
        is_configured: true,
        tls,
        users,
        headers,
        rate,
        warnings: Vec::new(),
    }
}

fn http(reader: &mut Reader<'_>, node: Option<&Node>) -> (bool, HeaderMap) {
    reader.members(node, HTTP, &["http2", "headers"]);
    let get = |name| node.and_then(|node| node.get(name));
    let http2 = reader.switch(get("http2"), &within(HTTP, "http2"), true);
    let place = within(HTTP, "headers");
    let names: Vec<&str> = HEADERS.iter().map(|(name, _)| *name).collect();
    let mut headers = HeaderMap::new();
    for (name, value) in reader.members(get("headers"), &place, &names) {
        let Some((_, right)) = HEADERS.iter().find(|(known, _)| known == name) else {
            continue;
        };
        let place = within(&place, name);
        let text = reader.text(Some(value), &place).unwrap_or_default();
        if !right.is_empty() && !right.contains(&text) {
            let right = right.join(" or ");
            reader.wrong(
                &place,
                format!("{:?} will not do; it must be {right}", shown(text)),
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
            _ => reader.wrong(&place, "invalid header value: expected visible ASCII"),
        }
    }
    (http2, headers)
}

fn users(reader: &mut Reader<'_>, node: Option<&Node>) -> Option<Users> {
    let members = match node? {
        Node::Members(members) => members,
        Node::Nothing => return None,
        other => {
            reader.wrong(USERS, format!("it is {}, and must have members: a name and the bcrypt hash of a password each", other.kind()));
            return None;
        }
    };
    let mut hashes = Vec::new();
    for (name, value) in members {
        let place = within(USERS, name);
        let text = reader.text(Some(value), &place).unwrap_or_default();
        if name.contains(|letter: char| letter == ':' || letter.is_control()) {
            // RFC 7617: the first colon ends the name
            reader.wrong(
                &place,
                "invalid user name: nobody can log in with a colon or a control character in it",
            );
        }
        match super::basic_auth::Hash::parse(text) {
            Ok(hash) => {
                if let Some(warning) = hash.warning() {
                    reader.warnings.push(format!("{place}: {warning}"));
                }
                hashes.push((name.clone(), hash));
            }
            Err(why) => reader.wrong(&place, why),
        }
    }
    (!hashes.is_empty()).then(|| Users::new(hashes))
}

fn rate(reader: &mut Reader<'_>, node: Option<&Node>) -> Option<RateLimit> {
    reader.members(node, RATE, &["interval", "burst"]);
    let get = |name| node.and_then(|node| node.get(name));
    let place = within(RATE, "interval");
    let Some(text) = reader.text(get("interval"), &place) else {
        if get("burst").is_some() {
            reader.wrong(&place, "expected an interval beside burst, got none");
        }
        return None;
    };
    let interval = match super::rate_limit::go_duration(text) {
        Some(interval)
            if interval.is_zero() && text.bytes().any(|byte| matches!(byte, b'1'..=b'9')) =>
        {
            reader.wrong(&place, "expected at least 1ns, or 0 for no limit");
            return None;
        }
        Some(interval) if interval.is_zero() => return None,
        Some(interval) => interval,
        None => {
            reader.wrong(
                &place,
                format!(
                    "{:?} will not do; it must be a duration such as 100ms, 1s or 1m30s, or 0",
                    shown(text)
                ),
            );
            return None;
        }
    };
    let place = within(RATE, "burst");
    let text = reader.text(get("burst"), &place).unwrap_or("0");
    if let Ok(burst @ 1..) = text.parse() {
        return Some(RateLimit::new(interval, burst));
    }
    reader.wrong(
        &place,
        format!(
            "{:?} will not do; it must be a whole number from 1, or nothing would ever be answered",
            shown(text)
        ),
    );
    None
}
