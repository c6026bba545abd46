//! YAML as a tree of texts, so that a value in a file goes through the same checks as one on the
//! command line. Texts are wiped when the tree is dropped: a file may have secrets in it.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use zeroize::Zeroizing;

/// A value.
pub enum Node {
    /// `null`, or nothing.
    Nothing,
    /// A text, number or truth value, as a text.
    Text(Zeroizing<String>),
    /// A list.
    List(Vec<Node>),
    /// Members, in the order of the file.
    Members(Vec<(String, Node)>),
}

/// Most bytes of a file that are read.
const MAX_BYTES: u64 = 4 << 20;

/// Reads a file. The error is a sentence that names the place and repeats nothing of the file.
///
/// # Errors
/// When it cannot be read, is no YAML, has a member twice, or is larger than 4 MiB.
pub fn read(path: &Path) -> Result<Node, String> {
    let unreadable = |why: std::io::Error| {
        format!(
            "cannot be read: {why}; check that it exists and that the exporter's user may read it"
        )
    };
    let file = File::open(path).map_err(unreadable)?;
    let mut text = Zeroizing::new(String::with_capacity(64 << 10));
    file.take(MAX_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > MAX_BYTES {
        return Err("is larger than 4 MiB".to_owned());
    }
    parse(&text)
}

fn parse(text: &str) -> Result<Node, String> {
    if text.trim().is_empty() {
        return Ok(Node::Nothing);
    }
    serde_saphyr::from_str(text).map_err(|error| {
        // its own words would repeat lines of the file
        let place = error.location().map_or_else(String::new, |place| {
            format!(" in line {}, column {}", place.line(), place.column())
        });
        format!("is no YAML, or has a member twice{place}")
    })
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

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        fn text(value: &impl ToString) -> Node {
            Node::Text(Zeroizing::new(value.to_string()))
        }
        impl<'de> Visitor<'de> for Any {
            type Value = Node;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Nothing)
            }
            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Nothing)
            }
            fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<Node, D::Error> {
                Node::deserialize(value)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(text(&value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(text(&value))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(text(&value))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(text(&value))
            }
            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(text(&value))
            }
            fn visit_string<E>(self, value: String) -> Result<Node, E> {
                Ok(Node::Text(Zeroizing::new(value)))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Node::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Node::Members(members))
            }
        }
        deserializer.deserialize_any(Any)
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

    #[test]
    fn everything_becomes_texts() {
        for (yaml, expected) in [
            ("", "-"),
            ("# nothing\n", "-"),
            (
                "a: 5m\nb: 500\nc: true\nd: 2025-03-12\ne:\n",
                r#"{a:"5m",b:"500",c:"true",d:"2025-03-12",e:-}"#,
            ),
            ("a: [1, two, '3']\n", r#"{a:["1","two","3"]}"#),
            ("a:\n  b: 0s\n", r#"{a:{b:"0s"}}"#),
        ] {
            assert_eq!(
                parse(yaml).map(|node| shown(&node)).as_deref(),
                Ok(expected),
                "{yaml}"
            );
        }
    }

    #[test]
    fn what_is_no_yaml_is_refused_with_its_place_and_without_its_text() {
        for yaml in ["a: [1\nb: hunter2", "a: 1\na: hunter2", "{hunter2"] {
            let error = parse(yaml).expect_err(yaml);
            assert!(
                error.contains("line") && !error.contains("hunter2"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_number_of_aliases_that_explodes_is_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let before = vec![format!("*a{}", n - 1); 10].join(", ");
            writeln!(bomb, "a{n}: &a{n} [{before}]").expect("a text takes all");
        }
        assert!(parse(&bomb).is_err());
    }
}
