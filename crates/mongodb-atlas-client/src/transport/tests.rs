use super::*;

#[test]
fn invalid_error_field_is_ignored() {
    for (text, expected) in [
        (r#"{"errorCode":"A_CODE","parameters":null}"#, "A_CODE"),
        (r#"{"errorCode":"A_CODE","parameters":7}"#, "A_CODE"),
        (r#"{"errorCode":7,"parameters":[]}"#, ""),
        (r#"{"errorCode":null}"#, ""),
        (r#"{"errorCode":"\ud83d","detail":"\ud83d"}"#, ""),
        (
            r#"{"errorCode":"A_CODE","parameters":["\ud83d",1e999]}"#,
            "A_CODE",
        ),
    ] {
        let response = Response {
            status: StatusCode::FORBIDDEN,
            headers: HeaderMap::new(),
            body: text.as_bytes().to_vec().into(),
        };
        let expected = ErrorKind::Forbidden(ErrorCode::new(expected));
        assert_eq!(response.to_error(), expected, "{text}");
    }
}

#[test]
fn retry_after_accepts_both_forms_up_to_a_day() {
    let now: Timestamp = "2026-03-01T12:00:00.5Z".parse().expect("a time");
    // The server's clock is an hour ahead of the client's.
    let date = Some("Sun, 01 Mar 2026 13:00:00 GMT");
    for (value, date, expected) in [
        ("120", None, Some(120)),
        (" 120 ", None, Some(120)),
        ("0", None, Some(0)),
        ("86401", None, Some(86_400)),
        ("99999999999999999999999", None, Some(86_400)),
        ("", None, None),
        ("-5", None, None),
        ("1.5", None, None),
        ("soon", None, None),
        ("2026-03-01T13:00:30Z", date, None),
        // The three forms of a date, relative to the date of the response.
        ("Sun, 01 Mar 2026 13:00:30 GMT", date, Some(30)),
        ("Sunday, 01-Mar-26 13:00:30 GMT", date, Some(30)),
        ("Sun Mar  1 13:00:30 2026", date, Some(30)),
        ("Sun, 01 Mar 2026 13:00:00 GMT", date, Some(0)),
        ("Sun, 01 Mar 2026 12:59:00 GMT", date, Some(0)),
        ("Thu, 01 Jan 1970 00:00:00 GMT", date, Some(0)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", date, Some(86_400)),
        // Without a plausible date the client's clock is used.
        ("Sun, 01 Mar 2026 12:00:30 GMT", None, Some(30)),
        ("Sun, 01 Mar 2026 12:00:30 GMT", Some("yesterday"), Some(30)),
        (
            "Sun, 01 Mar 2026 12:00:30 GMT",
            Some("Sat, 01 Jan 2000 00:00:00 GMT"),
            Some(30),
        ),
        ("Sun, 01 Mar 2026 11:00:00 GMT", None, Some(0)),
        ("Tue, 01 Mar 2044 00:00:00 GMT", None, Some(86_400)),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(value).expect(value));
        if let Some(date) = date {
            headers.insert(DATE, HeaderValue::from_str(date).expect(date));
        }
        normalize_retry_after(&mut headers, now);
        let response = Response {
            status: StatusCode::SERVICE_UNAVAILABLE,
            headers,
            body: Body::default(),
        };
        let expected = expected.map(Duration::from_secs);
        assert_eq!(response.retry_after(), expected, "{value:?} {date:?}");
    }
}

#[test]
fn longest_of_several_retry_after_is_used() {
    let mut headers = HeaderMap::new();
    for value in ["10", "nonsense", "30", "20"] {
        headers.append(RETRY_AFTER, HeaderValue::from_static(value));
    }
    normalize_retry_after(&mut headers, Timestamp::UNIX_EPOCH);
    assert_eq!(
        headers.get_all(RETRY_AFTER).iter().collect::<Vec<_>>(),
        ["30"]
    );
}

proptest::proptest! {
    #[test]
    fn error_body_never_asks_for_more_than_a_day(
        numbers in proptest::collection::vec(proptest::num::u64::ANY, 0..6),
    ) {
        let mut parameters = vec![serde_json::Value::from("path")];
        parameters.extend(numbers.into_iter().map(serde_json::Value::from));
        let body = serde_json::json!({"errorCode": "RATE_LIMITED_TOKEN_BUCKET", "parameters": parameters});
        let response = Response {
            status: StatusCode::TOO_MANY_REQUESTS,
            headers: HeaderMap::new(),
            body: body.to_string().into_bytes().into(),
        };
        proptest::prop_assert!(response.retry_after().is_none_or(|wait| wait <= MAX_WAIT));
        let params = response.rejection().and_then(|rejection| rejection.params);
        proptest::prop_assert!(params.is_none_or(|params| params.refill_interval <= MAX_WAIT));
    }
}
