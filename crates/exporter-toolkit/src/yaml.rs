//! YAML as a tree of texts, so that a value in a file goes through the same checks as one on the
//! command line. A scalar is the text that stands in the file: an id of digits only is not a number, and `no` is
//! not a truth value, as in Go's YAML for a value that is wanted as a string. Texts are wiped when the tree is
//! dropped: a file may have secrets in it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, Tag};
use zeroize::Zeroizing;

use crate::bounded_file::{self, ReadOptions};

/// A value.
#[derive(Clone)]
pub enum YamlValue {
    /// `null`, `~`, or nothing.
    Null,
    /// A scalar, as it is written.
    Scalar(Zeroizing<String>),
    /// A list.
    Sequence(Vec<YamlValue>),
    /// Fields, in the order of the file.
    Mapping(Vec<(String, YamlValue)>),
}

/// Most bytes of a file that are read.
const MAX_BYTES: u64 = 4 << 20;
/// Most values of a file, those that aliases repeat included.
const MAX_NODES: usize = 250_000;
/// Most bytes of all texts of a file, those that aliases repeat included.
const MAX_TEXT_BYTES: usize = 16 << 20;

/// Reads a file. The error follows the file's name and repeats nothing of its content.
///
/// # Errors
/// When it cannot be read, is no YAML, has a key twice, or is larger than 4 MiB.
pub fn load_file(path: &Path) -> Result<YamlValue, String> {
    let text = bounded_file::read_text(path, ReadOptions::regular(MAX_BYTES))
        .map_err(|error| error.explain())?;
    parse(&text)
}

/// Reads a text of one document.
///
/// # Errors
/// As [`load_file`].
pub fn parse(text: &str) -> Result<YamlValue, String> {
    let options = granit_parser::options! {
        emit_comments: false,
        // as Go's YAML
        block_scalar_eof_without_line_feed: true,
    };
    let mut builder = TreeBuilder::default();
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) = next.map_err(|error| {
            // the parser's own words could repeat a part of the file
            let cause = match error.kind() {
                ErrorKind::TabNotAllowed
                | ErrorKind::TabInBlockIndentation
                | ErrorKind::TabInIndentation => ": tab in the indentation",
                ErrorKind::UnknownAnchor => ": unknown anchor",
                ErrorKind::RecursionLimitExceeded => ": nested too deeply",
                _ => "",
            };
            format!(
                "invalid YAML at {}{cause}",
                format_position(*error.marker())
            )
        })?;
        builder
            .on_event(event)
            .map_err(|cause| format!("invalid YAML at {}: {cause}", format_position(span.start)))?;
    }
    Ok(builder.root.unwrap_or(YamlValue::Null))
}

fn format_position(marker: Marker) -> String {
    format!("line {}, column {}", marker.line(), marker.col() + 1)
}

/// Makes a tree of the parser's events.
#[derive(Default)]
struct TreeBuilder {
    open: Vec<OpenCollection>,
    anchors: HashMap<usize, AnchoredValue>,
    root: Option<YamlValue>,
    documents: usize,
    nodes: usize,
    text_bytes: usize,
}

/// A value that aliases can repeat.
struct AnchoredValue {
    node: YamlValue,
    nodes: usize,
    text_bytes: usize,
}

/// A collection whose end has not come yet.
enum OpenCollection {
    Sequence {
        anchor: usize,
        items: Vec<YamlValue>,
    },
    Mapping {
        anchor: usize,
        fields: Vec<(String, YamlValue)>,
        names: HashSet<String>,
        /// The key whose value comes next.
        key: Option<MappingKey>,
        /// The value of `<<`.
        merged: Option<YamlValue>,
    },
}

enum MappingKey {
    Name(String),
    /// `<<`, whose value has fields to take over.
    Merge,
}

type Cause = &'static str;

impl TreeBuilder {
    fn on_event(&mut self, event: Event<'_>) -> Result<(), Cause> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err("expected one document, got several");
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.check_size(1, text.len())?;
                let text = Zeroizing::new(text.into_owned());
                let tag = tag.as_deref();
                if self.expects_key() {
                    return self.set_key(&text, style, anchor, tag);
                }
                let node = parse_scalar(text, style, tag)?;
                self.push_value(node, anchor)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_collection(tag.as_deref(), "seq")?;
                self.open.push(OpenCollection::Sequence {
                    anchor,
                    items: Vec::new(),
                });
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_collection(tag.as_deref(), "map")?;
                self.open.push(OpenCollection::Mapping {
                    anchor,
                    fields: Vec::new(),
                    names: HashSet::new(),
                    key: None,
                    merged: None,
                });
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(OpenCollection::Sequence { anchor, items }) => {
                    self.push_value(YamlValue::Sequence(items), anchor)?;
                }
                Some(OpenCollection::Mapping {
                    anchor,
                    mut fields,
                    mut names,
                    merged,
                    ..
                }) => {
                    merge_fields(&mut fields, &mut names, merged)?;
                    self.push_value(YamlValue::Mapping(fields), anchor)?;
                }
                None => {}
            },
            Event::Alias(anchor) => self.expand_alias(anchor)?,
            _ => {}
        }
        Ok(())
    }

    fn check_size(&mut self, nodes: usize, text_bytes: usize) -> Result<(), Cause> {
        self.nodes += nodes;
        self.text_bytes += text_bytes;
        if self.nodes > MAX_NODES || self.text_bytes > MAX_TEXT_BYTES {
            return Err("too many values, with those that aliases repeat");
        }
        Ok(())
    }

    /// Begins a collection, which can be no key.
    fn check_collection(&mut self, tag: Option<&Tag>, expected: &str) -> Result<(), Cause> {
        self.check_size(1, 0)?;
        if self.expects_key() {
            return Err("expected a text as a key");
        }
        match tag {
            Some(tag) if !is_non_specific(tag) && tag.core_suffix() != Some(expected) => {
                Err("unsupported tag")
            }
            _ => Ok(()),
        }
    }

    fn expects_key(&self) -> bool {
        matches!(
            self.open.last(),
            Some(OpenCollection::Mapping { key: None, .. })
        )
    }

    /// Takes `as_str` as a key: whatever it looks like, a key is a text.
    fn set_key(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
    ) -> Result<(), Cause> {
        if anchor != 0 {
            let node = parse_scalar(Zeroizing::new(text.to_owned()), style, tag)?;
            self.store_anchor(anchor, &node)?;
        }
        let Some(OpenCollection::Mapping {
            names, key, merged, ..
        }) = self.open.last_mut()
        else {
            return Ok(());
        };
        if style == ScalarStyle::Plain && tag.is_none() && text == "<<" {
            if merged.is_some() {
                return Err("duplicate key");
            }
            *key = Some(MappingKey::Merge);
            return Ok(());
        }
        if !names.insert(text.to_owned()) {
            return Err("duplicate key");
        }
        *key = Some(MappingKey::Name(text.to_owned()));
        Ok(())
    }

    /// Repeats what an anchor stands for.
    fn expand_alias(&mut self, anchor: usize) -> Result<(), Cause> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err("an alias within its own anchor");
        };
        let (nodes, text_bytes) = (anchored.nodes, anchored.text_bytes);
        self.check_size(nodes, text_bytes)?;
        let Some(node) = self.anchors.get(&anchor).map(|found| found.node.clone()) else {
            return Ok(());
        };
        if !self.expects_key() {
            return self.push_value(node, 0);
        }
        match node {
            YamlValue::Scalar(text) => self.set_key(&text, ScalarStyle::DoubleQuoted, 0, None),
            _ => Err("expected a text as a key"),
        }
    }

    /// Puts a value in its place.
    fn push_value(&mut self, node: YamlValue, anchor: usize) -> Result<(), Cause> {
        if anchor != 0 {
            self.store_anchor(anchor, &node)?;
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(OpenCollection::Sequence { items, .. }) => items.push(node),
            Some(OpenCollection::Mapping {
                fields,
                key,
                merged,
                ..
            }) => match key.take() {
                Some(MappingKey::Name(name)) => fields.push((name, node)),
                Some(MappingKey::Merge) => *merged = Some(node),
                None => return Err("expected a text as a key"),
            },
        }
        Ok(())
    }

    fn store_anchor(&mut self, anchor: usize, node: &YamlValue) -> Result<(), Cause> {
        let (nodes, text_bytes) = measure_tree(node);
        self.check_size(nodes, text_bytes)?;
        let anchored = AnchoredValue {
            node: node.clone(),
            nodes,
            text_bytes,
        };
        self.anchors.insert(anchor, anchored);
        Ok(())
    }
}

/// Takes over the fields of the mapping, or mappings, that `<<` has: those that stand in the mapping itself win,
/// then those of the first.
fn merge_fields(
    fields: &mut Vec<(String, YamlValue)>,
    names: &mut HashSet<String>,
    merged: Option<YamlValue>,
) -> Result<(), Cause> {
    let mappings = match merged {
        None => return Ok(()),
        Some(YamlValue::Sequence(items)) => items,
        Some(one) => vec![one],
    };
    for mapping in mappings {
        let YamlValue::Mapping(more) = mapping else {
            return Err("expected a mapping, or a list of mappings, after <<");
        };
        for (name, value) in more {
            if names.insert(name.clone()) {
                fields.push((name, value));
            }
        }
    }
    Ok(())
}

/// Number of values in a tree, and of bytes in its texts.
fn measure_tree(node: &YamlValue) -> (usize, usize) {
    let sum = |(nodes, bytes), (more, longer)| (nodes + more, bytes + longer);
    match node {
        YamlValue::Null => (1, 0),
        YamlValue::Scalar(text) => (1, text.len()),
        YamlValue::Sequence(items) => items.iter().map(measure_tree).fold((1, 0), sum),
        YamlValue::Mapping(members) => members
            .iter()
            .map(|(name, value)| sum(measure_tree(value), (1, name.len())))
            .fold((1, 0), sum),
    }
}

fn parse_scalar(
    text: Zeroizing<String>,
    style: ScalarStyle,
    tag: Option<&Tag>,
) -> Result<YamlValue, Cause> {
    let is_null =
        style == ScalarStyle::Plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL");
    match tag {
        None if is_null => Ok(YamlValue::Null),
        None => Ok(YamlValue::Scalar(text)),
        Some(tag) if is_non_specific(tag) => Ok(YamlValue::Scalar(text)),
        Some(tag) => match tag.core_suffix() {
            Some("str" | "int" | "float" | "bool") => Ok(YamlValue::Scalar(text)),
            Some("null") if is_null => Ok(YamlValue::Null),
            _ => Err("unsupported tag"),
        },
    }
}

/// `!` alone: not to be taken for anything but a text.
fn is_non_specific(tag: &Tag) -> bool {
    tag.parts() == ("", "!")
}

impl YamlValue {
    /// What the value is, in words.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Scalar(_) => "a text",
            Self::Sequence(_) => "a list",
            Self::Mapping(_) => "members",
        }
    }

    /// The member of that name.
    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Mapping(members) => members
                .iter()
                .find(|(member, _)| member == name)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// The item at that place of a list.
    pub fn get_index(&self, index: usize) -> Option<&Self> {
        match self {
            Self::Sequence(items) => items.get(index),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Scalar(text) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Debug for YamlValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // a text may be a secret
        f.write_str(self.type_name())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn render(node: &YamlValue) -> String {
        match node {
            YamlValue::Null => "-".to_owned(),
            YamlValue::Scalar(text) => format!("{:?}", &**text),
            YamlValue::Sequence(items) => {
                format!(
                    "[{}]",
                    items.iter().map(render).collect::<Vec<_>>().join(",")
                )
            }
            YamlValue::Mapping(members) => {
                let members = members
                    .iter()
                    .map(|(name, value)| format!("{name}:{}", render(value)));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }
        }
    }

    fn parse_and_render(yaml: &str) -> Result<String, String> {
        parse(yaml).map(|node| render(&node))
    }

    #[test]
    fn scalars_keep_the_exact_text_of_the_file() {
        for plain in [
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
        ] {
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
                let node = parse(yaml).expect(yaml);
                assert_eq!(
                    node.get("a").and_then(YamlValue::as_str),
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
            let node = parse(&format!("{base}{merging}\n")).expect(merging);
            assert_eq!(
                node.get("x").map(render).as_deref(),
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
            let named = error.starts_with("invalid YAML at line ") && error.contains(cause);
            assert!(named && !error.contains("hunter2"), "{yaml}: {error}");
        }
    }

    #[test]
    fn too_many_values_and_alias_bombs_are_rejected() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let before = vec![format!("*a{}", n - 1); 10].join(", ");
            writeln!(bomb, "a{n}: &a{n} [{before}]").expect("a text takes all");
        }
        let long = "x".repeat(1 << 20);
        let texts = format!("a: &a {long}\nb: [{}]", vec!["*a"; 20].join(","));
        for yaml in [bomb, texts, "- \n".repeat(300_000)] {
            let error = parse(&yaml).expect_err("too much");
            assert!(error.contains("too many values"), "{error}");
        }
        let ids = "- 123456789012345678901234\n".repeat(100_000);
        assert!(parse(&ids).is_ok());
    }
}
