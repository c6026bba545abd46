//! The wire model of the API: what is read of its answers.

mod keys;
mod lenient;
mod lists;

pub use keys::{
    ApiKey, ApiTime, InvalidItem, KeyPage, MAX_NAME_CHARS, OptionalFields, fuzz_key_page,
};
pub use lenient::NextLink;
pub use lists::{ModelLimit, OrgSummary, Project, fuzz_rate_limits};

pub(super) use keys::{parse_key, parse_key_page};
pub(super) use lenient::{JsonField, LenientCount, ListPage};
pub(super) use lists::{
    parse_endpoint_set, parse_list, parse_model_limit, parse_org, parse_org_name, parse_project,
};

use super::error::ErrorKind;

/// The error for a body that is not what it should be. Repeats nothing of it.
fn invalid_json(error: &serde_json::Error, otherwise: &str) -> ErrorKind {
    let kind = match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Syntax => "it is no JSON",
        _ => otherwise,
    };
    ErrorKind::InvalidResponse(format!(
        "{kind} (line {}, column {})",
        error.line(),
        error.column()
    ))
}

/// The one value of a body.
///
/// # Errors
/// [`ErrorKind::InvalidResponse`] when the body is no JSON.
fn parse_json(body: &str) -> Result<JsonField<'_>, ErrorKind> {
    let value: &serde_json::value::RawValue =
        serde_json::from_str(body).map_err(|error| invalid_json(&error, "it is no JSON"))?;
    Ok(JsonField::from(value))
}
