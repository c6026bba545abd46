//! Answers to scrapes: in the form that the scraper wants, packed if it wants that, streamed.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::Semaphore;

use super::options::HandlerOptions;
use super::org_filter::OrgFilter;
use super::router::AppState;
use crate::metrics::{
    Aborted, BodyReader, Chunk, Compressor, Exposition, Format, MetricSnapshot, SharedBody,
    accepts_gzip, compress_trailer,
};
use exporter_toolkit::request_limiter::{RequestLimiter, RequestPermit};
use exporter_toolkit::server::ResponseHandle;

/// How long a scrape waits for one of the places that `--web.max-requests` gives.
const WAIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Scrapes of one client that wait for a place at once.
const MAX_WAITING_PER_CLIENT: usize = 64;

/// What scrapes share.
#[derive(Debug)]
pub struct ScrapeState {
    limiter: Arc<RequestLimiter>,
    /// Chunks that are compressed at once: a processor each.
    compression_permits: Arc<Semaphore>,
    /// Of each form, what was compressed last.
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

/// What is packed for one moment serves everybody who asks in that second, as long as the
/// inventories and the settings are the same.
#[derive(Debug)]
struct BodyKey {
    second: i64,
    generation: u64,
    /// Held, so that no later settings can come to lie at the same address.
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
    /// A reader of everything, compressed, as of this second.
    fn subscribe(
        &self,
        app: &AppState,
        settings: &Arc<HandlerOptions>,
        format: Format,
    ) -> Option<BodyReader> {
        let now = app.clock.now();
        let moment = BodyKey {
            second: now.as_second(),
            generation: app.store.generation(),
            options: Arc::clone(settings),
        };
        let mut bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, body)) = bodies.get(&format)
            && of.matches(&moment)
            && let Some(reader) = body.subscribe()
        {
            return Some(reader);
        }
        let scene = app.scrape_snapshot(settings, &OrgFilter::All, now);
        let body = SharedBody::new_shared(Box::new(Compressor::new(format, scene)));
        let reader = body.subscribe();
        let previous = bodies.insert(format, (moment, body));
        drop(bodies);
        // it can be large
        drop(previous);
        reader
    }
}

fn header_list(headers: &HeaderMap, name: HeaderName) -> String {
    let values: Vec<&str> = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    values.join(",")
}

/// Answers a scrape.
pub(super) async fn handle(
    app: &AppState,
    settings: &Arc<HandlerOptions>,
    method: &Method,
    query: Option<&str>,
    headers: &HeaderMap,
    response: Option<ResponseHandle>,
) -> Response {
    let Ok(choice) = OrgFilter::from_query(query, &app.store.targets()) else {
        let text = "This exporter watches no organization with an id that was asked for; /sd lists those it does.\n";
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let format = Format::negotiate(&header_list(headers, header::ACCEPT));
    let packed = accepts_gzip(&header_list(headers, header::ACCEPT_ENCODING));
    let content_type = HeaderValue::from_static(format.content_type());
    let mut head = HeaderMap::new();
    head.insert(header::CONTENT_TYPE, content_type);
    head.insert(
        header::VARY,
        HeaderValue::from_static("Accept, Accept-Encoding"),
    );
    if packed {
        head.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if method == Method::HEAD {
        // of unknown length, as that of GET: a Content-Length of 0 would be wrong (RFC 9110 §8.6)
        let body = Body::from_stream(stream::empty::<Result<Bytes, Infallible>>());
        return (head, body).into_response();
    }
    let permit = app.scrapes.limiter.acquire(settings.max_requests, response);
    let Some(permit) = permit.await else {
        let text = "Too many scrapes at once; see --web.max-requests.\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    // before the inventories are looked at, see there
    let own = match &choice {
        OrgFilter::All => app.metrics.gather(),
        OrgFilter::Some(orgs) => app.metrics.gather().retain_orgs(orgs),
    };
    let body = if packed {
        settings.note_gzip(format);
        let reader = match &choice {
            OrgFilter::All => app.scrapes.subscribe(app, settings, format),
            // nobody else wants the same
            OrgFilter::Some(_) => {
                let scene = app.scrape_snapshot(settings, &choice, app.clock.now());
                SharedBody::new_private(Box::new(Compressor::new(format, scene))).subscribe()
            }
        };
        let permits = Arc::clone(&app.scrapes.compression_permits);
        compressed_body(format, own, reader, permits, permit)
    } else {
        let scene = app.scrape_snapshot(settings, &choice, app.clock.now());
        plain_body(Exposition::new(format, own, scene), permit)
    };
    (head, body).into_response()
}

fn plain_body(exposition: Exposition, permit: RequestPermit) -> Body {
    let pieces = stream::unfold((exposition, permit), async |(mut exposition, permit)| {
        loop {
            let piece = exposition.next_chunk()?;
            if !piece.is_empty() {
                let piece = Ok::<_, Infallible>(Bytes::from(piece));
                return Some((piece, (exposition, permit)));
            }
            // keys without series: others may want the thread
            tokio::task::yield_now().await;
        }
    });
    Body::from_stream(pieces)
}

/// The chunks of a compressed body, and behind them the exporter's own metrics of this scrape. The scrape keeps its
/// place until the last chunk that it has begun is made, also when its client is gone.
fn compressed_body(
    format: Format,
    own: MetricSnapshot,
    reader: Option<BodyReader>,
    permits: Arc<Semaphore>,
    permit: RequestPermit,
) -> Body {
    let permit = Arc::new(permit);
    let state = (reader, own, permits, permit);
    let chunks = stream::unfold(state, move |(reader, own, permits, permit)| async move {
        let mut reader = reader?;
        let next = reader.next_chunk(&permits, || Arc::clone(&permit)).await;
        let (chunk, reader): (Result<Bytes, Aborted>, _) = match next {
            Ok(Chunk::Bytes(chunk)) => (Ok(chunk), Some(reader)),
            Ok(Chunk::End(sum)) => (Ok(compress_trailer(format, &own, sum)), None),
            Err(aborted) => (Err(aborted), None),
        };
        Some((chunk, (reader, own, permits, permit)))
    });
    Body::from_stream(chunks)
}
