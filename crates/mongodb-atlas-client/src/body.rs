//! Bodies of responses: bounded one by one and all together, decompressed off the threads that serve, and readable as
//! text whatever they hold.

use std::io::Read as _;
use std::mem::take;
use std::ops::Deref;

use flate2::read::MultiGzDecoder;
use tokio::sync::{Semaphore, SemaphorePermit};
use zeroize::Zeroizing;

use super::error::ErrorKind;

/// Maximum size of a body, decompressed. A page of 500 keys has some 300 kB, and 2 MB at the very most.
pub(super) const MAX_BODY_BYTES: usize = 32 << 20;
/// Maximum size of a compressed body.
pub(super) const MAX_COMPRESSED_BYTES: usize = 4 << 20;
/// Maximum size of a body that is no list of anything: an access token, an error. Of an error no more is read.
pub(super) const MAX_SHORT_BYTES: usize = 64 << 10;

/// Capacities of the buffer of a body: it is full rarely, and copied rarely.
const BUFFER_CAPACITIES: [usize; 4] = [64 << 10, 512 << 10, 4 << 20, MAX_BODY_BYTES];
/// Capacity up to which bodies are in memory side by side.
const MAX_SHARED_BYTES: usize = 4 << 20;
/// Memory of all those bodies together.
const TOTAL_SHARED_BYTES: usize = 48 << 20;
/// Unit in which that memory is handed out.
const RESERVATION_UNIT: usize = 64 << 10;
/// Size from which on a body is wiped on a thread that may be kept busy.
const MIN_BACKGROUND_WIPE_BYTES: usize = 1 << 20;

/// One permit for each unit of [`TOTAL_SHARED_BYTES`], of every credential together: there are as many requests under
/// way as there are organizations.
static SHARED_MEMORY: Semaphore = Semaphore::const_new(TOTAL_SHARED_BYTES / RESERVATION_UNIT);
/// Held by the one body that may be larger, or that found no room among the others.
static EXCLUSIVE_MEMORY: Semaphore = Semaphore::const_new(1);

/// The memory that a body has been granted.
#[derive(Default)]
struct Reservation {
    shared: Option<SemaphorePermit<'static>>,
    exclusive: Option<SemaphorePermit<'static>>,
}

impl Reservation {
    /// Waits until there is memory for `bytes`. Whoever waits does so for the exclusive permit alone, whose holder
    /// needs nothing more: there is no deadlock.
    async fn extend_to(&mut self, bytes: usize) {
        if self.exclusive.is_some() {
            return;
        }
        let held = self.shared.as_ref().map_or(0, SemaphorePermit::num_permits);
        let missing = bytes.div_ceil(RESERVATION_UNIT).saturating_sub(held);
        if bytes <= MAX_SHARED_BYTES
            && let Ok(permit) =
                SHARED_MEMORY.try_acquire_many(u32::try_from(missing).unwrap_or(u32::MAX))
        {
            match &mut self.shared {
                Some(shared) => shared.merge(permit),
                None => self.shared = Some(permit),
            }
            return;
        }
        // the semaphore is never closed
        self.exclusive = EXCLUSIVE_MEMORY.acquire().await.ok();
    }
}

/// The body of a response. Wiped when dropped: it can hold a key's full secret, or an access token.
#[derive(Default)]
pub struct Body {
    bytes: Zeroizing<Vec<u8>>,
    reservation: Reservation,
}

/// A body that is larger than accepted.
pub(super) struct BodyTooLarge;

impl Body {
    /// Appends `chunk`, once there is memory for it.
    pub(super) async fn append(
        &mut self,
        chunk: &[u8],
        max_bytes: usize,
    ) -> Result<(), BodyTooLarge> {
        let length = self.bytes.len() + chunk.len();
        if length > max_bytes {
            return Err(BodyTooLarge);
        }
        if length > self.bytes.capacity() {
            let fits = BUFFER_CAPACITIES
                .iter()
                .find(|capacity| **capacity >= length);
            let capacity = fits.copied().unwrap_or(length);
            self.reservation.extend_to(capacity).await;
            // not left to the vector, which would leave copies of secrets behind
            let mut larger = Zeroizing::new(Vec::with_capacity(capacity));
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    /// Decompresses gzip; a body past `max_bytes` is cut off there when `truncate` is set, and an error else.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidResponse`], or [`ErrorKind::Connection`] when the data ends early.
    pub(super) async fn gunzip(self, max_bytes: usize, truncate: bool) -> Result<Self, ErrorKind> {
        if self.bytes.is_empty() {
            return Ok(self);
        }
        let mut compressed = self;
        // most bodies fit into little; to begin anew for the others is cheaper than to copy
        let capacities = BUFFER_CAPACITIES
            .iter()
            .filter(|capacity| **capacity < max_bytes);
        for capacity in capacities.copied().chain([max_bytes]) {
            let total = compressed.bytes.len() + capacity;
            compressed.reservation.extend_to(total).await;
            let work = move || (inflate(&compressed.bytes, capacity), compressed);
            let (inflated, returned) = tokio::task::spawn_blocking(work)
                .await
                .map_err(|_| ErrorKind::InvalidResponse("decompressing it panicked".to_owned()))?;
            compressed = returned;
            let (bytes, is_whole) = inflated?;
            if is_whole || (truncate && capacity == max_bytes) {
                return Ok(Self {
                    bytes,
                    reservation: take(&mut compressed.reservation),
                });
            }
        }
        Err(too_large_error(max_bytes))
    }

    /// The body as text, repaired where it is none: a byte that is no UTF-8 and half of a surrogate pair become
    /// U+FFFD, a control character within a string becomes a space. Such a character must not cost the whole page.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidResponse`] when the repaired text would be too large.
    pub(super) fn text(&mut self) -> Result<&str, ErrorKind> {
        replace_control_characters(&mut self.bytes);
        replace_lone_surrogates(&mut self.bytes);
        if std::str::from_utf8(&self.bytes).is_err() {
            self.bytes = to_utf8_lossy(&self.bytes)?;
        }
        std::str::from_utf8(&self.bytes)
            // a byte order mark is no part of JSON
            .map(|text| text.trim_start_matches('\u{feff}'))
            .map_err(|_| ErrorKind::InvalidResponse("it is no text in UTF-8".to_owned()))
    }
}

/// The error for a body of more than `max_bytes`.
pub(super) fn too_large_error(max_bytes: usize) -> ErrorKind {
    ErrorKind::InvalidResponse(if max_bytes < 1 << 20 {
        format!("it is larger than {} KiB", max_bytes >> 10)
    } else {
        format!("it is larger than {} MiB", max_bytes >> 20)
    })
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes: Zeroizing::new(bytes),
            reservation: Reservation::default(),
        }
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.bytes.capacity() < MIN_BACKGROUND_WIPE_BYTES {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (bytes, reservation) = (take(&mut self.bytes), take(&mut self.reservation));
            runtime.spawn_blocking(move || {
                drop(bytes);
                // other bodies may have the memory only now
                drop(reservation);
            });
        }
    }
}

/// The first `max_bytes` of what `compressed` holds, and whether that is all.
fn inflate(compressed: &[u8], max_bytes: usize) -> Result<(Zeroizing<Vec<u8>>, bool), ErrorKind> {
    // one more than wanted, so that the vector never grows and leaves no copies behind
    let mut bytes = Zeroizing::new(Vec::with_capacity(max_bytes + 1));
    MultiGzDecoder::new(compressed)
        .take(max_bytes as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                ErrorKind::Connection("the compressed body ends early".to_owned())
            }
            _ => ErrorKind::InvalidResponse("its body is no valid gzip".to_owned()),
        })?;
    let is_whole = bytes.len() <= max_bytes;
    bytes.truncate(max_bytes);
    Ok((bytes, is_whole))
}

/// Replaces control characters within strings, which no JSON may have, by spaces.
fn replace_control_characters(bytes: &mut [u8]) {
    if !bytes.iter().any(|byte| *byte < 0x20) {
        return;
    }
    let (mut in_string, mut escaped) = (false, false);
    for byte in bytes {
        if !in_string {
            in_string = *byte == b'"';
            continue;
        }
        if *byte < 0x20 {
            *byte = b' ';
        }
        match *byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = false,
            _ => {}
        }
    }
}

/// Replaces escapes of half of a surrogate pair by the one for U+FFFD, which is as long.
fn replace_lone_surrogates(bytes: &mut [u8]) {
    let mut place = 0;
    while let Some(next) = bytes.get(place..).and_then(find_backslash) {
        place += next;
        place += match (
            escaped_code_unit(bytes, place),
            escaped_code_unit(bytes, place + 6),
        ) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => {
                if let Some(escape) = bytes.get_mut(place..place + 6) {
                    escape.copy_from_slice(b"\\ufffd");
                }
                6
            }
            // the backslash and what it escapes, which may be another one
            _ => 2,
        };
    }
}

/// The place of the first backslash. Most bodies have none, so that is what is looked for first, and fast.
fn find_backslash(bytes: &[u8]) -> Option<usize> {
    const CHUNK: usize = 256;
    let chunk = bytes
        .chunks(CHUNK)
        .position(|chunk| chunk.contains(&b'\\'))?;
    let start = chunk * CHUNK;
    let place = bytes.get(start..)?.iter().position(|byte| *byte == b'\\')?;
    Some(start + place)
}

/// The UTF-16 code unit of the escape at `place`, if there is one.
fn escaped_code_unit(bytes: &[u8], place: usize) -> Option<u16> {
    let digits = bytes.get(place..place + 6)?.strip_prefix(b"\\u")?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The same with U+FFFD for each sequence of bytes that is no UTF-8.
fn to_utf8_lossy(bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, ErrorKind> {
    const REPLACEMENT: &str = "\u{fffd}";
    let length = bytes
        .utf8_chunks()
        .map(|chunk| {
            let replaced = usize::from(!chunk.invalid().is_empty());
            chunk.valid().len() + replaced * REPLACEMENT.len()
        })
        .sum();
    if length > MAX_BODY_BYTES {
        return Err(too_large_error(MAX_BODY_BYTES));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(length));
    for chunk in bytes.utf8_chunks() {
        text.extend_from_slice(chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            text.extend_from_slice(REPLACEMENT.as_bytes());
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn text(bytes: &[u8]) -> String {
        let mut body = Body::from(bytes.to_vec());
        body.text().expect("a text").to_owned()
    }

    #[test]
    fn text_skips_byte_order_mark() {
        assert_eq!(text(b"\xef\xbb\xbf{}"), "{}");
    }

    #[test]
    fn invalid_text_is_replaced_per_character() {
        for (bytes, expected) in [
            (&br#"{"a":"\ud83d"}"#[..], r#"{"a":"\ufffd"}"#),
            (
                br#"{"\uDE00":"\uD83D\ud83d\ude00"}"#,
                r#"{"\ufffd":"\ufffd\ud83d\ude00"}"#,
            ),
            (br#"{"a":"\\ud83d"}"#, r#"{"a":"\\ud83d"}"#),
            (br#"{"a":"\\\ud83d\u12"#, r#"{"a":"\\\ufffd\u12"#),
            (br#"{"a":"\ud83d\"#, r#"{"a":"\ufffd\"#),
            (br"\ud8", r"\ud8"),
            (b"{\"a\":\"\xff\"}", "{\"a\":\"\u{fffd}\"}"),
            (
                b"{\"a\":\"\xf0\x9f\x9a\",\"\xed\xa0\xbd\":1}",
                "{\"a\":\"\u{fffd}\",\"\u{fffd}\u{fffd}\u{fffd}\":1}",
            ),
            (
                b"{\n\t\"a\\\"\n\":\"\x00\\\\\"\r\n}",
                "{\n\t\"a\\\" \":\" \\\\\"\r\n}",
            ),
            ("{\"é\":\"😀\"}".as_bytes(), "{\"é\":\"😀\"}"),
        ] {
            assert_eq!(text(bytes), expected);
        }
    }

    #[test]
    fn repaired_text_is_bounded() {
        let problem = Body::from(vec![0xff; MAX_BODY_BYTES / 2])
            .text()
            .map(str::len);
        assert_eq!(problem, Err(too_large_error(MAX_BODY_BYTES)));
    }

    fn gzip(bytes: &[u8]) -> Body {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("a vector takes all");
        encoder.finish().expect("a vector takes all").into()
    }

    #[tokio::test]
    async fn gunzip_enforces_the_size_limit() {
        for length in [0, 1, 64 << 10, (64 << 10) + 1, 600 << 10] {
            let body = gzip(&vec![b'x'; length]).gunzip(600 << 10, false).await;
            assert_eq!(body.expect("whole").len(), length);
        }
        let long = || gzip(&vec![b'x'; (600 << 10) + 1]);
        let refused = long().gunzip(600 << 10, false).await.err();
        assert_eq!(refused, Some(too_large_error(600 << 10)));
        let cut = long().gunzip(600 << 10, true).await.expect("cut");
        assert_eq!(cut.len(), 600 << 10);
        let broken = Body::from(b"no gzip at all".to_vec())
            .gunzip(100, false)
            .await;
        assert!(matches!(broken.err(), Some(ErrorKind::InvalidResponse(_))));
        let half = Body::from(gzip(b"some text").get(..12).unwrap_or_default().to_vec());
        let ended = half.gunzip(100, false).await;
        assert!(matches!(ended.err(), Some(ErrorKind::Connection(_))));
        let empty = Body::default().gunzip(100, false).await.expect("empty");
        assert!(empty.is_empty());
    }

    /// The only test that takes the exclusive permit in this process, so that it sees what it expects.
    #[tokio::test]
    async fn large_bodies_are_serialized_and_small_ones_are_concurrent() {
        async fn filled(bytes: usize) -> Body {
            let mut body = Body::default();
            let chunk = vec![b'x'; bytes];
            assert!(body.append(&chunk, MAX_BODY_BYTES).await.is_ok());
            body
        }
        let large = filled(MAX_SHARED_BYTES + 1).await;
        let small = filled(1).await;
        let second = tokio::spawn(filled(MAX_SHARED_BYTES + 1));
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(large);
        drop(second.await.expect("granted once the first is gone"));
        // what finds no room among the others waits for the exclusive permit
        let mut crowd = Vec::new();
        while SHARED_MEMORY.available_permits() >= MAX_SHARED_BYTES / RESERVATION_UNIT {
            crowd.push(filled(MAX_SHARED_BYTES).await);
        }
        assert!(crowd.len() * MAX_SHARED_BYTES <= TOTAL_SHARED_BYTES);
        let exclusive = filled(MAX_SHARED_BYTES).await;
        assert!(exclusive.reservation.exclusive.is_some());
        drop((small, crowd, exclusive));
        let mut body = filled(10).await;
        assert!(body.append(&[0; 10], 19).await.is_err());
    }
}
