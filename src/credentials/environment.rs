//! The environment variables of the process, or a map that replaces them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// The environment variables from which configuration and secrets are read.
#[derive(Clone, PartialEq, Eq)]
pub enum Environment {
    /// The environment of the process.
    Process,
    /// These variables and no others, in tests and for `demo`.
    Map(Arc<HashMap<String, String>>),
}

impl Environment {
    /// Creates an environment with only these variables.
    pub fn from_vars<K: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let variables = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        Self::Map(Arc::new(variables.collect()))
    }

    /// Returns the value of a variable. An empty variable counts as not set, because shells and unit files can create empty
    /// variables.
    pub fn get(&self, name: &str) -> Option<String> {
        let value = match self {
            Self::Process => std::env::var_os(name)?.to_string_lossy().into_owned(),
            Self::Map(variables) => variables.get(name)?.clone(),
        };
        (!value.is_empty()).then_some(value)
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values can be secrets.
        f.write_str("Environment")
    }
}
