//! Serves the documentation and the runbooks of this version, so that they are available when an alert fires.

use askama::Template;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};

use super::page_headers;
use crate::web::not_found;

/// A document, rendered by the build script.
struct Document {
    /// The name in the path.
    name: &'static str,
    title: &'static str,
    /// The content, without the surrounding page.
    html: &'static str,
}

// Defines `DOCS`, all files of `docs`, and `RUNBOOKS`, all files of `dashboards/runbooks`, one for each alert.
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
        _ => not_found().into_response(),
    }
}
