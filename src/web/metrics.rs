//! Handles scrapes: content negotiation, the limit of concurrent scrapes, and a streamed body.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::Semaphore;

use super::scope::ScrapeScope;
use super::state::{AppState, HandlerOptions};
use crate::metrics::{
    Aborted, BodyReader, Chunk, Compressor, Exposition, Format, MetricSnapshot, SharedBody,
    accepts_gzip,
};
use exporter_toolkit::request_limiter::{RequestLimiter, RequestPermit};
use exporter_toolkit::server::ResponseHandle;

/// The time that a scrape waits for a permit of `--web.max-requests`.
const WAIT_TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum number of waiting scrapes of one client.
const MAX_WAITING_PER_CLIENT: usize = 64;

/// The state that concurrent scrapes share.
pub struct ScrapeState {
    limiter: Arc<RequestLimiter>,
    /// Limits the chunks that are compressed concurrently to one per CPU.
    compression_permits: Arc<Semaphore>,
    /// The latest compressed body of each format.
    bodies: Mutex<HashMap<Format, (BodyKey, Arc<SharedBody>)>>,
}

impl Default for ScrapeState {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            limiter: RequestLimiter::new(MAX_WAITING_PER_CLIENT, WAIT_TIMEOUT),
            compression_permits: Arc::new(Semaphore::new(cpus)),
            bodies: Mutex::default(),
        }
    }
}

/// Identifies a compressed body. Scrapes within the same second share a body if inventories and options are the same.
struct BodyKey {
    second: i64,
    generation: u64,
    /// The options, compared by address. Holding them prevents the reuse of their address.
    options: Arc<HandlerOptions>,
}

impl BodyKey {
    fn matches(&self, other: &Self) -> bool {
        self.second == other.second
            && self.generation == other.generation
            && Arc::ptr_eq(&self.options, &other.options)
    }
}

impl ScrapeState {
    /// Returns a reader of the compressed body of all organizations, as of this second.
    fn subscribe(
        &self,
        app: &AppState,
        options: &Arc<HandlerOptions>,
        format: Format,
    ) -> Option<BodyReader> {
        let now = app.clock.now();
        let key = BodyKey {
            second: now.as_second(),
            generation: app.store.generation(),
            options: Arc::clone(options),
        };
        let mut bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((previous, body)) = bodies.get(&format)
            && previous.matches(&key)
            && let Some(reader) = body.subscribe()
        {
            return Some(reader);
        }
        let snapshot = app.scrape_snapshot(options, &ScrapeScope::All, now);
        let body = SharedBody::new_shared(Box::new(Compressor::new(format, snapshot)));
        let reader = body.subscribe();
        let previous = bodies.insert(format, (key, body));
        drop(bodies);
        // A body can be large, so free it outside the lock.
        drop(previous);
        reader
    }
}

/// Handles a scrape.
pub(super) async fn handle(
    app: &AppState,
    options: &Arc<HandlerOptions>,
    method: &Method,
    query: Option<&str>,
    request_headers: &HeaderMap,
    response: Option<ResponseHandle>,
) -> Response {
    let scope = match ScrapeScope::from_query(query, &app.store.targets()) {
        Ok(scope) => scope,
        Err(error) => return error.into_response(),
    };
    let format = Format::negotiate(&header_list(request_headers, header::ACCEPT));
    let gzip = accepts_gzip(&header_list(request_headers, header::ACCEPT_ENCODING));
    let headers = response_headers(format, gzip);
    if method == Method::HEAD {
        // The length is unknown, as for GET. A Content-Length of 0 would be incorrect (RFC 9110 §8.6).
        let body = Body::from_stream(stream::empty::<Result<Bytes, Infallible>>());
        return (headers, body).into_response();
    }
    let permit = app
        .scrapes
        .limiter
        .acquire(options.config.max_requests, response);
    let Some(permit) = permit.await else {
        let text = "503 Service Unavailable: too many concurrent scrapes (--web.max-requests).\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    // Gather these metrics before the inventories are read, so that a scrape never reports a successful poll with older keys.
    let metrics = app.gather_metrics(options);
    let metrics = match &scope {
        ScrapeScope::All => metrics,
        ScrapeScope::Orgs(orgs) => metrics.retain_orgs(orgs),
        ScrapeScope::Exporter => metrics.retain_process(),
    };
    if !gzip {
        let snapshot = app.scrape_snapshot(options, &scope, app.clock.now());
        let body = plain_body(Exposition::new(format, metrics, snapshot), permit);
        return (headers, body).into_response();
    }
    options.gzip_requested.store(true, Ordering::Relaxed);
    let reader = if scope == ScrapeScope::All {
        app.scrapes.subscribe(app, options, format)
    } else {
        // Other clients rarely request the same series, so the body is not shared.
        let snapshot = app.scrape_snapshot(options, &scope, app.clock.now());
        SharedBody::new_private(Box::new(Compressor::new(format, snapshot))).subscribe()
    };
    let permits = Arc::clone(&app.scrapes.compression_permits);
    let body = compressed_body(format, metrics, reader, permits, permit);
    (headers, body).into_response()
}

/// Joins the values of a list header with commas.
fn header_list(headers: &HeaderMap, name: HeaderName) -> String {
    let values = headers.get_all(name).into_iter();
    let values: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

fn response_headers(format: Format, gzip: bool) -> HeaderMap {
    let encoding = gzip.then_some((header::CONTENT_ENCODING, "gzip"));
    [
        (header::CONTENT_TYPE, format.content_type()),
        (header::VARY, "Accept, Accept-Encoding"),
    ]
    .into_iter()
    .chain(encoding)
    .map(|(name, value)| (name, HeaderValue::from_static(value)))
    .collect()
}

fn plain_body(exposition: Exposition, permit: RequestPermit) -> Body {
    let chunks = stream::unfold((exposition, permit), async |(mut exposition, permit)| {
        loop {
            let chunk = exposition.next_chunk()?;
            if !chunk.is_empty() {
                let chunk = Ok::<_, Infallible>(Bytes::from(chunk));
                return Some((chunk, (exposition, permit)));
            }
            // Many keys without series take time; let other tasks run.
            tokio::task::yield_now().await;
        }
    });
    Body::from_stream(chunks)
}

/// Streams a compressed body, followed by the exporter's own metrics of this scrape. The scrape holds its permit until its
/// last requested chunk is complete, even if the client disconnects earlier.
fn compressed_body(
    format: Format,
    metrics: MetricSnapshot,
    reader: Option<BodyReader>,
    permits: Arc<Semaphore>,
    permit: RequestPermit,
) -> Body {
    let permit = Arc::new(permit);
    let state = (reader, metrics, permits, permit);
    let chunks = stream::unfold(
        state,
        move |(reader, metrics, permits, permit)| async move {
            let mut reader = reader?;
            let next = reader.next_chunk(&permits, || Arc::clone(&permit)).await;
            let (chunk, reader): (Result<Bytes, Aborted>, _) = match next {
                Ok(Chunk::Bytes(chunk)) => (Ok(chunk), Some(reader)),
                Ok(Chunk::End(checksum)) => {
                    (Ok(Compressor::finish(format, &metrics, checksum)), None)
                }
                Err(aborted) => (Err(aborted), None),
            };
            Some((chunk, (reader, metrics, permits, permit)))
        },
    );
    Body::from_stream(chunks)
}
