//! Serializes bodies, including malformed ones: truncated, slow, endless or a gzip bomb.

use std::io::Write as _;
use std::sync::OnceLock;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Response, header};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;

use crate::faults::Effect;
use crate::response::SimResponse;

/// Decompressed size of the gzip bomb: three times the limit of the exporter (32 MiB).
const GZIP_BOMB_BYTES: usize = 96 << 20;

/// Serializes a response with the given faults.
pub(crate) fn build_response(mut response: SimResponse, effects: &[Effect]) -> Response<Body> {
    for effect in effects {
        if let Effect::ContentType { value } = effect {
            response.set_header(header::CONTENT_TYPE, value);
        }
    }
    let mut bytes = response.body_bytes();
    for effect in effects {
        match effect {
            Effect::Replace { old, new } => {
                bytes = String::from_utf8_lossy(&bytes)
                    .replace(old.as_str(), new)
                    .into();
            }
            Effect::Body { text } => bytes = text.clone().into(),
            Effect::InvalidJson => return response.with_body("{\"results\": [{\"apiKeyId\": "),
            Effect::TruncatedBody => return truncated_response(response, &bytes),
            Effect::Drip {
                bytes: chunk_size,
                every_ms,
            } => {
                let interval = Duration::from_millis(*every_ms);
                return response.with_body(slow_body(bytes, *chunk_size, interval));
            }
            Effect::EndlessBody => return response.with_body(endless_body()),
            Effect::Gzip => return gzip_response(response, gzip(&bytes)),
            Effect::GzipBomb => return gzip_response(response, gzip_bomb()),
            _ => {}
        }
    }
    response.with_body(bytes)
}

/// Announces the full length, sends half of it and closes the connection.
fn truncated_response(mut response: SimResponse, bytes: &[u8]) -> Response<Body> {
    response.set_header(header::CONTENT_LENGTH, &bytes.len().max(2).to_string());
    let half = Bytes::copy_from_slice(bytes.get(..bytes.len() / 2).unwrap_or_default());
    let error = Err(std::io::Error::other("body truncated on demand"));
    response.with_body(Body::from_stream(stream::iter([Ok(half), error])))
}

fn slow_body(bytes: Bytes, chunk_size: usize, interval: Duration) -> Body {
    Body::from_stream(stream::unfold(bytes, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(interval).await;
        let chunk = rest.split_to(chunk_size.clamp(1, rest.len()));
        Some((Ok::<_, std::io::Error>(chunk), rest))
    }))
}

fn endless_body() -> Body {
    let chunk = Bytes::from(vec![b' '; 64 << 10]);
    Body::from_stream(stream::repeat_with(move || {
        Ok::<_, std::io::Error>(chunk.clone())
    }))
}

fn gzip_response(mut response: SimResponse, bytes: Bytes) -> Response<Body> {
    response.set_header(header::CONTENT_ENCODING, "gzip");
    response.with_body(bytes)
}

fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Writing to a Vec cannot fail.
    let _ = encoder.write_all(bytes);
    Bytes::from(encoder.finish().unwrap_or_default())
}

/// A valid empty page followed by blanks, so that only its size is hostile.
fn gzip_bomb() -> Bytes {
    static BOMB: OnceLock<Bytes> = OnceLock::new();
    BOMB.get_or_init(|| {
        let mut bytes = br#"{"results":[],"totalCount":0}"#.to_vec();
        bytes.resize(GZIP_BOMB_BYTES, b' ');
        gzip(&bytes)
    })
    .clone()
}
