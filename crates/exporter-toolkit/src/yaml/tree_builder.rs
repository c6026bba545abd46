//! Builds a tree from the events of a YAML parser.

use std::collections::{HashMap, HashSet};

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, StrInput, Tag};
use zeroize::Zeroizing;

use super::YamlValue;

/// The maximum size of a tree, including expanded aliases.
const MAX_TREE_SIZE: usize = 16 << 20;
/// The size of a value, a key or the end of a collection, without its text.
const VALUE_SIZE: usize = 64;

/// Reads one document. Recursive; the parser limits the depth.
pub(super) struct TreeBuilder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// The position of the last event.
    position: Marker,
    anchors: HashMap<usize, YamlValue>,
    /// The size of all values so far.
    size: usize,
}

impl<'a> TreeBuilder<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let options = granit_parser::options! {
            emit_comments: false,
            // Go's YAML does the same.
            block_scalar_eof_without_line_feed: true,
        };
        Self {
            parser: Parser::new_from_str_with_options(text, options),
            position: Marker::default(),
            anchors: HashMap::new(),
            size: 0,
        }
    }

    /// Reads the whole text.
    pub(super) fn read_document(mut self) -> Result<YamlValue, String> {
        let mut root = None;
        loop {
            match self.next_event()? {
                Event::StreamEnd => return Ok(root.unwrap_or(YamlValue::Null)),
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(self.error("expected one document, got several"));
                }
                Event::DocumentStart(..) => {
                    let event = self.next_event()?;
                    root = Some(self.read_value(event)?);
                }
                _ => {}
            }
        }
    }

    fn next_event(&mut self) -> Result<Event<'a>, String> {
        let Some(next) = self.parser.next() else {
            return Ok(Event::StreamEnd);
        };
        let (event, span) = next.map_err(|error| describe(&error))?;
        self.position = span.start;
        let text_size = match &event {
            Event::Scalar(text, ..) => text.len(),
            _ => 0,
        };
        self.add_size(VALUE_SIZE + text_size)?;
        Ok(event)
    }

    fn error(&self, cause: &str) -> String {
        format!("{}: {cause}", describe_position(self.position))
    }

    fn add_size(&mut self, size: usize) -> Result<(), String> {
        self.size += size;
        if self.size > MAX_TREE_SIZE {
            return Err(self.error("too many values, including expanded aliases"));
        }
        Ok(())
    }

    /// Reads the value that starts with `event`.
    fn read_value(&mut self, event: Event<'a>) -> Result<YamlValue, String> {
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let text = Zeroizing::new(text.into_owned());
                (self.scalar(text, style, tag.as_deref())?, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_collection_tag(tag.as_deref(), "seq")?;
                (self.read_sequence()?, anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_collection_tag(tag.as_deref(), "map")?;
                (self.read_mapping()?, anchor)
            }
            Event::Alias(anchor) => return self.expand_alias(anchor),
            _ => return Err(self.error("expected a value")),
        };
        self.store_anchor(anchor, &value)?;
        Ok(value)
    }

    fn read_sequence(&mut self) -> Result<YamlValue, String> {
        let mut items = Vec::new();
        loop {
            match self.next_event()? {
                Event::SequenceEnd => return Ok(YamlValue::Sequence(items)),
                event => items.push(self.read_value(event)?),
            }
        }
    }

    fn read_mapping(&mut self) -> Result<YamlValue, String> {
        let mut fields = Vec::new();
        let mut names = HashSet::new();
        let mut merged = None;
        loop {
            let event = self.next_event()?;
            if event == Event::MappingEnd {
                break;
            }
            let is_merge =
                matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let name = self.read_key(event)?;
            let is_new = if is_merge {
                merged.is_none()
            } else {
                names.insert(name.clone())
            };
            if !is_new {
                return Err(self.error("duplicate key"));
            }
            let event = self.next_event()?;
            let value = self.read_value(event)?;
            if is_merge {
                merged = Some(value);
            } else {
                fields.push((name, value));
            }
        }
        // Explicit fields have precedence, then those of the first mapping.
        let mappings = match merged {
            None => Vec::new(),
            Some(YamlValue::Sequence(items)) => items,
            Some(mapping) => vec![mapping],
        };
        for mapping in mappings {
            let YamlValue::Mapping(more) = mapping else {
                return Err(self.error("expected a mapping, or a list of mappings, after <<"));
            };
            let is_new = |(name, _): &(String, YamlValue)| names.insert(name.clone());
            fields.extend(more.into_iter().filter(is_new));
        }
        Ok(YamlValue::Mapping(fields))
    }

    /// Reads a key. Every key is a string.
    fn read_key(&mut self, event: Event<'a>) -> Result<String, String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let name = text.into_owned();
                if anchor != 0 {
                    let text = Zeroizing::new(name.clone());
                    let value = self.scalar(text, style, tag.as_deref())?;
                    self.store_anchor(anchor, &value)?;
                }
                return Ok(name);
            }
            Event::Alias(anchor) => {
                if let YamlValue::Scalar(text) = self.expand_alias(anchor)? {
                    return Ok(text.to_string());
                }
            }
            _ => {}
        }
        Err(self.error("expected a text as a key"))
    }

    /// Returns a copy of the value of an anchor.
    fn expand_alias(&mut self, anchor: usize) -> Result<YamlValue, String> {
        let value = self.anchors.get(&anchor).cloned();
        let value = value.ok_or_else(|| self.error("alias within its own anchor"))?;
        self.add_size(tree_size(&value))?;
        Ok(value)
    }

    /// Stores the value of an anchor for its aliases; an `anchor` of 0 means that there is none.
    fn store_anchor(&mut self, anchor: usize, value: &YamlValue) -> Result<(), String> {
        if anchor != 0 {
            self.add_size(tree_size(value))?;
            self.anchors.insert(anchor, value.clone());
        }
        Ok(())
    }

    fn check_collection_tag(&self, tag: Option<&Tag>, expected: &str) -> Result<(), String> {
        if tag.is_some_and(|tag| !is_non_specific(tag) && tag.core_suffix() != Some(expected)) {
            return Err(self.error("unsupported tag"));
        }
        Ok(())
    }

    fn scalar(
        &self,
        text: Zeroizing<String>,
        style: ScalarStyle,
        tag: Option<&Tag>,
    ) -> Result<YamlValue, String> {
        let is_null = style == ScalarStyle::Plain
            && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL");
        match tag.map(|tag| (is_non_specific(tag), tag.core_suffix())) {
            None | Some((false, Some("null"))) if is_null => Ok(YamlValue::Null),
            None | Some((true, _) | (_, Some("str" | "int" | "float" | "bool"))) => {
                Ok(YamlValue::Scalar(text))
            }
            Some(_) => Err(self.error("unsupported tag")),
        }
    }
}

/// Returns whether the tag is `!`, which makes every scalar a string.
fn is_non_specific(tag: &Tag) -> bool {
    tag.parts() == ("", "!")
}

fn tree_size(value: &YamlValue) -> usize {
    let content = match value {
        YamlValue::Null => 0,
        YamlValue::Scalar(text) => text.len(),
        YamlValue::Sequence(items) => items.iter().map(tree_size).sum(),
        YamlValue::Mapping(fields) => {
            let sizes = fields
                .iter()
                .map(|(name, value)| VALUE_SIZE + name.len() + tree_size(value));
            sizes.sum()
        }
    };
    VALUE_SIZE + content
}

/// Describes an error without the parser's message, which may contain a part of the file.
fn describe(error: &ScanError) -> String {
    let cause = match error.kind() {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation => ": tab in indentation",
        ErrorKind::UnknownAnchor => ": unknown anchor",
        ErrorKind::RecursionLimitExceeded => ": nested too deeply",
        _ => "",
    };
    format!("{}{cause}", describe_position(*error.marker()))
}

fn describe_position(marker: Marker) -> String {
    let (line, column) = (marker.line(), marker.col() + 1);
    format!("invalid YAML at line {line}, column {column}")
}
