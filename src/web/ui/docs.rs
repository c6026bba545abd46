//! The documentation and the runbooks of this version, served by the exporter itself, so that they are at hand when an
//! alert fires.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::page_headers;

/// Embeds files of a folder, with their names.
macro_rules! embedded_docs {
    ($folder:literal: $($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../", $folder, "/", $name, ".md")))),*]
    };
}

const DOCS: &[(&str, &str)] =
    embedded_docs!("docs": "configuration", "failure-modes", "metrics", "web");

/// One for each alert; a test compares them with the rules.
const RUNBOOKS: &[(&str, &str)] = embedded_docs!(
    "dashboards/runbooks":
    "AtlasAiKeyInactive",
    "AtlasAiKeyNeverUsed",
    "AtlasAiKeyRevived",
    "AtlasAiKeyStale",
    "AtlasAiKeysChurn",
    "AtlasAiKeysDropped",
    "AtlasAiKeysExporterConfigBad",
    "AtlasAiKeysExporterDown",
    "AtlasAiKeysExporterStorageFailing",
    "AtlasAiKeysTooMany",
    "AtlasOrgRefused",
    "AtlasOrgTruthOld",
    "AtlasOrgUnreachable",
    "AtlasRequestBudgetExhausted",
    "AtlasTokenTrouble",
);

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
