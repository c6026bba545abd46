//! A parser of the text format, independent of the encoder.

use std::collections::BTreeMap;

/// One series of a scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// A scrape, parsed on access.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    pub text: String,
}

impl Scrape {
    pub fn parse(text: &str) -> Self {
        Self {
            text: text.to_owned(),
        }
    }

    fn sample_lines(&self) -> impl Iterator<Item = &str> {
        let lines = self.text.lines();
        lines.filter(|line| !line.starts_with('#') && !line.is_empty())
    }

    /// Returns all series.
    pub fn series(&self) -> Vec<Series> {
        self.sample_lines().map(parse_sample).collect()
    }

    /// Returns the series with this name.
    pub fn with_name(&self, name: &str) -> impl Iterator<Item = Series> {
        let of_name = self.sample_lines().filter(move |line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        of_name.map(parse_sample)
    }

    pub fn values(&self, name: &str) -> Vec<f64> {
        self.with_name(name).map(|series| series.value).collect()
    }

    pub fn sum(&self, name: &str) -> f64 {
        self.values(name).iter().sum()
    }

    /// Returns the value of the only series with (at least) these labels.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.with_name(name).filter(|series| {
            labels
                .iter()
                .all(|(label, value)| series.labels.get(*label).map(String::as_str) == Some(*value))
        });
        let value = found.next()?.value;
        assert!(
            found.next().is_none(),
            "more than one {name} with {labels:?}"
        );
        Some(value)
    }

    /// Returns the inventory series that change only with a poll, in order.
    pub fn inventory_series(&self) -> Vec<(String, BTreeMap<String, String>, String)> {
        let ages = [
            "age_seconds",
            "idle_seconds",
            "keys_idle",
            "keys_never_used",
            "keys_disabled",
        ];
        self.series()
            .into_iter()
            .filter(|series| {
                series.name.starts_with("mongodbatlas_")
                    && !ages.iter().any(|age| series.name.ends_with(age))
            })
            .map(|series| {
                (
                    series.name.clone(),
                    series.labels.clone(),
                    series.value.to_string(),
                )
            })
            .collect()
    }

    pub fn poll_failures(&self, org: &str, reason: &str) -> f64 {
        self.get(
            "atlas_ai_keys_exporter_org_poll_failures_total",
            &[("org_id", org), ("reason", reason)],
        )
        .expect("every reason begins at 0")
    }
}

fn parse_sample(line: &str) -> Series {
    let Some((name, rest)) = line.split_once('{') else {
        let (name, value) = line.split_once(' ').unwrap();
        return Series {
            name: name.to_owned(),
            labels: BTreeMap::new(),
            value: value.parse().unwrap(),
        };
    };
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    let value = loop {
        let (label, after) = rest.split_once("=\"").unwrap();
        let end = find_closing_quote(after).unwrap_or_else(|| panic!("no closing quote: {line}"));
        let value = unescape(&after[..end]);
        let before = labels.insert(label.to_owned(), value);
        assert!(before.is_none(), "a label twice: {line}");
        let after = &after[end + 1..];
        if let Some(value) = after.strip_prefix('}') {
            break value;
        }
        rest = after
            .strip_prefix(',')
            .unwrap_or_else(|| panic!("no comma: {line}"));
    };
    Series {
        name: name.to_owned(),
        labels,
        value: value
            .trim()
            .parse()
            .unwrap_or_else(|_| panic!("no number: {line}")),
    }
}

/// Returns the position of the quote that ends a label value.
fn find_closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut value = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        value.push(match letter {
            '\\' => match letters.next().expect("an escaped character") {
                'n' => '\n',
                escaped => escaped,
            },
            plain => plain,
        });
    }
    value
}
