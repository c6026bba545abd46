//! Bodies as networks and proxies mangle them: cut, dripping, endless, exploding.

use std::io::Write as _;
use std::sync::OnceLock;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, header};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;

use super::faults::Effect;
use super::response::SimResponse;

/// What a gzip bomb unpacks to: more than the exporter's bound of 32 MiB.
const GZIP_BOMB_BYTES: usize = 96 << 20;

/// Puts `answer` into bytes the way the effects ask.
pub(crate) fn build_response(mut answer: SimResponse, effects: &[Effect]) -> Response<Body> {
    for effect in effects {
        if let Effect::ContentType { value } = effect {
            answer.set_header(header::CONTENT_TYPE, value);
        }
    }
    let mut bytes = answer.body_bytes();
    for effect in effects {
        match effect {
            Effect::Replace { old, new } => {
                let text = String::from_utf8_lossy(&bytes);
                bytes = text.replace(old.as_str(), new).into_bytes();
            }
            Effect::Body { text } => bytes = text.clone().into_bytes(),
            Effect::InvalidJson => {
                return answer.into_response(Body::from("{\"results\": [{\"apiKeyId\": "));
            }
            Effect::CutBody => return truncated_response(answer, &bytes),
            Effect::Drip {
                bytes: piece,
                every_ms,
            } => return slow_response(answer, bytes, *piece, *every_ms),
            Effect::EndlessBody => return answer.into_response(endless_body()),
            Effect::Gzip => return gzip_response(answer, gzip(&bytes)),
            Effect::GzipBomb => return gzip_response(answer, gzip_bomb()),
            _ => {}
        }
    }
    answer.into_response(Body::from(bytes))
}

/// Announces the whole length, sends half and closes the connection.
pub(crate) fn truncated_response(mut answer: SimResponse, bytes: &[u8]) -> Response<Body> {
    answer.set_header(header::CONTENT_LENGTH, &bytes.len().max(2).to_string());
    let half = Bytes::copy_from_slice(bytes.get(..bytes.len() / 2).unwrap_or_default());
    let broken = Err(std::io::Error::other("cut off on demand"));
    answer.into_response(Body::from_stream(stream::iter([Ok(half), broken])))
}

fn slow_response(
    answer: SimResponse,
    bytes: Vec<u8>,
    piece: usize,
    every_ms: u64,
) -> Response<Body> {
    let pieces = stream::unfold(Bytes::from(bytes), move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(every_ms)).await;
        let next = rest.split_to(piece.clamp(1, rest.len()));
        Some((Ok::<_, std::io::Error>(next), rest))
    });
    answer.into_response(Body::from_stream(pieces))
}

fn endless_body() -> Body {
    let piece = Bytes::from(vec![b' '; 64 << 10]);
    Body::from_stream(stream::repeat_with(move || {
        Ok::<_, std::io::Error>(piece.clone())
    }))
}

fn gzip_response(mut answer: SimResponse, bytes: Bytes) -> Response<Body> {
    answer
        .headers
        .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    answer.into_response(Body::from(bytes))
}

fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // writing to a Vec cannot fail
    let _ = encoder.write_all(bytes);
    Bytes::from(encoder.finish().unwrap_or_default())
}

fn gzip_bomb() -> Bytes {
    static BOMB: OnceLock<Bytes> = OnceLock::new();
    BOMB.get_or_init(|| gzip(&vec![b' '; GZIP_BOMB_BYTES]))
        .clone()
}
