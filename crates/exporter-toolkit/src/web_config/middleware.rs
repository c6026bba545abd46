//! What happens to each request before it reaches the routes, in the exporter-toolkit's order: the
//! rate limit, the configured headers, the password.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;
use tracing::warn;

use super::basic_auth::{AuthError, BasicCredentials};
use super::bcrypt_queue::ClientNetwork;
use super::{PeerAddr, SharedWebConfig, WebConfig};
use crate::server::mark_authorized;

/// Time between two log lines about requests that were rejected.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// Lets a request through to the routes, or answers it.
pub async fn authenticate(
    State(shared): State<Arc<SharedWebConfig>>,
    mut request: Request,
    next: Next,
) -> Response {
    let access = shared.get();
    let login = request.headers_mut().remove(header::AUTHORIZATION);
    let login = login.and_then(|value| BasicCredentials::parse(value.as_bytes()));
    let client = request.extensions().get::<PeerAddr>().into();
    if !is_within_rate(&shared, &access, client, login.is_some()) {
        let text = "Too many requests; rate_limit of the web configuration bounds them.\n";
        return apply_headers(
            &access,
            (StatusCode::TOO_MANY_REQUESTS, text).into_response(),
        );
    }
    let answer = match authorize(&shared, client, login).await {
        Ok(()) => {
            mark_authorized(request.extensions());
            next.run(request).await
        }
        Err(AuthError::Busy) => {
            let text = "Too many logins at once; try again.\n";
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
        Err(AuthError::Unauthorized) => {
            log_rejected(&shared);
            let challenge = HeaderValue::from_static(
                "Basic realm=\"atlas-ai-keys-exporter\", charset=\"UTF-8\"",
            );
            // without a body, which a client could leave lying
            let headers = [(header::WWW_AUTHENTICATE, challenge)];
            (StatusCode::UNAUTHORIZED, headers).into_response()
        }
    };
    apply_headers(&access, answer)
}

/// Takes a token of `rate_limit`, if there is one.
fn is_within_rate(
    shared: &SharedWebConfig,
    access: &WebConfig,
    client: ClientNetwork,
    has_login: bool,
) -> bool {
    let Some(rate) = &access.rate else {
        return true;
    };
    if has_login && access.users.is_some() && shared.authenticator.has_passed(client) {
        rate.verified_clients.try_take()
    } else {
        rate.other_clients.try_take()
    }
}

async fn authorize(
    shared: &SharedWebConfig,
    client: ClientNetwork,
    login: Option<BasicCredentials>,
) -> Result<(), AuthError> {
    loop {
        let access = shared.get();
        let Some(users) = &access.users else {
            return Ok(());
        };
        let login = login.as_ref().ok_or(AuthError::Unauthorized)?;
        shared.authenticator.check(users, login, client).await?;
        // The check can take seconds. A reload in between may have removed the user.
        if Arc::ptr_eq(&access, &shared.get()) {
            return Ok(());
        }
    }
}

/// What the configuration says of headers goes before what the routes say.
fn apply_headers(access: &WebConfig, mut answer: Response) -> Response {
    for (name, value) in &access.headers {
        answer.headers_mut().insert(name, value.clone());
    }
    answer
}

/// Logs that a request was rejected: not each time, with which a stranger could fill a disk.
fn log_rejected(shared: &SharedWebConfig) {
    let mut logged_at = shared
        .rejection_logged_at
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
        *logged_at = Some(Instant::now());
        drop(logged_at);
        warn!("authentication failed; logged at most once a minute");
    }
}
