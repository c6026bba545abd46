//! Prometheus' HTTP service discovery: one target per organization, so that Prometheus can shard the scrapes of many
//! organizations with `hashmod`.
//! See <https://prometheus.io/docs/prometheus/latest/http_sd/>.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::authority::request_authority;
use super::state::AppState;

/// A target group in the format of Prometheus.
#[derive(Serialize)]
struct TargetGroup {
    targets: [String; 1],
    labels: BTreeMap<&'static str, String>,
}

/// Lists one target per organization, at the address that the request was sent to.
pub(super) async fn targets(
    State(app): State<Arc<AppState>>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let is_plain =
        |authority: &Authority| !authority.host().is_empty() && !authority.as_str().contains('@');
    let Some(address) = request_authority(&uri, &headers).filter(is_plain) else {
        let text =
            "The Host header must say how the exporter is reached, such as exporter:10064.\n";
        return (StatusCode::BAD_REQUEST, text).into_response();
    };
    let scheme = if app.web_config.get().uses_tls() {
        "https"
    } else {
        "http"
    };
    let options = app.options.get();
    let group = |org: &mongodb_atlas_client::OrgId| {
        let name = app
            .store
            .details(org)
            .and_then(|details| details.name.clone());
        let mut labels = BTreeMap::from([
            ("__scheme__", scheme.to_owned()),
            ("__metrics_path__", options.config.telemetry_path.clone()),
            ("__param_org", org.to_string()),
            ("__meta_mongodbatlas_org_id", org.to_string()),
            // Without it, all targets would have the same labels.
            ("instance", format!("{address}/{org}")),
        ]);
        labels.extend(name.map(|name| ("__meta_mongodbatlas_org_name", name)));
        TargetGroup {
            targets: [address.to_string()],
            labels,
        }
    };
    let orgs = app.store.targets();
    let groups: Vec<TargetGroup> = orgs.iter().map(group).collect();
    // Strings always serialize.
    let text = serde_json::to_string(&groups).unwrap_or_else(|_| "[]".to_owned());
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
