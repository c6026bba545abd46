//! The routes.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;

use crate::clock::Clock;
use crate::ids::OrgId;
use crate::inventory::Shelf;
use crate::metrics::{Exposition, Own, TEXT_CONTENT_TYPE, Threshold};

/// What the routes answer from. Shared by all requests.
pub struct App {
    /// The exporter's own metrics.
    pub own: Arc<Own>,
    /// The inventories.
    pub shelf: Arc<Shelf>,
    /// The organizations that are watched.
    pub orgs: Vec<OrgId>,
    /// Thresholds of the idle roll-up.
    pub thresholds: Arc<[Threshold]>,
    /// The path of the metrics.
    pub telemetry_path: String,
    /// The time of a scrape.
    pub clock: Clock,
}

/// Every route. Other methods than GET and HEAD are answered 405 with `Allow`.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(landing))
        .route("/-/healthy", get(healthy))
        .route("/-/ready", get(ready))
        .route(&app.telemetry_path, get(metrics))
        .fallback(async || {
            (
                StatusCode::NOT_FOUND,
                "There is nothing here; / has the links.\n",
            )
        })
        .with_state(app)
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let exposition = Exposition::new(
        Arc::clone(&app.own),
        app.shelf.all(),
        Arc::clone(&app.thresholds),
        app.clock.now(),
    );
    let pieces = stream::unfold(exposition, async |mut exposition| {
        let piece = exposition.next_piece()?;
        Some((
            Ok::<_, std::convert::Infallible>(Bytes::from(piece)),
            exposition,
        ))
    });
    (
        [(header::CONTENT_TYPE, TEXT_CONTENT_TYPE)],
        Body::from_stream(pieces),
    )
        .into_response()
}

async fn healthy() -> &'static str {
    "Healthy.\n"
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    let missing: Vec<&str> = app
        .orgs
        .iter()
        .filter(|org| app.shelf.get(org).is_none())
        .map(OrgId::as_str)
        .collect();
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
        app.telemetry_path
    );
    page.push_str("<table>\n<tr><th scope=\"col\">Organization</th><th scope=\"col\">Keys</th><th scope=\"col\">Last complete walk</th></tr>\n");
    for org in &app.orgs {
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
