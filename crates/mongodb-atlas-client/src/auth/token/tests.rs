use super::*;

#[test]
fn invalid_token_response_is_rejected_without_echoing_it() {
    let json =
        |token: &str, more: &str| format!("{{\"access_token\":{token},\"expires_in\":3600{more}}}");
    for good in [
        json("\"aaa.bbb-._~+/=\"", ""),
        json("\"secret\"", ",\"token_type\":\"bearer\""),
        json("\"secret\"", ",\"token_type\":null,\"scope\":7"),
        "{\"access_token\":\"secret\"}".to_owned(),
    ] {
        assert!(parse_token_response(good.as_bytes()).is_ok(), "{good}");
    }
    let long = format!("\"secret{}\"", "x".repeat(1 << 20));
    for bad in [
        json("\"\"", ""),
        json("\" \"", ""),
        json("\"secret \"", ""),
        json("\"secret\\u0000\"", ""),
        json("\"secret\\t\"", ""),
        json("\"secret\\r\\nX: y\"", ""),
        json("\"secret\\u00e9\"", ""),
        json("\"\\ud83dsecret\"", ""),
        json(&long, ""),
        json("null", ""),
        json("7", ""),
        json("[\"secret\"]", ""),
        json("\"secret\"", ",\"token_type\":\"mac\""),
        json("\"secret\"", ",\"token_type\":\"\""),
        json("\"secret\"", ",\"token_type\":7"),
        json("\"secret\"", ",\"access_token\":\"secret\""),
        "[]".to_owned(),
        "\"secret\"".to_owned(),
        "secret".to_owned(),
        String::new(),
    ] {
        let shown = bad.get(..60).unwrap_or(&bad);
        let error = parse_token_response(bad.as_bytes())
            .err()
            .unwrap_or_else(|| panic!("accepted: {shown}"));
        assert!(matches!(error, ErrorKind::InvalidResponse(_)), "{shown}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn token_of_the_maximum_length_is_accepted() {
    for (length, is_valid) in [(MAX_TOKEN_BYTES, true), (MAX_TOKEN_BYTES + 1, false)] {
        let body = format!("{{\"access_token\":\"{}\"}}", "x".repeat(length));
        assert_eq!(parse_token_response(body.as_bytes()).is_ok(), is_valid);
    }
}

#[test]
fn lifetime_is_an_hour_by_default_and_at_most_a_day() {
    for (expires_in, seconds) in [
        ("3600", 3600),
        ("60", 60),
        ("\"60\"", 60),
        ("60.0", 60),
        ("0", 1),
        ("86400", 86_400),
        ("86401", 86_400),
        ("18446744073709551615", 86_400),
        ("null", 3600),
        ("-1", 3600),
        ("[]", 3600),
    ] {
        let body = format!("{{\"access_token\":\"x\",\"expires_in\":{expires_in}}}");
        let response = parse_token_response(body.as_bytes()).expect(expires_in);
        assert_eq!(
            response.lifetime(),
            Duration::from_secs(seconds),
            "{expires_in}"
        );
    }
    let response = parse_token_response(b"{\"access_token\":\"x\"}").expect("a token");
    assert_eq!(response.lifetime(), Duration::from_hours(1));
}
