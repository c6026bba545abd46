//! The token endpoint and its counterpart: OAuth 2.0 client credentials.

use axum::http::{StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::SimState;
use super::buckets::BucketConfig;
use super::credentials::TokenGrant;
use super::request::SimRequest;
use super::response::SimResponse;

/// Client id and secret of an `Authorization: Basic` header, each form-urlencoded (RFC 6749 §2.3.1).
fn basic_credentials(call: &SimRequest) -> Option<(String, String)> {
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

fn form_value(call: &SimRequest, name: &str) -> Option<String> {
    url::form_urlencoded::parse(&call.body)
        .find(|(n, _)| n == name)
        .map(|(_, value)| value.into_owned())
}

fn oauth_error(status: StatusCode, error: &str, description: &str) -> SimResponse {
    SimResponse::new(
        status,
        "application/json",
        json!({"error": error, "error_description": description}),
    )
}

fn authenticate_client(state: &SimState, call: &SimRequest) -> Result<(), SimResponse> {
    match basic_credentials(call) {
        Some((id, secret)) if state.credentials.accepts_client(&id, &secret) => Ok(()),
        _ => Err(oauth_error(
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            "The client credentials are wrong.",
        )),
    }
}

pub(crate) fn issue_token(
    state: &mut SimState,
    call: &SimRequest,
    now: Timestamp,
) -> Result<SimResponse, SimResponse> {
    let taken = state
        .buckets
        .take("token", "client", BucketConfig::ISSUE_TOKEN, now);
    if taken.remaining.is_none() {
        return Err(SimResponse::rate_limited(call.parts.uri.path(), &taken));
    }
    authenticate_client(state, call)?;
    if form_value(call, "grant_type").as_deref() != Some("client_credentials") {
        return Err(oauth_error(
            StatusCode::BAD_REQUEST,
            "unsupported_grant_type",
            "Only client_credentials is supported.",
        ));
    }
    match state.credentials.issue_token(now) {
        TokenGrant::Issued {
            token,
            expires_in: seconds,
        } => Ok(SimResponse::new(
            StatusCode::OK,
            "application/json",
            json!({"access_token": token, "token_type": "Bearer", "expires_in": seconds}),
        )),
        TokenGrant::LimitReached => Err(oauth_error(
            StatusCode::FORBIDDEN,
            "access_denied",
            "Access Token limit reached. Revoke tokens or wait until some have ended.",
        )),
    }
}

pub(crate) fn revoke_token(
    state: &mut SimState,
    call: &SimRequest,
) -> Result<SimResponse, SimResponse> {
    authenticate_client(state, call)?;
    if let Some(token) = form_value(call, "token") {
        state.credentials.revoke_token(&token);
    }
    Ok(SimResponse::new(
        StatusCode::OK,
        "application/json",
        Value::Null,
    ))
}
