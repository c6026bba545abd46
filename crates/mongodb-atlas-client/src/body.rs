//! Bodies of responses. The memory of each and of all together is bounded, they are decompressed on blocking threads, and
//! any content can be read as text.

use std::io::Read as _;
use std::mem::take;
use std::ops::Deref;

use flate2::read::MultiGzDecoder;
use tokio::sync::{Semaphore, SemaphorePermit};
use zeroize::Zeroizing;

use crate::error::ErrorKind;

/// Maximum size of a body, decompressed. A page of 500 keys has about 300 kB, and at most 2 MB.
pub(crate) const MAX_BODY_BYTES: usize = 32 << 20;
/// Maximum size of a compressed body.
pub(crate) const MAX_COMPRESSED_BYTES: usize = 4 << 20;
/// Maximum size of a body that is not a list: an access token, an error. Larger errors are truncated.
pub(crate) const MAX_SHORT_BYTES: usize = 64 << 10;

/// Capacities of a body's buffer: few, so that it is rarely copied, but close enough that little memory stays unused.
const BUFFER_CAPACITIES: [usize; 4] = [64 << 10, 512 << 10, 4 << 20, MAX_BODY_BYTES];
/// Maximum capacity of a body that shares [`TOTAL_SHARED_BYTES`] with other bodies.
const MAX_SHARED_BYTES: usize = 4 << 20;
/// Memory of all bodies that share it.
const TOTAL_SHARED_BYTES: usize = 48 << 20;
/// Unit of a reservation.
const RESERVATION_UNIT: usize = 64 << 10;
/// Minimum size of a body that is cleared on a blocking thread.
const MIN_BACKGROUND_WIPE_BYTES: usize = 1 << 20;

/// One permit for each unit of [`TOTAL_SHARED_BYTES`], for all credentials: the number of requests in flight grows with
/// the number of organizations.
static SHARED_MEMORY: Semaphore = Semaphore::const_new(TOTAL_SHARED_BYTES / RESERVATION_UNIT);
/// Held by the one body that may be larger, or for which no shared memory was free.
static EXCLUSIVE_MEMORY: Semaphore = Semaphore::const_new(1);

/// The memory that is reserved for a body.
#[derive(Default)]
struct Reservation {
    shared: Option<SemaphorePermit<'static>>,
    exclusive: Option<SemaphorePermit<'static>>,
}

impl Reservation {
    /// Waits until there is memory for `bytes`. This cannot deadlock: tasks wait only for the exclusive permit, and its
    /// holder needs no other permit.
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

/// The body of a response. Cleared when dropped: it can hold a key's full secret, or an access token.
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
            // A vector that grows automatically would leave copies of secrets in memory.
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
        // Most bodies fit into the smallest buffer. Starting again with a larger one is cheaper than copying.
        let capacities = BUFFER_CAPACITIES.into_iter();
        let capacities = capacities.filter(|capacity| *capacity < max_bytes);
        for capacity in capacities.chain([max_bytes]) {
            let total = compressed.bytes.len() + capacity;
            compressed.reservation.extend_to(total).await;
            let work = move || (inflate(&compressed.bytes, capacity), compressed);
            let (inflated, returned) = tokio::task::spawn_blocking(work).await.map_err(|_| {
                ErrorKind::InvalidResponse(
                    "decompressing the body panicked; please report this bug".to_owned(),
                )
            })?;
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
            .map_err(|_| ErrorKind::InvalidResponse("invalid UTF-8".to_owned()))
    }

    /// Removes invalid characters, so that one of them does not invalidate a whole page: removes byte order marks, and
    /// replaces bytes that are not UTF-8 by U+FFFD and control characters within strings by spaces.
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
        format!("body is larger than {} KiB", max_bytes >> 10)
    } else {
        format!("body is larger than {} MiB", max_bytes >> 20)
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
                // Other bodies can use the memory only after it is freed.
                drop(reservation);
            });
        }
    }
}

/// Decompresses up to `max_bytes`, plus one byte if there are more.
fn inflate(compressed: &[u8], max_bytes: usize) -> Result<Zeroizing<Vec<u8>>, ErrorKind> {
    // The vector never grows: growing would leave copies of secrets in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(max_bytes + 1));
    MultiGzDecoder::new(compressed)
        .take(max_bytes as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                ErrorKind::Connection("compressed body is truncated".to_owned())
            }
            _ => ErrorKind::InvalidResponse("invalid gzip data in the body".to_owned()),
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
