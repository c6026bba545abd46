use super::super::lenient::NextLink;
use super::*;
use serde_json::json;

/// Returns the result of `read` for a JSON value.
fn read<T>(read: impl Fn(JsonField<'_>) -> Option<T>, result: &serde_json::Value) -> Option<T> {
    read(JsonField::new(&result.to_string()))
}

fn parse_untagged_project(value: JsonField<'_>) -> Option<Project> {
    parse_project(value, None)
}

#[test]
fn invalid_items_are_skipped() {
    assert_eq!(read(parse_org, &json!({"id": "xyz", "name": "n"})), None);
    assert_eq!(read(parse_org, &json!(7)), None);
    let listed = read(
        parse_org,
        &json!({"id": "32b6e34b3d91647abb20e7b8", "isDeleted": true}),
    );
    assert_eq!(
        listed.map(|org| (org.name, org.is_deleted)),
        Some((None, true))
    );
    assert_eq!(read(parse_untagged_project, &json!({"id": "p"})), None);
    let long = json!({"id": "p".repeat(101), "name": "n"});
    assert_eq!(read(parse_untagged_project, &long), None);
    let limit = read(
        parse_model_limit,
        &json!({"modelGroupName": "g", "requestsPerMinuteLimit": -1}),
    );
    assert_eq!(limit.map(|limit| limit.requests_per_minute), Some(None));
}

#[test]
fn free_text_is_truncated() {
    let long = "ä".repeat(60_000);
    let id = "32b6e34b3d91647abb20e7b8";
    let cut = Some("ä".repeat(MAX_TEXT_CHARS));
    let org = read(parse_org, &json!({"id": id, "name": long})).expect("an organization");
    assert_eq!(org.name, cut);
    let project = read(parse_untagged_project, &json!({"id": id, "name": long}));
    assert_eq!(project.map(|project| project.name), cut);
    let limit = json!({"modelGroupName": long, "cloud": long, "geography": long});
    let limit = read(parse_model_limit, &limit).expect("a limit");
    assert_eq!(
        [limit.model_group, limit.cloud, limit.geography].map(Some),
        [cut.clone(), cut.clone(), cut]
    );
}

/// Reads the tag `owner` of a project with `tags` as JSON text.
fn owner(tags: &str) -> Option<String> {
    let project = format!(r#"{{"id":"p","name":"n","tags":{tags}}}"#);
    let parsed = parse_project(JsonField::new(&project), Some("owner"));
    parsed.expect("tags do not invalidate a project").tag
}

#[test]
fn project_without_a_usable_tag_has_none() {
    for tags in [
        "null",
        "[]",
        "{}",
        "7",
        r#""owner""#,
        r#"{"key":"owner","value":"a"}"#,
        r#"[null,7,"owner",["owner","a"],{}]"#,
        r#"[{"key":"owner"}]"#,
        r#"[{"value":"a"}]"#,
        r#"[{"key":"owner","value":null}]"#,
        r#"[{"key":"owner","value":7}]"#,
        r#"[{"key":"owner","value":["a"]}]"#,
        r#"[{"key":["owner"],"value":"a"}]"#,
        r#"[{"key":"owner","value":""}]"#,
        r#"[{"key":"owner","value":" \t\n\u00a0"}]"#,
        // Keys are compared exactly.
        r#"[{"key":"Owner","value":"a"}]"#,
        r#"[{"key":"owner ","value":"a"}]"#,
        r#"[{"key":"owne","value":"a"},{"key":"owners","value":"a"},{"key":"","value":"a"}]"#,
        // The first one is used, even without a value.
        r#"[{"key":"owner","value":""},{"key":"owner","value":"a"}]"#,
        r#"[{"key":"owner","value":7},{"key":"owner","value":"a"}]"#,
    ] {
        assert_eq!(owner(tags), None, "{tags}");
    }
    let missing = json!({"id": "p", "name": "n"});
    let read = |value: JsonField<'_>| parse_project(value, Some("owner"));
    assert_eq!(
        read(JsonField::new(&missing.to_string())).map(|project| project.tag),
        Some(None)
    );
}

#[test]
fn project_has_the_value_of_the_first_tag_with_the_key() {
    for (tags, expected) in [
        (r#"[{"key":"owner","value":"team-a"}]"#, "team-a"),
        (
            r#"[7,{"key":"env","value":"prod"},{"key":"owner","value":"a"},{"key":"owner","value":"b"}]"#,
            "a",
        ),
        (r#"[{"key":"o\u0077ner","value":"t\u00e4m"}]"#, "täm"),
        // The last of duplicate fields is used.
        (
            r#"[{"key":"x","key":"owner","value":"a","value":"b"}]"#,
            "b",
        ),
        // Spaces and control characters are part of the value, as in names.
        (r#"[{"key":"owner","value":" a\u0007\nb "}]"#, " a\u{7}\nb "),
        (r#"[{"key":"owner","value":"\ud83d"}]"#, "\u{fffd}"),
        (r#"[{"key":"owner","value":"\u0000"}]"#, "\0"),
    ] {
        assert_eq!(owner(tags).as_deref(), Some(expected), "{tags}");
    }
    let tagged = json!({"id": "p", "name": "n", "tags": [{"key": "owner", "value": "a"}]});
    assert_eq!(
        read(parse_untagged_project, &tagged).map(|project| project.tag),
        Some(None)
    );
}

#[test]
fn tag_of_maximum_length_is_found_and_its_value_truncated() {
    let text = "ä".repeat(255);
    let project = json!({"id": "p", "name": "n", "tags": [{"key": text, "value": text}]});
    let tag_of = |tag: &str| {
        let read_tag = |value: JsonField<'_>| parse_project(value, Some(tag));
        read(read_tag, &project).expect("a project").tag
    };
    assert_eq!(tag_of(&text), Some("ä".repeat(MAX_TEXT_CHARS)));
    assert_eq!(tag_of(&"ä".repeat(254)), None);
}

#[test]
fn project_stored_without_a_tag_is_loaded() {
    let project: Project = serde_json::from_str(r#"{"id":"p","name":"n"}"#).expect("a project");
    assert_eq!(project.tag, None);
}

#[test]
fn endpoint_sets_are_parsed_with_known_endpoints() {
    let number = |value: u64| json!({"value": value, "defaultValue": 1});
    let keys = json!({"method": "GET", "path": "/api/atlas/v2/orgs/{orgId}/aiModelApiKeys"});
    let mut value = json!({
        "endpointSetId": "s", "scope": "ORGANIZATION",
        "capacity": number(10), "refillRate": number(5), "refillDurationSeconds": number(60),
        "endpoints": [
            {"method": "POST", "path": "/api/atlas/v2/orgs"},
            keys, keys, 7, null,
            {"method": "GET", "path": "/api/atlas/v2/somethingElse"},
        ],
    });
    let set = read(parse_endpoint_set, &value).expect("a set");
    assert_eq!(set.endpoints, [Endpoint::AiModelApiKeys]);
    assert_eq!(
        (set.scope, set.params.refill_interval.as_secs()),
        (Scope::Organization, 60)
    );
    value["scope"] = json!("USER");
    assert_eq!(
        read(parse_endpoint_set, &value).map(|set| set.scope),
        Some(Scope::Credential)
    );
    value["capacity"] = number(0);
    assert_eq!(read(parse_endpoint_set, &value), None);
}

#[test]
fn next_link_is_detected() {
    for (body, next) in [
        (r#"{"results":[]}"#, NextLink::Unknown),
        (r#"{"results":null}"#, NextLink::Unknown),
        (r#"{"results":[],"links":[]}"#, NextLink::Unknown),
        (r#"{"results":[],"links":1e999}"#, NextLink::Unknown),
        (
            r#"{"results":[],"links":[{"rel":"self"}]}"#,
            NextLink::Absent,
        ),
        (
            r#"{"results":[],"links":[7,{"rel":"\ud83d"}]}"#,
            NextLink::Absent,
        ),
        (
            r#"{"results":[],"links":[{"rel":"next"}]}"#,
            NextLink::Present,
        ),
    ] {
        assert_eq!(
            parse_list(body, 5, parse_org).expect(body).next_link,
            next,
            "{body}"
        );
    }
    for body in [
        "[]",
        "{}",
        "",
        "null",
        r#"{"results":{}}"#,
        r#"{"results":7}"#,
    ] {
        assert!(parse_list(body, 5, parse_org).is_err(), "{body}");
    }
}

#[test]
fn excess_results_are_rejected() {
    for result in ["{}", "0", "\"a\"", "[]", "null", r#"{"id":"a"}"#] {
        let body = |results| format!(r#"{{"results":[{}]}}"#, vec![result; results].join(","));
        assert_eq!(parse_list(&body(5), 5, parse_org).expect(result).results, 5);
        let error = parse_list(&body(6), 5, parse_org).expect_err(result);
        assert!(
            error.to_string().contains("expected at most 5 results"),
            "{error}"
        );
    }
}
