//! The routes.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use super::scrapes::{self, Scrapes};
use super::settings::{Reload, Settings, SharedSettings};
use crate::clock::Clock;
use crate::inventory::Shelf;
use crate::metrics::{Exposition, Format, Gathered, Own, Scene};

/// What the routes answer from. Shared by all requests.
pub struct App {
    /// The exporter's own metrics.
    pub own: Arc<Own>,
    /// The inventories.
    pub shelf: Arc<Shelf>,
    /// The settings in force.
    pub settings: Arc<SharedSettings>,
    /// What scrapes share.
    pub scrapes: Scrapes,
    /// Who takes up a new configuration.
    pub control: Arc<dyn Reload>,
    /// The time of a scrape.
    pub clock: Clock,
}

impl App {
    /// A scrape that begins now, with the exporter's own metrics as they were gathered before the
    /// inventories were looked at.
    pub fn exposition(&self, settings: &Settings, format: Format, own: Gathered) -> Exposition {
        let shown = self.shelf.shown(settings.max_staleness);
        let selection = Arc::clone(&settings.selection);
        Exposition::new(format, own, Scene::new(shown, selection, self.clock.now()))
    }
}

/// Every route. Other methods than the route's are answered 405 with `Allow`.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(landing))
        .route("/-/healthy", get(healthy))
        .route("/-/ready", get(ready))
        .route("/-/reload", post(reload).put(reload))
        .fallback(by_path)
        .with_state(app)
}

/// The path of the metrics can change at a reload, and no router's table can.
async fn by_path(
    State(app): State<Arc<App>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let settings = app.settings.get();
    if uri.path() != settings.telemetry_path {
        let text = "There is nothing here; / has the links.\n";
        return (StatusCode::NOT_FOUND, text).into_response();
    }
    match method {
        Method::GET | Method::HEAD => scrapes::answer(&app, &settings, &method, &headers),
        _ => (
            StatusCode::METHOD_NOT_ALLOWED,
            [(header::ALLOW, "GET,HEAD")],
        )
            .into_response(),
    }
}

async fn reload(State(app): State<Arc<App>>) -> Response {
    if !app.settings.get().lifecycle {
        let text = "Reloading over HTTP is switched off; --web.enable-lifecycle switches it on.\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    match app.control.reload().await {
        Ok(()) => "Reloaded.\n".into_response(),
        Err(mistakes) => (StatusCode::BAD_REQUEST, format!("{mistakes}\n")).into_response(),
    }
}

async fn healthy() -> &'static str {
    "Healthy.\n"
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    let missing = app.shelf.missing();
    if missing.is_empty() {
        return "Ready.\n".into_response();
    }
    let text = format!(
        "Not ready: no complete walk yet of {}.\n",
        missing.join(", ")
    );
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn landing(State(app): State<Arc<App>>) -> Response {
    let mut page = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>Atlas AI keys exporter</title></head>\n<body>\n\
         <h1>Atlas AI keys exporter</h1>\n",
    );
    // the path is checked to have no character that means something in HTML, ids are hexadecimal;
    // writing to a String cannot fail
    let _ = writeln!(
        page,
        "<ul><li><a href=\"{0}\">Metrics</a></li><li><a href=\"/-/healthy\">Health</a></li><li><a href=\"/-/ready\">Readiness</a></li></ul>",
        app.settings.get().telemetry_path
    );
    page.push_str("<table>\n<tr><th scope=\"col\">Organization</th><th scope=\"col\">Keys</th><th scope=\"col\">Last complete walk</th></tr>\n");
    for org in &*app.shelf.watched() {
        let (keys, read_at) = match app.shelf.get(org) {
            Some(inventory) => (
                inventory.len().to_string(),
                inventory.read_at().strftime("%F %T UTC").to_string(),
            ),
            None => ("–".to_owned(), "none yet".to_owned()),
        };
        let _ = writeln!(
            page,
            "<tr><td>{org}</td><td>{keys}</td><td>{read_at}</td></tr>"
        );
    }
    page.push_str("</table>\n</body>\n</html>\n");
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
        ),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        (
            HeaderName::from_static("x-frame-options"),
            HeaderValue::from_static("DENY"),
        ),
    ];
    (headers, page).into_response()
}
