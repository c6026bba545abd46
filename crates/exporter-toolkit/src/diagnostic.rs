//! Errors and warnings of a configuration.

use std::fmt;

/// An error or a warning about one value of a configuration.
///
/// Displays as one line, `path: message; help`, or as two lines with `{:#}`: `path: message` and `    help: help`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The position of the value, such as `tls_server_config.cert_file`; empty when the message contains it.
    pub path: String,
    /// The error: what failed, and the cause. Contains no secret.
    pub message: String,
    /// The remedy.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Creates a diagnostic without help.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
            help: None,
        }
    }

    /// Adds the remedy.
    #[must_use]
    pub fn with_help(self, help: impl Into<String>) -> Self {
        Self {
            help: Some(help.into()),
            ..self
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        let separator = if f.alternate() { "\n    help: " } else { "; " };
        match &self.help {
            Some(help) => write!(f, "{separator}{help}"),
            None => Ok(()),
        }
    }
}
