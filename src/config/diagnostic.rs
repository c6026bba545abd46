//! Errors in the configuration.

use std::fmt;

use exporter_toolkit::diagnostic::Diagnostic;

/// All errors in a configuration, one a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError(pub Vec<Diagnostic>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "the configuration is wrong in {count} place{plural}:")?;
        self.0
            .iter()
            .try_for_each(|error| write!(f, "\n  - {error}"))
    }
}

impl From<Diagnostic> for ConfigError {
    fn from(error: Diagnostic) -> Self {
        Self(vec![error])
    }
}
