//! The wire model of the API: what is read of its answers.

mod keys;
mod lenient;
mod lists;

pub use keys::{ApiKey, KeyPage, MAX_NAME_CHARS, Malformed, Members, When, parse_key_page};
pub use lenient::Next;
pub use lists::{ListedOrg, ModelLimit, Project, fuzz_rate_limits};

pub(super) use keys::{key, page};
pub(super) use lenient::{Field, LenientNumber, Page};
pub(super) use lists::{endpoint_set, list, model_limit, org, org_name, project};

use super::error::Problem;

/// The error for a body that is not what it should be. Repeats nothing of it.
fn invalid(error: &serde_json::Error, otherwise: &str) -> Problem {
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
}

/// The one value of a body.
///
/// # Errors
/// [`Problem::Invalid`] when the body is no JSON.
fn value(body: &str) -> Result<Field<'_>, Problem> {
    let value: &serde_json::value::RawValue =
        serde_json::from_str(body).map_err(|error| invalid(&error, "it is no JSON"))?;
    Ok(Field::from(value))
}
