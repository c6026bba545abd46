//! Health and readiness.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::router::AppState;

/// 200 while the process can serve.
pub(super) async fn healthy() -> &'static str {
    "Healthy.\n"
}

/// 200 once every organization has an inventory to show; before that, how many are missing: the probe listener has no
/// password, so it names neither organizations nor credentials.
pub(super) async fn ready_count(State(app): State<Arc<AppState>>) -> Response {
    let missing = app.store.not_ready().len();
    if missing == 0 {
        return "Ready.\n".into_response();
    }
    let text = format!("Not ready: {missing} inventories are missing.\n");
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

/// The same with the names of those that are missing, for those who are let in.
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
