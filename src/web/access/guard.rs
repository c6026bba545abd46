//! What happens to each request before it reaches the routes, in the exporter-toolkit's order: the
//! rate limit, the configured headers, the password.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use tracing::warn;

use super::users::{Login, Refusal};
use super::{Access, SharedAccess};

/// Seconds between two log lines about passwords that were refused.
const TOLD_EVERY: i64 = 60;

/// Lets a request through to the routes, or answers it.
pub(in crate::web) async fn guard(
    State(shared): State<Arc<SharedAccess>>,
    mut request: Request,
    next: Next,
) -> Response {
    let access = shared.get();
    if access.rate.as_ref().is_some_and(|rate| !rate.takes()) {
        let text = "Too many requests; rate_limit of the web configuration bounds them.\n";
        return with_headers(
            &access,
            (StatusCode::TOO_MANY_REQUESTS, text).into_response(),
        );
    }
    let login = request.headers_mut().remove(header::AUTHORIZATION);
    let answer = match let_in(&shared, &access, login).await {
        Ok(()) => next.run(request).await,
        Err(Refusal::Busy) => {
            let text = "Too many logins at once; try again.\n";
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
        Err(Refusal::Wrong) => {
            tell();
            let challenge = HeaderValue::from_static(
                "Basic realm=\"atlas-ai-keys-exporter\", charset=\"UTF-8\"",
            );
            let text = "A user name and its password are needed.\n";
            (
                StatusCode::UNAUTHORIZED,
                [(header::WWW_AUTHENTICATE, challenge)],
                text,
            )
                .into_response()
        }
    };
    with_headers(&access, answer)
}

async fn let_in(
    shared: &SharedAccess,
    access: &Access,
    login: Option<HeaderValue>,
) -> Result<(), Refusal> {
    let Some(users) = &access.users else {
        return Ok(());
    };
    let login = login
        .and_then(|value| Login::parse(value.as_bytes()))
        .ok_or(Refusal::Wrong)?;
    users.check(&shared.gate, &login).await
}

/// What the configuration says of headers goes before what the routes say.
fn with_headers(access: &Access, mut answer: Response) -> Response {
    for (name, value) in &access.headers {
        answer.headers_mut().insert(name, value.clone());
    }
    answer
}

/// Says in the log that somebody was refused: not each time, which a stranger could fill a disk with.
fn tell() {
    static TOLD: AtomicI64 = AtomicI64::new(i64::MIN);
    let (now, told) = (Timestamp::now().as_second(), TOLD.load(Ordering::Relaxed));
    if now.saturating_sub(told) >= TOLD_EVERY
        && TOLD
            .compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    {
        warn!("a request had no user name and password, or wrong ones; this is told once a minute");
    }
}
