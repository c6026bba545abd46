//! A compressed response body, made while it is read. Scrapes of the same second share one.
//!
//! Nothing runs ahead of the readers: whoever reads furthest has the next chunks made on a blocking
//! thread. When the last reader of an incomplete body is gone, so is all that was made of it.

use std::fmt;
use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};

use super::gzip::Checksum;

/// What makes the chunks of a body.
pub trait ChunkSource: Send {
    /// Appends the next chunks, possibly none; false when there are no more.
    fn advance(&mut self, chunks: &mut Vec<Bytes>) -> bool;

    /// The checksum of everything that [`ChunkSource::advance`] has made.
    fn checksum(&self) -> Checksum;
}

/// A body under construction.
pub struct SharedBody {
    state: Mutex<BodyState>,
    changed: Notify,
    /// Whether a chunk stays for other readers once it was read.
    retain_chunks: bool,
}

struct BodyState {
    chunks: Vec<Bytes>,
    readers: usize,
    progress: Progress,
}

enum Progress {
    /// Whoever needs the next chunk takes the source.
    Ready(Box<dyn ChunkSource>),
    /// A reader has taken it.
    Working,
    Complete(Checksum),
    Aborted,
}

/// A part of a body.
#[derive(Debug, Clone)]
pub enum Chunk {
    /// Bytes.
    Bytes(Bytes),
    /// Nothing more: everything before has this checksum.
    End(Checksum),
}

/// A body that will never be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("compressing the response failed")]
pub struct Aborted;

/// What a reader finds where it has come to.
enum ReadOutcome {
    Chunk(Chunk),
    Source(Box<dyn ChunkSource>),
    Pending,
    Aborted,
}

impl SharedBody {
    /// A body that any number of readers can share.
    pub fn new_shared(source: Box<dyn ChunkSource>) -> Arc<Self> {
        Self::new(source, true)
    }

    /// A body with one reader, which holds no more than the chunks that were not read yet.
    pub fn new_private(source: Box<dyn ChunkSource>) -> Arc<Self> {
        Self::new(source, false)
    }

    fn new(source: Box<dyn ChunkSource>, keeps_chunks: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(BodyState {
                chunks: Vec::new(),
                readers: 0,
                progress: Progress::Ready(source),
            }),
            changed: Notify::new(),
            retain_chunks: keeps_chunks,
        })
    }

    /// A reader from the beginning; none when the body was aborted.
    pub fn subscribe(self: &Arc<Self>) -> Option<BodyReader> {
        let mut state = self.state();
        if matches!(state.progress, Progress::Aborted) {
            return None;
        }
        state.readers += 1;
        Some(BodyReader {
            body: Arc::clone(self),
            index: 0,
        })
    }

    fn state(&self) -> MutexGuard<'_, BodyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_at(&self, index: usize) -> ReadOutcome {
        let mut state = self.state();
        if let Some(chunk) = state.chunks.get_mut(index) {
            let bytes = if self.retain_chunks {
                chunk.clone()
            } else {
                take(chunk)
            };
            return ReadOutcome::Chunk(Chunk::Bytes(bytes));
        }
        match std::mem::replace(&mut state.progress, Progress::Working) {
            Progress::Ready(source) => ReadOutcome::Source(source),
            Progress::Working => ReadOutcome::Pending,
            Progress::Complete(sum) => {
                state.progress = Progress::Complete(sum.clone());
                ReadOutcome::Chunk(Chunk::End(sum))
            }
            Progress::Aborted => {
                state.progress = Progress::Aborted;
                ReadOutcome::Aborted
            }
        }
    }
}

impl fmt::Debug for SharedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("SharedBody")
            .field("chunks", &state.chunks.len())
            .field("readers", &state.readers)
            .finish_non_exhaustive()
    }
}

/// Reads a [`SharedBody`] from its beginning.
#[derive(Debug)]
pub struct BodyReader {
    body: Arc<SharedBody>,
    index: usize,
}

impl BodyReader {
    /// The next part. `permits` bounds how many chunks are made at once; `held` is kept until a chunk that was begun
    /// for this reader is made, also when the reader is dropped before.
    ///
    /// # Errors
    /// [`Aborted`] when making the body failed.
    pub async fn next_chunk<H: Send + 'static>(
        &mut self,
        permits: &Arc<Semaphore>,
        held: impl Fn() -> H,
    ) -> Result<Chunk, Aborted> {
        loop {
            // registered before the state is read, so that no change in between is missed
            let changed = self.body.changed.notified();
            match self.body.read_at(self.index) {
                ReadOutcome::Chunk(chunk) => {
                    self.index += 1;
                    return Ok(chunk);
                }
                ReadOutcome::Aborted => return Err(Aborted),
                ReadOutcome::Pending => {}
                ReadOutcome::Source(source) => {
                    // gives the source back when this future is dropped before a thread has it
                    let step = AdvanceTask {
                        body: Arc::clone(&self.body),
                        source: Some(source),
                    };
                    let permit = Arc::clone(permits).acquire_owned().await;
                    let resources = (permit.map_err(|_| Aborted)?, held());
                    tokio::task::spawn_blocking(move || {
                        step.run();
                        drop(resources);
                    });
                }
            }
            changed.await;
        }
    }
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        let mut state = self.body.state();
        state.readers -= 1;
        if state.readers == 0 && matches!(state.progress, Progress::Ready(_)) {
            let aborted = std::mem::replace(&mut state.progress, Progress::Aborted);
            let chunks = take(&mut state.chunks);
            drop(state);
            drop((aborted, chunks));
        }
    }
}

/// The source of a body while it is away to make a chunk. Dropping it gives the source back, unless nobody reads or
/// the source has panicked.
struct AdvanceTask {
    body: Arc<SharedBody>,
    source: Option<Box<dyn ChunkSource>>,
}

impl AdvanceTask {
    fn run(mut self) {
        let Some(source) = &mut self.source else {
            return;
        };
        let mut chunks = Vec::new();
        let more = source.advance(&mut chunks);
        let complete = (!more).then(|| source.checksum());
        let mut state = self.body.state();
        state.chunks.append(&mut chunks);
        if let Some(sum) = complete {
            state.progress = Progress::Complete(sum);
        }
    }
}

impl Drop for AdvanceTask {
    fn drop(&mut self) {
        let mut source = self.source.take();
        let mut chunks = Vec::new();
        let mut state = self.body.state();
        if matches!(state.progress, Progress::Working) {
            let usable = state.readers > 0 && !std::thread::panicking();
            state.progress = match source.take() {
                Some(source) if usable => Progress::Ready(source),
                unusable => {
                    source = unusable;
                    chunks = take(&mut state.chunks);
                    Progress::Aborted
                }
            };
        }
        drop(state);
        self.body.changed.notify_waiters();
        drop((source, chunks));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Makes the numbers 0 to 4, counts its steps, and panics at one of them.
    struct Numbers {
        steps: Arc<AtomicUsize>,
        panics_at: Option<usize>,
    }

    impl ChunkSource for Numbers {
        fn advance(&mut self, chunks: &mut Vec<Bytes>) -> bool {
            let step = self.steps.fetch_add(1, Ordering::SeqCst);
            assert_ne!(Some(step), self.panics_at, "as told");
            chunks.push(vec![u8::try_from(step).expect("a few")].into());
            step < 4
        }

        fn checksum(&self) -> Checksum {
            Checksum::default()
        }
    }

    fn numbers(panics_at: Option<usize>) -> (Box<dyn ChunkSource>, Arc<AtomicUsize>) {
        let steps = Arc::new(AtomicUsize::new(0));
        let source = Numbers {
            steps: Arc::clone(&steps),
            panics_at,
        };
        (Box::new(source), steps)
    }

    /// Waits for what another thread does.
    async fn eventually(what: &str, condition: impl Fn() -> bool) {
        for _ in 0..10_000 {
            if condition() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        panic!("in vain: {what}");
    }

    async fn read_all(mut reader: BodyReader, permits: Arc<Semaphore>) -> Result<Vec<u8>, Aborted> {
        let mut all = Vec::new();
        while let Chunk::Bytes(chunk) = reader.next_chunk(&permits, || ()).await? {
            all.extend_from_slice(&chunk);
            tokio::task::yield_now().await;
        }
        Ok(all)
    }

    #[tokio::test]
    async fn all_readers_receive_all_chunks_in_order_and_each_is_made_once() {
        let (source, steps) = numbers(None);
        let (body, permits) = (SharedBody::new_shared(source), Arc::new(Semaphore::new(1)));
        let readers = [(); 3].map(|()| body.subscribe().expect("not aborted"));
        let readers = readers.map(|reader| tokio::spawn(read_all(reader, Arc::clone(&permits))));
        for reader in readers {
            assert_eq!(reader.await.expect("no panic"), Ok(vec![0, 1, 2, 3, 4]));
        }
        let late = body.subscribe().expect("a complete body stays");
        assert_eq!(read_all(late, permits).await, Ok(vec![0, 1, 2, 3, 4]));
        assert_eq!(steps.load(Ordering::SeqCst), 5);
    }

    #[tokio::test]
    async fn private_body_drops_chunks_after_reading() {
        let (body, permits) = (
            SharedBody::new_private(numbers(None).0),
            Arc::new(Semaphore::new(1)),
        );
        let reader = body.subscribe().expect("not aborted");
        assert_eq!(read_all(reader, permits).await, Ok(vec![0, 1, 2, 3, 4]));
        assert!(body.state().chunks.iter().all(Bytes::is_empty));
    }

    #[tokio::test]
    async fn body_without_readers_is_aborted_and_freed() {
        for read in 0..3 {
            let (source, steps) = numbers(None);
            let (body, permits) = (SharedBody::new_shared(source), Arc::new(Semaphore::new(1)));
            let mut reader = body.subscribe().expect("not aborted");
            for _ in 0..read {
                let chunk = reader.next_chunk(&permits, || ()).await;
                assert!(matches!(chunk, Ok(Chunk::Bytes(_))));
            }
            drop(reader);
            // the last step may not have given the source back yet
            eventually("the body is aborted", || {
                matches!(body.state().progress, Progress::Aborted)
            })
            .await;
            assert!(body.state().chunks.is_empty());
            assert!(body.subscribe().is_none(), "the next scrape makes another");
            assert_eq!(steps.load(Ordering::SeqCst), read);
        }
    }

    #[tokio::test]
    async fn dropped_reader_hands_the_source_to_the_next_reader() {
        let (source, steps) = numbers(None);
        let (body, permits) = (SharedBody::new_shared(source), Arc::new(Semaphore::new(0)));
        let mut first = body.subscribe().expect("not aborted");
        let second = body.subscribe().expect("not aborted");
        let waiting = {
            let permits = Arc::clone(&permits);
            tokio::spawn(async move { first.next_chunk(&permits, || ()).await.map(|_| ()) })
        };
        tokio::task::yield_now().await;
        let reading = tokio::spawn(read_all(second, Arc::clone(&permits)));
        tokio::task::yield_now().await;
        waiting.abort();
        permits.add_permits(1);
        assert_eq!(reading.await.expect("no panic"), Ok(vec![0, 1, 2, 3, 4]));
        assert_eq!(steps.load(Ordering::SeqCst), 5);
    }

    #[tokio::test]
    async fn panicking_source_aborts_all_readers() {
        for panics_at in [0, 2] {
            let body = SharedBody::new_shared(numbers(Some(panics_at)).0);
            let permits = Arc::new(Semaphore::new(1));
            let readers = [(); 2].map(|()| body.subscribe().expect("not aborted"));
            let readers = readers.map(|r| tokio::spawn(read_all(r, Arc::clone(&permits))));
            for reader in readers {
                assert_eq!(reader.await.expect("no panic here"), Err(Aborted));
            }
            eventually("the permit is given back", || {
                permits.available_permits() == 1
            })
            .await;
        }
    }

    #[tokio::test]
    async fn resources_are_held_until_the_chunk_is_complete() {
        struct Slow(std::sync::mpsc::Receiver<()>);
        impl ChunkSource for Slow {
            fn advance(&mut self, _: &mut Vec<Bytes>) -> bool {
                let _ = self.0.recv();
                true
            }

            fn checksum(&self) -> Checksum {
                Checksum::default()
            }
        }
        let (finish, finished) = std::sync::mpsc::channel();
        let source: Box<dyn ChunkSource> = Box::new(Slow(finished));
        let (body, permits) = (SharedBody::new_shared(source), Arc::new(Semaphore::new(1)));
        let place = Arc::new(());
        let mut reader = body.subscribe().expect("not aborted");
        let reading = {
            let (permits, place) = (Arc::clone(&permits), Arc::clone(&place));
            tokio::spawn(async move {
                let held = || Arc::clone(&place);
                reader.next_chunk(&permits, held).await.map(|_| ())
            })
        };
        eventually("a step begins", || permits.available_permits() == 0).await;
        reading.abort();
        assert!(reading.await.is_err_and(|error| error.is_cancelled()));
        assert_eq!(Arc::strong_count(&place), 2, "the step goes on");
        finish.send(()).expect("the step waits for it");
        eventually("the step ends", || Arc::strong_count(&place) == 1).await;
        assert!(body.subscribe().is_none(), "and is the last one");
    }
}
