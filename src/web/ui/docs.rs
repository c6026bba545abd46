//! The documentation and the runbooks of this version, served by the exporter itself, so that they are at hand when an
//! alert fires.

use askama::Template;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::page_headers;

/// A document, rendered by the build script.
struct Document {
    /// The name in its path.
    name: &'static str,
    title: &'static str,
    /// Its content, without a page around it.
    html: &'static str,
}

// `DOCS`: every file of `docs`. `RUNBOOKS`: every file of `dashboards/runbooks`, one for each alert.
include!(concat!(env!("OUT_DIR"), "/documents.rs"));

#[derive(Template)]
#[template(path = "document.html", config = "src/web/ui/askama.toml")]
struct DocumentTemplate {
    document: &'static Document,
    /// The path of the page, relative to the document.
    home: &'static str,
}

/// Serves the documentation.
pub(in crate::web) async fn document(Path(name): Path<String>) -> Response {
    find(DOCS, &name, "../../")
}

/// Serves the runbook of an alert.
pub(in crate::web) async fn runbook(Path(name): Path<String>) -> Response {
    find(RUNBOOKS, &name, "../../../")
}

fn find(documents: &'static [Document], name: &str, home: &'static str) -> Response {
    let document = documents.iter().find(|document| document.name == name);
    let page = document.map(|document| DocumentTemplate { document, home }.render());
    match page {
        Some(Ok(page)) => (page_headers("text/html; charset=utf-8"), page).into_response(),
        _ => (StatusCode::NOT_FOUND, "There is no such document.\n").into_response(),
    }
}
