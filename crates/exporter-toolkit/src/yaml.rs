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
pub enum Node {
    /// `null`, `~`, or nothing.
    Nothing,
    /// A scalar, as it is written.
    Text(Zeroizing<String>),
    /// A list.
    List(Vec<Node>),
    /// Fields, in the order of the file.
    Members(Vec<(String, Node)>),
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
pub fn read(path: &Path) -> Result<Node, String> {
    let text = bounded_file::read_text(path, ReadOptions::regular(MAX_BYTES))
        .map_err(|error| error.explain())?;
    parse(&text)
}

/// Reads a text of one document.
///
/// # Errors
/// As [`read`].
pub fn parse(text: &str) -> Result<Node, String> {
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
            format!("invalid YAML at {}{cause}", position(*error.marker()))
        })?;
        builder
            .on_event(event)
            .map_err(|cause| format!("invalid YAML at {}: {cause}", position(span.start)))?;
    }
    Ok(builder.root.unwrap_or(Node::Nothing))
}

fn position(marker: Marker) -> String {
    format!("line {}, column {}", marker.line(), marker.col() + 1)
}

/// Makes a tree of the parser's events.
#[derive(Default)]
struct TreeBuilder {
    open: Vec<Collection>,
    anchors: HashMap<usize, Anchored>,
    root: Option<Node>,
    documents: usize,
    nodes: usize,
    text_bytes: usize,
}

/// A value that aliases can repeat.
struct Anchored {
    node: Node,
    nodes: usize,
    text_bytes: usize,
}

/// A collection whose end has not come yet.
enum Collection {
    Sequence {
        anchor: usize,
        items: Vec<Node>,
    },
    Mapping {
        anchor: usize,
        fields: Vec<(String, Node)>,
        names: HashSet<String>,
        /// The key whose value comes next.
        key: Option<Key>,
        /// The value of `<<`.
        merged: Option<Node>,
    },
}

enum Key {
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
                self.count(1, text.len())?;
                let text = Zeroizing::new(text.into_owned());
                let tag = tag.as_deref();
                if self.expects_key() {
                    return self.set_key(&text, style, anchor, tag);
                }
                let node = scalar(text, style, tag)?;
                self.add(node, anchor)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.begin(tag.as_deref(), "seq")?;
                self.open.push(Collection::Sequence {
                    anchor,
                    items: Vec::new(),
                });
            }
            Event::MappingStart(_, anchor, tag) => {
                self.begin(tag.as_deref(), "map")?;
                self.open.push(Collection::Mapping {
                    anchor,
                    fields: Vec::new(),
                    names: HashSet::new(),
                    key: None,
                    merged: None,
                });
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Collection::Sequence { anchor, items }) => {
                    self.add(Node::List(items), anchor)?;
                }
                Some(Collection::Mapping {
                    anchor,
                    mut fields,
                    mut names,
                    merged,
                    ..
                }) => {
                    merge(&mut fields, &mut names, merged)?;
                    self.add(Node::Members(fields), anchor)?;
                }
                None => {}
            },
            Event::Alias(anchor) => self.repeat(anchor)?,
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, nodes: usize, text_bytes: usize) -> Result<(), Cause> {
        self.nodes += nodes;
        self.text_bytes += text_bytes;
        if self.nodes > MAX_NODES || self.text_bytes > MAX_TEXT_BYTES {
            return Err("too many values, with those that aliases repeat");
        }
        Ok(())
    }

    /// Begins a collection, which can be no key.
    fn begin(&mut self, tag: Option<&Tag>, expected: &str) -> Result<(), Cause> {
        self.count(1, 0)?;
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
            Some(Collection::Mapping { key: None, .. })
        )
    }

    /// Takes `text` as a key: whatever it looks like, a key is a text.
    fn set_key(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
    ) -> Result<(), Cause> {
        if anchor != 0 {
            let node = scalar(Zeroizing::new(text.to_owned()), style, tag)?;
            self.remember(anchor, &node)?;
        }
        let Some(Collection::Mapping {
            names, key, merged, ..
        }) = self.open.last_mut()
        else {
            return Ok(());
        };
        if style == ScalarStyle::Plain && tag.is_none() && text == "<<" {
            if merged.is_some() {
                return Err("duplicate key");
            }
            *key = Some(Key::Merge);
            return Ok(());
        }
        if !names.insert(text.to_owned()) {
            return Err("duplicate key");
        }
        *key = Some(Key::Name(text.to_owned()));
        Ok(())
    }

    /// Repeats what an anchor stands for.
    fn repeat(&mut self, anchor: usize) -> Result<(), Cause> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err("an alias within its own anchor");
        };
        let (nodes, text_bytes) = (anchored.nodes, anchored.text_bytes);
        self.count(nodes, text_bytes)?;
        let Some(node) = self.anchors.get(&anchor).map(|found| found.node.clone()) else {
            return Ok(());
        };
        if !self.expects_key() {
            return self.add(node, 0);
        }
        match node {
            Node::Text(text) => self.set_key(&text, ScalarStyle::DoubleQuoted, 0, None),
            _ => Err("expected a text as a key"),
        }
    }

    /// Puts a value in its place.
    fn add(&mut self, node: Node, anchor: usize) -> Result<(), Cause> {
        if anchor != 0 {
            self.remember(anchor, &node)?;
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Collection::Sequence { items, .. }) => items.push(node),
            Some(Collection::Mapping {
                fields,
                key,
                merged,
                ..
            }) => match key.take() {
                Some(Key::Name(name)) => fields.push((name, node)),
                Some(Key::Merge) => *merged = Some(node),
                None => return Err("expected a text as a key"),
            },
        }
        Ok(())
    }

    fn remember(&mut self, anchor: usize, node: &Node) -> Result<(), Cause> {
        let (nodes, text_bytes) = size(node);
        self.count(nodes, text_bytes)?;
        let anchored = Anchored {
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
fn merge(
    fields: &mut Vec<(String, Node)>,
    names: &mut HashSet<String>,
    merged: Option<Node>,
) -> Result<(), Cause> {
    let mappings = match merged {
        None => return Ok(()),
        Some(Node::List(items)) => items,
        Some(one) => vec![one],
    };
    for mapping in mappings {
        let Node::Members(more) = mapping else {
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
fn size(node: &Node) -> (usize, usize) {
    let sum = |(nodes, bytes), (more, longer)| (nodes + more, bytes + longer);
    match node {
        Node::Nothing => (1, 0),
        Node::Text(text) => (1, text.len()),
        Node::List(items) => items.iter().map(size).fold((1, 0), sum),
        Node::Members(members) => members
            .iter()
            .map(|(name, value)| sum(size(value), (1, name.len())))
            .fold((1, 0), sum),
    }
}

fn scalar(text: Zeroizing<String>, style: ScalarStyle, tag: Option<&Tag>) -> Result<Node, Cause> {
    let is_null =
        style == ScalarStyle::Plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL");
    match tag {
        None if is_null => Ok(Node::Nothing),
        None => Ok(Node::Text(text)),
        Some(tag) if is_non_specific(tag) => Ok(Node::Text(text)),
        Some(tag) => match tag.core_suffix() {
            Some("str" | "int" | "float" | "bool") => Ok(Node::Text(text)),
            Some("null") if is_null => Ok(Node::Nothing),
            _ => Err("unsupported tag"),
        },
    }
}

/// `!` alone: not to be taken for anything but a text.
fn is_non_specific(tag: &Tag) -> bool {
    tag.parts() == ("", "!")
}

impl Node {
    /// What the value is, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Members(_) => "members",
        }
    }

    /// The member of that name.
    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Members(members) => members
                .iter()
                .find(|(member, _)| member == name)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// The item at that place of a list.
    pub fn item(&self, index: usize) -> Option<&Self> {
        match self {
            Self::List(items) => items.get(index),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // a text may be a secret
        f.write_str(self.kind())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn shown(node: &Node) -> String {
        match node {
            Node::Nothing => "-".to_owned(),
            Node::Text(text) => format!("{:?}", &**text),
            Node::List(items) => {
                format!(
                    "[{}]",
                    items.iter().map(shown).collect::<Vec<_>>().join(",")
                )
            }
            Node::Members(members) => {
                let members = members
                    .iter()
                    .map(|(name, value)| format!("{name}:{}", shown(value)));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }
        }
    }

    fn parsed(yaml: &str) -> Result<String, String> {
        parse(yaml).map(|node| shown(&node))
    }

    #[test]
    fn a_scalar_is_the_text_that_stands_in_the_file() {
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
                assert_eq!(node.get("a").and_then(Node::text), Some(plain), "{yaml}");
            }
            let (list, key) = (format!("['{plain}']"), format!("'{plain}': x"));
            assert_eq!(parsed(&list), Ok(format!("[{quoted}]")), "{list}");
            assert_eq!(parsed(&key), Ok(format!("{{{plain}:\"x\"}}")), "{key}");
            if bare.is_some() {
                let (list, key) = (format!("- {plain}"), format!("{plain}: x"));
                assert_eq!(parsed(&list), Ok(format!("[{quoted}]")), "{list}");
                assert_eq!(parsed(&key), Ok(format!("{{{plain}:\"x\"}}")), "{key}");
            }
        }
    }

    #[test]
    fn nothing_is_told_apart_from_texts() {
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
            assert_eq!(parsed(yaml).as_deref(), Ok(expected), "{yaml}");
        }
    }

    #[test]
    fn fields_that_are_merged_never_replace_those_that_stand_there() {
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
                node.get("x").map(shown).as_deref(),
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
    fn what_is_no_yaml_is_refused_with_its_place_and_without_its_text() {
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
    fn many_values_and_aliases_that_explode_are_refused() {
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
