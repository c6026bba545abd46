//! Authenticates each request before it reaches the router, in the order of the exporter-toolkit: rate limit, configured
//! headers, password.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;
use tracing::warn;

use super::basic_auth::{AuthError, BasicCredentials};
use super::{SharedWebConfig, WebConfig};
use crate::client_network::ClientNetwork;
use crate::server::ResponseHandle;

/// The minimum interval between two log messages about failed authentication.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// Passes a request to the router if the web configuration allows it. For [`axum::middleware::from_fn_with_state`].
pub async fn authenticate(
    State(shared): State<Arc<SharedWebConfig>>,
    mut request: Request,
    next: Next,
) -> Response {
    let config = shared.get();
    let authorization = request.headers_mut().remove(header::AUTHORIZATION);
    let credentials = authorization.and_then(|value| BasicCredentials::parse(value.as_bytes()));
    let handle = request.extensions().get::<ResponseHandle>().cloned();
    let client = handle.as_ref().map(ResponseHandle::client);
    let client = client.unwrap_or_default();
    if !is_within_rate(&shared, &config, client, credentials.is_some()) {
        let text = "429 Too Many Requests: rate_limit of the web configuration is exceeded.\n";
        let response = (StatusCode::TOO_MANY_REQUESTS, text).into_response();
        return apply_headers(&config, response);
    }
    let response = match authorize(&shared, client, credentials).await {
        Ok(()) => {
            handle.iter().for_each(ResponseHandle::mark_authorized);
            next.run(request).await
        }
        Err(AuthError::Busy) => {
            let text = "503 Service Unavailable: too many concurrent password checks.\n";
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
        Err(AuthError::Unauthorized) => {
            log_rejected(&shared);
            // Without a body, because a client might not read it.
            let headers = [(header::WWW_AUTHENTICATE, shared.challenge.clone())];
            (StatusCode::UNAUTHORIZED, headers).into_response()
        }
    };
    apply_headers(&config, response)
}

/// Takes a token of `rate_limit`. Returns whether the request is within the limit.
fn is_within_rate(
    shared: &SharedWebConfig,
    config: &WebConfig,
    client: ClientNetwork,
    has_credentials: bool,
) -> bool {
    let Some(rate) = &config.rate else {
        return true;
    };
    let is_login = has_credentials && config.users.is_some();
    if is_login && shared.authenticator.is_verified(client) {
        rate.verified_clients.try_take()
    } else {
        rate.other_clients.try_take()
    }
}

async fn authorize(
    shared: &SharedWebConfig,
    client: ClientNetwork,
    credentials: Option<BasicCredentials>,
) -> Result<(), AuthError> {
    loop {
        let config = shared.get();
        let Some(users) = &config.users else {
            return Ok(());
        };
        let credentials = credentials.as_ref().ok_or(AuthError::Unauthorized)?;
        shared
            .authenticator
            .check(users, credentials, client)
            .await?;
        // The check can take seconds, and a reload may have removed the user in the meantime.
        if Arc::ptr_eq(&config, &shared.get()) {
            return Ok(());
        }
    }
}

/// Adds the configured headers, which replace headers of the same name.
fn apply_headers(config: &WebConfig, mut response: Response) -> Response {
    for (name, value) in &config.headers {
        response.headers_mut().insert(name, value.clone());
    }
    response
}

/// Logs a failed authentication, at most once per minute, so that clients cannot fill the disk with log messages.
fn log_rejected(shared: &SharedWebConfig) {
    let mut logged_at = shared.rejection_logged_at.lock();
    if logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
        *logged_at = Some(Instant::now());
        drop(logged_at);
        warn!("authentication failed (logged at most once per minute)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rejections_are_logged_once_a_minute() {
        let shared = SharedWebConfig::default();
        let mut logged = Vec::new();
        for _ in 0..3 {
            let before = *shared.rejection_logged_at.lock();
            log_rejected(&shared);
            logged.push(*shared.rejection_logged_at.lock() != before);
            tokio::time::advance(Duration::from_secs(35)).await;
        }
        assert_eq!(logged, [true, false, true]);
    }
}
