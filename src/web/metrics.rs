//! Scrapes: content negotiation, admission, and a streamed body.

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

use super::state::{AppState, HandlerOptions, OrgFilter};
use crate::metrics::{
    Aborted, BodyReader, Chunk, Compressor, Exposition, Format, MetricSnapshot, SharedBody,
    accepts_gzip,
};
use exporter_toolkit::request_limiter::{RequestLimiter, RequestPermit};
use exporter_toolkit::server::ResponseHandle;

/// How long a scrape waits for a permit of `--web.max-requests`.
const WAIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Scrapes of one client that wait for a permit at once.
const MAX_WAITING_PER_CLIENT: usize = 64;

/// The state that concurrent scrapes share.
pub struct ScrapeState {
    limiter: Arc<RequestLimiter>,
    /// Chunks that are compressed at once: one per processor.
    compression_permits: Arc<Semaphore>,
    /// The latest compressed body of each format.
    bodies: Mutex<HashMap<Format, (BodyKey, Arc<SharedBody>)>>,
}

impl Default for ScrapeState {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            limiter: RequestLimiter::new(MAX_WAITING_PER_CLIENT, WAIT_TIMEOUT),
            compression_permits: Arc::new(Semaphore::new(processors)),
            bodies: Mutex::default(),
        }
    }
}

/// Identifies a compressed body: scrapes of the same second share one, as long as inventories and options are the same.
struct BodyKey {
    second: i64,
    generation: u64,
    /// Owned, so that no later options can have the same address.
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
        let snapshot = app.scrape_snapshot(options, &OrgFilter::All, now);
        let body = SharedBody::new_shared(Box::new(Compressor::new(format, snapshot)));
        let reader = body.subscribe();
        let previous = bodies.insert(format, (key, body));
        drop(bodies);
        // A body can be large; it is freed outside the lock.
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
    let Some(filter) = OrgFilter::from_query(query, &app.store.targets()) else {
        let text = "This exporter watches no organization with an id that was asked for; /sd lists those it does.\n";
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let format = Format::negotiate(&header_list(request_headers, header::ACCEPT));
    let gzip = accepts_gzip(&header_list(request_headers, header::ACCEPT_ENCODING));
    let headers = response_headers(format, gzip);
    if method == Method::HEAD {
        // The length is unknown, as that of GET: a Content-Length of 0 would be wrong (RFC 9110 §8.6).
        let body = Body::from_stream(stream::empty::<Result<Bytes, Infallible>>());
        return (headers, body).into_response();
    }
    let permit = app
        .scrapes
        .limiter
        .acquire(options.config.max_requests, response);
    let Some(permit) = permit.await else {
        let text = "Too many scrapes at once; see --web.max-requests.\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    // Gathered before the inventories are read, see there.
    let metrics = match &filter {
        OrgFilter::All => app.gather_metrics(options),
        OrgFilter::Only(orgs) => app.gather_metrics(options).retain_orgs(orgs),
    };
    if !gzip {
        let snapshot = app.scrape_snapshot(options, &filter, app.clock.now());
        let body = plain_body(Exposition::new(format, metrics, snapshot), permit);
        return (headers, body).into_response();
    }
    options.gzip_requested.store(true, Ordering::Relaxed);
    let reader = match &filter {
        OrgFilter::All => app.scrapes.subscribe(app, options, format),
        // No other client requests the same organizations.
        OrgFilter::Only(_) => {
            let snapshot = app.scrape_snapshot(options, &filter, app.clock.now());
            SharedBody::new_private(Box::new(Compressor::new(format, snapshot))).subscribe()
        }
    };
    let permits = Arc::clone(&app.scrapes.compression_permits);
    let body = compressed_body(format, metrics, reader, permits, permit);
    (headers, body).into_response()
}

/// Joins the values of a header that is a list.
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
            // Keys without series: other tasks may need the thread.
            tokio::task::yield_now().await;
        }
    });
    Body::from_stream(chunks)
}

/// Streams a compressed body, followed by the exporter's own metrics of this scrape. The scrape holds its permit until
/// the last chunk that it has requested is complete, even if its client disconnects before.
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
