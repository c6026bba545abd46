//! The exposition compressed with gzip. Families that change only with a poll are compressed once per inventory, the
//! others at the scrape.
//!
//! The body is a single gzip stream (RFC 1952), since many clients decompress only the first one. The stream consists of
//! sequences of deflate blocks (RFC 1951) that were compressed separately: no sequence refers to data before its own
//! start, each ends at a byte boundary, and only the last block is marked as final. The checksums of the segments are
//! combined.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use crc32fast::Hasher;
use flate2::Compression;
use flate2::write::DeflateEncoder;

use super::exposition::FamilyCursor;
use super::key_families::{CHUNK_SIZE, FAMILIES, KeyPosition, STATIC_FAMILIES};
use super::metric_snapshot::MetricSnapshot;
use super::negotiate::Format;
use super::selection::KeySeriesOptions;
use super::shared_body::ChunkSource;
use super::snapshot::ScrapeSnapshot;
use crate::inventory::{CachedSegment, ClassifiedInventory, InventorySnapshot};

/// Minimum size of a compressed chunk.
const COMPRESSED_CHUNK_SIZE: usize = 64 << 10;
/// The header of a gzip stream: deflate, no name, no time, no operating system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// An empty final block.
const FINAL_BLOCK: [u8; 2] = [0x03, 0];
/// Maximum number of uncompressed chunks per step of a [`Compressor`], for chunks that compress to very few bytes.
const MAX_CHUNKS_PER_STEP: usize = 16;

/// Compresses the families of the inventory step by step: the header of the gzip stream and everything except its end,
/// which [`Compressor::finish`] builds from the checksum. A step can take a few milliseconds.
pub struct Compressor {
    format: Format,
    snapshot: ScrapeSnapshot,
    header_written: bool,
    /// The families with segments that the inventories cache.
    cached_families: Range<usize>,
    /// The other families.
    cursor: FamilyCursor,
    segment: Option<DeflateSegment>,
    checksum: Checksum,
}

impl Compressor {
    /// Compresses `snapshot` in the given format.
    pub fn new(format: Format, snapshot: ScrapeSnapshot) -> Self {
        let cached = if snapshot.includes_all() {
            STATIC_FAMILIES
        } else {
            0
        };
        Self {
            format,
            snapshot,
            header_written: false,
            cached_families: 0..cached,
            cursor: FamilyCursor::new(cached),
            segment: None,
            checksum: Checksum::default(),
        }
    }

    /// Compresses the families of an inventory that do not change until the next one, before a scrape needs them.
    pub fn precompress(inventory: &ClassifiedInventory, options: &Arc<KeySeriesOptions>) {
        let visible = InventorySnapshot {
            inventories: vec![inventory.clone()],
            details: Vec::new(),
        };
        let snapshot = ScrapeSnapshot::new(visible, Arc::clone(options), inventory.completed_at());
        if snapshot.includes_all() {
            for family in 0..STATIC_FAMILIES {
                cached_segment(&snapshot, family, 0);
            }
        }
    }

    /// Compresses the exporter's own metrics and the end of the exposition. `checksum` is that of the data before them.
    pub fn finish(format: Format, metrics: &MetricSnapshot, mut checksum: Checksum) -> Bytes {
        let mut text = Vec::new();
        metrics.write(&mut text, format);
        let mut segment = DeflateSegment::new();
        segment.write(&text);
        let mut bytes = segment.finish(&mut checksum);
        bytes.extend_from_slice(&FINAL_BLOCK);
        bytes.extend_from_slice(&checksum.crc.finalize().to_le_bytes());
        // By definition the length modulo 2³².
        #[expect(clippy::cast_possible_truncation, reason = "RFC 1952, ISIZE")]
        bytes.extend_from_slice(&(checksum.len as u32).to_le_bytes());
        Bytes::from(bytes)
    }

    fn append_cached(&mut self, family: usize, chunks: &mut Vec<Bytes>) {
        let Some(writer) = FAMILIES.get(family) else {
            return;
        };
        let orgs = 0..writer.org_count(&self.snapshot);
        let mut header = Vec::new();
        if !orgs.is_empty() {
            writer.header().write(&mut header, self.format);
            self.checksum.update(&header);
            chunks.push(stored_block(&header));
        }
        for org in orgs {
            let segment = cached_segment(&self.snapshot, family, org);
            let len = segment.uncompressed_len as u64;
            let crc = Hasher::new_with_initial_len(segment.crc32, len);
            self.checksum.append(&Checksum { crc, len });
            chunks.push(segment.bytes);
        }
    }

    /// Compresses one step of the families that are not cached. Returns `false` at their end.
    fn compress_step(&mut self, chunks: &mut Vec<Bytes>) -> bool {
        let segment = self.segment.get_or_insert_with(DeflateSegment::new);
        let mut text = Vec::with_capacity(CHUNK_SIZE + 4096);
        for _ in 0..MAX_CHUNKS_PER_STEP {
            text.clear();
            let more = self.cursor.advance(&self.snapshot, self.format, &mut text);
            segment.write(&text);
            if !more {
                return false;
            }
            if let Some(chunk) = segment.take_chunk() {
                chunks.push(chunk);
                break;
            }
        }
        true
    }
}

impl ChunkSource for Compressor {
    fn advance(&mut self, chunks: &mut Vec<Bytes>) -> bool {
        if !self.header_written {
            self.header_written = true;
            chunks.push(Bytes::from_static(&GZIP_HEADER));
        } else if let Some(family) = self.cached_families.next() {
            self.append_cached(family, chunks);
        } else if !self.compress_step(chunks) {
            if let Some(segment) = self.segment.take() {
                chunks.push(segment.finish(&mut self.checksum).into());
            }
            return false;
        }
        true
    }

    fn checksum(&self) -> Checksum {
        self.checksum.clone()
    }
}

/// Checksum and length of uncompressed bytes.
#[derive(Debug, Clone, Default)]
pub struct Checksum {
    crc: Hasher,
    len: u64,
}

impl Checksum {
    fn update(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        self.len += bytes.len() as u64;
    }

    /// Adds the checksum of the bytes that follow.
    fn append(&mut self, next: &Self) {
        self.crc.combine(&next.crc);
        self.len += next.len;
    }
}

/// Pool of encoders. Each needs about 256 KiB; reusing them avoids heap fragmentation.
static ENCODER_POOL: Mutex<Vec<Deflater>> = Mutex::new(Vec::new());
/// Maximum number of idle encoders in the pool. More are in use at the same time only if several clients scrape.
const MAX_POOLED: usize = 2;

type Deflater = DeflateEncoder<Vec<u8>>;

fn encoder_pool() -> MutexGuard<'static, Vec<Deflater>> {
    ENCODER_POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A sequence of deflate blocks under construction.
struct DeflateSegment {
    encoder: Deflater,
    checksum: Checksum,
}

impl DeflateSegment {
    fn new() -> Self {
        let pooled = encoder_pool().pop();
        Self {
            encoder: pooled.unwrap_or_else(|| DeflateEncoder::new(Vec::new(), Compression::fast())),
            checksum: Checksum::default(),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        // Writing to a Vec cannot fail.
        let _ = self.encoder.write_all(bytes);
        self.checksum.update(bytes);
    }

    /// Returns the compressed bytes so far, if they are enough for a chunk.
    fn take_chunk(&mut self) -> Option<Bytes> {
        let compressed = self.encoder.get_mut();
        let next = || Vec::with_capacity(COMPRESSED_CHUNK_SIZE * 5 / 4);
        (compressed.len() >= COMPRESSED_CHUNK_SIZE)
            .then(|| std::mem::replace(compressed, next()).into())
    }

    /// Ends the segment at a byte boundary and without a final block, and adds the checksum of the segment to `checksum`.
    /// The bytes that the encoder writes when it is reset for the next segment are discarded.
    fn finish(mut self, checksum: &mut Checksum) -> Vec<u8> {
        let _ = self.encoder.flush();
        let mut bytes = std::mem::take(self.encoder.get_mut());
        // Chunks of a shared body stay in memory until a newer body replaces it.
        bytes.shrink_to_fit();
        if self.encoder.reset(Vec::new()).is_ok() {
            let mut pool = encoder_pool();
            if pool.len() < MAX_POOLED {
                pool.push(self.encoder);
            }
        }
        checksum.append(&self.checksum);
        bytes
    }
}

/// Returns the compressed samples of one static family and one inventory. They are the same in every format.
fn cached_segment(snapshot: &ScrapeSnapshot, family: usize, org: usize) -> CachedSegment {
    let inventory = snapshot.visible.inventories.get(org);
    let (Some(inventory), Some(writer)) = (inventory, FAMILIES.get(family)) else {
        return CachedSegment::default();
    };
    inventory.segment_or_compute(cache_key(family, &snapshot.options), || {
        let mut segment = DeflateSegment::new();
        let mut text = Vec::with_capacity(CHUNK_SIZE + 4096);
        let mut next = Some(0);
        while let Some(key) = next {
            text.clear();
            let position = KeyPosition { org, key };
            next = writer.write(&mut text, snapshot, position, usize::MAX);
            segment.write(&text);
        }
        let mut checksum = Checksum::default();
        let bytes = segment.finish(&mut checksum);
        CachedSegment {
            bytes: bytes.into(),
            uncompressed_len: usize::try_from(checksum.len).unwrap_or(usize::MAX),
            crc32: checksum.crc.finalize(),
        }
    })
}

/// Returns the key of a family among the segments that an inventory caches. The key of the info metric depends on its
/// labels.
fn cache_key(family: usize, options: &KeySeriesOptions) -> u64 {
    let mut hasher = DefaultHasher::new();
    (family, &options.labels).hash(&mut hasher);
    hasher.finish()
}

/// Wraps `text` in stored blocks that are not final (RFC 1951 §3.2.4): for a few bytes, they cost less than setting up
/// an encoder.
fn stored_block(text: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(text.len() + 8);
    for block in text.chunks(usize::from(u16::MAX)) {
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        out.push(0);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn separately_compressed_segments_form_one_gzip_stream() {
        let texts = [
            "head\n".to_owned(),
            "x".repeat(200_000),
            String::new(),
            "abc".repeat(9000),
        ];
        let mut stream = GZIP_HEADER.to_vec();
        let mut checksum = Checksum::default();
        for (n, text) in texts.iter().enumerate() {
            if n % 2 == 0 {
                stream.extend_from_slice(&stored_block(text.as_bytes()));
                checksum.update(text.as_bytes());
            } else {
                let mut segment = DeflateSegment::new();
                segment.write(text.as_bytes());
                stream.extend_from_slice(&segment.finish(&mut checksum));
            }
        }
        let metrics = crate::metrics::ExporterMetrics::new()
            .expect("sound")
            .gather();
        stream.extend_from_slice(&Compressor::finish(Format::Text, &metrics, checksum));
        let mut text = String::new();
        let mut reader = flate2::bufread::GzDecoder::new(&*stream);
        reader.read_to_string(&mut text).expect("one stream");
        assert!(text.starts_with(&texts.concat()) && text.contains("build_info"));
        assert!(reader.into_inner().is_empty(), "no data after the stream");
    }
}
