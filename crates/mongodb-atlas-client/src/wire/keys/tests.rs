use super::*;

/// The example of the preview in the documentation, with an added secret.
const EXAMPLE: &str = r#"{"links":[{"href":"https://cloud.mongodb.com/api/atlas","rel":"self"}],
 "results":[{"apiKeyId":"a86r5kwrfsk5r5ku5tgvhmpj","createdAt":"2026-01-15T16:47:49.855000+00:00","createdBy":"John Doe",
  "groupId":"69681d39c9e8cfd375386316","lastUsedAt":"2026-01-15T16:47:49.855000+00:00","maskedSecret":"al-****odu2",
  "name":"Production key","secret":"al-jZsluhPMzPM9CFXepRWwMwvpZDDra6tZMgoAZKdodu2","status":"ACTIVE"}],
 "totalCount":42}"#;

#[test]
fn documented_example_is_parsed_without_its_secret() {
    let page = parse_key_page(EXAMPLE, 500, OptionalFields::default()).expect("a page");
    assert_eq!(
        (page.results, page.next_link, page.total_count),
        (1, NextLink::Absent, Some(42))
    );
    assert_eq!(page.keys[0].id.as_str(), "a86r5kwrfsk5r5ku5tgvhmpj");
    assert_eq!(
        page.keys[0].last_used,
        ApiTime::Valid("2026-01-15T16:47:49.855Z".parse().expect("a time"))
    );
    assert!(
        !format!("{page:?}").contains("al-"),
        "neither the secret nor its masked form is decoded"
    );
}

#[test]
fn personal_fields_are_parsed_only_when_enabled() {
    let optional = OptionalFields {
        created_by: true,
        masked_secret: true,
    };
    let key = parse_key_page(EXAMPLE, 500, optional)
        .expect("a page")
        .keys
        .remove(0);
    assert_eq!(key.attributes.created_by, "John Doe");
    assert_eq!(key.masked_secret, "al-****odu2");
    assert!(
        !format!("{key:?}").contains("al-jZ"),
        "the secret is never decoded"
    );
}

#[test]
fn timestamps_accept_offsets_and_z() {
    for (text, expected) in [
        (
            "2026-01-15T16:47:49.855000+00:00",
            "2026-01-15T16:47:49.855Z",
        ),
        ("2026-01-15T16:47:49Z", "2026-01-15T16:47:49Z"),
        ("2026-01-15T18:47:49+02:00", "2026-01-15T16:47:49Z"),
    ] {
        assert_eq!(
            JsonField::new(&format!("{text:?}")).as_time(),
            ApiTime::Valid(expected.parse().expect("a time")),
            "{text}"
        );
    }
    for invalid in [
        "",
        "yesterday",
        "2026-13-45T99:99:99Z",
        "2026-01-15",
        "2026-01-15T16:47:49",
        &format!("2026-01-15T16:47:49Z{}", " ".repeat(100)),
    ] {
        let json = format!("{invalid:?}");
        assert_eq!(
            JsonField::new(&json).as_time(),
            ApiTime::Invalid,
            "{invalid}"
        );
    }
}

#[test]
fn invalid_items_are_reported_with_their_index() {
    let body = r#"{"results":[{"apiKeyId":"good"},{"name":"no id"},null,7,"x",[1],{"apiKeyId":""},
        {"apiKeyId":"invalid","name":5,"status":{"a":1},"groupId":["b"],"lastUsedAt":12,"createdAt":"never"}]}"#;
    let page = parse_key_page(body, 500, OptionalFields::default()).expect("a page");
    assert_eq!(
        (page.results, page.next_link, page.total_count),
        (8, NextLink::Unknown, None)
    );
    let ids: Vec<_> = page.keys.iter().map(|key| key.id.as_str()).collect();
    assert_eq!(ids, ["good", "invalid"]);
    let indices: Vec<_> = page.invalid_items.iter().map(|item| item.index).collect();
    assert_eq!(indices, [1, 2, 3, 4, 5, 6, 7, 7, 7, 7]);
    assert_eq!(
        (page.keys[1].created, page.keys[1].last_used),
        (ApiTime::Invalid, ApiTime::Invalid)
    );
}

#[test]
fn invalid_total_count_and_links_are_ignored() {
    for (body, next, total) in [
        (
            r#"{"results":[],"totalCount":null,"links":null}"#,
            NextLink::Unknown,
            None,
        ),
        (
            r#"{"results":[],"totalCount":-3,"links":[]}"#,
            NextLink::Unknown,
            None,
        ),
        (
            r#"{"results":[],"totalCount":"many","links":{"a":1}}"#,
            NextLink::Unknown,
            None,
        ),
        (
            r#"{"results":[],"totalCount":0,"links":[{"rel":"self"},{"rel":"next"}]}"#,
            NextLink::Present,
            Some(0),
        ),
    ] {
        let page = parse_key_page(body, 500, OptionalFields::default()).expect(body);
        assert_eq!((page.next_link, page.total_count), (next, total), "{body}");
    }
}

#[test]
fn invalid_page_is_rejected_without_echoing_it() {
    for body in [
        "",
        "{",
        "[]",
        "{}",
        "null",
        r#"{"results":{}}"#,
        r#"{"results":"al-secret"}"#,
        r#"{"results":[{"secret":"al-"#,
    ] {
        let error = parse_key_page(body, 500, OptionalFields::default()).expect_err(body);
        assert!(matches!(error, ErrorKind::InvalidResponse(_)));
        assert!(!error.to_string().contains("al-"), "{error}");
    }
}

#[test]
fn lone_surrogate_does_not_invalidate_the_page() {
    let body = r#"{"\uDE00":"\ud83d","results":[{"\ud83d":1,"apiKeyId":"a","name":"\ud83d","groupId":"\\ud83d"}],
        "links":[{"rel":"\ud83d"},{"rel":"next"}]}"#;
    let page = parse_key_page(body, 500, OptionalFields::default()).expect("a page");
    assert_eq!((page.results, page.next_link), (1, NextLink::Present));
    assert_eq!(page.keys[0].name, "\u{fffd}");
    assert_eq!(page.keys[0].project.as_str(), "\\ud83d");
}
