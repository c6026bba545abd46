//! Health and readiness.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::state::AppState;

/// Responds with 200 while the process can serve.
pub(super) async fn healthy() -> &'static str {
    "Healthy.\n"
}

/// Responds with 200 once every organization has an inventory; before that, with the number of missing ones. The probe
/// listener has no authentication, so the response names neither organizations nor credentials.
pub(super) async fn ready_count(State(app): State<Arc<AppState>>) -> Response {
    let missing = app.store.not_ready().len();
    if missing == 0 {
        return "Ready.\n".into_response();
    }
    let text = format!("Not ready: {missing} inventories are missing.\n");
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

/// Responds as [`ready_count`], with the names of the missing ones.
pub(super) async fn ready(State(app): State<Arc<AppState>>) -> Response {
    let missing = app.store.not_ready();
    if missing.is_empty() {
        return "Ready.\n".into_response();
    }
    let text = format!(
        "Not ready: no complete walk yet of {}.\n",
        missing.join(", ")
    );
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}
