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
use super::exporter_metrics::{self, Gathered};
use super::exposition::{ALL, Cursor, MOVING_ALONE, PIECE};
use super::key_families::{FIXED, Spec};
use super::negotiate::Format;
use super::proto::Protobuf;
use super::selection::Selection;
use super::shared_body::ChunkSource;
use super::snapshot::Scene;
use super::text::{OpenMetrics, Text};
use crate::inventory::{Finished, Inventory, Shown};

/// Packed bytes are handed on once there are so many.
const CHUNK: usize = 32 << 10;
/// A gzip member's head: deflate, no name, no time, no system.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// A last block with nothing in it.
const LAST_BLOCK: [u8; 2] = [0x03, 0];

/// Uncompressed pieces that one step of a [`Compressor`] goes through at most, should they compress to very little.
const MAX_PIECES_PER_STEP: usize = 16;

/// Compresses the families of the inventory step by step: the header of a gzip member and all but its end, which
/// [`pack_end`] makes of the checksum. To be called where a thread may be kept busy.
pub struct Compressor {
    format: Format,
    scene: Scene,
    stage: Stage,
    checksum: Sum,
}

/// How far a [`Compressor`] has come.
enum Stage {
    Header,
    /// Families that change with a poll only; the index of the next one.
    Static(usize),
    /// Families that are different at each scrape.
    Dynamic(Box<(Cursor, Run)>),
    Complete,
}

impl Compressor {
    /// Compresses `scene` in the given format.
    pub fn new(format: Format, scene: Scene) -> Self {
        Self {
            format,
            scene,
            stage: Stage::Header,
            checksum: Sum::default(),
        }
    }

    fn advance_as<E: Encoder>(&mut self, chunks: &mut Vec<Bytes>) -> bool {
        match &mut self.stage {
            Stage::Header => {
                chunks.push(Bytes::from_static(&HEAD));
                self.stage = if self.scene.is_whole() {
                    Stage::Static(0)
                } else {
                    Stage::Dynamic(Box::new((Cursor::new(ALL), Run::new())))
                };
            }
            Stage::Static(next) => {
                let index = *next;
                *next += 1;
                if let Some(spec) = FIXED.get(index) {
                    self.compress_static::<E>((index, spec), chunks);
                } else {
                    let cursor = Cursor::new(MOVING_ALONE);
                    self.stage = Stage::Dynamic(Box::new((cursor, Run::new())));
                }
            }
            Stage::Dynamic(dynamic) => {
                let (cursor, run) = dynamic.as_mut();
                if compress_dynamic::<E>(&self.scene, cursor, run, chunks) {
                    return true;
                }
                if let Stage::Dynamic(dynamic) = std::mem::replace(&mut self.stage, Stage::Complete)
                {
                    let (bytes, sum) = dynamic.1.end();
                    chunks.push(Bytes::from(bytes));
                    self.checksum.add(&sum);
                }
                return false;
            }
            Stage::Complete => return false,
        }
        true
    }

    fn compress_static<E: Encoder>(
        &mut self,
        (index, spec): (usize, &Spec),
        chunks: &mut Vec<Bytes>,
    ) {
        let runs: Vec<Finished> = (0..spec.orgs(&self.scene))
            .map(|org| fixed::<E>(self.format, (index, spec), &self.scene, org))
            .collect();
        if runs.is_empty() {
            return;
        }
        let body = runs.iter().map(|run| run.unpacked).sum();
        let mut head = Vec::new();
        E::head(&mut head, spec.head(), body);
        self.checksum.put(&head);
        chunks.push(stored(&head));
        for run in runs {
            let of_run = Hasher::new_with_initial_len(run.checksum, run.unpacked as u64);
            self.checksum.add(&Sum(of_run, run.unpacked as u64));
            chunks.push(run.bytes);
        }
    }
}

impl ChunkSource for Compressor {
    fn advance(&mut self, chunks: &mut Vec<Bytes>) -> bool {
        match self.format {
            Format::Text => self.advance_as::<Text>(chunks),
            Format::OpenMetrics => self.advance_as::<OpenMetrics>(chunks),
            Format::Protobuf => self.advance_as::<Protobuf>(chunks),
        }
    }

    fn checksum(&self) -> Sum {
        self.checksum.clone()
    }
}

/// Compresses a whole scene at once; the chunks go to `emit` as they come.
pub fn pack_scene(format: Format, scene: &Scene, emit: &mut dyn FnMut(Bytes)) -> Sum {
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
pub fn pack_end(format: Format, own: &Gathered, mut sum: Sum) -> Bytes {
    let mut text = Vec::new();
    match format {
        Format::Text => end::<Text>(&mut text, own),
        Format::OpenMetrics => end::<OpenMetrics>(&mut text, own),
        Format::Protobuf => end::<Protobuf>(&mut text, own),
    }
    let mut run = Run::new();
    run.put(&text);
    let (mut bytes, of_run) = run.end();
    sum.add(&of_run);
    bytes.extend_from_slice(&LAST_BLOCK);
    bytes.extend_from_slice(&sum.0.clone().finalize().to_le_bytes());
    // by definition what is left of the length when it is cut to 32 bits
    #[expect(clippy::cast_possible_truncation, reason = "RFC 1952, ISIZE")]
    bytes.extend_from_slice(&(sum.1 as u32).to_le_bytes());
    Bytes::from(bytes)
}

/// Packs what scrapes in `format` will need of an inventory and what does not change until the
/// next one.
pub fn prepare(format: Format, inventory: &Arc<Inventory>, selection: &Arc<Selection>) {
    let shown = Shown {
        inventories: vec![Arc::clone(inventory)],
        details: Vec::new(),
    };
    let scene = Scene::new(shown, Arc::clone(selection), inventory.read_at());
    if !scene.is_whole() {
        return;
    }
    for (place, spec) in FIXED.iter().enumerate() {
        match format {
            Format::Text => fixed::<Text>(format, (place, spec), &scene, 0),
            Format::OpenMetrics => fixed::<OpenMetrics>(format, (place, spec), &scene, 0),
            Format::Protobuf => fixed::<Protobuf>(format, (place, spec), &scene, 0),
        };
    }
}

/// Checksum and length of bytes before they were packed.
#[derive(Debug, Clone, Default)]
pub struct Sum(Hasher, u64);

impl Sum {
    fn put(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
        self.1 += bytes.len() as u64;
    }

    /// `other` follows.
    fn add(&mut self, other: &Self) {
        self.0.combine(&other.0);
        self.1 += other.1;
    }
}

/// Packers that wait for the next run: setting one up takes a quarter of a megabyte, and to ask the
/// allocator for that at every scrape and walk leaves holes that nothing else fits into.
static IDLE: Mutex<Vec<Packer>> = Mutex::new(Vec::new());
/// Idle packers that are kept. More are under way at once only where formats are mixed.
const IDLE_MOST: usize = 2;

type Packer = DeflateEncoder<Vec<u8>>;

fn idle() -> MutexGuard<'static, Vec<Packer>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A run of deflate blocks under way.
struct Run {
    packer: Packer,
    sum: Sum,
}

impl Run {
    fn new() -> Self {
        let packer = idle().pop();
        let packer = packer.unwrap_or_else(|| DeflateEncoder::new(Vec::new(), Compression::fast()));
        Self {
            packer,
            sum: Sum::default(),
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        // writing to a Vec cannot fail
        let _ = self.packer.write_all(bytes);
        self.sum.put(bytes);
    }

    /// What is packed so far, if it is worth handing on.
    fn chunk(&mut self) -> Option<Bytes> {
        let full = self.packer.get_ref().len() >= CHUNK;
        full.then(|| {
            let chunk = std::mem::replace(self.packer.get_mut(), Vec::with_capacity(CHUNK * 2));
            Bytes::from(chunk)
        })
    }

    /// Ends at a whole byte, and not with a last block: what the packer writes when it is made
    /// ready for the next run goes nowhere.
    fn end(mut self) -> (Vec<u8>, Sum) {
        let _ = self.packer.flush();
        let mut bytes = std::mem::take(self.packer.get_mut());
        // chunks of a batch stay for as long as nobody asks for a new one
        bytes.shrink_to_fit();
        if self.packer.reset(Vec::new()).is_ok() {
            let mut idle = idle();
            if idle.len() < IDLE_MOST {
                idle.push(self.packer);
            }
        }
        (bytes, self.sum)
    }
}

fn end<E: Encoder>(text: &mut Vec<u8>, own: &Gathered) {
    exporter_metrics::write::<E>(text, own);
    E::end(text);
}

/// One step of the families that are different at each scrape; false at their end.
fn compress_dynamic<E: Encoder>(
    scene: &Scene,
    cursor: &mut Cursor,
    run: &mut Run,
    chunks: &mut Vec<Bytes>,
) -> bool {
    let mut piece = Vec::with_capacity(PIECE + 4096);
    for _ in 0..MAX_PIECES_PER_STEP {
        piece.clear();
        let more = cursor.advance::<E>(scene, &mut piece);
        run.put(&piece);
        if !more {
            return false;
        }
        if let Some(chunk) = run.chunk() {
            chunks.push(chunk);
            break;
        }
    }
    true
}

/// The samples of a family that changes with a walk only, of one inventory, packed once.
fn fixed<E: Encoder>(
    format: Format,
    (place, spec): (usize, &Spec),
    scene: &Scene,
    org: usize,
) -> Finished {
    let Some(inventory) = scene.shown.inventories.get(org) else {
        return Finished::default();
    };
    inventory.finished(name(format, place, &scene.selection), || {
        let mut run = Run::new();
        let mut piece = Vec::with_capacity(PIECE + 4096);
        let mut from = Some(0);
        while let Some(key) = from {
            piece.clear();
            from = spec.write::<E>(&mut piece, scene, (org, key), (PIECE, usize::MAX));
            run.put(&piece);
        }
        let (bytes, sum) = run.end();
        Finished {
            bytes: bytes.into(),
            unpacked: usize::try_from(sum.1).unwrap_or(usize::MAX),
            checksum: sum.0.finalize(),
        }
    })
}

/// What a family in a format is called among the things that are made of an inventory once. The
/// info metric is another one with other labels.
fn name(format: Format, place: usize, selection: &Selection) -> u64 {
    let mut hasher = DefaultHasher::new();
    (format, place, &selection.labels).hash(&mut hasher);
    hasher.finish()
}

/// Stored blocks, which are not the last (RFC 1951 §3.2.4): for a few bytes they cost less than
/// setting up a packer.
fn stored(text: &[u8]) -> Bytes {
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
    fn runs_that_were_made_apart_are_one_member() {
        let texts = [
            "head\n".to_owned(),
            "x".repeat(200_000),
            String::new(),
            "abc".repeat(9000),
        ];
        let mut packed = HEAD.to_vec();
        let mut sum = Sum::default();
        for (n, text) in texts.iter().enumerate() {
            if n % 2 == 0 {
                packed.extend_from_slice(&stored(text.as_bytes()));
                sum.put(text.as_bytes());
            } else {
                let mut run = Run::new();
                run.put(text.as_bytes());
                let (bytes, of_run) = run.end();
                packed.extend_from_slice(&bytes);
                sum.add(&of_run);
            }
        }
        let own = crate::metrics::Own::new().expect("sound").gather();
        packed.extend_from_slice(&pack_end(Format::Text, &own, sum));
        let mut text = String::new();
        let mut reader = flate2::bufread::GzDecoder::new(&*packed);
        reader.read_to_string(&mut text).expect("one member");
        assert!(text.starts_with(&texts.concat()) && text.contains("build_info"));
        assert!(reader.into_inner().is_empty(), "and nothing behind it");
    }
}
