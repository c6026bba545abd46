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
