//! Handles requests to all endpoints: faults, routing, authentication, rate limits.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::body::build_response;
use crate::buckets::{BucketConfig, Buckets, TakeResult};
use crate::digest::Verdict;
use crate::endpoint::{ApiVersion, SimEndpoint};
use crate::faults::{Effect, ErrorBodyFormat};
use crate::keys::{MODEL_HOST, key_json, list_keys};
use crate::model::SimOrg;
use crate::pages::{PageRequest, build_page};
use crate::request::SimRequest;
use crate::response::{RATE_LIMIT, RATE_LIMIT_REMAINING, SimBody, SimResponse};
use crate::state::{LoggedRequest, SimState, Simulator};
use crate::tags::apply_tag_faults;
use crate::{control, oauth};

/// Maximum size of a request body.
const MAX_REQUEST_BYTES: usize = 64 << 10;

/// Handles one request. Returns `None` if the connection is to be reset.
pub(crate) async fn handle(sim: &Simulator, request: Request<Body>) -> Option<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, MAX_REQUEST_BYTES)
        .await
        .unwrap_or_default();
    if parts.uri.path().starts_with("/sim/") {
        let response = control::handle(&mut sim.lock_state(), &parts, &body);
        return Some(build_response(response, &[]));
    }
    let mut request = SimRequest::new(parts, body);
    let page = request.query("pageNum").map_or(Some(1), |n| n.parse().ok());
    {
        let mut state = sim.lock_state();
        let (org, now) = (request.ids.org.as_deref(), state.now);
        request.effects = state.faults.effects_for(request.endpoint, org, page, now);
    }
    for effect in &request.effects {
        if let Effect::Delay { seconds } = effect {
            tokio::time::sleep(Duration::from_secs_f64(seconds.clamp(0.0, 3600.0))).await;
        }
    }
    let mut state = sim.lock_state();
    let response = respond(&mut state, &request);
    let logged = LoggedRequest {
        endpoint: request.endpoint,
        org: request.ids.org,
        page: page.filter(|_| request.endpoint == SimEndpoint::AiModelApiKeys),
        at: state.now,
        status: response
            .as_ref()
            .map_or(0, |response| response.status().as_u16()),
    };
    state.requests.push(logged);
    response
}

fn respond(state: &mut SimState, request: &SimRequest) -> Option<Response<Body>> {
    for effect in &request.effects {
        match effect {
            Effect::Reset => return None,
            Effect::Redirect { location } => {
                let mut response = SimResponse::empty(StatusCode::TEMPORARY_REDIRECT);
                response.set_header(header::LOCATION, location);
                return Some(build_response(response, &[]));
            }
            Effect::Status {
                status,
                body,
                retry_after,
            } => {
                let endpoint = request.endpoint;
                return Some(fault_response(endpoint, *status, *body, *retry_after));
            }
            _ => {}
        }
    }
    let mut response = dispatch(state, request).unwrap_or_else(|error| error);
    if request.has_effect(&Effect::NoRateLimitHeaders) {
        response.headers.remove(RATE_LIMIT);
        response.headers.remove(RATE_LIMIT_REMAINING);
    } else if request.has_effect(&Effect::RateLimitZero) && response.status.is_success() {
        response.set_rate_limit(0, 0);
    }
    if request.has_effect(&Effect::BareRejections)
        && response.status == StatusCode::TOO_MANY_REQUESTS
    {
        response = SimResponse::error(response.status, "RATE_LIMITED", "Slow down.", &json!([]));
    }
    response.pretty = request.is_set("pretty");
    // The envelope of a list is the list itself. The API description has no envelope for other responses.
    if request.is_set("envelope")
        && let SimBody::Json(Value::Object(fields)) = &mut response.body
        && fields.contains_key("results")
    {
        fields.insert("status".to_owned(), json!(response.status.as_u16()));
    }
    Some(build_response(response, &request.effects))
}

/// Returns the error response of [`Effect::Status`].
fn fault_response(
    endpoint: SimEndpoint,
    status: u16,
    format: ErrorBodyFormat,
    retry_after: Option<u32>,
) -> Response<Body> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let code = match status.as_u16() {
        401 => "NOT_ORG_GROUP_CREATOR",
        403 => "IP_ADDRESS_NOT_ON_ACCESS_LIST",
        404 => "RESOURCE_NOT_FOUND",
        406 => "INVALID_VERSION_DATE",
        429 => "RATE_LIMITED",
        503 => "SERVICE_UNAVAILABLE",
        _ => "UNEXPECTED_ERROR",
    };
    let oauth_error = matches!(endpoint, SimEndpoint::Token | SimEndpoint::Revoke)
        .then(|| oauth::error_with_status(status))
        .flatten();
    let mut response = oauth_error.unwrap_or_else(|| {
        SimResponse::error(
            status,
            code,
            "The simulator was configured to return this error.",
            &json!([]),
        )
    });
    if let Some(seconds) = retry_after {
        response.set_header(header::RETRY_AFTER, &seconds.to_string());
    }
    match format {
        ErrorBodyFormat::Json => build_response(response, &[]),
        ErrorBodyFormat::Endless => build_response(response, &[Effect::EndlessBody]),
        ErrorBodyFormat::Truncated => build_response(response, &[Effect::TruncatedBody]),
        ErrorBodyFormat::Empty => response.with_body(Body::empty()),
        ErrorBodyFormat::Html => {
            response.set_header(header::CONTENT_TYPE, "text/html");
            response.with_body("<html><body><h1>Service unavailable</h1></body></html>")
        }
    }
}

fn dispatch(state: &mut SimState, request: &SimRequest) -> Result<SimResponse, SimResponse> {
    let endpoint = request.endpoint;
    if endpoint == SimEndpoint::Unknown {
        return Err(SimResponse::not_found(request.path()));
    }
    if request.parts.method != endpoint.method() {
        return Err(SimResponse::error(
            StatusCode::METHOD_NOT_ALLOWED,
            "METHOD_NOT_ALLOWED",
            "The method is not allowed for this resource.",
            &json!([]),
        ));
    }
    match endpoint {
        SimEndpoint::Token => return oauth::issue_token(state, request),
        SimEndpoint::Revoke => return oauth::revoke_token(state, request),
        _ => authorize(state, request)?,
    }
    check_path_ids(request)?;
    let version = negotiate_version(request)?;
    let taken = take_token(state, request);
    let Some(remaining) = taken.remaining else {
        return Err(SimResponse::rate_limited(request.path(), &taken));
    };
    let body = match endpoint {
        SimEndpoint::AiModelApiKeys => list_keys(state, request, version)?,
        SimEndpoint::AiModelApiKey => SimBody::Json(get_key(state, request, version)?),
        SimEndpoint::ServiceAccount => SimBody::Json(get_service_account(state, request)?),
        SimEndpoint::Org => SimBody::Json(request.find_org(&state.world)?.to_json()),
        _ => SimBody::Json(list(state, request)?),
    };
    let mut response = SimResponse::new(StatusCode::OK, &version.media_type(), body);
    response.set_rate_limit(taken.config.capacity, remaining);
    Ok(response)
}

fn authorize(state: &mut SimState, request: &SimRequest) -> Result<(), SimResponse> {
    let mut stale = false;
    if let Some(token) = request.authorization("bearer") {
        if state.credentials.accepts_token(token, state.now) {
            return Ok(());
        }
    } else if let Some(fields) = request.authorization("digest") {
        let method = request.parts.method.as_str();
        let uri = request.parts.uri.path_and_query();
        let uri = uri.map_or("/", |uri| uri.as_str());
        let (credentials, now) = (&state.credentials, state.now);
        match state.nonces.verify(fields, method, uri, credentials, now) {
            Verdict::Valid => return Ok(()),
            Verdict::Stale => stale = true,
            Verdict::Invalid => {}
        }
    }
    let mut response = SimResponse::error(
        StatusCode::UNAUTHORIZED,
        "NOT_ORG_GROUP_CREATOR",
        "You are not authorized for this resource.",
        &json!([]),
    );
    let challenge = state.nonces.challenge(stale, state.now);
    response.set_header(header::WWW_AUTHENTICATE, &challenge);
    Err(response)
}

fn check_path_ids(request: &SimRequest) -> Result<(), SimResponse> {
    let is_hex = |id: &str| id.len() == 24 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let ids = &request.ids;
    if let Some(org) = ids.org.as_deref()
        && (!is_hex(org) || org.bytes().any(|byte| byte.is_ascii_uppercase()))
    {
        let detail = format!("An invalid organization ID {org} was specified.");
        return Err(SimResponse::bad_request("INVALID_ORG_ID", "orgId", &detail));
    }
    // Upper-case digits are valid in client ids.
    if let (SimEndpoint::ServiceAccount, Some(client)) = (request.endpoint, &ids.resource)
        && !client.strip_prefix("mdb_sa_id_").is_some_and(is_hex)
    {
        let detail = format!("An invalid client ID {client} was specified.");
        let (code, parameter) = ("INVALID_CLIENT_ID", "clientId");
        return Err(SimResponse::bad_request(code, parameter, &detail));
    }
    Ok(())
}

fn negotiate_version(request: &SimRequest) -> Result<ApiVersion, SimResponse> {
    let offered = request.endpoint.versions();
    ApiVersion::from_accept(&request.parts.headers, offered).ok_or_else(|| {
        SimResponse::error(
            StatusCode::NOT_ACCEPTABLE,
            "INVALID_VERSION_DATE",
            "The version in the Accept header is not supported by this endpoint.",
            &json!([]),
        )
    })
}

fn take_token(state: &mut SimState, request: &SimRequest) -> TakeResult {
    let (set, now) = (request.endpoint.rate_limit_set(), state.now);
    match (&request.ids.org, request.endpoint) {
        (Some(org), _) => state.buckets.take_org(set, org, now),
        (None, SimEndpoint::Orgs) => state
            .buckets
            .take(set, "user", BucketConfig::LIST_ORGS, now),
        (None, _) => state.buckets.take(set, "user", BucketConfig::TYPICAL, now),
    }
}

fn get_key(
    state: &SimState,
    request: &SimRequest,
    version: ApiVersion,
) -> Result<Value, SimResponse> {
    let mut keys = request.find_org(&state.world)?.keys.iter();
    let key = keys.find(|key| Some(&key.id) == request.ids.resource.as_ref());
    let key = key.ok_or_else(|| SimResponse::not_found(request.path()))?;
    Ok(key_json(key, version))
}

fn get_service_account(state: &SimState, request: &SimRequest) -> Result<Value, SimResponse> {
    let org = request.find_org(&state.world)?;
    let (account, client_id) = (&state.service_account, &state.credentials.client_id);
    if account.org.as_ref() == Some(&org.id) && request.ids.resource.as_ref() == Some(client_id) {
        Ok(account.to_json(client_id, &request.effects))
    } else {
        Err(SimResponse::not_found(request.path()))
    }
}

/// Returns the requested page of any list except the key list.
fn list(state: &SimState, request: &SimRequest) -> Result<Value, SimResponse> {
    let orgs = state.world.orgs.iter().filter(|org| org.visible);
    let results: Vec<Value> = match request.endpoint {
        SimEndpoint::Orgs => orgs.map(SimOrg::to_json).collect(),
        SimEndpoint::RateLimits => vec![rate_limits(&state.buckets)],
        SimEndpoint::Groups => {
            let org = request.find_org(&state.world)?;
            let projects = org.projects.iter();
            projects.map(|project| project.to_json(&org.id)).collect()
        }
        _ => request.find_org(&state.world).map(|_| model_limits())?,
    };
    let page = PageRequest::from_request(request)?;
    let (total, size) = (results.len(), page.size as usize);
    let start = page.offset(size);
    let mut items: Vec<Value> = results.into_iter().skip(start).take(size).collect();
    if request.endpoint == SimEndpoint::Groups {
        for (index, project) in items.iter_mut().enumerate() {
            apply_tag_faults(project, index, &request.effects);
        }
    }
    let has_next = start.saturating_add(items.len()) < total;
    Ok(build_page(request, page, has_next, total, &items))
}

fn rate_limits(buckets: &Buckets) -> Value {
    let config = buckets.org_config;
    let limit = |value: u32| json!({"value": value, "defaultValue": value});
    json!({
        "endpointSetId": "aiModelApi",
        "endpointSetName": "AI model API keys",
        "scope": buckets.scope,
        "capacity": limit(config.capacity),
        "refillRate": limit(config.refill_tokens),
        "refillDurationSeconds": limit(config.refill_seconds),
        "endpoints": [
            {"method": "GET", "path": "/api/atlas/v2/orgs/{orgId}/aiModelApiKeys"},
            {"method": "GET", "path": "/api/atlas/v2/orgs/{orgId}/aiModelApiKeys/{apiKeyId}"},
            {"method": "GET", "path": "/api/atlas/v2/orgs/{orgId}/aiModelApiRateLimits"},
        ],
    })
}

fn model_limits() -> Vec<Value> {
    let limits = |group: &str, models: [&str; 2], requests: u32, tokens: u32| {
        json!({
            "modelGroupName": group,
            "modelNames": models,
            "cloud": "ANY",
            "geography": "ANY",
            "endpoint": MODEL_HOST,
            "requestsPerMinuteLimit": requests,
            "tokensPerMinuteLimit": tokens,
        })
    };
    vec![
        limits(
            "voyage-embeddings",
            ["voyage-4", "voyage-4-lite"],
            2000,
            8_000_000,
        ),
        limits(
            "voyage-rerankers",
            ["rerank-2.5", "rerank-2.5-lite"],
            1000,
            4_000_000,
        ),
    ]
}
