//! A compressed response body that is produced while it is read. Scrapes of the same second share one.
//!
//! The reader with the most chunks starts the next steps on a blocking thread. A few steps run ahead of that reader, so
//! that compression and sending overlap; a client that stops reading stops the compression. When the last reader of an
//! incomplete body is dropped, the body is aborted and freed.

use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};

use super::gzip::Checksum;

/// Maximum number of steps ahead of the reader with the most chunks.
const MAX_STEPS_AHEAD: usize = 8;
/// Minimum number of steps for which a blocking thread is started.
const MIN_STEPS_AT_ONCE: usize = 2;

/// Produces the chunks of a body.
pub trait ChunkSource: Send {
    /// Appends the next chunks, possibly none. Returns `false` when there are no more.
    fn advance(&mut self, chunks: &mut Vec<Bytes>) -> bool;

    /// Returns the checksum of everything that [`ChunkSource::advance`] has produced.
    fn checksum(&self) -> Checksum;
}

/// A body under construction.
pub struct SharedBody {
    state: Mutex<BodyState>,
    changed: Notify,
    /// Whether chunks are retained for other readers after the first one has read them.
    retain_chunks: bool,
}

struct BodyState {
    chunks: Vec<StepChunk>,
    /// Steps that have ended.
    steps: usize,
    /// The latest step with a chunk that was read.
    furthest_step: usize,
    readers: usize,
    progress: Progress,
}

/// A chunk and the number of the step that produced it.
struct StepChunk {
    bytes: Bytes,
    step: usize,
}

enum Progress {
    /// The reader that needs the next chunk takes the source.
    Ready(Box<dyn ChunkSource>),
    /// A reader has taken it.
    Working,
    Complete(Checksum),
    Aborted,
}

/// A part of a body, as a reader receives it.
#[derive(Debug, Clone)]
pub enum Chunk {
    /// Bytes.
    Bytes(Bytes),
    /// The end of the body, and the checksum of everything before.
    End(Checksum),
}

/// The error of an aborted body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("compressing the response failed")]
pub struct Aborted;

/// The data at the position of a reader.
enum ReadOutcome {
    /// The next chunk, and a task that runs ahead.
    Chunk(Chunk, Option<AdvanceTask>),
    /// No chunk yet; the reader must run the next step.
    Step(AdvanceTask),
    Pending,
    Aborted,
}

impl SharedBody {
    /// Creates a body that any number of readers can share.
    pub fn new_shared(source: Box<dyn ChunkSource>) -> Arc<Self> {
        Self::new(source, true)
    }

    /// Creates a body with a single reader. Chunks are freed after reading.
    pub fn new_private(source: Box<dyn ChunkSource>) -> Arc<Self> {
        Self::new(source, false)
    }

    fn new(source: Box<dyn ChunkSource>, retain_chunks: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(BodyState {
                chunks: Vec::new(),
                steps: 0,
                furthest_step: 0,
                readers: 0,
                progress: Progress::Ready(source),
            }),
            changed: Notify::new(),
            retain_chunks,
        })
    }

    /// Returns a reader at the start of the body, or `None` if the body was aborted.
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

    fn read_at(self: &Arc<Self>, index: usize) -> ReadOutcome {
        let mut state = self.state();
        let Some(chunk) = state.chunks.get_mut(index) else {
            return match &state.progress {
                Progress::Ready(_) => self
                    .take_step(&mut state)
                    .map_or(ReadOutcome::Pending, ReadOutcome::Step),
                Progress::Working => ReadOutcome::Pending,
                Progress::Complete(checksum) => {
                    ReadOutcome::Chunk(Chunk::End(checksum.clone()), None)
                }
                Progress::Aborted => ReadOutcome::Aborted,
            };
        };
        let step = chunk.step;
        let bytes = if self.retain_chunks {
            chunk.bytes.clone()
        } else {
            take(&mut chunk.bytes)
        };
        state.furthest_step = state.furthest_step.max(step);
        let low = state.steps + MIN_STEPS_AT_ONCE <= state.furthest_step + MAX_STEPS_AHEAD;
        let next = if low {
            self.take_step(&mut state)
        } else {
            None
        };
        ReadOutcome::Chunk(Chunk::Bytes(bytes), next)
    }

    /// Takes the source, unless another reader has it.
    fn take_step(self: &Arc<Self>, state: &mut BodyState) -> Option<AdvanceTask> {
        match std::mem::replace(&mut state.progress, Progress::Working) {
            Progress::Ready(source) => Some(AdvanceTask {
                body: Arc::clone(self),
                source: Some(source),
            }),
            progress => {
                state.progress = progress;
                None
            }
        }
    }
}

/// Reads a [`SharedBody`] from its start.
pub struct BodyReader {
    body: Arc<SharedBody>,
    index: usize,
}

impl BodyReader {
    /// Waits for the next part. `permits` limits the number of concurrent steps. The value that `held` returns is dropped
    /// after the step that was started for this reader has ended, even if the reader is dropped earlier.
    ///
    /// # Errors
    /// [`Aborted`] when the source has panicked.
    pub async fn next_chunk<H: Send + 'static>(
        &mut self,
        permits: &Arc<Semaphore>,
        held: impl Fn() -> H,
    ) -> Result<Chunk, Aborted> {
        loop {
            // Registered before the state is read, so that no change after that is missed.
            let changed = self.body.changed.notified();
            match self.body.read_at(self.index) {
                ReadOutcome::Chunk(chunk, ahead) => {
                    self.index += 1;
                    if let Some(steps) = ahead
                        && let Ok(permit) = Arc::clone(permits).try_acquire_owned()
                    {
                        steps.spawn((permit, held()));
                    }
                    return Ok(chunk);
                }
                ReadOutcome::Aborted => return Err(Aborted),
                ReadOutcome::Pending => {}
                ReadOutcome::Step(steps) => {
                    // If this future is dropped, the task returns the source.
                    let permit = Arc::clone(permits).acquire_owned().await;
                    steps.spawn((permit.map_err(|_| Aborted)?, held()));
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

/// The source of a body while it produces chunks. Dropping the task returns the source to the body, unless the body has
/// no reader or the source has panicked.
struct AdvanceTask {
    body: Arc<SharedBody>,
    source: Option<Box<dyn ChunkSource>>,
}

impl AdvanceTask {
    /// Runs on a blocking thread. `resources` are dropped when the step has ended.
    fn spawn<R: Send + 'static>(mut self, resources: R) {
        tokio::task::spawn_blocking(move || {
            self.run();
            // Dropped before the readers are notified: the next step may need the permit.
            drop(resources);
            drop(self);
        });
    }

    fn run(&mut self) {
        let Some(source) = &mut self.source else {
            return;
        };
        loop {
            let mut chunks = Vec::new();
            let more = source.advance(&mut chunks);
            let complete = (!more).then(|| source.checksum());
            let mut state = self.body.state();
            state.steps += 1;
            let step = state.steps;
            let chunks = chunks.into_iter().map(|bytes| StepChunk { bytes, step });
            state.chunks.extend(chunks);
            if let Some(checksum) = complete {
                state.progress = Progress::Complete(checksum);
            }
            let is_ahead = state.steps >= state.furthest_step + MAX_STEPS_AHEAD;
            if !more || is_ahead || state.readers == 0 {
                return;
            }
            drop(state);
            self.body.changed.notify_waiters();
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
mod tests;
