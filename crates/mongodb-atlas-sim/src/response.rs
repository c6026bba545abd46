//! The form of Atlas' answers: media types, error bodies, rate-limit headers, page objects.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::buckets::TakeResult;

/// A version of the API, as `Accept` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SimApiVersion {
    Preview,
    Date(&'static str),
}

impl SimApiVersion {
    /// `application/vnd.atlas.2025-03-12+json` and the like.
    pub(crate) fn media_type(self) -> String {
        match self {
            Self::Preview => "application/vnd.atlas.preview+json".to_owned(),
            Self::Date(date) => format!("application/vnd.atlas.{date}+json"),
        }
    }

    /// The version among `offered` that `Accept` names.
    pub(crate) fn from_accept(headers: &HeaderMap, offered: &[Self]) -> Option<Self> {
        let accept = headers.get(header::ACCEPT)?.to_str().ok()?;
        accept
            .split(',')
            .filter_map(|part| part.split(';').next())
            .find_map(|wanted| {
                offered
                    .iter()
                    .copied()
                    .find(|version| version.media_type() == wanted.trim())
            })
    }
}

/// An answer before it is put into bytes.
pub(crate) struct SimResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    pub(crate) pretty: bool,
}

impl SimResponse {
    pub(crate) fn new(status: StatusCode, content_type: &str, body: Value) -> Self {
        let mut answer = Self {
            status,
            headers: HeaderMap::new(),
            body,
            pretty: false,
        };
        answer.set_header(header::CONTENT_TYPE, content_type);
        answer
    }

    /// Atlas' error object.
    pub(crate) fn error(status: StatusCode, code: &str, detail: &str, parameters: Value) -> Self {
        let body = json!({
            "detail": detail,
            "error": status.as_u16(),
            "errorCode": code,
            "parameters": [],
            "reason": status.canonical_reason().unwrap_or("Error"),
        });
        let mut answer = Self::new(status, "application/json", body);
        if let Some(members) = answer.body.as_object_mut() {
            members.insert("parameters".to_owned(), parameters);
        }
        answer
    }

    pub(crate) fn unauthorized(challenge: &str) -> Self {
        let mut answer = Self::error(
            StatusCode::UNAUTHORIZED,
            "NOT_ORG_GROUP_CREATOR",
            "You are not authorized for this resource.",
            json!([]),
        );
        answer.set_header(header::WWW_AUTHENTICATE, challenge);
        answer
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::error(
            StatusCode::NOT_FOUND,
            "RESOURCE_NOT_FOUND",
            &format!("Cannot find resource {what}."),
            json!([what]),
        )
    }

    pub(crate) fn bad_request(code: &str, name: &str, detail: &str) -> Self {
        Self::error(StatusCode::BAD_REQUEST, code, detail, json!([name]))
    }

    pub(crate) fn rate_limited(path: &str, taken: &TakeResult) -> Self {
        let (size, wait) = (taken.config, taken.retry_after);
        let path = path.trim_start_matches('/');
        let detail = format!(
            "Rate limit exceeded for {path}. Please retry after {wait} seconds. Request capacity: {}. Refill rate: {} per {} seconds.",
            size.capacity, size.refill_tokens, size.refill_seconds
        );
        let parameters = json!([
            path,
            wait,
            size.capacity,
            size.refill_tokens,
            size.refill_seconds
        ]);
        let mut answer = Self::error(
            StatusCode::TOO_MANY_REQUESTS,
            "RATE_LIMITED_TOKEN_BUCKET",
            &detail,
            parameters,
        );
        answer.set_header(header::RETRY_AFTER, &wait.to_string());
        answer
    }

    pub(crate) fn set_header(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
    }

    pub(crate) fn set_rate_limit(&mut self, capacity: u32, remaining: u32) {
        self.set_header(
            HeaderName::from_static("ratelimit-limit"),
            &capacity.to_string(),
        );
        self.set_header(
            HeaderName::from_static("ratelimit-remaining"),
            &remaining.to_string(),
        );
    }

    pub(crate) fn body_bytes(&self) -> Vec<u8> {
        if self.body.is_null() {
            return Vec::new();
        }
        let bytes = if self.pretty {
            serde_json::to_vec_pretty(&self.body)
        } else {
            serde_json::to_vec(&self.body)
        };
        bytes.unwrap_or_default()
    }

    pub(crate) fn into_response(self, body: Body) -> Response<Body> {
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}
