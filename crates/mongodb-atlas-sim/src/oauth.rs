//! The token endpoints: OAuth 2.0 client credentials grant (RFC 6749) and revocation (RFC 7009).

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::buckets::BucketConfig;
use crate::credentials::SimCredentials;
use crate::request::{SimRequest, form_field};
use crate::response::SimResponse;
use crate::state::SimState;

const TOKEN_LIMIT_REACHED: &str =
    "Access Token limit reached. Revoke tokens or wait until some have ended.";

/// Issues an access token.
pub(crate) fn issue_token(
    state: &mut SimState,
    request: &SimRequest,
) -> Result<SimResponse, SimResponse> {
    let bucket = BucketConfig::ISSUE_TOKEN;
    let result = state.buckets.take("token", "client", bucket, state.now);
    if result.remaining.is_none() {
        return Err(SimResponse::rate_limited(request.path(), &result));
    }
    let secret = authenticate_client(state, request)?;
    if form_field(&request.body, "grant_type").as_deref() != Some("client_credentials") {
        return Err(oauth_error(
            StatusCode::BAD_REQUEST,
            "unsupported_grant_type",
            "Only client_credentials is supported.",
        ));
    }
    let token = state
        .credentials
        .issue_token(state.now)
        .ok_or_else(|| oauth_error(StatusCode::FORBIDDEN, "access_denied", TOKEN_LIMIT_REACHED))?;
    state.service_account.mark_used(&secret, state.now);
    let expires_in = state.credentials.token_lifetime_seconds;
    Ok(SimResponse::json(
        StatusCode::OK,
        json!({"access_token": token, "token_type": "Bearer", "expires_in": expires_in}),
    ))
}

/// Revokes an access token.
pub(crate) fn revoke_token(
    state: &mut SimState,
    request: &SimRequest,
) -> Result<SimResponse, SimResponse> {
    authenticate_client(state, request)?;
    if let Some(token) = form_field(&request.body, "token") {
        state.credentials.revoke_token(&token);
    }
    Ok(SimResponse::empty(StatusCode::OK))
}

/// Returns the client secret of a request with valid credentials.
fn authenticate_client(state: &SimState, request: &SimRequest) -> Result<String, SimResponse> {
    accepted_secret(&state.credentials, request)
        .filter(|secret| !state.service_account.is_expired(secret, state.now))
        .ok_or_else(|| {
            oauth_error(
                StatusCode::UNAUTHORIZED,
                "invalid_client",
                "The client credentials are invalid.",
            )
        })
}

/// Checks client id and secret of an `Authorization: Basic` header, each form-urlencoded (RFC 6749 §2.3.1), and returns
/// the secret.
fn accepted_secret(credentials: &SimCredentials, request: &SimRequest) -> Option<String> {
    let encoded = request.authorization("Basic")?;
    let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    let decode = |text: &str| form_field(format!("x={text}").as_bytes(), "x");
    let (id, secret) = (decode(id)?, decode(secret)?);
    credentials.accepts_client(&id, &secret).then_some(secret)
}

/// Returns the error of the OAuth endpoints with `status`; `None` for a status that they do not return.
pub(crate) fn error_with_status(status: StatusCode) -> Option<SimResponse> {
    let (error, description) = match status {
        StatusCode::BAD_REQUEST => (
            "invalid_request",
            "The simulator was configured to return this error.",
        ),
        StatusCode::UNAUTHORIZED => (
            "invalid_client",
            "The simulator was configured to return this error.",
        ),
        StatusCode::FORBIDDEN => ("access_denied", TOKEN_LIMIT_REACHED),
        _ => return None,
    };
    Some(oauth_error(status, error, description))
}

fn oauth_error(status: StatusCode, error: &str, description: &str) -> SimResponse {
    SimResponse::json(
        status,
        json!({"error": error, "error_description": description}),
    )
}
