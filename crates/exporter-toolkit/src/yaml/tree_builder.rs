//! Builds a tree from the events of a YAML parser.

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, ScalarStyle, Tag};
use zeroize::Zeroizing;

use super::YamlValue;

/// Maximum number of values of a file, those that aliases repeat included.
const MAX_VALUES: usize = 250_000;
/// Maximum size of all scalars and keys of a file, those that aliases repeat included.
const MAX_TEXT_BYTES: usize = 16 << 20;

/// Builds the tree from the parser's events.
#[derive(Default)]
pub(super) struct TreeBuilder {
    open: Vec<OpenCollection>,
    anchors: HashMap<usize, YamlValue>,
    root: Option<YamlValue>,
    documents: usize,
    size: TreeSize,
}

/// A collection whose end has not been reached.
struct OpenCollection {
    anchor: usize,
    /// The sequence or mapping so far.
    value: YamlValue,
    /// Keys of the mapping.
    names: HashSet<String>,
    /// Key of the mapping whose value comes next.
    key: Option<MappingKey>,
    /// Value of `<<`.
    merged: Option<YamlValue>,
}

enum MappingKey {
    Name(String),
    /// `<<`, whose value has fields to merge.
    Merge,
}

/// Size of a tree, or of all values of a file.
#[derive(Default)]
struct TreeSize {
    values: usize,
    text_bytes: usize,
}

impl TreeSize {
    fn add(&mut self, value: &YamlValue) {
        self.values += 1;
        match value {
            YamlValue::Null => {}
            YamlValue::Scalar(text) => self.text_bytes += text.len(),
            YamlValue::Sequence(items) => items.iter().for_each(|item| self.add(item)),
            YamlValue::Mapping(fields) => {
                for (name, value) in fields {
                    self.values += 1;
                    self.text_bytes += name.len();
                    self.add(value);
                }
            }
        }
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.values > MAX_VALUES || self.text_bytes > MAX_TEXT_BYTES {
            return Err("too many values, with those that aliases repeat");
        }
        Ok(())
    }
}

impl TreeBuilder {
    pub(super) fn finish(self) -> YamlValue {
        self.root.unwrap_or(YamlValue::Null)
    }

    pub(super) fn on_event(&mut self, event: Event<'_>) -> Result<(), &'static str> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err("expected one document, got several");
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.size.values += 1;
                self.size.text_bytes += text.len();
                self.size.check()?;
                let text = Zeroizing::new(text.into_owned());
                if self.expects_key() {
                    return self.set_key(&text, style, anchor, tag.as_deref());
                }
                let value = parse_scalar(text, style, tag.as_deref())?;
                self.push_value(value, anchor)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                let value = YamlValue::Sequence(Vec::new());
                self.open_collection(value, anchor, tag.as_deref(), "seq")?;
            }
            Event::MappingStart(_, anchor, tag) => {
                let value = YamlValue::Mapping(Vec::new());
                self.open_collection(value, anchor, tag.as_deref(), "map")?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(mut closed) = self.open.pop() {
                    closed.merge_fields()?;
                    self.push_value(closed.value, closed.anchor)?;
                }
            }
            Event::Alias(anchor) => self.expand_alias(anchor)?,
            _ => {}
        }
        Ok(())
    }

    /// Opens a collection, which cannot be a key.
    fn open_collection(
        &mut self,
        value: YamlValue,
        anchor: usize,
        tag: Option<&Tag>,
        expected_tag: &str,
    ) -> Result<(), &'static str> {
        self.size.values += 1;
        self.size.check()?;
        if self.expects_key() {
            return Err("expected a text as a key");
        }
        if tag.is_some_and(|tag| !is_non_specific(tag) && tag.core_suffix() != Some(expected_tag)) {
            return Err("unsupported tag");
        }
        self.open.push(OpenCollection {
            anchor,
            value,
            names: HashSet::new(),
            key: None,
            merged: None,
        });
        Ok(())
    }

    fn expects_key(&self) -> bool {
        let last = self.open.last();
        last.is_some_and(|open| matches!(open.value, YamlValue::Mapping(_)) && open.key.is_none())
    }

    /// Sets the key of the next value. A key is a string, whatever it looks like.
    fn set_key(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
    ) -> Result<(), &'static str> {
        let is_merge = style == ScalarStyle::Plain && tag.is_none() && text == "<<";
        if anchor != 0 {
            let value = parse_scalar(Zeroizing::new(text.to_owned()), style, tag)?;
            self.store_anchor(anchor, &value)?;
        }
        let Some(mapping) = self.open.last_mut() else {
            return Ok(());
        };
        let is_new = if is_merge {
            mapping.merged.is_none()
        } else {
            mapping.names.insert(text.to_owned())
        };
        if !is_new {
            return Err("duplicate key");
        }
        mapping.key = Some(if is_merge {
            MappingKey::Merge
        } else {
            MappingKey::Name(text.to_owned())
        });
        Ok(())
    }

    /// Repeats the value of an anchor.
    fn expand_alias(&mut self, anchor: usize) -> Result<(), &'static str> {
        let value = self.anchors.get(&anchor).cloned();
        let value = value.ok_or("an alias within its own anchor")?;
        self.size.add(&value);
        self.size.check()?;
        if !self.expects_key() {
            return self.push_value(value, 0);
        }
        match value {
            YamlValue::Scalar(text) => self.set_key(&text, ScalarStyle::DoubleQuoted, 0, None),
            _ => Err("expected a text as a key"),
        }
    }

    /// Adds a value to the innermost open collection.
    fn push_value(&mut self, value: YamlValue, anchor: usize) -> Result<(), &'static str> {
        if anchor != 0 {
            self.store_anchor(anchor, &value)?;
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(value);
            return Ok(());
        };
        match (&mut open.value, open.key.take()) {
            (YamlValue::Sequence(items), _) => items.push(value),
            (YamlValue::Mapping(fields), Some(MappingKey::Name(name))) => {
                fields.push((name, value));
            }
            (_, Some(MappingKey::Merge)) => open.merged = Some(value),
            _ => return Err("expected a text as a key"),
        }
        Ok(())
    }

    fn store_anchor(&mut self, anchor: usize, value: &YamlValue) -> Result<(), &'static str> {
        self.size.add(value);
        self.size.check()?;
        self.anchors.insert(anchor, value.clone());
        Ok(())
    }
}

impl OpenCollection {
    /// Adds the fields of the mapping, or mappings, that `<<` has: explicit fields win, then those of the first mapping.
    fn merge_fields(&mut self) -> Result<(), &'static str> {
        let mappings = match self.merged.take() {
            None => return Ok(()),
            Some(YamlValue::Sequence(items)) => items,
            Some(mapping) => vec![mapping],
        };
        let YamlValue::Mapping(fields) = &mut self.value else {
            return Ok(());
        };
        for mapping in mappings {
            let YamlValue::Mapping(merged) = mapping else {
                return Err("expected a mapping, or a list of mappings, after <<");
            };
            fields.extend(
                merged
                    .into_iter()
                    .filter(|(name, _)| self.names.insert(name.clone())),
            );
        }
        Ok(())
    }
}

fn parse_scalar(
    text: Zeroizing<String>,
    style: ScalarStyle,
    tag: Option<&Tag>,
) -> Result<YamlValue, &'static str> {
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

/// Returns whether the tag is `!` alone, which makes any scalar a string.
fn is_non_specific(tag: &Tag) -> bool {
    tag.parts() == ("", "!")
}
