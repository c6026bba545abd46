//! Responses in the format of Atlas: error objects and rate-limit headers.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::buckets::TakeResult;

pub(crate) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
pub(crate) const RATE_LIMIT_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");

/// Body of a [`SimResponse`].
pub(crate) enum SimBody {
    /// JSON that is not serialized yet; `null` is an empty body.
    Json(Value),
    /// Serialized JSON.
    Serialized(Bytes),
}

/// A response before faults are applied to its serialized body.
pub(crate) struct SimResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: SimBody,
    /// Whether the body is serialized with line breaks.
    pub(crate) pretty: bool,
}

impl SimResponse {
    pub(crate) fn new(status: StatusCode, content_type: &str, body: SimBody) -> Self {
        let mut response = Self {
            status,
            headers: HeaderMap::new(),
            body,
            pretty: false,
        };
        response.set_header(header::CONTENT_TYPE, content_type);
        response
    }

    pub(crate) fn json(status: StatusCode, body: Value) -> Self {
        Self::new(status, "application/json", SimBody::Json(body))
    }

    /// Returns a response without a body.
    pub(crate) fn empty(status: StatusCode) -> Self {
        let mut response = Self::json(status, Value::Null);
        response.headers.remove(header::CONTENT_TYPE);
        response
    }

    /// Returns an error object of Atlas.
    pub(crate) fn error(status: StatusCode, code: &str, detail: &str, parameters: &Value) -> Self {
        Self::json(
            status,
            json!({
                "detail": detail,
                "error": status.as_u16(),
                "errorCode": code,
                "parameters": parameters,
                "reason": status.canonical_reason().unwrap_or("Error"),
            }),
        )
    }

    pub(crate) fn not_found(resource: &str) -> Self {
        let detail = format!("Cannot find resource {resource}.");
        Self::error(
            StatusCode::NOT_FOUND,
            "RESOURCE_NOT_FOUND",
            &detail,
            &json!([resource]),
        )
    }

    pub(crate) fn bad_request(code: &str, parameter: &str, detail: &str) -> Self {
        Self::error(StatusCode::BAD_REQUEST, code, detail, &json!([parameter]))
    }

    pub(crate) fn rate_limited(path: &str, result: &TakeResult) -> Self {
        let path = path.trim_start_matches('/');
        let (bucket, wait) = (result.config, result.retry_after);
        let (capacity, refill, interval) =
            (bucket.capacity, bucket.refill_tokens, bucket.refill_seconds);
        let mut response = Self::error(
            StatusCode::TOO_MANY_REQUESTS,
            "RATE_LIMITED_TOKEN_BUCKET",
            &format!(
                "Rate limit exceeded for {path}. Please retry after {wait} seconds. Request capacity: {capacity}. Refill rate: {refill} per {interval} seconds."
            ),
            &json!([path, wait, capacity, refill, interval]),
        );
        response.set_header(header::RETRY_AFTER, &wait.to_string());
        response
    }

    pub(crate) fn set_header(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
    }

    pub(crate) fn set_rate_limit(&mut self, capacity: u32, remaining: u32) {
        self.set_header(RATE_LIMIT, &capacity.to_string());
        self.set_header(RATE_LIMIT_REMAINING, &remaining.to_string());
    }

    pub(crate) fn body_bytes(&self) -> Bytes {
        let bytes = match &self.body {
            SimBody::Serialized(bytes) => return bytes.clone(),
            SimBody::Json(Value::Null) => return Bytes::new(),
            SimBody::Json(body) if self.pretty => serde_json::to_vec_pretty(body),
            SimBody::Json(body) => serde_json::to_vec(body),
        };
        bytes.unwrap_or_default().into()
    }

    /// Replaces the body.
    pub(crate) fn with_body(self, body: impl Into<Body>) -> Response<Body> {
        let mut response = Response::new(body.into());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}
