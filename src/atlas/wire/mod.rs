//! The wire model of the API: what is read of its answers.

mod keys;
mod lenient;
mod lists;

use serde::de::DeserializeOwned;

pub use keys::{ApiKey, KeyPage, Malformed, Members, Next, When};
pub use lists::{ListedOrg, ModelLimit, Project, fuzz_rate_limits};

pub(super) use keys::{key, page};
pub(super) use lists::{endpoint_set, list, model_limit, org, project};

use super::error::Problem;

/// Parses a body without repeating any of it when it cannot be parsed.
fn parse<T: DeserializeOwned>(body: &[u8], otherwise: &str) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let kind = match error.classify() {
            serde_json::error::Category::Eof => "it ends too early",
            serde_json::error::Category::Syntax => "it is no JSON",
            _ => otherwise,
        };
        Problem::Invalid(format!(
            "{kind} (line {}, column {})",
            error.line(),
            error.column()
        ))
    })
}
