//! The token endpoint and its counterpart: OAuth 2.0 client credentials.

use axum::http::{StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::State;
use super::buckets::BucketSize;
use super::credentials::Minted;
use super::request::Call;
use super::response::Answer;

/// Client id and secret of an `Authorization: Basic` header, each form-urlencoded (RFC 6749 §2.3.1).
fn basic(call: &Call) -> Option<(String, String)> {
    let value = call
        .parts
        .headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?;
    let decoded = STANDARD.decode(value.strip_prefix("Basic ")?.trim()).ok()?;
    let (id, secret) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    let decode = |text: &str| {
        let pair = format!("x={text}");
        url::form_urlencoded::parse(pair.as_bytes())
            .next()
            .map(|(_, value)| value.into_owned())
    };
    Some((decode(id)?, decode(secret)?))
}

fn form(call: &Call, name: &str) -> Option<String> {
    url::form_urlencoded::parse(&call.body)
        .find(|(n, _)| n == name)
        .map(|(_, value)| value.into_owned())
}

fn oauth_error(status: StatusCode, error: &str, description: &str) -> Answer {
    Answer::new(
        status,
        "application/json",
        json!({"error": error, "error_description": description}),
    )
}

fn client(state: &State, call: &Call) -> Result<(), Answer> {
    match basic(call) {
        Some((id, secret)) if state.account.knows_client(&id, &secret) => Ok(()),
        _ => Err(oauth_error(
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            "The client credentials are wrong.",
        )),
    }
}

pub(crate) fn token(state: &mut State, call: &Call, now: Timestamp) -> Result<Answer, Answer> {
    let taken = state
        .buckets
        .take("token", "client", BucketSize::TOKENS, now);
    if taken.remaining.is_none() {
        return Err(Answer::rate_limited(call.parts.uri.path(), &taken));
    }
    client(state, call)?;
    if form(call, "grant_type").as_deref() != Some("client_credentials") {
        return Err(oauth_error(
            StatusCode::BAD_REQUEST,
            "unsupported_grant_type",
            "Only client_credentials is supported.",
        ));
    }
    match state.account.mint(now) {
        Minted::Token { token, seconds } => Ok(Answer::new(
            StatusCode::OK,
            "application/json",
            json!({"access_token": token, "token_type": "Bearer", "expires_in": seconds}),
        )),
        Minted::LimitReached => Err(oauth_error(
            StatusCode::FORBIDDEN,
            "access_denied",
            "Access Token limit reached. Revoke tokens or wait until some have ended.",
        )),
    }
}

pub(crate) fn revoke(state: &mut State, call: &Call) -> Result<Answer, Answer> {
    client(state, call)?;
    if let Some(token) = form(call, "token") {
        state.account.revoke(&token);
    }
    Ok(Answer::new(StatusCode::OK, "application/json", Value::Null))
}
