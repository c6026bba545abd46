//! The client secrets of a service account. Only their ids and times are decoded, never `secret` or `maskedSecretValue`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::keys::ApiTime;
use super::lenient::JsonField;
use super::{MAX_ID_CHARS, parse_json};
use crate::error::ErrorKind;

/// Maximum number of secrets of a service account that are parsed. Atlas allows two valid ones.
const MAX_CLIENT_SECRETS: usize = 20;

/// A client secret of a service account, without the secret itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientSecret {
    /// `id`, 24 hexadecimal digits.
    pub id: String,
    /// `expiresAt`.
    pub expires_at: Timestamp,
    /// `lastUsedAt`, if Atlas reports a valid one.
    pub last_used_at: Option<Timestamp>,
}

/// Returns whether `text` has the format of a service account's client id.
pub(crate) fn is_client_id(text: &str) -> bool {
    text.strip_prefix("mdb_sa_id_").is_some_and(is_hex_id)
}

fn is_hex_id(text: &str) -> bool {
    text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Parses the secrets of a service account. Secrets without a valid id or expiry are skipped.
///
/// # Errors
/// [`ErrorKind::InvalidResponse`] when the body is not a JSON object with an array `secrets`.
pub(crate) fn parse_client_secrets(body: &str) -> Result<Vec<ClientSecret>, ErrorKind> {
    let mut secrets = Vec::new();
    let is_array = parse_json(body)?.fields(["secrets"]).is_some_and(|[list]| {
        list.for_each_element(|secret| {
            if secrets.len() < MAX_CLIENT_SECRETS {
                secrets.extend(parse_client_secret(secret));
            }
        })
    });
    if is_array {
        return Ok(secrets);
    }
    let message = "expected a service account with secrets";
    Err(ErrorKind::InvalidResponse(message.to_owned()))
}

fn parse_client_secret(value: JsonField<'_>) -> Option<ClientSecret> {
    let [id, expires_at, last_used_at] = value.fields(["id", "expiresAt", "lastUsedAt"])?;
    let valid = |time: JsonField<'_>| match time.as_time() {
        ApiTime::Valid(time) => Some(time),
        ApiTime::Missing | ApiTime::Invalid => None,
    };
    Some(ClientSecret {
        id: id.full_string(MAX_ID_CHARS).filter(|id| is_hex_id(id))?,
        expires_at: valid(expires_at)?,
        last_used_at: valid(last_used_at),
    })
}

#[cfg(test)]
mod tests;
