//! JSON schemas of Atlas' published API description, and checks of a response that a schema cannot express.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use jsonschema::{Registry, Validator};
use serde_json::Value;

use crate::TestResponse;

macro_rules! schema_files {
    ($($name:literal)*) => {
        /// Names and texts of all schemas.
        pub(crate) const SCHEMAS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../schemas/", $name)))),*];
    };
}

schema_files! {
    "ai-rate-limit.json"
    "ai-rate-limits-page.json"
    "common.json"
    "error.json"
    "group.json"
    "groups-page.json"
    "key-preview.json"
    "key.json"
    "keys-page-preview.json"
    "keys-page.json"
    "org.json"
    "orgs-page.json"
    "rate-limit.json"
    "rate-limits-page.json"
    "revocation.json"
    "service-account.json"
    "token-error.json"
    "token.json"
}

static VALIDATORS: LazyLock<BTreeMap<&str, Validator>> = LazyLock::new(|| {
    let schemas = SCHEMAS.iter().map(|(name, text)| {
        let schema: Value = serde_json::from_str(text).unwrap();
        (*name, schema)
    });
    let schemas: BTreeMap<&str, Value> = schemas.collect();
    let mut registry = Registry::new();
    for (name, schema) in &schemas {
        let id = schema["$id"].as_str().unwrap();
        assert!(id.ends_with(&format!("/{name}")), "{name} has the id {id}");
        registry = registry.add(id, schema).unwrap();
    }
    let registry = registry.prepare().unwrap();
    let options = jsonschema::options()
        .with_registry(&registry)
        .should_validate_formats(true);
    schemas
        .iter()
        .map(|(name, schema)| (*name, options.build(schema).unwrap()))
        .collect()
});

/// Returns the deviations of `instance` from a schema.
pub(crate) fn violations(schema: &str, instance: &Value) -> Vec<String> {
    VALIDATORS[schema]
        .iter_errors(instance)
        .map(|error| format!("{schema}: {error} at {:?}", error.instance_path().as_str()))
        .collect()
}

/// A request, and the schema of its successful response.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub(crate) schema: &'static str,
    /// `Accept`, or `application/json` for the OAuth endpoints.
    pub(crate) media_type: &'static str,
    /// Path and query below `/api/atlas/v2/`; empty for the OAuth endpoints.
    pub(crate) path: String,
}

impl Exchange {
    fn is_oauth(&self) -> bool {
        self.path.is_empty()
    }

    fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.path.split_once('?')?;
        let mut parameters = query.split('&').filter_map(|part| part.split_once('='));
        parameters
            .find(|(parameter, _)| *parameter == name)
            .map(|(_, value)| value)
    }

    fn query_number(&self, name: &str, default: u64) -> u64 {
        self.query(name)
            .map_or(default, |value| value.parse().unwrap())
    }

    fn schema_for(&self, status: u16) -> &'static str {
        match status {
            200 => self.schema,
            400 | 401 | 403 if self.is_oauth() => "token-error.json",
            _ => "error.json",
        }
    }

    /// Returns the deviations of a response from the API description.
    pub(crate) fn deviations(&self, response: &TestResponse) -> Vec<String> {
        let mut found = Vec::new();
        let status = response.status.as_u16();
        let schema = self.schema_for(status);
        let body = match decode(response) {
            Ok(body) => body,
            Err(error) => return vec![error],
        };
        found.extend(violations(schema, &body));
        let media_type = if status == 200 {
            self.media_type
        } else {
            "application/json"
        };
        let expected = (!body.is_null()).then_some(media_type);
        let content_type = header(response, "content-type");
        if content_type != expected {
            found.push(format!("Content-Type {content_type:?} of {expected:?}"));
        }
        if schema == "error.json" && body["error"] != status {
            found.push(format!("error {} of status {status}", body["error"]));
        }
        found.extend(header_deviations(response, &body));
        if schema.contains("-page") {
            found.extend(self.page_deviations(&body));
        }
        found
    }

    /// Checks the fields of a page that depend on the request.
    fn page_deviations(&self, page: &Value) -> Vec<String> {
        let mut found = Vec::new();
        let (number, size) = (
            self.query_number("pageNum", 1),
            self.query_number("itemsPerPage", 100),
        );
        let results = page["results"].as_array().map_or(0, Vec::len) as u64;
        if results > size {
            found.push(format!("{results} results of {size}"));
        }
        let status = page.get("status").and_then(Value::as_u64);
        let expected = (self.query("envelope") == Some("true")).then_some(200);
        if status != expected {
            found.push(format!("status {status:?} of {expected:?}"));
        }
        for link in page["links"].as_array().into_iter().flatten() {
            let expected = match link["rel"].as_str() {
                Some("previous") => number - 1,
                Some("next") => number + 1,
                _ => number,
            };
            let href = link["href"].as_str().unwrap_or_default();
            if expected == 0 || !href.ends_with(&format!("pageNum={expected}")) {
                found.push(format!("page {number} has link {link}"));
            }
        }
        found
    }
}

/// Checks headers that do not depend on the request.
fn header_deviations(response: &TestResponse, body: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut number = |name: &str| {
        let value = header(response, name)?;
        let is_whole = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        if !is_whole {
            found.push(format!("{name}: {value} is not a whole number"));
        }
        value.parse::<u64>().ok()
    };
    let limit = number("ratelimit-limit");
    let remaining = number("ratelimit-remaining");
    let retry_after = number("retry-after");
    if limit.is_some() != remaining.is_some() || remaining > limit {
        found.push(format!("RateLimit-* {remaining:?} of {limit:?}"));
    }
    let status = response.status.as_u16();
    if retry_after.is_some() && !matches!(status, 429 | 503) {
        found.push(format!("Retry-After with status {status}"));
    }
    if body["errorCode"] == "RATE_LIMITED_TOKEN_BUCKET"
        && body["parameters"][1].as_u64() != retry_after
    {
        found.push(format!("Retry-After {retry_after:?} of {body}"));
    }
    if let Some(challenge) = header(response, "www-authenticate")
        && !is_digest_challenge(challenge)
    {
        found.push(format!("WWW-Authenticate: {challenge}"));
    }
    found
}

fn header<'a>(response: &'a TestResponse, name: &str) -> Option<&'a str> {
    response
        .headers
        .get(name)
        .map(|value| value.to_str().unwrap())
}

/// Returns whether a challenge is `Digest realm="MMS Public API", domain="", nonce="…", algorithm=MD5, qop="auth",
/// stale=false`.
fn is_digest_challenge(challenge: &str) -> bool {
    let nonce = challenge
        .strip_prefix("Digest realm=\"MMS Public API\", domain=\"\", nonce=\"")
        .and_then(|rest| {
            let end = "\", algorithm=MD5, qop=\"auth\", stale=";
            rest.strip_suffix(&format!("{end}false"))
                .or_else(|| rest.strip_suffix(&format!("{end}true")))
        });
    nonce.is_some_and(|nonce| !nonce.is_empty() && !nonce.contains('"'))
}

/// Returns the decompressed JSON body; `null` if it is empty.
fn decode(response: &TestResponse) -> Result<Value, String> {
    let mut bytes = Vec::new();
    let decoded = match header(response, "content-encoding") {
        Some("gzip") => GzDecoder::new(&*response.body)
            .take(1 << 20)
            .read_to_end(&mut bytes),
        Some(other) => return Err(format!("Content-Encoding {other}")),
        None => response.body.as_slice().read_to_end(&mut bytes),
    };
    decoded.map_err(|error| error.to_string())?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes).map_err(|error| format!("invalid JSON: {error}"))
}
