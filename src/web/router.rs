//! Every path, and what a wrong one is told.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router, middleware};
use jiff::Timestamp;

use super::cross_site::is_cross_site;
use super::metrics::{self, Scrapes};
use super::options::{Reload, Settings, SharedSettings};
use super::org_filter::Choice;
use super::ui::{self, Readers};
use super::{health, http_sd};
use crate::inventory::Shelf;
use crate::metrics::{Exposition, Format, Gathered, Own, Scene};
use crate::status::Board;
use exporter_toolkit::server::ResponseHandle;
use exporter_toolkit::web_config::{SharedWebConfig, authenticate};
use mongodb_atlas_client::Clock;

/// What the routes answer from. Shared by all requests.
pub struct App {
    /// The exporter's own metrics.
    pub own: Arc<Own>,
    /// The inventories.
    pub shelf: Arc<Shelf>,
    /// How each organization's walks go.
    pub board: Arc<Board>,
    /// The settings in force.
    pub settings: Arc<SharedSettings>,
    /// Who is let in.
    pub access: Arc<SharedWebConfig>,
    /// What scrapes share.
    pub scrapes: Scrapes,
    /// What readers of the page share.
    pub readers: Readers,
    /// Who takes up a new configuration.
    pub control: Arc<dyn Reload>,
    /// The time of a scrape.
    pub clock: Clock,
}

impl App {
    /// A scrape that begins now, with the exporter's own metrics as they were gathered before the
    /// inventories were looked at.
    pub fn exposition(&self, settings: &Settings, format: Format, own: Gathered) -> Exposition {
        let scene = self.scene(settings, &Choice::All, self.clock.now());
        Exposition::new(format, own, scene)
    }

    /// What a scrape shows of the inventories.
    pub(super) fn scene(&self, settings: &Settings, choice: &Choice, now: Timestamp) -> Scene {
        let shown = self.shelf.shown(settings.max_staleness);
        let scene = Scene::new(shown, Arc::clone(&settings.selection), now);
        match choice {
            Choice::All => scene,
            Choice::Some(orgs) => scene.only(orgs),
        }
    }
}

/// Every route, for those who are let in.
pub fn router(app: Arc<App>) -> Router {
    let access = Arc::clone(&app.access);
    let settings = Arc::clone(&app.settings);
    Router::new()
        .route("/", get(ui::show))
        .route("/-/docs/{name}", get(ui::document))
        .route("/-/docs/runbooks/{name}", get(ui::runbook))
        .route("/-/page/{name}", get(ui::asset))
        .route("/sd", get(http_sd::targets))
        .route("/-/healthy", get(health::healthy))
        .route("/-/ready", get(health::ready))
        .route("/-/reload", post(reload).put(reload))
        .fallback(by_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
        .layer(middleware::from_fn_with_state(access, authenticate))
        .layer(middleware::from_fn_with_state(settings, check_host))
        .layer(middleware::map_response(nosniff))
}

/// Health and readiness alone, for everybody, under any host: Kubernetes probes an address.
pub fn probes(app: Arc<App>) -> Router {
    Router::new()
        .route("/-/healthy", get(health::healthy))
        .route("/-/ready", get(health::ready_count))
        .fallback(async || {
            let text = "There is nothing here but /-/healthy and /-/ready.\n";
            (StatusCode::NOT_FOUND, text)
        })
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
        .layer(middleware::map_response(nosniff))
}

/// Lets a request through whose host is allowed by `--web.allowed-hosts`.
async fn check_host(
    State(settings): State<Arc<SharedSettings>>,
    request: Request,
    next: middleware::Next,
) -> Response {
    let allowed = &settings.get().allowed_hosts;
    if allowed.allows(request.version(), request.uri(), request.headers()) {
        return next.run(request).await;
    }
    let text = "421 Misdirected Request: the Host header names none of --web.allowed-hosts.\n";
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

/// No answer is anything else than what its type says.
async fn nosniff(mut answer: Response) -> Response {
    answer.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    answer
}

/// The path of the metrics can change at a reload, and no router's table can.
async fn by_path(
    State(app): State<Arc<App>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    response: Option<Extension<ResponseHandle>>,
) -> Response {
    let settings = app.settings.get();
    if uri.path() != settings.telemetry_path {
        let text = "There is nothing here; / has the links.\n";
        return (StatusCode::NOT_FOUND, text).into_response();
    }
    match method {
        Method::GET | Method::HEAD => {
            let response = response.map(|Extension(response)| response);
            metrics::answer(&app, &settings, &method, uri.query(), &headers, response).await
        }
        _ => {
            let allow = [(header::ALLOW, "GET,HEAD")];
            (allow, wrong_method().await).into_response()
        }
    }
}

/// axum says in `Allow` which methods there are.
async fn wrong_method() -> (StatusCode, &'static str) {
    let text = "This path has no such method; the Allow header lists those it has.\n";
    (StatusCode::METHOD_NOT_ALLOWED, text)
}

async fn reload(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap) -> Response {
    if !app.settings.get().lifecycle {
        let text = "Reloading over HTTP is switched off; --web.enable-lifecycle switches it on.\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    if is_cross_site(&uri, &headers) {
        let text = "Reloading is refused: the request was sent by the page of another site.\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    match app.control.reload().await {
        Ok(()) => "Reloaded.\n".into_response(),
        // who may ask for a reload is told all that is wrong with it
        Err(mistakes) => (StatusCode::BAD_REQUEST, format!("{mistakes}\n")).into_response(),
    }
}
