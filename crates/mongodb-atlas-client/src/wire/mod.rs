//! The used parts of the API's responses.

mod keys;
mod lenient;
mod lists;
mod service_account;

pub use keys::{
    ApiKey, ApiTime, InvalidItem, KeyAttributes, KeyPage, MAX_NAME_CHARS, OptionalFields,
    fuzz_key_page,
};
pub use lenient::NextLink;
pub use lists::{ModelLimit, OrgSummary, Project, fuzz_rate_limits};
pub use service_account::ClientSecret;

pub(crate) use keys::{parse_key, parse_key_page};
pub(crate) use lenient::{JsonField, LenientCount};
pub(crate) use lists::{
    parse_endpoint_set, parse_list, parse_model_limit, parse_org, parse_org_name, parse_project,
};
pub(crate) use service_account::{is_client_id, parse_client_secrets};

use crate::error::ErrorKind;

/// Maximum length of a free text, in characters; the rest is truncated. Atlas' own limit for names is 250 or less.
const MAX_TEXT_CHARS: usize = 250;
/// Maximum length of an id. Atlas' own have 24 characters.
const MAX_ID_CHARS: usize = 100;

/// Returns the error for an invalid body, without any of its content.
fn invalid_json(error: &serde_json::Error, otherwise: &str) -> ErrorKind {
    let kind = match error.classify() {
        serde_json::error::Category::Eof => "truncated JSON",
        serde_json::error::Category::Syntax => "invalid JSON",
        _ => otherwise,
    };
    ErrorKind::InvalidResponse(format!(
        "{kind} at line {}, column {}",
        error.line(),
        error.column()
    ))
}

/// Returns the value of a body.
///
/// # Errors
/// [`ErrorKind::InvalidResponse`] when the body is not JSON.
pub(crate) fn parse_json(body: &str) -> Result<JsonField<'_>, ErrorKind> {
    let value: &serde_json::value::RawValue =
        serde_json::from_str(body).map_err(|error| invalid_json(&error, "invalid JSON"))?;
    Ok(JsonField::from(value))
}
