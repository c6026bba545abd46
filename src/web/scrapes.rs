//! Answers to scrapes: in the form that the scraper wants, packed if it wants that, streamed.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::choice::Choice;
use super::routes::App;
use super::settings::Settings;
use crate::metrics::{
    Batch, Broken, Chunk, Exposition, Format, Gathered, Maker, Scene, pack_end, pack_scene,
    wants_gzip,
};

/// What scrapes share.
#[derive(Debug, Default)]
pub struct Scrapes {
    under_way: Arc<AtomicUsize>,
    /// Of each form, what was packed last.
    batches: Mutex<HashMap<Format, (Moment, Arc<Batch>)>>,
}

/// What is packed for one moment serves everybody who asks in that second, as long as the
/// inventories and the settings are the same.
#[derive(Debug)]
struct Moment {
    second: i64,
    generation: u64,
    /// Held, so that no later settings can come to lie at the same address.
    settings: Arc<Settings>,
}

impl Moment {
    fn is(&self, other: &Self) -> bool {
        self.second == other.second
            && self.generation == other.generation
            && Arc::ptr_eq(&self.settings, &other.settings)
    }
}

/// One scrape under way, counted until it is dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl Scrapes {
    fn place(&self, most: usize) -> Option<Place> {
        let before = self.under_way.fetch_add(1, Ordering::Acquire);
        // given back when it is dropped, also if there was none
        let place = Place(Arc::clone(&self.under_way));
        (before < most).then_some(place)
    }

    fn batch(&self, app: &App, settings: &Arc<Settings>, format: Format) -> Arc<Batch> {
        let now = app.clock.now();
        let moment = Moment {
            second: now.as_second(),
            generation: app.shelf.generation(),
            settings: Arc::clone(settings),
        };
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, batch)) = batches.get(&format)
            && of.is(&moment)
        {
            return Arc::clone(batch);
        }
        let (batch, maker) = Batch::begin();
        batches.insert(format, (moment, Arc::clone(&batch)));
        pack(format, app.scene(settings, &Choice::All, now), maker);
        batch
    }
}

/// Packs a scene where a thread may be kept busy.
fn pack(format: Format, scene: Scene, maker: Maker) {
    tokio::task::spawn_blocking(move || {
        let sum = pack_scene(format, &scene, &mut |chunk| maker.put(chunk));
        maker.finish(sum);
    });
}

fn list(headers: &HeaderMap, name: HeaderName) -> String {
    let values: Vec<&str> = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    values.join(",")
}

/// Answers a scrape.
pub(super) fn answer(
    app: &App,
    settings: &Arc<Settings>,
    method: &Method,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Response {
    let Ok(choice) = Choice::of(query, &app.shelf.watched()) else {
        let text = "This exporter watches no organization with an id that was asked for; /sd lists those it does.\n";
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let format = Format::wanted(&list(headers, header::ACCEPT));
    let packed = wants_gzip(&list(headers, header::ACCEPT_ENCODING));
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
        return head.into_response();
    }
    let Some(place) = app.scrapes.place(settings.max_requests) else {
        let text = "Too many scrapes at once; see --web.max-requests.\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    // before the inventories are looked at, see there
    let own = match &choice {
        Choice::All => app.own.gather(),
        Choice::Some(orgs) => app.own.gather().only(orgs),
    };
    let body = if packed {
        settings.packs(format);
        let batch = match &choice {
            Choice::All => app.scrapes.batch(app, settings, format),
            // nobody else wants the same
            Choice::Some(_) => {
                let (batch, maker) = Batch::begin();
                pack(format, app.scene(settings, &choice, app.clock.now()), maker);
                batch
            }
        };
        packed_body(format, own, batch, place)
    } else {
        let scene = app.scene(settings, &choice, app.clock.now());
        plain_body(Exposition::new(format, own, scene), place)
    };
    (head, body).into_response()
}

fn plain_body(exposition: Exposition, place: Place) -> Body {
    let pieces = stream::unfold((exposition, place), async |(mut exposition, place)| {
        loop {
            let piece = exposition.next_piece()?;
            if !piece.is_empty() {
                let piece = Ok::<_, Infallible>(Bytes::from(piece));
                return Some((piece, (exposition, place)));
            }
            // keys without series: others may want the thread
            tokio::task::yield_now().await;
        }
    });
    Body::from_stream(pieces)
}

/// The chunks of the batch, and behind them the exporter's own metrics of this scrape.
fn packed_body(format: Format, own: Gathered, batch: Arc<Batch>, place: Place) -> Body {
    let state = (Some(0), own, batch, place);
    let chunks = stream::unfold(state, move |(next, own, batch, place)| async move {
        let number: usize = next?;
        let (chunk, next): (Result<Bytes, Broken>, _) = match batch.chunk(number).await {
            Ok(Chunk::Bytes(chunk)) => (Ok(chunk), Some(number + 1)),
            Ok(Chunk::End(sum)) => (Ok(pack_end(format, &own, sum)), None),
            Err(broken) => (Err(broken), None),
        };
        Some((chunk, (next, own, batch, place)))
    });
    Body::from_stream(chunks)
}
