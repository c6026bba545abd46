use serde_json::json;

use super::*;

const ID: &str = "32b6e34b3d91647abb20e7b8";
const EXPIRES_AT: &str = "2027-01-15T16:47:49.855000+00:00";

fn time(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

/// Parses a service account with these secrets.
fn parse(secrets: &serde_json::Value) -> Vec<ClientSecret> {
    let body = json!({"clientId": "mdb_sa_id_69681d39c9e8cfd375386316", "secrets": secrets});
    parse_client_secrets(&body.to_string()).expect("a service account")
}

#[test]
fn secret_without_id_or_expiry_is_skipped() {
    let times = json!({"expiresAt": EXPIRES_AT, "lastUsedAt": EXPIRES_AT});
    for id in [
        json!(null),
        json!(7),
        json!([ID]),
        json!(""),
        json!("32b6e34b3d91647abb20e7b"),
        json!("32b6e34b3d91647abb20e7b8a"),
        json!("32b6e34b3d91647abb20e7bg"),
        json!("32b6e34b3d91647abb20e7b\n"),
        json!(ID.repeat(5_000)),
    ] {
        let mut secret = times.clone();
        secret["id"] = id;
        assert_eq!(parse(&json!([secret])), [], "{secret}");
    }
    assert_eq!(parse(&json!([times, {"id": ID}])), []);
    for expiry in [json!(null), json!(1_790_000_000), json!("soon"), json!("")] {
        let secret = json!({"id": ID, "expiresAt": expiry});
        assert_eq!(parse(&json!([secret])), [], "{secret}");
    }
    assert_eq!(parse(&json!([7, null, "secret", [], {}])), []);
}

#[test]
fn valid_secrets_are_parsed_beside_invalid_ones() {
    let second = "69681D39C9E8CFD375386316";
    let secrets = parse(&json!([
        {"id": "x", "expiresAt": EXPIRES_AT},
        {"id": ID, "createdAt": "2026-01-15T16:47:49Z", "expiresAt": EXPIRES_AT, "lastUsedAt": "2026-03-01T12:00:00Z"},
        {"id": second, "expiresAt": "2026-05-01T00:00:00+02:00"},
    ]));
    let expected = [
        ClientSecret {
            id: ID.to_owned(),
            expires_at: time(EXPIRES_AT),
            last_used_at: Some(time("2026-03-01T12:00:00Z")),
        },
        ClientSecret {
            id: second.to_owned(),
            expires_at: time("2026-04-30T22:00:00Z"),
            last_used_at: None,
        },
    ];
    assert_eq!(secrets, expected);
    for last_used in [json!(null), json!(7), json!("never")] {
        let secret = json!({"id": ID, "expiresAt": EXPIRES_AT, "lastUsedAt": last_used});
        assert_eq!(parse(&json!([secret]))[0].last_used_at, None, "{secret}");
    }
}

#[test]
fn excess_secrets_are_ignored() {
    let many: Vec<_> = (0..1000)
        .map(|n| json!({"id": format!("{n:024x}"), "expiresAt": EXPIRES_AT}))
        .collect();
    assert_eq!(parse(&json!(many)).len(), MAX_CLIENT_SECRETS);
}

#[test]
fn secret_values_are_neither_parsed_nor_stored() {
    let secrets = parse(&json!([{
        "id": ID, "expiresAt": EXPIRES_AT, "secret": "mdb_sa_sk_full", "maskedSecretValue": "mdb_sa_sk_****lues",
    }]));
    let stored = serde_json::to_string(&secrets).expect("JSON");
    for text in [stored, format!("{secrets:?}")] {
        assert!(text.contains(ID) && !text.contains("mdb_sa_sk"), "{text}");
    }
}

#[test]
fn body_without_a_list_of_secrets_is_rejected_without_echoing_it() {
    for body in [
        "",
        "<html>mdb_sa_sk_full</html>",
        "7",
        r#"["mdb_sa_sk_full"]"#,
        "{}",
        r#"{"secrets":null}"#,
        r#"{"secrets":"mdb_sa_sk_full"}"#,
        r#"{"secrets":{"id":"mdb_sa_sk_full"}}"#,
        r#"{"secrets":["mdb_sa_sk_full""#,
    ] {
        let error = parse_client_secrets(body).expect_err(body).to_string();
        assert!(!error.contains("mdb_sa_sk"), "{error}");
    }
    assert_eq!(parse_client_secrets(r#"{"secrets":[]}"#), Ok(Vec::new()));
}

#[test]
fn client_id_has_a_prefix_and_24_hexadecimal_digits() {
    assert!(is_client_id("mdb_sa_id_69681d39C9E8cfd375386316"));
    for invalid in [
        "",
        "69681d39c9e8cfd375386316",
        "mdb_sa_id_",
        "mdb_sa_id_69681d39c9e8cfd37538631",
        "mdb_sa_id_69681d39c9e8cfd3753863166",
        "mdb_sa_id_69681d39c9e8cfd37538631g",
        "mdb_sa_id_69681d39c9e8cfd3753/../x",
        "xmdb_sa_id_69681d39c9e8cfd375386316",
    ] {
        assert!(!is_client_id(invalid), "{invalid}");
    }
}
