//! The routes, health and readiness, and the responses to unknown paths and methods.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router, middleware};

use super::authority::is_cross_site;
use super::state::{AppState, SharedHandlerOptions};
use super::{http_sd, metrics, ui};
use exporter_toolkit::server::ResponseHandle;
use exporter_toolkit::web_config::authenticate;

/// Returns the router of every path, with authentication.
pub fn router(app: Arc<AppState>) -> Router {
    let access = Arc::clone(&app.web_config);
    let settings = Arc::clone(&app.options);
    Router::new()
        .route("/", get(ui::index))
        .route("/-/docs/{name}", get(ui::document))
        .route("/-/docs/runbooks/{name}", get(ui::runbook))
        .route("/-/page/{name}", get(ui::asset))
        .route("/sd", get(http_sd::targets))
        .route("/-/healthy", get(healthy))
        .route("/-/ready", get(ready))
        .route("/-/reload", post(reload).put(reload))
        .fallback(metrics_or_404)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
        .layer(middleware::from_fn_with_state(access, authenticate))
        .layer(middleware::from_fn_with_state(settings, check_host))
        .layer(middleware::map_response(set_nosniff))
}

/// Returns the router of the probe listener: health and readiness, without authentication and for any Host header, since
/// Kubernetes probes an address.
pub fn probe_router(app: Arc<AppState>) -> Router {
    Router::new()
        .route("/-/healthy", get(healthy))
        .route("/-/ready", get(ready_count))
        .fallback(async || {
            let text = "There is nothing here but /-/healthy and /-/ready.\n";
            (StatusCode::NOT_FOUND, text)
        })
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
        .layer(middleware::map_response(set_nosniff))
}

/// Responds with 200 while the process can serve.
async fn healthy() -> &'static str {
    "Healthy.\n"
}

/// Responds with 200 once every organization has an inventory; before that, with the names of the missing ones.
async fn ready(State(app): State<Arc<AppState>>) -> Response {
    readiness(&app, |missing| {
        format!("no complete walk yet of {}", missing.join(", "))
    })
}

/// Responds as [`ready`], with the number of the missing ones: the probe listener has no authentication, so the response
/// names neither organizations nor credentials.
async fn ready_count(State(app): State<Arc<AppState>>) -> Response {
    readiness(&app, |missing| {
        format!("{} inventories are missing", missing.len())
    })
}

fn readiness(app: &AppState, describe: impl FnOnce(&[String]) -> String) -> Response {
    let missing = app.store.not_ready();
    if missing.is_empty() {
        return "Ready.\n".into_response();
    }
    let text = format!("Not ready: {}.\n", describe(&missing));
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

/// Rejects requests whose host `--web.allowed-hosts` does not allow.
async fn check_host(
    State(settings): State<Arc<SharedHandlerOptions>>,
    request: Request,
    next: middleware::Next,
) -> Response {
    let allowed = &settings.get().config.allowed_hosts;
    if allowed.allows(request.version(), request.uri(), request.headers()) {
        return next.run(request).await;
    }
    let text = "421 Misdirected Request: the Host header names none of --web.allowed-hosts.\n";
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

/// Forbids browsers to guess the type of a response.
async fn set_nosniff(mut response: Response) -> Response {
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Serves the metrics. Their path can change at a reload, and the routes of a router cannot, so they are the fallback.
async fn metrics_or_404(
    State(app): State<Arc<AppState>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    response: Option<Extension<ResponseHandle>>,
) -> Response {
    let options = app.options.get();
    if uri.path() != options.config.telemetry_path {
        let text = "There is nothing here; / has the links.\n";
        return (StatusCode::NOT_FOUND, text).into_response();
    }
    match method {
        Method::GET | Method::HEAD => {
            let response = response.map(|Extension(response)| response);
            metrics::handle(&app, &options, &method, uri.query(), &headers, response).await
        }
        _ => {
            let allow = [(header::ALLOW, "GET,HEAD")];
            (allow, method_not_allowed().await).into_response()
        }
    }
}

/// axum sets the Allow header.
async fn method_not_allowed() -> (StatusCode, &'static str) {
    let text = "This path has no such method; the Allow header lists those it has.\n";
    (StatusCode::METHOD_NOT_ALLOWED, text)
}

async fn reload(State(app): State<Arc<AppState>>, uri: Uri, headers: HeaderMap) -> Response {
    if !app.options.get().config.enable_lifecycle {
        let text = "Reloading over HTTP is switched off; --web.enable-lifecycle switches it on.\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    if is_cross_site(&uri, &headers) {
        let text = "Reloading is refused: the request was sent by the page of another site.\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    match app.reloader.reload().await {
        Ok(()) => "Reloaded.\n".into_response(),
        Err(errors) => (StatusCode::BAD_REQUEST, format!("{errors}\n")).into_response(),
    }
}
