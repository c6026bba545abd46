//! The exposition packed with gzip. What changes with a walk only is packed once for each
//! inventory, the rest at the scrape.
//!
//! All of it is *one* gzip member (RFC 1952), since many a client reads no more than the first.
//! Within it, runs of deflate blocks (RFC 1951) that were made apart from each other follow each
//! other: none looks back beyond its own beginning, each ends at a whole byte, and only the very
//! last block says that it is the last. The checksums of the runs are combined.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use crc32fast::Hasher;
use flate2::Compression;
use flate2::write::DeflateEncoder;

use super::encoder::Encoder;
use super::exporter_metrics::{self, MetricSnapshot};
use super::exposition::{ALL_FAMILIES, CHUNK_SIZE, DYNAMIC_ONLY, FamilyCursor};
use super::key_families::{FamilyWriter, STATIC_FAMILIES};
use super::negotiate::Format;
use super::proto::Protobuf;
use super::selection::KeySeriesOptions;
use super::shared_body::ChunkSource;
use super::snapshot::ScrapeSnapshot;
use super::text::{OpenMetrics, PrometheusText};
use crate::inventory::{CachedSegment, Inventory, InventorySnapshot};

/// Packed bytes are handed on once there are so many.
const COMPRESSED_CHUNK_SIZE: usize = 32 << 10;
/// A gzip member's head: deflate, no name, no time, no system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// A last block with nothing in it.
const FINAL_BLOCK: [u8; 2] = [0x03, 0];

/// Uncompressed pieces that one step of a [`Compressor`] goes through at most, should they compress to very little.
const MAX_CHUNKS_PER_STEP: usize = 16;

/// Compresses the families of the inventory step by step: the header of a gzip member and all but its end, which
/// [`compress_trailer`] makes of the checksum. To be called where a thread may be kept busy.
pub struct Compressor {
    format: Format,
    snapshot: ScrapeSnapshot,
    stage: Stage,
    checksum: Checksum,
}

/// How far a [`Compressor`] has come.
enum Stage {
    Header,
    /// Families that change with a poll only; the index of the next one.
    Static(usize),
    /// Families that are different at each scrape.
    Dynamic(Box<(FamilyCursor, DeflateSegment)>),
    Complete,
}

impl Compressor {
    /// Compresses `scene` in the given format.
    pub fn new(format: Format, scene: ScrapeSnapshot) -> Self {
        Self {
            format,
            snapshot: scene,
            stage: Stage::Header,
            checksum: Checksum::default(),
        }
    }

    fn advance_as<E: Encoder>(&mut self, chunks: &mut Vec<Bytes>) -> bool {
        match &mut self.stage {
            Stage::Header => {
                chunks.push(Bytes::from_static(&GZIP_HEADER));
                self.stage = if self.snapshot.includes_all() {
                    Stage::Static(0)
                } else {
                    Stage::Dynamic(Box::new((
                        FamilyCursor::new(ALL_FAMILIES),
                        DeflateSegment::new(),
                    )))
                };
            }
            Stage::Static(next) => {
                let index = *next;
                *next += 1;
                if let Some(spec) = STATIC_FAMILIES.get(index) {
                    self.compress_static::<E>((index, spec), chunks);
                } else {
                    let cursor = FamilyCursor::new(DYNAMIC_ONLY);
                    self.stage = Stage::Dynamic(Box::new((cursor, DeflateSegment::new())));
                }
            }
            Stage::Dynamic(dynamic) => {
                let (cursor, run) = dynamic.as_mut();
                if compress_dynamic::<E>(&self.snapshot, cursor, run, chunks) {
                    return true;
                }
                if let Stage::Dynamic(dynamic) = std::mem::replace(&mut self.stage, Stage::Complete)
                {
                    let (bytes, sum) = dynamic.1.finish();
                    chunks.push(Bytes::from(bytes));
                    self.checksum.append(&sum);
                }
                return false;
            }
            Stage::Complete => return false,
        }
        true
    }

    fn compress_static<E: Encoder>(
        &mut self,
        (index, spec): (usize, &FamilyWriter),
        chunks: &mut Vec<Bytes>,
    ) {
        let runs: Vec<CachedSegment> = (0..spec.org_count(&self.snapshot))
            .map(|org| cached_segment::<E>(self.format, (index, spec), &self.snapshot, org))
            .collect();
        if runs.is_empty() {
            return;
        }
        let body = runs.iter().map(|run| run.uncompressed_len).sum();
        let mut head = Vec::new();
        E::write_header(&mut head, spec.header(), body);
        self.checksum.update(&head);
        chunks.push(stored_block(&head));
        for run in runs {
            let of_run = Hasher::new_with_initial_len(run.crc32, run.uncompressed_len as u64);
            self.checksum
                .append(&Checksum(of_run, run.uncompressed_len as u64));
            chunks.push(run.bytes);
        }
    }
}

impl ChunkSource for Compressor {
    fn advance(&mut self, chunks: &mut Vec<Bytes>) -> bool {
        match self.format {
            Format::Text => self.advance_as::<PrometheusText>(chunks),
            Format::OpenMetrics => self.advance_as::<OpenMetrics>(chunks),
            Format::Protobuf => self.advance_as::<Protobuf>(chunks),
        }
    }

    fn checksum(&self) -> Checksum {
        self.checksum.clone()
    }
}

/// Compresses a whole scene at once; the chunks go to `emit` as they come.
pub fn compress_snapshot(
    format: Format,
    scene: &ScrapeSnapshot,
    emit: &mut dyn FnMut(Bytes),
) -> Checksum {
    let mut compressor = Compressor::new(format, scene.clone());
    let mut chunks = Vec::new();
    loop {
        let more = compressor.advance(&mut chunks);
        chunks.drain(..).for_each(&mut *emit);
        if !more {
            return compressor.checksum();
        }
    }
}

/// Packs the exporter's own metrics and the end of the exposition, behind what has `sum`.
pub fn compress_trailer(format: Format, own: &MetricSnapshot, mut sum: Checksum) -> Bytes {
    let mut text = Vec::new();
    match format {
        Format::Text => write_trailer::<PrometheusText>(&mut text, own),
        Format::OpenMetrics => write_trailer::<OpenMetrics>(&mut text, own),
        Format::Protobuf => write_trailer::<Protobuf>(&mut text, own),
    }
    let mut run = DeflateSegment::new();
    run.write(&text);
    let (mut bytes, of_run) = run.finish();
    sum.append(&of_run);
    bytes.extend_from_slice(&FINAL_BLOCK);
    bytes.extend_from_slice(&sum.0.clone().finalize().to_le_bytes());
    // by definition what is left of the length when it is cut to 32 bits
    #[expect(clippy::cast_possible_truncation, reason = "RFC 1952, ISIZE")]
    bytes.extend_from_slice(&(sum.1 as u32).to_le_bytes());
    Bytes::from(bytes)
}

/// Packs what scrapes in `format` will need of an inventory and what does not change until the
/// next one.
pub fn precompress(format: Format, inventory: &Arc<Inventory>, selection: &Arc<KeySeriesOptions>) {
    let shown = InventorySnapshot {
        inventories: vec![Arc::clone(inventory)],
        details: Vec::new(),
    };
    let scene = ScrapeSnapshot::new(shown, Arc::clone(selection), inventory.completed_at());
    if !scene.includes_all() {
        return;
    }
    for (place, spec) in STATIC_FAMILIES.iter().enumerate() {
        match format {
            Format::Text => cached_segment::<PrometheusText>(format, (place, spec), &scene, 0),
            Format::OpenMetrics => cached_segment::<OpenMetrics>(format, (place, spec), &scene, 0),
            Format::Protobuf => cached_segment::<Protobuf>(format, (place, spec), &scene, 0),
        };
    }
}

/// Checksum and length of bytes before they were packed.
#[derive(Debug, Clone, Default)]
pub struct Checksum(Hasher, u64);

impl Checksum {
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
        self.1 += bytes.len() as u64;
    }

    /// `other` follows.
    fn append(&mut self, other: &Self) {
        self.0.combine(&other.0);
        self.1 += other.1;
    }
}

/// Packers that wait for the next run: setting one up takes a quarter of a megabyte, and to ask the
/// allocator for that at every scrape and walk leaves holes that nothing else fits into.
static ENCODER_POOL: Mutex<Vec<Deflater>> = Mutex::new(Vec::new());
/// Idle packers that are kept. More are under way at once only where formats are mixed.
const MAX_POOLED: usize = 2;

type Deflater = DeflateEncoder<Vec<u8>>;

fn encoder_pool() -> MutexGuard<'static, Vec<Deflater>> {
    ENCODER_POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A run of deflate blocks under way.
struct DeflateSegment {
    encoder: Deflater,
    checksum: Checksum,
}

impl DeflateSegment {
    fn new() -> Self {
        let packer = encoder_pool().pop();
        let packer = packer.unwrap_or_else(|| DeflateEncoder::new(Vec::new(), Compression::fast()));
        Self {
            encoder: packer,
            checksum: Checksum::default(),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        // writing to a Vec cannot fail
        let _ = self.encoder.write_all(bytes);
        self.checksum.update(bytes);
    }

    /// What is packed so far, if it is worth handing on.
    fn take_chunk(&mut self) -> Option<Bytes> {
        let full = self.encoder.get_ref().len() >= COMPRESSED_CHUNK_SIZE;
        full.then(|| {
            let chunk = std::mem::replace(
                self.encoder.get_mut(),
                Vec::with_capacity(COMPRESSED_CHUNK_SIZE * 2),
            );
            Bytes::from(chunk)
        })
    }

    /// Ends at a whole byte, and not with a last block: what the packer writes when it is made
    /// ready for the next run goes nowhere.
    fn finish(mut self) -> (Vec<u8>, Checksum) {
        let _ = self.encoder.flush();
        let mut bytes = std::mem::take(self.encoder.get_mut());
        // chunks of a batch stay for as long as nobody asks for a new one
        bytes.shrink_to_fit();
        if self.encoder.reset(Vec::new()).is_ok() {
            let mut idle = encoder_pool();
            if idle.len() < MAX_POOLED {
                idle.push(self.encoder);
            }
        }
        (bytes, self.checksum)
    }
}

fn write_trailer<E: Encoder>(text: &mut Vec<u8>, own: &MetricSnapshot) {
    exporter_metrics::write_families::<E>(text, own);
    E::write_end(text);
}

/// One step of the families that are different at each scrape; false at their end.
fn compress_dynamic<E: Encoder>(
    scene: &ScrapeSnapshot,
    cursor: &mut FamilyCursor,
    run: &mut DeflateSegment,
    chunks: &mut Vec<Bytes>,
) -> bool {
    let mut piece = Vec::with_capacity(CHUNK_SIZE + 4096);
    for _ in 0..MAX_CHUNKS_PER_STEP {
        piece.clear();
        let more = cursor.advance::<E>(scene, &mut piece);
        run.write(&piece);
        if !more {
            return false;
        }
        if let Some(chunk) = run.take_chunk() {
            chunks.push(chunk);
            break;
        }
    }
    true
}

/// The samples of a family that changes with a walk only, of one inventory, packed once.
fn cached_segment<E: Encoder>(
    format: Format,
    (place, spec): (usize, &FamilyWriter),
    scene: &ScrapeSnapshot,
    org: usize,
) -> CachedSegment {
    let Some(inventory) = scene.visible.inventories.get(org) else {
        return CachedSegment::default();
    };
    inventory.segment_or_compute(cache_key(format, place, &scene.options), || {
        let mut run = DeflateSegment::new();
        let mut piece = Vec::with_capacity(CHUNK_SIZE + 4096);
        let mut from = Some(0);
        while let Some(key) = from {
            piece.clear();
            from = spec.write::<E>(&mut piece, scene, (org, key), (CHUNK_SIZE, usize::MAX));
            run.write(&piece);
        }
        let (bytes, sum) = run.finish();
        CachedSegment {
            bytes: bytes.into(),
            uncompressed_len: usize::try_from(sum.1).unwrap_or(usize::MAX),
            crc32: sum.0.finalize(),
        }
    })
}

/// What a family in a format is called among the things that are made of an inventory once. The
/// info metric is another one with other labels.
fn cache_key(format: Format, place: usize, selection: &KeySeriesOptions) -> u64 {
    let mut hasher = DefaultHasher::new();
    (format, place, &selection.labels).hash(&mut hasher);
    hasher.finish()
}

/// Stored blocks, which are not the last (RFC 1951 §3.2.4): for a few bytes they cost less than
/// setting up a packer.
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
    fn separately_compressed_segments_form_one_gzip_member() {
        let texts = [
            "head\n".to_owned(),
            "x".repeat(200_000),
            String::new(),
            "abc".repeat(9000),
        ];
        let mut packed = GZIP_HEADER.to_vec();
        let mut sum = Checksum::default();
        for (n, text) in texts.iter().enumerate() {
            if n % 2 == 0 {
                packed.extend_from_slice(&stored_block(text.as_bytes()));
                sum.update(text.as_bytes());
            } else {
                let mut run = DeflateSegment::new();
                run.write(text.as_bytes());
                let (bytes, of_run) = run.finish();
                packed.extend_from_slice(&bytes);
                sum.append(&of_run);
            }
        }
        let own = crate::metrics::ExporterMetrics::new()
            .expect("sound")
            .gather();
        packed.extend_from_slice(&compress_trailer(Format::Text, &own, sum));
        let mut text = String::new();
        let mut reader = flate2::bufread::GzDecoder::new(&*packed);
        reader.read_to_string(&mut text).expect("one member");
        assert!(text.starts_with(&texts.concat()) && text.contains("build_info"));
        assert!(reader.into_inner().is_empty(), "and nothing behind it");
    }
}
