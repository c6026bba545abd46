//! The schemas accept the examples of Atlas' documentation, and reject deviations from them.

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
    let secret = json!({
        "id": "32b6e34b3d91647abb20e7b8",
        "createdAt": "2026-05-04T09:42:00Z",
        "expiresAt": "2027-05-04T09:42:00Z",
        "lastUsedAt": "2026-08-02T10:14:07Z",
        "maskedSecretValue": "mdb_sa_sk_****9f2c",
    });
    let account = json!({
        "clientId": "mdb_sa_id_1234567890ABCDEF12345678",
        "createdAt": "2026-05-04T09:42:00Z",
        "description": "",
        "name": "x",
        "roles": ["ORG_MEMBER", "ORG_READ_ONLY"],
        "secrets": [secret],
    });
    let group = json!({
        "id": "32b6e34b3d91647abb20e7b8",
        "orgId": "4888442a3354817a7320eb61",
        "name": "x",
        "created": "2026-05-04T09:42:00Z",
        "clusterCount": 0,
        "tags": [{"key": "owner", "value": "team-search"}],
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
        ("service-account.json", account),
        ("service-account.json", json!({"secrets": []})),
        ("group.json", group),
    ]
}

#[test]
fn documented_examples_conform_to_the_schemas() {
    for (schema, example) in documented_examples() {
        assert_eq!(violations(schema, &example), [""; 0], "{example}");
    }
}

/// Changes of the service account, 5, and of the project, 7.
fn changed_tags_and_secrets() -> Vec<(usize, &'static str, Value)> {
    let secret = |field: &str| {
        let mut secret = documented_examples()[5].1["secrets"][0].clone();
        secret.as_object_mut().unwrap().remove(field);
        secret
    };
    let tag = |key: &str, value: Value| json!([{"key": key, "value": value}]);
    vec![
        (5, "/clientId", json!("mdb_sa_id_1234567890abcdef1234567")),
        (5, "/clientId", json!("1234567890abcdef12345678")),
        (5, "/clientId", json!("mdb_sa_id_1234567890abcdef1234567g")),
        (5, "/createdAt", json!("2026-02-30T09:42:00Z")),
        (5, "/roles", json!(["GROUP_OWNER"])),
        (5, "/roles/1", json!("ORG_MEMBER")),
        (5, "/secrets", json!(null)),
        (5, "/secrets/0", secret("id")),
        (5, "/secrets/0", secret("createdAt")),
        (5, "/secrets/0", secret("expiresAt")),
        (5, "/secrets/0/id", json!("32B6E34B3D91647ABB20E7B8")),
        (5, "/secrets/0/expiresAt", json!(1_809_423_720)),
        (
            5,
            "/secrets/0/expiresAt",
            json!("2027-05-04T09:42:00+02:00"),
        ),
        (5, "/secrets/0/lastUsedAt", json!(null)),
        (5, "/secrets/0/lastUsedAt", json!("yesterday")),
        (5, "/secrets/0/maskedSecretValue", json!("mdb_sa_sk_9f2c")),
        (5, "/secrets/0", json!({"invented": 1})),
        (7, "/tags", json!(null)),
        (7, "/tags", json!({"owner": "team-search"})),
        (7, "/tags", json!(["owner"])),
        (7, "/tags", json!([{"key": "owner"}])),
        (7, "/tags", tag("owner", json!(7))),
        (7, "/tags", tag("", json!("x"))),
        (7, "/tags", tag("owner", json!(""))),
        (7, "/tags", tag("owner", json!("x".repeat(256)))),
        (7, "/tags", tag(&"x".repeat(256), json!("x"))),
    ]
}

#[test]
fn changed_examples_violate_the_schemas() {
    let examples = documented_examples();
    let changes = vec![
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
    let changes = changes.into_iter().chain(changed_tags_and_secrets());
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
