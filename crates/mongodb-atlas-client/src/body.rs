//! Bodies of responses: bounded in memory each and in total, decompressed on blocking threads, and readable as text
//! whatever they contain.

use std::io::Read as _;
use std::mem::take;
use std::ops::Deref;

use flate2::read::MultiGzDecoder;
use tokio::sync::{Semaphore, SemaphorePermit};
use zeroize::Zeroizing;

use crate::error::ErrorKind;

/// Maximum size of a body, decompressed. A page of 500 keys has some 300 kB, and 2 MB at most.
pub(crate) const MAX_BODY_BYTES: usize = 32 << 20;
/// Maximum size of a compressed body.
pub(crate) const MAX_COMPRESSED_BYTES: usize = 4 << 20;
/// Maximum size of a body that is no list: an access token, an error. An error is truncated to it.
pub(crate) const MAX_SHORT_BYTES: usize = 64 << 10;

/// Capacities of a body's buffer. Few, so that it is copied rarely; close together, so that little memory is unused.
const BUFFER_CAPACITIES: [usize; 4] = [64 << 10, 512 << 10, 4 << 20, MAX_BODY_BYTES];
/// Maximum capacity of a body that may be in memory together with others.
const MAX_SHARED_BYTES: usize = 4 << 20;
/// Memory of all those bodies together.
const TOTAL_SHARED_BYTES: usize = 48 << 20;
/// Unit of a reservation.
const RESERVATION_UNIT: usize = 64 << 10;
/// Minimum size of a body that is wiped on a blocking thread.
const MIN_BACKGROUND_WIPE_BYTES: usize = 1 << 20;

/// One permit for each unit of [`TOTAL_SHARED_BYTES`], for all credentials: the number of requests in flight grows with
/// the number of organizations.
static SHARED_MEMORY: Semaphore = Semaphore::const_new(TOTAL_SHARED_BYTES / RESERVATION_UNIT);
/// Held by the one body that may be larger, or that found no shared memory.
static EXCLUSIVE_MEMORY: Semaphore = Semaphore::const_new(1);

/// The memory that is granted to a body.
#[derive(Default)]
struct Reservation {
    shared: Option<SemaphorePermit<'static>>,
    exclusive: Option<SemaphorePermit<'static>>,
}

impl Reservation {
    /// Waits until there is memory for `bytes`. Only the exclusive permit is waited for, and its holder needs no other:
    /// there is no deadlock.
    async fn extend_to(&mut self, bytes: usize) {
        if self.exclusive.is_some() {
            return;
        }
        let held = self.shared.as_ref().map_or(0, SemaphorePermit::num_permits);
        let missing = bytes.div_ceil(RESERVATION_UNIT).saturating_sub(held);
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        if bytes <= MAX_SHARED_BYTES
            && let Ok(permit) = SHARED_MEMORY.try_acquire_many(missing)
        {
            match &mut self.shared {
                Some(shared) => shared.merge(permit),
                None => self.shared = Some(permit),
            }
            return;
        }
        // The semaphore is never closed.
        self.exclusive = EXCLUSIVE_MEMORY.acquire().await.ok();
    }
}

/// The body of a response. Wiped when dropped: it can hold a key's full secret, or an access token.
#[derive(Default)]
pub struct Body {
    bytes: Zeroizing<Vec<u8>>,
    reservation: Reservation,
}

impl Body {
    /// Appends `chunk`, once there is memory for it. Returns `false` if the body would be larger than `max_bytes`.
    pub(crate) async fn append(&mut self, chunk: &[u8], max_bytes: usize) -> bool {
        let length = self.bytes.len() + chunk.len();
        if length > max_bytes {
            return false;
        }
        if length > self.bytes.capacity() {
            let sufficient = |capacity: &usize| *capacity >= length;
            let capacity = BUFFER_CAPACITIES.into_iter().find(sufficient);
            let capacity = capacity.unwrap_or(length);
            self.reservation.extend_to(capacity).await;
            // A vector that grows by itself would leave copies of secrets behind.
            let mut larger = Zeroizing::new(Vec::with_capacity(capacity));
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(chunk);
        true
    }

    /// Decompresses gzip. A body of more than `max_bytes` is truncated if `truncate` is set, else it is an error.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidResponse`], or [`ErrorKind::Connection`] when the data is truncated.
    pub(crate) async fn gunzip(self, max_bytes: usize, truncate: bool) -> Result<Self, ErrorKind> {
        if self.bytes.is_empty() {
            return Ok(self);
        }
        let mut compressed = self;
        // Most bodies fit into the smallest buffer. To start over with a larger one is cheaper than to copy.
        let capacities = BUFFER_CAPACITIES.into_iter();
        let capacities = capacities.filter(|capacity| *capacity < max_bytes);
        for capacity in capacities.chain([max_bytes]) {
            let total = compressed.bytes.len() + capacity;
            compressed.reservation.extend_to(total).await;
            let work = move || (inflate(&compressed.bytes, capacity), compressed);
            let (inflated, returned) = tokio::task::spawn_blocking(work)
                .await
                .map_err(|_| ErrorKind::InvalidResponse("decompressing it panicked".to_owned()))?;
            compressed = returned;
            let mut bytes = inflated?;
            let is_complete = bytes.len() <= capacity;
            if is_complete || (truncate && capacity == max_bytes) {
                bytes.truncate(capacity);
                return Ok(Self {
                    bytes,
                    reservation: take(&mut compressed.reservation),
                });
            }
        }
        Err(too_large_error(max_bytes))
    }

    /// Returns the body as text, repaired.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidResponse`] when the repaired text would be too large.
    pub(crate) fn text(&mut self) -> Result<&str, ErrorKind> {
        self.repair()?;
        std::str::from_utf8(&self.bytes)
            .map_err(|_| ErrorKind::InvalidResponse("it is no text in UTF-8".to_owned()))
    }

    /// Makes the body text that is JSON as far as its characters are concerned, since one invalid character must not cost the
    /// page: byte order marks are removed, a byte that is not UTF-8 becomes U+FFFD, a control character within a string
    /// becomes a space.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidResponse`] when the repaired text would be too large.
    pub(crate) fn repair(&mut self) -> Result<(), ErrorKind> {
        let chunks = self.bytes.chunks_exact(BYTE_ORDER_MARK.len());
        let marks = chunks.take_while(|chunk| *chunk == BYTE_ORDER_MARK).count();
        self.bytes.drain(..marks * BYTE_ORDER_MARK.len());
        replace_control_characters(&mut self.bytes);
        if std::str::from_utf8(&self.bytes).is_err() {
            self.bytes = to_utf8_lossy(&self.bytes)?;
        }
        Ok(())
    }
}

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Returns the error for a body of more than `max_bytes`.
pub(crate) fn too_large_error(max_bytes: usize) -> ErrorKind {
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
                // The memory is free for other bodies only now.
                drop(reservation);
            });
        }
    }
}

/// Decompresses `max_bytes`, and one more if there are more.
fn inflate(compressed: &[u8], max_bytes: usize) -> Result<Zeroizing<Vec<u8>>, ErrorKind> {
    // The vector never grows, which would leave copies of secrets behind.
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
    Ok(bytes)
}

/// Replaces control characters within strings, which are invalid in JSON, by spaces.
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

/// Returns `bytes` with U+FFFD for each sequence that is not UTF-8.
fn to_utf8_lossy(bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, ErrorKind> {
    let parts = || {
        bytes.utf8_chunks().flat_map(|chunk| {
            let replacement = if chunk.invalid().is_empty() {
                ""
            } else {
                "\u{fffd}"
            };
            [chunk.valid(), replacement]
        })
    };
    let length = parts().map(str::len).sum();
    if length > MAX_BODY_BYTES {
        return Err(too_large_error(MAX_BODY_BYTES));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(length));
    parts().for_each(|part| text.extend_from_slice(part.as_bytes()));
    Ok(text)
}

#[cfg(test)]
mod tests;
