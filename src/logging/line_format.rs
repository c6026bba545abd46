//! A log line: `ts`, `level` and `msg`, then the fields of the event, as logfmt or JSON.

use std::fmt::{self, Display, Write as _};

use mongodb_atlas_client::Clock;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use super::LogFormat;
use crate::humanize::is_unprintable;

/// Formats events with the same keys and values in both formats.
pub(super) struct LineFormat {
    pub(super) format: LogFormat,
    pub(super) clock: Clock,
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Line {
            format: self.format,
            text: String::new(),
        };
        line.add_text("ts", &format!("{:.3}", self.clock.now()));
        line.add_text("level", level_name(*event.metadata().level()));
        event.record(&mut line);
        line.text.push_str(match self.format {
            LogFormat::Logfmt => "\n",
            LogFormat::Json => "}\n",
        });
        writer.write_str(&line.text)
    }
}

/// Returns the name of a level, as in `--log.level`.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

struct Line {
    format: LogFormat,
    text: String,
}

impl Line {
    fn start_field(&mut self, key: &str) {
        let is_first = self.text.is_empty();
        match self.format {
            LogFormat::Logfmt => {
                self.text.push_str(if is_first { "" } else { " " });
                self.text.push_str(key);
                self.text.push('=');
            }
            LogFormat::Json => {
                self.text.push(if is_first { '{' } else { ',' });
                push_quoted(&mut self.text, key);
                self.text.push(':');
            }
        }
    }

    fn add_text(&mut self, key: &str, value: &str) {
        self.start_field(key);
        if self.format == LogFormat::Json || needs_quotes(value) {
            push_quoted(&mut self.text, value);
        } else {
            self.text.push_str(value);
        }
    }

    /// Adds a number or a boolean, which are identical in both formats.
    fn add_literal(&mut self, field: &Field, value: impl Display) {
        self.start_field(key(field));
        let _ = write!(self.text, "{value}");
    }
}

impl Visit for Line {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add_literal(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add_literal(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add_literal(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinity.
        if value.is_finite() {
            self.add_literal(field, value);
        } else {
            self.add_text(key(field), &value.to_string());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_text(key(field), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add_text(key(field), &format!("{value:?}"));
    }
}

fn key(field: &Field) -> &'static str {
    match field.name() {
        "message" => "msg",
        name => name,
    }
}

/// Returns whether a logfmt value needs quotes: without quotes it would be truncated, be ambiguous, or control a terminal.
fn needs_quotes(value: &str) -> bool {
    value.is_empty() || value.contains(|c| c <= ' ' || c == '=' || c == '"' || is_unprintable(c))
}

/// Appends a JSON string; logfmt parsers expect the same syntax for quoted values. Texts from Atlas can contain characters
/// that control a terminal or change the text direction; all of them are escaped.
fn push_quoted(text: &mut String, value: &str) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            // All of these characters are in the Basic Multilingual Plane.
            c if is_unprintable(c) => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: LogFormat, values: &[(&str, &str)]) -> String {
        let mut line = Line {
            format,
            text: String::new(),
        };
        for (key, value) in values {
            line.add_text(key, value);
        }
        line.text
    }

    #[test]
    fn values_are_quoted_when_logfmt_requires_quotes() {
        for (value, expected) in [
            ("", r#"k="""#),
            ("plain", "k=plain"),
            (r"C:\dir", r"k=C:\dir"),
            ("two words", r#"k="two words""#),
            ("a=b", r#"k="a=b""#),
            (r#"say "hi""#, r#"k="say \"hi\"""#),
            ("x msg=\"key changed\"", r#"k="x msg=\"key changed\"""#),
            ("a\nlevel=info", r#"k="a\nlevel=info""#),
            ("tab\there\r", r#"k="tab\there\r""#),
            ("\u{1b}[31m", r#"k="\u001b[31m""#),
            ("\u{7f}\u{85}", r#"k="\u007f\u0085""#),
            (
                "\u{202e}evil\u{2066}\u{2028}",
                r#"k="\u202eevil\u2066\u2028""#,
            ),
            ("åß漢🔑", "k=åß漢🔑"),
            ("it's", "k=it's"),
        ] {
            assert_eq!(line(LogFormat::Logfmt, &[("k", value)]), expected);
            let json = line(LogFormat::Json, &[("a", ""), ("k", value)]) + "}";
            let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            assert_eq!(json["k"], value, "{json}");
            let unquoted = expected.strip_prefix("k=").unwrap_or_default();
            if unquoted.starts_with('"') {
                let read: String = serde_json::from_str(unquoted).expect("a JSON string");
                assert_eq!(read, value);
            }
            assert!(
                !json.to_string().contains(['\u{1b}', '\n']),
                "one line: {json}"
            );
        }
    }
}
