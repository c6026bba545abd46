//! HTTP service discovery of Prometheus: one target per organization, so that Prometheus can shard the scrapes of many
//! organizations with `hashmod`, and one target for the series of the process.
//! See <https://prometheus.io/docs/prometheus/latest/http_sd/>.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::authority::request_authority;
use super::scope::EXPORTER_SCOPE;
use super::state::AppState;

/// A target group in the format of Prometheus' HTTP service discovery.
#[derive(Serialize)]
struct TargetGroup {
    targets: [String; 1],
    labels: BTreeMap<&'static str, String>,
}

/// Returns one target for the exporter and one per organization, with the address of the request.
pub(super) async fn targets(
    State(app): State<Arc<AppState>>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let is_plain =
        |authority: &Authority| !authority.host().is_empty() && !authority.as_str().contains('@');
    let Some(address) = request_authority(&uri, &headers).filter(is_plain) else {
        let text = "400 Bad Request: expected the exporter's address in the Host header, such as exporter:10064.\n";
        return (StatusCode::BAD_REQUEST, text).into_response();
    };
    let scheme = if app.web_config.get().uses_tls() {
        "https"
    } else {
        "http"
    };
    let options = app.options.get();
    let group = |instance: String, parameter: (&'static str, String)| {
        let labels = [
            ("__scheme__", scheme.to_owned()),
            ("__metrics_path__", options.config.telemetry_path.clone()),
            // Without this label, all targets would have the same labels.
            ("instance", instance),
            parameter,
        ];
        TargetGroup {
            targets: [address.to_string()],
            labels: labels.into(),
        }
    };
    let scope = ("__param_scope", EXPORTER_SCOPE.to_owned());
    let exporter = group(address.to_string(), scope);
    let orgs = app.store.targets();
    let orgs = orgs.iter().map(|org| {
        let mut group = group(format!("{address}/{org}"), ("__param_org", org.to_string()));
        let labels = &mut group.labels;
        labels.insert("__meta_mongodbatlas_org_id", org.to_string());
        let details = app.store.details(org);
        let name = details.and_then(|details| details.name.clone());
        labels.extend(name.map(|name| ("__meta_mongodbatlas_org_name", name)));
        group
    });
    let groups: Vec<TargetGroup> = std::iter::once(exporter).chain(orgs).collect();
    // The serialization of strings does not fail.
    let text = serde_json::to_string(&groups).unwrap_or_else(|_| "[]".to_owned());
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
