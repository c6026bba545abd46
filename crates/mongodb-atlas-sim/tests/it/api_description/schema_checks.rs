//! The schemas accept the examples of Atlas' documentation and nothing that deviates from it.

use std::collections::BTreeSet;

use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use serde_json::{Value, json};

use crate::schemas::{Exchange, SCHEMAS, violations};
use crate::{STABLE_VERSION, TestResponse};

#[test]
fn every_schema_file_is_listed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let listed = SCHEMAS.iter().map(|(name, _)| (*name).to_owned());
    assert_eq!(files, listed.collect());
}

/// The examples of Atlas' documentation.
fn documented_examples() -> Vec<(&'static str, Value)> {
    let key = json!({
        "apiKeyId": "a86r5kwrfsk5r5ku5tgvhmpj",
        "createdAt": "2026-01-15T16:47:49.855000+00:00",
        "createdBy": "John Doe",
        "groupId": "69681d39c9e8cfd375386316",
        "lastUsedAt": "2026-01-15T16:47:49.855000+00:00",
        "maskedSecret": "al-****odu2",
        "name": "Production key",
        "secret": "al-jZsluhPMzPM9CFXepRWwMwvpZDDra6tZMgoAZKdodu2",
        "status": "ACTIVE",
    });
    let links = json!([{"href": "https://cloud.mongodb.com/api/atlas", "rel": "self"}]);
    let page = json!({"links": links, "results": [key], "totalCount": 42});
    let rate_limited = json!({
        "detail": "Rate limit exceeded for api/atlas/v2/orgs. Please retry after 55 seconds. Request capacity: 10. Refill rate: 5 per 60 seconds.",
        "error": 429,
        "errorCode": "RATE_LIMITED_TOKEN_BUCKET",
        "parameters": ["api/atlas/v2/orgs", 55, 10, 5, 60],
        "reason": "Too Many Requests",
    });
    vec![
        ("keys-page-preview.json", page),
        ("error.json", rate_limited),
        (
            "error.json",
            json!({"error": 401, "errorCode": "NOT_ORG_GROUP_CREATOR", "reason": "Unauthorized", "detail": "x"}),
        ),
        (
            "token.json",
            json!({"access_token": "eyJhbGciOi.x-_.y", "token_type": "Bearer", "expires_in": 3600}),
        ),
        (
            "token-error.json",
            json!({"error": "access_denied", "error_description": "Access Token limit reached. x"}),
        ),
    ]
}

#[test]
fn documented_examples_conform_to_the_schemas() {
    for (schema, example) in documented_examples() {
        assert_eq!(violations(schema, &example), [""; 0], "{example}");
    }
}

#[test]
fn changed_examples_violate_the_schemas() {
    let examples = documented_examples();
    let changes = [
        (0, "/results", json!(null)),
        (0, "/results/0/groupId", json!("69681D39C9E8CFD375386316")),
        (0, "/results/0/groupId", json!("69681d39c9e8cfd37538631")),
        (0, "/results/0/createdAt", json!("2026-01-15T16:47:49.855Z")),
        (
            0,
            "/results/0/createdAt",
            json!("2026-02-30T16:47:49.855000+00:00"),
        ),
        (0, "/results/0/lastUsedAt", json!(1_768_495_669)),
        (0, "/results/0/name", json!("")),
        (0, "/results/0/name", json!("x".repeat(251))),
        (0, "/results/0/maskedSecret", json!("al-jZsluhP")),
        (0, "/results/0/status", json!(true)),
        (0, "/results/0", json!({"apiKeyId": "a", "cloud": "ANY"})),
        (0, "/results/0", json!({"apiKeyId": "a", "invented": 1})),
        (0, "/links/0/rel", json!("last")),
        (0, "/links/0/rel", json!("next")),
        (0, "/links/0/href", json!("/api/atlas")),
        (0, "/totalCount", json!(-1)),
        (0, "/totalCount", json!(4_294_967_296_u64)),
        (0, "/totalCount", json!("42")),
        (1, "/parameters", json!(["api/atlas/v2/orgs", 55, 10, 5])),
        (1, "/parameters/1", json!("55")),
        (1, "/detail", json!("Slow down.")),
        (1, "/error", json!("429")),
        (2, "/errorCode", json!(401)),
        (2, "/error", json!(200)),
        (3, "/token_type", json!("bearer")),
        (3, "/expires_in", json!("3600")),
        (3, "/access_token", json!("a b")),
        (4, "/error", json!("too_many_tokens")),
        (4, "/error_description", json!("No.")),
    ];
    for (index, pointer, value) in changes {
        let (schema, mut example) = examples[index].clone();
        *example.pointer_mut(pointer).unwrap() = value.clone();
        let found = violations(schema, &example);
        assert!(!found.is_empty(), "{schema} accepts {value} at {pointer}");
    }
}

/// Builds a response from headers as `name: value; name: value`.
fn response_with(status: u16, headers: &str, body: &Value) -> TestResponse {
    let media_type = if status == 200 {
        STABLE_VERSION
    } else {
        "application/json"
    };
    let mut map = HeaderMap::new();
    map.insert(header::CONTENT_TYPE, media_type.parse().unwrap());
    for (name, value) in headers.split("; ").filter_map(|part| part.split_once(": ")) {
        let name: HeaderName = name.parse().unwrap();
        map.insert(name, value.parse().unwrap());
    }
    TestResponse {
        status: StatusCode::from_u16(status).unwrap(),
        headers: map,
        body: body.to_string().into_bytes(),
    }
}

#[test]
fn invalid_headers_and_pages_deviate() {
    let link = json!({"rel": "self", "href": "https://x/api/atlas?pageNum=1"});
    let page = json!({"results": [], "links": [link]});
    let envelope = json!({"results": [], "status": 200});
    let two_keys = json!({"results": [{}, {}]});
    let limited = documented_examples()[1].1.clone();
    let conforming = [
        ("", 200, "", &page),
        ("", 200, "ratelimit-limit: 5; ratelimit-remaining: 0", &page),
        ("?itemsPerPage=2", 200, "", &two_keys),
        ("?envelope=true", 200, "", &envelope),
        ("", 429, "retry-after: 55", &limited),
    ];
    let deviating = [
        ("", 200, "ratelimit-limit: 5", &page),
        ("", 200, "ratelimit-remaining: 5", &page),
        ("", 200, "ratelimit-limit: 5; ratelimit-remaining: 6", &page),
        (
            "",
            200,
            "ratelimit-limit: 5.0; ratelimit-remaining: 1",
            &page,
        ),
        ("", 200, "retry-after: 5", &page),
        ("", 200, "content-type: application/json", &page),
        ("", 200, "content-encoding: br", &page),
        ("", 200, "www-authenticate: Basic realm=\"x\"", &page),
        ("?pageNum=2", 200, "", &page),
        ("?itemsPerPage=1", 200, "", &two_keys),
        ("?envelope=false", 200, "", &envelope),
        ("?envelope=true", 200, "", &page),
        ("", 429, "", &limited),
        ("", 429, "retry-after: 54", &limited),
        (
            "",
            429,
            "retry-after: Wed, 21 Oct 2026 07:28:00 GMT",
            &limited,
        ),
        ("", 403, "retry-after: 55", &limited),
    ];
    let cases = conforming
        .map(|case| (true, case))
        .into_iter()
        .chain(deviating.map(|case| (false, case)));
    for (conforms, (query, status, headers, body)) in cases {
        let exchange = Exchange {
            schema: "keys-page.json",
            media_type: STABLE_VERSION,
            path: format!("orgs/ORG/aiModelApiKeys{query}"),
        };
        let found = exchange.deviations(&response_with(status, headers, body));
        assert_eq!(
            found.is_empty(),
            conforms,
            "{query} {status} {headers}: {found:?}"
        );
    }
}
