//! Every endpoint of the API that this project knows, from the request line to the answer.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, Method, Request, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::buckets::BucketConfig;
use super::digest::Verdict;
use super::faults::{Effect, ErrorBodyFormat, SimEndpoint};
use super::request::SimRequest;
use super::response::{SimApiVersion, SimResponse};
use super::server::ResetFlag;
use super::{SimState, Simulator, body, control, keys, oauth};

/// Most bytes of a request's body that are read.
const MAX_REQUEST_BODY: usize = 64 << 10;

/// Answers one request, as well or as badly as the faults in force ask.
pub(crate) async fn handle(
    sim: &Simulator,
    reset: &ResetFlag,
    request: Request<Body>,
) -> Response<Body> {
    let (parts, incoming) = request.into_parts();
    let body = axum::body::to_bytes(incoming, MAX_REQUEST_BODY)
        .await
        .map(|bytes| bytes.to_vec())
        .unwrap_or_default();
    if parts.uri.path().starts_with("/sim/") {
        return control::handle(sim, &parts, &body);
    }
    let call = SimRequest::new(parts, body);
    let endpoint = call.endpoint;
    let page = call
        .query
        .get("pageNum")
        .map_or(Some(1), |n| n.parse().ok());
    let effects = sim.lock_state().faults.effects_for(
        endpoint,
        call.org_id.as_deref(),
        page,
        sim.clock.now(),
    );
    for effect in &effects {
        if let Effect::Delay { seconds } = effect {
            tokio::time::sleep(Duration::from_secs_f64(seconds.clamp(0.0, 3600.0))).await;
        }
    }
    let mut state = sim.lock_state();
    let response = respond(&mut state, &call, &effects, reset, sim.clock.now());
    state.requests.push(super::LoggedRequest {
        endpoint,
        at: sim.clock.now(),
        org: call.org_id,
        page: matches!(endpoint, SimEndpoint::AiModelApiKeys)
            .then_some(page)
            .flatten(),
        status: if effects.contains(&Effect::Reset) {
            0
        } else {
            response.status().as_u16()
        },
    });
    response
}

fn respond(
    state: &mut SimState,
    call: &SimRequest,
    effects: &[Effect],
    reset: &ResetFlag,
    now: Timestamp,
) -> Response<Body> {
    for effect in effects {
        match effect {
            Effect::Reset => {
                reset.set();
                return Response::new(Body::empty());
            }
            Effect::Redirect { location } => {
                let mut answer =
                    SimResponse::new(StatusCode::TEMPORARY_REDIRECT, "text/plain", Value::Null);
                answer.set_header(header::LOCATION, location);
                return body::build_response(answer, &[]);
            }
            Effect::Status {
                status,
                body,
                retry_after,
            } => return fault_response(*status, *body, *retry_after),
            _ => {}
        }
    }
    let mut answer = dispatch(state, call, effects, now).unwrap_or_else(|error| error);
    let (limit, remaining) = (
        HeaderName::from_static("ratelimit-limit"),
        HeaderName::from_static("ratelimit-remaining"),
    );
    if effects.contains(&Effect::NoRateLimitHeaders) {
        answer.headers.remove(limit);
        answer.headers.remove(remaining);
    } else if effects.contains(&Effect::RateLimitZero) && answer.status.is_success() {
        answer.set_rate_limit(0, 0);
    }
    if effects.contains(&Effect::BareRefusals) && answer.status == StatusCode::TOO_MANY_REQUESTS {
        answer = SimResponse::error(answer.status, "RATE_LIMITED", "Slow down.", json!([]));
    }
    answer.pretty = call.query.is_true("pretty");
    if call.query.is_true("envelope")
        && let Value::Object(members) = &mut answer.body
    {
        members.insert("status".to_owned(), json!(answer.status.as_u16()));
    }
    body::build_response(answer, effects)
}

/// An error that a fault asked for.
fn fault_response(status: u16, form: ErrorBodyFormat, retry_after: Option<u32>) -> Response<Body> {
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
    let mut answer = SimResponse::error(status, code, "This fault was asked for.", json!([]));
    if let Some(seconds) = retry_after {
        answer.set_header(header::RETRY_AFTER, &seconds.to_string());
    }
    match form {
        ErrorBodyFormat::Json => body::build_response(answer, &[]),
        ErrorBodyFormat::Endless => body::build_response(answer, &[Effect::EndlessBody]),
        ErrorBodyFormat::Cut => {
            let bytes = answer.body_bytes();
            body::truncated_response(answer, &bytes)
        }
        ErrorBodyFormat::Empty => {
            answer.body = Value::Null;
            body::build_response(answer, &[])
        }
        ErrorBodyFormat::Html => {
            answer.set_header(header::CONTENT_TYPE, "text/html");
            answer.into_response(Body::from(
                "<html><body><h1>Something went wrong</h1></body></html>",
            ))
        }
    }
}

fn dispatch(
    state: &mut SimState,
    call: &SimRequest,
    effects: &[Effect],
    now: Timestamp,
) -> Result<SimResponse, SimResponse> {
    let method = if matches!(call.endpoint, SimEndpoint::Token | SimEndpoint::Revoke) {
        Method::POST
    } else {
        Method::GET
    };
    if call.endpoint == SimEndpoint::Unknown {
        return Err(SimResponse::not_found(call.parts.uri.path()));
    }
    if call.parts.method != method {
        return Err(SimResponse::error(
            StatusCode::METHOD_NOT_ALLOWED,
            "METHOD_NOT_ALLOWED",
            "The method is not allowed here.",
            json!([]),
        ));
    }
    match call.endpoint {
        SimEndpoint::Token => return oauth::issue_token(state, call, now),
        SimEndpoint::Revoke => return oauth::revoke_token(state, call),
        _ => authorize(state, call, now)?,
    }
    if let Some(org) = &call.org_id
        && !(org.len() == 24
            && org
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
    {
        return Err(SimResponse::bad_request(
            "INVALID_ORG_ID",
            "orgId",
            &format!("An invalid organization ID {org} was specified."),
        ));
    }
    let version = negotiate_version(call)?;
    let taken = match (&call.org_id, call.endpoint) {
        (None, SimEndpoint::Orgs) => {
            state
                .buckets
                .take("orgs", "user", BucketConfig::LIST_ORGS, now)
        }
        (None, _) => state
            .buckets
            .take("rateLimits", "user", BucketConfig::TYPICAL, now),
        (Some(org), endpoint) => {
            let set = match endpoint {
                SimEndpoint::Org => "org",
                SimEndpoint::Groups => "groups",
                _ => "aiModelApi",
            };
            state.buckets.take_org(set, org, now)
        }
    };
    let Some(remaining) = taken.remaining else {
        return Err(SimResponse::rate_limited(call.parts.uri.path(), &taken));
    };
    let body = if call.endpoint == SimEndpoint::AiModelApiKeys {
        keys::list_keys(state, call, effects, version)?
    } else {
        list_body(state, call, effects, version)?
    };
    let mut answer = SimResponse::new(StatusCode::OK, &version.media_type(), body);
    answer.set_rate_limit(taken.config.capacity, remaining);
    Ok(answer)
}

fn negotiate_version(call: &SimRequest) -> Result<SimApiVersion, SimResponse> {
    let offered: &[SimApiVersion] = match call.endpoint {
        SimEndpoint::AiModelApiKeys
        | SimEndpoint::AiModelApiKey
        | SimEndpoint::AiModelApiRateLimits => {
            &[SimApiVersion::Date("2025-03-12"), SimApiVersion::Preview]
        }
        SimEndpoint::RateLimits => &[SimApiVersion::Date("2025-03-12")],
        _ => &[SimApiVersion::Date("2023-01-01")],
    };
    SimApiVersion::from_accept(&call.parts.headers, offered).ok_or_else(|| {
        SimResponse::error(
            StatusCode::NOT_ACCEPTABLE,
            "INVALID_VERSION_DATE",
            "The version in the Accept header is not one that this endpoint has.",
            json!([]),
        )
    })
}

fn authorize(state: &mut SimState, call: &SimRequest, now: Timestamp) -> Result<(), SimResponse> {
    let header = call
        .parts
        .headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let uri = call
        .parts
        .uri
        .path_and_query()
        .map_or("/", |uri| uri.as_str());
    let mut stale = false;
    match header.and_then(|value| value.split_once(' ')) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            let known = state.credentials.accepts_token(token.trim(), now);
            if known {
                return Ok(());
            }
        }
        Some((scheme, members)) if scheme.eq_ignore_ascii_case("digest") => {
            match state.nonces.verify(
                members,
                call.parts.method.as_str(),
                uri,
                &state.credentials,
                now,
            ) {
                Verdict::Valid => return Ok(()),
                Verdict::Stale => stale = true,
                Verdict::Invalid => {}
            }
        }
        _ => {}
    }
    Err(SimResponse::unauthorized(
        &state.nonces.challenge(stale, now),
    ))
}

fn list_body(
    state: &SimState,
    call: &SimRequest,
    effects: &[Effect],
    version: SimApiVersion,
) -> Result<Value, SimResponse> {
    let world = &state.world;
    let path = call.parts.uri.path();
    let org_json = |org: &super::world::SimOrg| json!({"id": org.id, "name": org.name, "isDeleted": org.deleted, "links": []});
    let results = match call.endpoint {
        SimEndpoint::Orgs => world
            .orgs
            .iter()
            .filter(|org| org.visible)
            .map(org_json)
            .collect(),
        SimEndpoint::RateLimits => {
            let size = state.buckets.org_config();
            let number = |value: u32| json!({"value": value, "defaultValue": value});
            vec![json!({
                "endpointSetId": "aiModelApi",
                "endpointSetName": "AI model API keys",
                "scope": state.buckets.scope().as_str(),
                "capacity": number(size.capacity),
                "refillRate": number(size.refill_tokens),
                "refillDurationSeconds": number(size.refill_seconds),
                "endpoints": [
                    {"method": "GET", "path": "/api/atlas/v2/orgs/{orgId}/aiModelApiKeys"},
                    {"method": "GET", "path": "/api/atlas/v2/orgs/{orgId}/aiModelApiKeys/{apiKeyId}"},
                    {"method": "GET", "path": "/api/atlas/v2/orgs/{orgId}/aiModelApiRateLimits"},
                ],
            })]
        }
        endpoint => {
            let org = call
                .org_id
                .as_deref()
                .and_then(|id| world.org(id))
                .ok_or_else(|| SimResponse::not_found(path))?;
            match endpoint {
                SimEndpoint::Org => return Ok(org_json(org)),
                SimEndpoint::AiModelApiKey => {
                    let key = org
                        .keys
                        .iter()
                        .find(|key| Some(&key.id) == call.key_id.as_ref());
                    let key = key.ok_or_else(|| SimResponse::not_found(path))?;
                    return Ok(keys::key_json(key, version));
                }
                SimEndpoint::Groups => org
                    .projects
                    .iter()
                    .map(|project| json!({"id": project.id, "name": project.name, "orgId": org.id}))
                    .collect(),
                _ => model_limits(),
            }
        }
    };
    let total = results.len();
    let (page, size) = keys::apply_page_cap(call.query.page()?, effects);
    let first = (page as usize - 1).saturating_mul(size as usize);
    let cut: Vec<Value> = results
        .into_iter()
        .skip(first)
        .take(size as usize)
        .collect();
    let more = first + cut.len() < total && !effects.contains(&Effect::NoNextLink);
    let mut object = page_object(call, (page, size), more, total, cut);
    keys::apply_page_faults(&mut object, effects);
    Ok(object)
}

fn model_limits() -> Vec<Value> {
    [
        (
            "voyage-embeddings",
            ["voyage-4", "voyage-4-lite"],
            2000,
            8_000_000,
        ),
        (
            "voyage-rerankers",
            ["rerank-2.5", "rerank-2.5-lite"],
            1000,
            4_000_000,
        ),
    ]
    .into_iter()
    .map(|(group, models, requests, tokens)| {
        json!({
            "modelGroupName": group,
            "modelNames": models,
            "cloud": "ANY",
            "geography": "ANY",
            "endpoint": keys::MODEL_HOST,
            "requestsPerMinuteLimit": requests,
            "tokensPerMinuteLimit": tokens,
        })
    })
    .collect()
}

/// The object that every list comes in.
pub(crate) fn page_object(
    call: &SimRequest,
    (page, size): (u32, u32),
    more: bool,
    total: usize,
    results: Vec<Value>,
) -> Value {
    let host = call
        .parts
        .headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or("localhost");
    let path = call.parts.uri.path();
    let link = |page: u32, rel: &str| json!({"href": format!("http://{host}{path}?itemsPerPage={size}&pageNum={page}"), "rel": rel});
    let mut links = vec![link(page, "self")];
    if page > 1 {
        links.push(link(page - 1, "previous"));
    }
    if more {
        links.push(link(page + 1, "next"));
    }
    json!({"links": links, "results": Value::Array(results), "totalCount": total})
}
