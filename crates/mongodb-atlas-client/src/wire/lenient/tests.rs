use super::*;

fn text(json: &str) -> String {
    JsonField::new(json).truncated_string(250).expect("a text")
}

#[test]
fn lone_surrogate_becomes_a_replacement_character() {
    for (json, expected) in [
        (r#""team rocket \ud83d""#, "team rocket \u{fffd}"),
        (r#""\uD83D at the start""#, "\u{fffd} at the start"),
        (r#""\ude00 low alone""#, "\u{fffd} low alone"),
        (r#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
        (r#""\ud83d\n""#, "\u{fffd}\n"),
        (r#""\ud83dA""#, "\u{fffd}A"),
        (r#""\ud83d\\ude00""#, "\u{fffd}\\ude00"),
        (r#""\\ud83d is no escape""#, "\\ud83d is no escape"),
        (r#""\ud83d\ude00 pair""#, "\u{1f600} pair"),
        (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
        (
            r#""\u0000\b\f\n\r\t\/\"\\\u00e9""#,
            "\0\u{8}\u{c}\n\r\t/\"\\é",
        ),
    ] {
        assert_eq!(text(json), expected, "{json}");
    }
}

#[test]
fn strings_are_truncated_at_a_character() {
    for (json, expected, truncated) in [
        ("\"abc\"", "abc", false),
        ("\"abcd\"", "abc", true),
        ("\"äöü\"", "äöü", false),
        ("\"äöüß\"", "äöü", true),
        (r#""\ud83d\ude00\ud83d\ude00\ud83d\ude00""#, "😀😀😀", false),
        (
            r#""\ud83d\ude00\ud83d\ude00\ud83d\ude00\n""#,
            "😀😀😀",
            true,
        ),
    ] {
        let expected = LenientString::Valid {
            text: expected.to_owned(),
            truncated,
        };
        assert_eq!(JsonField::new(json).lenient_string(3), expected, "{json}");
    }
    assert_eq!(
        JsonField::new("null").lenient_string(3),
        LenientString::Missing
    );
    assert_eq!(JsonField(None).lenient_string(3), LenientString::Missing);
    for other in ["1", "1e999", "true", "{\"a\":1}", "[\"a\"]"] {
        assert_eq!(
            JsonField::new(other).lenient_string(3),
            LenientString::Invalid,
            "{other}"
        );
    }
}

#[test]
fn counts_accept_integers_floats_and_strings() {
    let digits = "9".repeat(100_000);
    for (json, expected) in [
        ("3600", Some(3600)),
        ("3600.0", Some(3600)),
        ("3.6e3", Some(3600)),
        ("\"3600\"", Some(3600)),
        ("\" 3600.0 \"", Some(3600)),
        ("18446744073709551615", Some(u64::MAX)),
        ("-3", None),
        ("1e999", None),
        ("\"many\"", None),
        ("\"NaN\"", None),
        ("null", None),
        ("true", None),
        ("[1]", None),
        ("{\"a\":1}", None),
        (digits.as_str(), None),
    ] {
        assert_eq!(JsonField::new(json).as_u64(), expected, "{json:.20}");
    }
    let token = |json| serde_json::from_str::<LenientCount>(json).expect(json);
    assert_eq!(token("\"3600\""), LenientCount(Some(3600)));
    assert_eq!(token("{\"in\":3600}"), LenientCount(None));
}

#[test]
fn last_duplicate_field_is_used() {
    let object = JsonField::new(r#"{"a":1,"b":{"a":7},"a":2,"\u0061":3,"c":[1e999]}"#);
    let [a, c] = object.fields(["a", "c"]).expect("an object");
    assert_eq!(a.as_u64(), Some(3));
    assert!(c.for_each_element(|_| {}));
    assert!(JsonField::new("[1]").fields(["a"]).is_none());
}
