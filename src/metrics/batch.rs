//! Packed bytes that several scrapes share: one task makes them, every scrape of that second
//! takes them as they come.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::packed::Sum;

/// Bytes that are being made.
#[derive(Debug, Default)]
pub struct Batch {
    state: Mutex<State>,
    grown: Notify,
}

#[derive(Debug, Default)]
struct State {
    chunks: Vec<Bytes>,
    end: Option<End>,
}

#[derive(Debug, Clone)]
enum End {
    Whole(Sum),
    Broken,
}

/// What there is at a place of a batch.
#[derive(Debug, Clone)]
pub enum Chunk {
    /// Bytes.
    Bytes(Bytes),
    /// Nothing more: all that was before has this sum.
    End(Sum),
}

/// Puts bytes into a [`Batch`]. A batch whose maker is dropped before [`Maker::finish`] is broken.
#[derive(Debug)]
pub struct Maker(Arc<Batch>);

/// A batch that will never be whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the exposition could not be packed")]
pub struct Broken;

impl Batch {
    /// An empty batch, and who fills it.
    pub fn begin() -> (Arc<Self>, Maker) {
        let batch = Arc::new(Self::default());
        (Arc::clone(&batch), Maker(batch))
    }

    /// The chunk at `place`, once it is there.
    ///
    /// # Errors
    /// [`Broken`] when it will never be there.
    pub async fn chunk(&self, place: usize) -> Result<Chunk, Broken> {
        loop {
            // registered before the look, so that what comes between is not missed
            let grown = self.grown.notified();
            {
                let state = self.state();
                if let Some(chunk) = state.chunks.get(place) {
                    return Ok(Chunk::Bytes(chunk.clone()));
                }
                match &state.end {
                    Some(End::Whole(sum)) => return Ok(Chunk::End(sum.clone())),
                    Some(End::Broken) => return Err(Broken),
                    None => {}
                }
            }
            grown.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Maker {
    /// Puts a chunk in.
    pub fn put(&self, chunk: Bytes) {
        self.0.state().chunks.push(chunk);
        self.0.grown.notify_waiters();
    }

    /// All chunks are in, and have this sum.
    pub fn finish(self, sum: Sum) {
        self.0.state().end = Some(End::Whole(sum));
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        self.0.state().end.get_or_insert(End::Broken);
        self.0.grown.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_gets_every_chunk_in_order() {
        let (batch, maker) = Batch::begin();
        let read = |batch: Arc<Batch>| async move {
            let mut all = Vec::new();
            let mut place = 0;
            while let Chunk::Bytes(chunk) = batch.chunk(place).await? {
                all.push(chunk);
                place += 1;
            }
            Ok::<_, Broken>(all)
        };
        let readers = [(); 3].map(|()| tokio::spawn(read(Arc::clone(&batch))));
        for n in 0..5_u8 {
            tokio::task::yield_now().await;
            maker.put(vec![n].into());
        }
        maker.finish(Sum::default());
        for reader in readers {
            let chunks = reader.await.expect("no panic").expect("whole");
            assert_eq!(chunks.concat(), [0, 1, 2, 3, 4]);
        }
        assert_eq!(
            read(batch).await.expect("whole").len(),
            5,
            "latecomers as well"
        );
    }

    #[tokio::test]
    async fn a_maker_that_is_gone_leaves_nobody_waiting() {
        let (batch, maker) = Batch::begin();
        let waiting = tokio::spawn({
            let batch = Arc::clone(&batch);
            async move { batch.chunk(0).await }
        });
        tokio::task::yield_now().await;
        drop(maker);
        assert!(waiting.await.expect("no panic").is_err());
    }
}
