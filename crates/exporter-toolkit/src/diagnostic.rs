//! Errors and warnings found in a configuration.

use std::fmt;

/// Error or warning about one value of a configuration.
///
/// Displays as one line: `path: message; help`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Position of the value, such as `tls_server_config.cert_file`; empty when the message names it.
    pub path: String,
    /// What is wrong. Holds no secret.
    pub message: String,
    /// What is expected instead.
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

    /// Adds what is expected instead.
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
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}
