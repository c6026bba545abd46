use std::fmt::Write as _;

use super::*;

fn render(value: &YamlValue) -> String {
    match value {
        YamlValue::Null => "-".to_owned(),
        YamlValue::Scalar(text) => format!("{:?}", &**text),
        YamlValue::Sequence(items) => {
            format!(
                "[{}]",
                items.iter().map(render).collect::<Vec<_>>().join(",")
            )
        }
        YamlValue::Mapping(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| format!("{name}:{}", render(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
    }
}

fn parse_and_render(yaml: &str) -> Result<String, String> {
    parse(yaml).map(|value| render(&value))
}

/// Scalars that other parsers convert to other types.
const SCALARS: [&str; 31] = [
    "012345678901234567890123",
    "123456789012345678901234",
    "12345678901e345678901234",
    "1e3",
    "1.10",
    "0123",
    "0x10",
    "0o17",
    "1_000",
    "+1",
    "-0",
    ".inf",
    "-.INF",
    ".nan",
    "no",
    "yes",
    "on",
    "Off",
    "true",
    "True",
    "y",
    "nUll",
    "none",
    "2025-03-12",
    "2025-03-12T00:00:00Z",
    "1:30:00",
    "5m",
    "a b",
    "é",
    "=",
    "a: b",
];

#[test]
fn scalars_keep_the_exact_text_of_the_file() {
    for plain in SCALARS {
        let quoted = format!("{plain:?}");
        let forms = [
            format!("a: '{plain}'\n"),
            format!("a: {quoted}\n"),
            format!("a: !!str '{plain}'\n"),
            format!("a: |-\n  {plain}\n"),
            format!("a: >-\n  {plain}"),
            format!("\u{feff}---\r\na: '{plain}'\r\n...\r\n"),
            format!("x: &x '{plain}'\na: *x\n"),
            format!("a:\t'{plain}'\t# a comment\n"),
        ];
        let bare = (!plain.contains(": ")).then(|| {
            [
                format!("a: {plain}\n"),
                format!("a: {plain}"),
                format!("{{a: {plain}}}"),
                format!("a: ! {plain}\n"),
                format!("a: !!str {plain}\n"),
                format!("<<: {{a: {plain}}}\n"),
            ]
        });
        for yaml in forms.iter().chain(bare.iter().flatten()) {
            let value = parse(yaml).expect(yaml);
            assert_eq!(
                value.get("a").and_then(YamlValue::as_str),
                Some(plain),
                "{yaml}"
            );
        }
        let (list, key) = (format!("['{plain}']"), format!("'{plain}': x"));
        assert_eq!(parse_and_render(&list), Ok(format!("[{quoted}]")), "{list}");
        assert_eq!(
            parse_and_render(&key),
            Ok(format!("{{{plain}:\"x\"}}")),
            "{key}"
        );
        if bare.is_some() {
            let (list, key) = (format!("- {plain}"), format!("{plain}: x"));
            assert_eq!(parse_and_render(&list), Ok(format!("[{quoted}]")), "{list}");
            assert_eq!(
                parse_and_render(&key),
                Ok(format!("{{{plain}:\"x\"}}")),
                "{key}"
            );
        }
    }
}

#[test]
fn nulls_are_distinct_from_strings() {
    for (yaml, expected) in [
        ("", "-"),
        ("\u{feff}", "-"),
        ("# nothing\n", "-"),
        ("---\n...\n", "-"),
        ("~", "-"),
        ("a:\nb: ~\nc: null\nd: !!null\n", "{a:-,b:-,c:-,d:-}"),
        ("a: '~'\nb: \"null\"\nc: ''\n", r#"{a:"~",b:"null",c:""}"#),
        (
            "a: !!str\nb: !!str null\nc: ! ~\n",
            r#"{a:"",b:"null",c:"~"}"#,
        ),
        ("a: [1, two, '3',]\n", r#"{a:["1","two","3"]}"#),
        ("a:\n  b: 0s\n", r#"{a:{b:"0s"}}"#),
        ("a: |\n  one\n  two\n", r#"{a:"one\ntwo\n"}"#),
        ("a: |\n  one", r#"{a:"one"}"#),
        ("1: a\n~: b\ntrue: c\n", r#"{1:"a",~:"b",true:"c"}"#),
        ("x: &x k\n*x : v\n", r#"{x:"k",k:"v"}"#),
    ] {
        assert_eq!(parse_and_render(yaml).as_deref(), Ok(expected), "{yaml}");
    }
}

#[test]
fn merged_fields_never_replace_explicit_ones() {
    let base = "base: &base {a: 1, b: 2}\nmore: &more {b: 3, c: 4}\n";
    for (merging, expected) in [
        ("x: {<<: *base}", r#"{a:"1",b:"2"}"#),
        ("x: {b: 5, <<: *base}", r#"{b:"5",a:"1"}"#),
        ("x: {<<: *base, b: 5}", r#"{b:"5",a:"1"}"#),
        ("x: {<<: [*more, *base]}", r#"{b:"3",c:"4",a:"1"}"#),
        ("x: {'<<': 1}", r#"{<<:"1"}"#),
    ] {
        let value = parse(&format!("{base}{merging}\n")).expect(merging);
        assert_eq!(
            value.get("x").map(render).as_deref(),
            Some(expected),
            "{merging}"
        );
    }
    for bad in [
        "x: {<<: 1}",
        "x: {<<: [*base, 1]}",
        "x: {<<: *base, <<: *more}",
    ] {
        assert!(parse(&format!("{base}{bad}\n")).is_err(), "{bad}");
    }
}

#[test]
fn invalid_yaml_is_rejected_with_its_position_and_without_its_text() {
    for (yaml, cause) in [
        ("a: [1\nb: hunter2", ""),
        ("{hunter2", ""),
        ("a: 1\na: hunter2", "line 2, column 1: duplicate key"),
        ("a: {1: x, '1': hunter2}", "duplicate key"),
        ("a: hunter2\n---\nb: 1\n", "expected one document"),
        ("a: hunter2\n---\n", "expected one document"),
        ("a: !secret hunter2", "unsupported tag"),
        ("a: !!binary aHVudGVyMg==", "unsupported tag"),
        ("a: !!null hunter2", "unsupported tag"),
        ("a: !!map [hunter2]", "unsupported tag"),
        ("a: !!seq {hunter2: 1}", "unsupported tag"),
        ("a: !!set {hunter2}", "unsupported tag"),
        ("a: *hunter2", "unknown anchor"),
        ("a: &hunter2 [*hunter2]", "within its own anchor"),
        ("? [hunter2]\n: 1", "a text as a key"),
        ("x: &x {hunter2: 1}\n*x : 1", "a text as a key"),
        ("a:\n\t- hunter2", "tab"),
        (&"[".repeat(1000), "nested too deeply"),
        (&"- ".repeat(1000), "nested too deeply"),
    ] {
        let error = parse(yaml).expect_err(yaml);
        let is_located = error.starts_with("invalid YAML at line ") && error.contains(cause);
        assert!(is_located && !error.contains("hunter2"), "{yaml}: {error}");
    }
}

#[test]
fn too_many_values_and_alias_bombs_are_rejected() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let before = vec![format!("*a{}", n - 1); 10].join(", ");
        writeln!(bomb, "a{n}: &a{n} [{before}]").expect("a string accepts everything");
    }
    let long = "x".repeat(1 << 20);
    let long_texts = format!("a: &a {long}\nb: [{}]", vec!["*a"; 20].join(","));
    for yaml in [bomb, long_texts, "- \n".repeat(300_000)] {
        let error = parse(&yaml).expect_err("too much");
        assert!(error.contains("too many values"), "{error}");
    }
    let ids = "- 123456789012345678901234\n".repeat(100_000);
    assert!(parse(&ids).is_ok());
}

#[test]
fn booleans_are_those_of_yaml_1_1() {
    for text in ["true", "Yes", "ON", "y", "Y"] {
        assert_eq!(parse_bool(text), Some(true), "{text}");
    }
    for text in ["false", "No", "OFF", "n", "N"] {
        assert_eq!(parse_bool(text), Some(false), "{text}");
    }
    for text in ["", "1", "0", "tRue", "yES", "oN", "perhaps"] {
        assert_eq!(parse_bool(text), None, "{text}");
    }
}
