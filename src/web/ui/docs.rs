//! The documentation and the runbooks of this version, served by the exporter itself, so that they are at hand when an
//! alert fires.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::page_headers;

/// Embeds documents, with their names.
macro_rules! embedded_docs {
    ($($name:literal),*) => {
        &[$(($name, include_str!(concat!("../../../docs/", $name, ".md")))),*]
    };
}

const DOCS: &[(&str, &str)] = embedded_docs!(
    "configuration",
    "failure-modes",
    "metrics",
    "reports",
    "web"
);

/// Every file of `dashboards/runbooks`, as the build script lists them: one for each alert, which a test compares with the
/// rules.
const RUNBOOKS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/runbooks.rs"));

/// Serves the documentation.
pub(in crate::web) async fn document(Path(name): Path<String>) -> Response {
    find(DOCS, &name)
}

/// Serves the runbook of an alert.
pub(in crate::web) async fn runbook(Path(name): Path<String>) -> Response {
    find(RUNBOOKS, &name)
}

fn find(texts: &[(&str, &'static str)], name: &str) -> Response {
    match texts.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => (page_headers("text/plain; charset=utf-8"), *text).into_response(),
        None => (StatusCode::NOT_FOUND, "There is no such document.\n").into_response(),
    }
}
