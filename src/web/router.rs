//! The routes, health, readiness and reload, and the responses to unknown paths and methods.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router, middleware};

use super::authority::is_cross_site;
use super::state::{AppState, SharedHandlerOptions};
use super::{http_sd, metrics, not_found, ui};
use exporter_toolkit::server::ResponseHandle;
use exporter_toolkit::web_config::authenticate;

/// Returns the router of all paths, with authentication.
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

/// Returns the router of the probe listener: health and readiness, without authentication. All Host headers are accepted,
/// because Kubernetes sends the address of the pod.
pub fn probe_router(app: Arc<AppState>) -> Router {
    Router::new()
        .route("/-/healthy", get(healthy))
        .route("/-/ready", get(ready_count))
        .fallback(async || {
            let text = "404 Not Found. Available endpoints: /-/healthy, /-/ready.\n";
            (StatusCode::NOT_FOUND, text)
        })
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
        .layer(middleware::map_response(set_nosniff))
}

/// Responds with 200 while the process can serve requests.
async fn healthy() -> &'static str {
    "Healthy.\n"
}

/// Responds with 200 if every organization has an inventory, else with 503 and the names of those without.
async fn ready(State(app): State<Arc<AppState>>) -> Response {
    readiness(&app, |missing| missing.join(", "))
}

/// Responds as [`ready`], with the number of missing inventories instead of names: the probe listener has no authentication,
/// so the response contains no names of organizations or credentials.
async fn ready_count(State(app): State<Arc<AppState>>) -> Response {
    readiness(&app, |missing| missing.len().to_string())
}

fn readiness(app: &AppState, describe: impl FnOnce(&[String]) -> String) -> Response {
    let missing = app.store.not_ready();
    if missing.is_empty() {
        return "Ready.\n".into_response();
    }
    let text = format!("Not ready. Missing inventories: {}.\n", describe(&missing));
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

/// Rejects requests with a host that `--web.allowed-hosts` does not allow.
async fn check_host(
    State(settings): State<Arc<SharedHandlerOptions>>,
    request: Request,
    next: middleware::Next,
) -> Response {
    let allowed = &settings.get().config.allowed_hosts;
    if allowed.allows(request.version(), request.uri(), request.headers()) {
        return next.run(request).await;
    }
    let text = "421 Misdirected Request: the Host header is not in --web.allowed-hosts.\n";
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

/// Prevents browsers from guessing the type of a response.
async fn set_nosniff(mut response: Response) -> Response {
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Serves the metrics, or responds with 404. A fallback, because a reload can change the path of the metrics, but not the
/// routes of a router.
async fn metrics_or_404(
    State(app): State<Arc<AppState>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    response: Option<Extension<ResponseHandle>>,
) -> Response {
    let options = app.options.get();
    if uri.path() != options.config.telemetry_path {
        return not_found().into_response();
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

/// Responds to an unsupported method. axum sets the Allow header.
async fn method_not_allowed() -> (StatusCode, &'static str) {
    (StatusCode::METHOD_NOT_ALLOWED, "405 Method Not Allowed.\n")
}

/// Reloads the configuration. Rejects requests of other sites, which a browser can send without the user's intention.
async fn reload(State(app): State<Arc<AppState>>, uri: Uri, headers: HeaderMap) -> Response {
    if !app.options.get().config.enable_lifecycle {
        let text = "403 Forbidden: the lifecycle API is not enabled (--web.enable-lifecycle).\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    if is_cross_site(&uri, &headers) {
        let text = "403 Forbidden: cross-site requests are rejected.\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    match app.reloader.reload().await {
        Ok(()) => "Reloaded.\n".into_response(),
        Err(errors) => (StatusCode::BAD_REQUEST, format!("{errors}\n")).into_response(),
    }
}
