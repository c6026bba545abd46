//! The documentation and the runbooks that belong to this version, as they are written: who is woken
//! at night gets them from the exporter itself.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::page_headers;

/// Names and texts of the files in a folder.
macro_rules! embedded_docs {
    ($folder:literal: $($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../", $folder, "/", $name, ".md")))),*]
    };
}

const DOCS: &[(&str, &str)] =
    embedded_docs!("docs": "configuration", "failure-modes", "metrics", "web");

/// One for each alert; a test holds them against the rules.
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

/// The documentation.
pub(in crate::web) async fn document(Path(name): Path<String>) -> Response {
    find(DOCS, &name)
}

/// What to do when an alert fires.
pub(in crate::web) async fn runbook(Path(name): Path<String>) -> Response {
    find(RUNBOOKS, &name)
}

fn find(texts: &[(&str, &'static str)], name: &str) -> Response {
    match texts.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => (page_headers("text/plain; charset=utf-8"), *text).into_response(),
        None => (StatusCode::NOT_FOUND, "There is no such document.\n").into_response(),
    }
}
