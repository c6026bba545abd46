//! The status page. The server renders the whole page; its script is optional.
//!
//! | module | purpose |
//! | --- | --- |
//! | `query` | the query parameters of the page |
//! | `orgs` | the organizations |
//! | `key_table` | the table of keys |
//! | `docs` | the documentation and the runbooks of this version |
//! | `page.html`, `page.css`, `page.js`, `icon.svg` | the files that the browser loads |

mod docs;
mod key_table;
mod orgs;
mod query;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

pub(super) use docs::{document, runbook};

use super::not_found;
use super::state::AppState;
use crate::humanize::{elapsed, format_count, format_duration};
use crate::inventory::{InventorySnapshot, KeyRow, SortColumn};
use exporter_toolkit::request_limiter::RequestLimiter;
use exporter_toolkit::server::ResponseHandle;
use key_table::{KeyPage, find_keys};
use orgs::{ListedOrg, Notice, OrgHealth, OrgPresenter, OrgView};
use query::{ANY_OWNER, PageQuery};

/// The maximum number of concurrent renderings. Each one reads every key.
const MAX_RENDERS: usize = 2;
/// The time that a request waits for its rendering to start.
const RENDER_WAIT_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum number of waiting requests of one client.
const MAX_WAITING_PER_CLIENT: usize = 16;

/// The content security policy: allows only the page's own scripts and styles, nothing from other sites, and no frames.
const CSP: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Limits concurrent renderings of the page.
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

/// One column header of the table.
struct ColumnHeader {
    column: SortColumn,
    link: String,
    /// The value of `aria-sort`: `ascending`, `descending` or `none`.
    sorted: &'static str,
}

/// One choice of the owner filter.
struct OwnerOption {
    value: String,
    text: String,
    is_selected: bool,
}

/// Links to the previous and the next page of a list.
struct Pager {
    prev: Option<String>,
    next: Option<String>,
}

impl Pager {
    fn new(page: usize, pages: usize, link: impl Fn(usize) -> String) -> Self {
        Self {
            prev: (page > 0).then(|| link(page - 1)),
            next: (page + 1 < pages).then(|| link(page + 1)),
        }
    }
}

#[derive(Template)]
#[template(path = "page.html", config = "src/web/ui/askama.toml")]
struct IndexTemplate {
    version: &'static str,
    revision: &'static str,
    now: String,
    /// The path of the metrics, relative to the page.
    metrics_path: String,
    health_counts: Vec<(OrgHealth, String)>,
    key_count: String,
    never_used: String,
    idle: String,
    idle_label: String,
    disabled: String,
    exempt: String,
    /// The credentials with failed organization discovery.
    discovery_errors: Vec<(String, Notice)>,
    org_page: OrgPage,
    query: PageQuery,
    /// The link to the keys of all organizations.
    all_orgs: String,
    /// The choices of the owner filter; empty if no project has an owner.
    owners: Vec<OwnerOption>,
    headers: Vec<ColumnHeader>,
    found: KeyPage,
    found_count: String,
    key_pager: Pager,
}

impl IndexTemplate {
    /// Returns how long a key has been idle.
    fn idle_time(key: &KeyRow) -> Option<String> {
        let idle = Duration::from_secs(key.idle_seconds?);
        Some(format_duration(idle))
    }
}

/// Handles requests for the page.
pub(super) async fn index(
    State(app): State<Arc<AppState>>,
    uri: Uri,
    response: Option<Extension<ResponseHandle>>,
) -> Response {
    let query = PageQuery::from_uri(&uri);
    let response = response.map(|Extension(response)| response);
    let Some(permit) = app.renders.0.acquire(MAX_RENDERS, response).await else {
        let text = "503 Service Unavailable: too many concurrent requests for the page.\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let now = app.clock.now();
    let rendered = tokio::task::spawn_blocking(move || {
        let page = build_page(&app, query, now).render();
        drop(permit);
        page
    });
    if let Ok(Ok(page)) = rendered.await {
        return (page_headers("text/html; charset=utf-8"), page).into_response();
    }
    let text = "500 Internal Server Error: rendering the page failed. See the exporter's log.\n";
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

/// Serves the files of the page.
pub(super) async fn asset(Path(name): Path<String>) -> Response {
    let (content_type, text) = match name.as_str() {
        "page.css" => ("text/css; charset=utf-8", include_str!("page.css")),
        "page.js" => ("text/javascript; charset=utf-8", include_str!("page.js")),
        "icon.svg" => ("image/svg+xml", include_str!("icon.svg")),
        _ => return not_found().into_response(),
    };
    (page_headers(content_type), text).into_response()
}

/// Returns all organizations. Those that need attention are first.
fn list_orgs(app: &AppState, now: Timestamp) -> Vec<ListedOrg> {
    let targets = app.store.targets();
    let orgs = targets.iter().map(|org| {
        let inventory = app.store.get(org);
        let completed_at = inventory.map(|inventory| inventory.completed_at());
        let status = app.status.get(org);
        ListedOrg {
            health: OrgHealth::from_status(&status, completed_at.map(|at| elapsed(at, now))),
            org: org.clone(),
            status,
            rate_limit: app.metrics.poll_rate_limit(org),
            completed_at,
        }
    });
    let mut orgs: Vec<_> = orgs.collect();
    orgs.sort_by(|a, b| (a.health, &a.org).cmp(&(b.health, &b.org)));
    orgs
}

/// One page of the organizations.
struct OrgPage {
    orgs: Vec<OrgView>,
    pager: Pager,
    /// The range of organizations on this page, if there is more than one page.
    range: Option<String>,
}

fn present_orgs(listed: &[ListedOrg], presenter: &OrgPresenter<'_>, query: &PageQuery) -> OrgPage {
    let pages = listed.len().div_ceil(orgs::PAGE_SIZE).max(1);
    let page = query.orgs.min(pages - 1);
    let first = page * orgs::PAGE_SIZE;
    let orgs = listed.iter().skip(first).take(orgs::PAGE_SIZE);
    let orgs: Vec<_> = orgs.map(|org| presenter.present(org)).collect();
    let range = (pages > 1).then(|| {
        let (last, total) = (first + orgs.len(), format_count(listed.len() as u64));
        format!("{} to {last} of {total}", first + 1)
    });
    OrgPage {
        orgs,
        pager: Pager::new(page, pages, |page| query.with(|it| it.orgs = page).link()),
        range,
    }
}

fn build_page(app: &AppState, query: PageQuery, now: Timestamp) -> IndexTemplate {
    let options = app.options.get();
    let config = &options.config;
    let snapshot = app.store.snapshot(config.max_staleness);
    let thresholds = &*config.key_series.thresholds;
    let presenter = OrgPresenter {
        snapshot: &snapshot,
        thresholds,
        now,
    };
    let listed = list_orgs(app, now);
    let mut health_counts = BTreeMap::<OrgHealth, u64>::new();
    for org in &listed {
        *health_counts.entry(org.health).or_default() += 1;
    }
    let found = find_keys(&snapshot, &config.key_series, &config.base_url, &query, now);
    let errors = app.status.discovery_errors().into_iter();
    let totals = presenter.totals();
    IndexTemplate {
        version: env!("CARGO_PKG_VERSION"),
        revision: env!("BUILD_REVISION"),
        now: now.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        metrics_path: config.telemetry_path.trim_start_matches('/').to_owned(),
        health_counts: health_counts
            .into_iter()
            .map(|(health, orgs)| (health, format_count(orgs)))
            .collect(),
        key_count: format_count(totals.keys),
        never_used: format_count(totals.never_used),
        idle: format_count(totals.idle),
        disabled: format_count(totals.disabled),
        exempt: format_count(totals.exempt),
        idle_label: thresholds
            .last()
            .map_or_else(String::new, |it| it.label.clone()),
        discovery_errors: errors
            .map(|(credential, reason)| (credential, Notice::new(reason)))
            .collect(),
        org_page: present_orgs(&listed, &presenter, &query),
        all_orgs: query.with(|it| (it.org, it.page) = (None, 0)).link(),
        owners: owner_options(&snapshot, query.owner.as_deref()),
        headers: column_headers(&query),
        found_count: format_count(found.total as u64),
        key_pager: Pager::new(found.page, found.pages, |page| {
            query.with(|it| it.page = page).link()
        }),
        found,
        query,
    }
}

/// Returns the choices of the owner filter: any owner, no owner, and each owner. The selected owner is always a choice, even
/// if no project has this owner, so that the form retains the selection.
fn owner_options(snapshot: &InventorySnapshot, selected: Option<&str>) -> Vec<OwnerOption> {
    let projects = snapshot.details.iter().flat_map(|(_, it)| it.projects());
    let mut owners: BTreeSet<&str> = projects.filter_map(|(_, owner)| owner).collect();
    owners.extend(selected);
    if owners.is_empty() {
        return Vec::new();
    }
    let option = |value: &str, text: &str| OwnerOption {
        value: value.to_owned(),
        text: text.to_owned(),
        is_selected: selected.unwrap_or(ANY_OWNER) == value,
    };
    let named = owners.iter().filter(|owner| !owner.is_empty());
    let mut options = vec![option(ANY_OWNER, "any"), option("", "none")];
    options.extend(named.map(|owner| option(owner, owner)));
    options
}

/// Returns the column headers of the table. Each one has a link that sorts by its column.
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
