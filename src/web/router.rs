//! Every path, and what a wrong one is told.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router, middleware};
use jiff::Timestamp;

use super::cross_site::is_cross_site;
use super::metrics::{self, ScrapeState};
use super::options::{HandlerOptions, Reload, SharedHandlerOptions};
use super::org_filter::OrgFilter;
use super::ui::{self, RenderLimiter};
use super::{health, http_sd};
use crate::inventory::InventoryStore;
use crate::metrics::{ExporterMetrics, Exposition, Format, MetricSnapshot, ScrapeSnapshot};
use crate::status::OrgStatuses;
use exporter_toolkit::server::ResponseHandle;
use exporter_toolkit::web_config::{SharedWebConfig, authenticate};
use mongodb_atlas_client::Clock;

/// What the routes answer from. Shared by all requests.
pub struct AppState {
    /// The exporter's own metrics.
    pub metrics: Arc<ExporterMetrics>,
    /// The inventories.
    pub store: Arc<InventoryStore>,
    /// How each organization's walks go.
    pub status: Arc<OrgStatuses>,
    /// The settings in force.
    pub options: Arc<SharedHandlerOptions>,
    /// Who is let in.
    pub web_config: Arc<SharedWebConfig>,
    /// What scrapes share.
    pub scrapes: ScrapeState,
    /// What readers of the page share.
    pub renders: RenderLimiter,
    /// Who takes up a new configuration.
    pub reloader: Arc<dyn Reload>,
    /// The time of a scrape.
    pub clock: Clock,
}

impl AppState {
    /// A scrape that begins now, with the exporter's own metrics as they were gathered before the
    /// inventories were looked at.
    pub fn exposition(
        &self,
        settings: &HandlerOptions,
        format: Format,
        own: MetricSnapshot,
    ) -> Exposition {
        let scene = self.scrape_snapshot(settings, &OrgFilter::All, self.clock.now());
        Exposition::new(format, own, scene)
    }

    /// What a scrape shows of the inventories.
    pub(super) fn scrape_snapshot(
        &self,
        settings: &HandlerOptions,
        choice: &OrgFilter,
        now: Timestamp,
    ) -> ScrapeSnapshot {
        let shown = self.store.snapshot(settings.max_staleness);
        let scene = ScrapeSnapshot::new(shown, Arc::clone(&settings.key_series), now);
        match choice {
            OrgFilter::All => scene,
            OrgFilter::Some(orgs) => scene.retain_orgs(orgs),
        }
    }
}

/// Every route, for those who are let in.
pub fn router(app: Arc<AppState>) -> Router {
    let access = Arc::clone(&app.web_config);
    let settings = Arc::clone(&app.options);
    Router::new()
        .route("/", get(ui::index))
        .route("/-/docs/{name}", get(ui::document))
        .route("/-/docs/runbooks/{name}", get(ui::runbook))
        .route("/-/page/{name}", get(ui::asset))
        .route("/sd", get(http_sd::targets))
        .route("/-/healthy", get(health::healthy))
        .route("/-/ready", get(health::ready))
        .route("/-/reload", post(reload).put(reload))
        .fallback(metrics_or_404)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
        .layer(middleware::from_fn_with_state(access, authenticate))
        .layer(middleware::from_fn_with_state(settings, check_host))
        .layer(middleware::map_response(set_nosniff))
}

/// Health and readiness alone, for everybody, under any host: Kubernetes probes an address.
pub fn probe_router(app: Arc<AppState>) -> Router {
    Router::new()
        .route("/-/healthy", get(health::healthy))
        .route("/-/ready", get(health::ready_count))
        .fallback(async || {
            let text = "There is nothing here but /-/healthy and /-/ready.\n";
            (StatusCode::NOT_FOUND, text)
        })
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
        .layer(middleware::map_response(set_nosniff))
}

/// Lets a request through whose host is allowed by `--web.allowed-hosts`.
async fn check_host(
    State(settings): State<Arc<SharedHandlerOptions>>,
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
async fn set_nosniff(mut answer: Response) -> Response {
    answer.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    answer
}

/// The path of the metrics can change at a reload, and no router's table can.
async fn metrics_or_404(
    State(app): State<Arc<AppState>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    response: Option<Extension<ResponseHandle>>,
) -> Response {
    let settings = app.options.get();
    if uri.path() != settings.telemetry_path {
        let text = "There is nothing here; / has the links.\n";
        return (StatusCode::NOT_FOUND, text).into_response();
    }
    match method {
        Method::GET | Method::HEAD => {
            let response = response.map(|Extension(response)| response);
            metrics::handle(&app, &settings, &method, uri.query(), &headers, response).await
        }
        _ => {
            let allow = [(header::ALLOW, "GET,HEAD")];
            (allow, method_not_allowed().await).into_response()
        }
    }
}

/// axum says in `Allow` which methods there are.
async fn method_not_allowed() -> (StatusCode, &'static str) {
    let text = "This path has no such method; the Allow header lists those it has.\n";
    (StatusCode::METHOD_NOT_ALLOWED, text)
}

async fn reload(State(app): State<Arc<AppState>>, uri: Uri, headers: HeaderMap) -> Response {
    if !app.options.get().lifecycle_enabled {
        let text = "Reloading over HTTP is switched off; --web.enable-lifecycle switches it on.\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    if is_cross_site(&uri, &headers) {
        let text = "Reloading is refused: the request was sent by the page of another site.\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    match app.reloader.reload().await {
        Ok(()) => "Reloaded.\n".into_response(),
        // who may ask for a reload is told all that is wrong with it
        Err(mistakes) => (StatusCode::BAD_REQUEST, format!("{mistakes}\n")).into_response(),
    }
}
