//! The page for people: made on the server, and whole without its script.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `board` | how the walks of each organization go |
//! | `query` | what a reader asks for |
//! | `orgs`, `keys` | organizations; the keys that are found |
//! | `humanize` | states, errors and times in words |
//! | `docs` | the documentation and the runbooks of this version |
//! | `page.html`, `page.css`, `page.js`, `icon.svg` | what the browser gets |

mod docs;
mod humanize;
mod key_table;
mod orgs;
mod query;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

pub(super) use docs::{document, runbook};
pub use humanize::has_description;

use super::state::AppState;
use exporter_toolkit::request_limiter::RequestLimiter;
use exporter_toolkit::server::ResponseHandle;
use key_table::{KeyPage, KeyTable, LastUsed};
use orgs::{OrgHealth as OrgState, OrgPresenter, OrgView, Totals};
use query::{PageQuery, SortColumn};

/// Pages that are made at once: each looks at every key.
const MAX_RENDERS: usize = 2;
/// How long a request waits for its page to be rendered.
const RENDER_WAIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of one client that wait at once.
const MAX_WAITING_PER_CLIENT: usize = 16;

/// No script and no style but the page's own files, nothing from elsewhere, no frame around it.
const CSP: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What readers of the page share: how many pages are rendered at once.
#[derive(Debug)]
pub struct RenderLimiter(Arc<RequestLimiter>);

impl Default for RenderLimiter {
    fn default() -> Self {
        Self(RequestLimiter::new(
            MAX_WAITING_PER_CLIENT,
            RENDER_WAIT_TIMEOUT,
        ))
    }
}

/// One head of the table.
struct ColumnHeader {
    column: SortColumn,
    link: String,
    /// `ascending`, `descending` or `none`.
    sorted: &'static str,
}

#[derive(Template)]
#[template(path = "page.html", config = "src/web/ui/askama.toml")]
struct IndexTemplate {
    version: &'static str,
    revision: &'static str,
    at: String,
    /// The path of the metrics, relative to the page.
    metrics: String,
    states: Vec<(OrgState, String)>,
    keys_in_all: String,
    never: String,
    idle: String,
    idle_label: String,
    /// Credentials whose organizations cannot be listed, and what to do about it.
    unlisted: Vec<(String, &'static str)>,
    orgs: Vec<OrgView>,
    orgs_before: Option<String>,
    orgs_behind: Option<String>,
    orgs_range: Option<String>,
    query: PageQuery,
    only_org: Option<String>,
    without_org: String,
    heads: Vec<ColumnHeader>,
    found: KeyPage,
    total: String,
    before: Option<String>,
    behind: Option<String>,
}

/// The page.
pub(super) async fn index(
    State(app): State<Arc<AppState>>,
    uri: Uri,
    response: Option<Extension<ResponseHandle>>,
) -> Response {
    let query = PageQuery::from_uri(&uri);
    let response = response.map(|Extension(response)| response);
    let Some(permit) = app.renders.0.acquire(MAX_RENDERS, response).await else {
        let text = "Too many readers at once; try again.\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let now = app.clock.now();
    let made = tokio::task::spawn_blocking(move || {
        let page = build_page(&app, query, now).render();
        drop(permit);
        page
    });
    if let Ok(Ok(page)) = made.await {
        return (page_headers("text/html; charset=utf-8"), page).into_response();
    }
    let text = "The page cannot be made; the exporter's log says why.\n";
    (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
}

fn page_headers(content_type: &'static str) -> [(HeaderName, HeaderValue); 5] {
    [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, CSP),
        (HeaderName::from_static("x-frame-options"), "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ]
    .map(|(name, value)| (name, HeaderValue::from_static(value)))
}

/// Files of the page.
pub(super) async fn asset(Path(name): Path<String>) -> Response {
    let (content_type, text) = match name.as_str() {
        "page.css" => ("text/css; charset=utf-8", include_str!("page.css")),
        "page.js" => ("text/javascript; charset=utf-8", include_str!("page.js")),
        "icon.svg" => ("image/svg+xml", include_str!("icon.svg")),
        _ => return (StatusCode::NOT_FOUND, "There is no such file.\n").into_response(),
    };
    (page_headers(content_type), text).into_response()
}

fn build_page(app: &AppState, query: PageQuery, now: Timestamp) -> IndexTemplate {
    let settings = app.options.get();
    let shown = app.store.snapshot(settings.max_staleness);
    let viewer = OrgPresenter {
        snapshot: &shown,
        thresholds: &settings.key_series.thresholds,
        now,
    };
    let mut cards: Vec<_> = app
        .store
        .targets()
        .iter()
        .map(|org| {
            let read_at = app.store.get(org).map(|inventory| inventory.completed_at());
            let card = app.status.get(org);
            (viewer.health(&card, read_at), org.clone(), card, read_at)
        })
        .collect();
    // those that need somebody first
    cards.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let mut states = BTreeMap::<OrgState, u64>::new();
    for (state, ..) in &cards {
        *states.entry(*state).or_default() += 1;
    }
    let (of, pages) = (cards.len(), cards.len().div_ceil(orgs::PAGE_SIZE).max(1));
    let part = query.orgs.min(pages - 1);
    let to_part = |orgs: usize| {
        PageQuery {
            orgs,
            ..query.clone()
        }
        .link()
    };
    let from = part * orgs::PAGE_SIZE;
    let orgs: Vec<OrgView> = cards
        .iter()
        .skip(from)
        .take(orgs::PAGE_SIZE)
        .map(|(_, org, card, read_at)| viewer.present(org, card, *read_at))
        .collect();
    let found = KeyTable::new(&shown, &settings.key_series, now).find(&query);
    let to_page = |page: usize| {
        PageQuery {
            page,
            ..query.clone()
        }
        .link()
    };
    let Totals { keys, never, idle } = viewer.totals();
    IndexTemplate {
        version: env!("CARGO_PKG_VERSION"),
        revision: env!("BUILD_REVISION"),
        at: now.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        unlisted: app
            .status
            .discovery_errors()
            .into_iter()
            .map(|(credential, reason)| (credential, humanize::describe_failure(reason)))
            .collect(),
        metrics: settings.telemetry_path.trim_start_matches('/').to_owned(),
        states: states
            .into_iter()
            .map(|(state, orgs)| (state, humanize::format_count(orgs)))
            .collect(),
        keys_in_all: humanize::format_count(keys),
        never: humanize::format_count(never),
        idle: humanize::format_count(idle),
        idle_label: settings
            .key_series
            .thresholds
            .last()
            .map(|threshold| threshold.label.clone())
            .unwrap_or_default(),
        orgs_before: (part > 0).then(|| to_part(part - 1)),
        orgs_behind: (part + 1 < pages).then(|| to_part(part + 1)),
        orgs_range: (pages > 1).then(|| {
            format!(
                "{} to {} of {}",
                from + 1,
                from + orgs.len(),
                humanize::format_count(of as u64)
            )
        }),
        orgs,
        only_org: query.org.as_ref().map(ToString::to_string),
        without_org: PageQuery {
            org: None,
            page: 0,
            ..query.clone()
        }
        .link(),
        heads: column_headers(&query),
        total: humanize::format_count(found.total as u64),
        before: (found.page > 0).then(|| to_page(found.page - 1)),
        behind: (found.page + 1 < found.pages).then(|| to_page(found.page + 1)),
        found,
        query,
    }
}

/// The heads of the table, each with a link that sorts by it.
fn column_headers(query: &PageQuery) -> Vec<ColumnHeader> {
    SortColumn::ALL
        .map(|column| ColumnHeader {
            column,
            link: query.sorted_by(column).link(),
            sorted: match (column == query.column, query.descending()) {
                (false, _) => "none",
                (true, true) => "descending",
                (true, false) => "ascending",
            },
        })
        .into()
}
