use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use wait::eventually;

#[path = "../../../tests/common/wait.rs"]
#[allow(dead_code, unreachable_pub, reason = "made for the other tests")]
mod wait;

/// Converts a condition into a result, for `eventually`.
fn holds(condition: bool) -> Result<(), &'static str> {
    condition.then_some(()).ok_or("not yet")
}

/// Produces the numbers from 0, counts its steps, and panics at one of them.
struct Numbers {
    steps: Arc<AtomicUsize>,
    panics_at: Option<usize>,
    count: usize,
}

impl ChunkSource for Numbers {
    fn advance(&mut self, chunks: &mut Vec<Bytes>) -> bool {
        let step = self.steps.fetch_add(1, Ordering::SeqCst);
        assert_ne!(Some(step), self.panics_at, "expected by the test");
        chunks.push(vec![u8::try_from(step).expect("a few")].into());
        step + 1 < self.count
    }

    fn checksum(&self) -> Checksum {
        Checksum::default()
    }
}

fn numbers(panics_at: Option<usize>, count: usize) -> (Box<dyn ChunkSource>, Arc<AtomicUsize>) {
    let steps = Arc::new(AtomicUsize::new(0));
    let source = Numbers {
        steps: Arc::clone(&steps),
        panics_at,
        count,
    };
    (Box::new(source), steps)
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
async fn readers_receive_all_chunks_in_order_and_each_is_produced_once() {
    let (source, steps) = numbers(None, 5);
    let (body, permits) = (SharedBody::new_shared(source), Arc::new(Semaphore::new(1)));
    let readers = [(); 3].map(|()| body.subscribe().expect("not aborted"));
    let readers = readers.map(|reader| tokio::spawn(read_all(reader, Arc::clone(&permits))));
    for reader in readers {
        assert_eq!(reader.await.expect("no panic"), Ok(vec![0, 1, 2, 3, 4]));
    }
    let late = body.subscribe().expect("a complete body is retained");
    assert_eq!(read_all(late, permits).await, Ok(vec![0, 1, 2, 3, 4]));
    assert_eq!(steps.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn compression_stops_a_few_steps_ahead_of_a_stopped_reader() {
    let (source, steps) = numbers(None, 100);
    let (body, permits) = (SharedBody::new_shared(source), Arc::new(Semaphore::new(1)));
    let mut reader = body.subscribe().expect("not aborted");
    for read in [1, 9] {
        for _ in 0..read {
            let chunk = reader.next_chunk(&permits, || ()).await;
            assert!(matches!(chunk, Ok(Chunk::Bytes(_))));
        }
        eventually("the step ends", async || {
            holds(permits.available_permits() == 1)
        })
        .await;
        let ahead = steps.load(Ordering::SeqCst) - reader.index;
        assert!((1..=MAX_STEPS_AHEAD).contains(&ahead), "{ahead} steps");
        assert!(matches!(body.state().progress, Progress::Ready(_)));
    }
}

#[tokio::test]
async fn private_body_drops_chunks_after_reading() {
    let (body, permits) = (
        SharedBody::new_private(numbers(None, 5).0),
        Arc::new(Semaphore::new(1)),
    );
    let reader = body.subscribe().expect("not aborted");
    assert_eq!(read_all(reader, permits).await, Ok(vec![0, 1, 2, 3, 4]));
    assert!(
        body.state()
            .chunks
            .iter()
            .all(|chunk| chunk.bytes.is_empty())
    );
}

#[tokio::test]
async fn body_without_readers_is_aborted_and_freed() {
    for read in 0..3 {
        let (source, steps) = numbers(None, 100);
        let (body, permits) = (SharedBody::new_shared(source), Arc::new(Semaphore::new(1)));
        let mut reader = body.subscribe().expect("not aborted");
        for _ in 0..read {
            let chunk = reader.next_chunk(&permits, || ()).await;
            assert!(matches!(chunk, Ok(Chunk::Bytes(_))));
        }
        drop(reader);
        // The last step may not have returned the source yet.
        eventually("the body is aborted", async || {
            holds(matches!(body.state().progress, Progress::Aborted))
        })
        .await;
        assert!(body.state().chunks.is_empty());
        assert!(
            body.subscribe().is_none(),
            "the next scrape creates another body"
        );
        let steps = steps.load(Ordering::SeqCst);
        assert!(steps <= read + MAX_STEPS_AHEAD, "{steps} steps");
        assert!(read > 0 || steps == 0, "no step without a reader");
    }
}

#[tokio::test]
async fn dropped_reader_returns_the_source_to_the_next_reader() {
    let (source, steps) = numbers(None, 5);
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
        let body = SharedBody::new_shared(numbers(Some(panics_at), 5).0);
        let permits = Arc::new(Semaphore::new(1));
        let readers = [(); 2].map(|()| body.subscribe().expect("not aborted"));
        let readers = readers.map(|r| tokio::spawn(read_all(r, Arc::clone(&permits))));
        for reader in readers {
            assert_eq!(reader.await.expect("no panic here"), Err(Aborted));
        }
        eventually("the permit is returned", async || {
            holds(permits.available_permits() == 1)
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
    let resource = Arc::new(());
    let mut reader = body.subscribe().expect("not aborted");
    let reading = {
        let (permits, resource) = (Arc::clone(&permits), Arc::clone(&resource));
        tokio::spawn(async move {
            let held = || Arc::clone(&resource);
            reader.next_chunk(&permits, held).await.map(|_| ())
        })
    };
    eventually("a step starts", async || {
        holds(permits.available_permits() == 0)
    })
    .await;
    reading.abort();
    assert!(reading.await.is_err_and(|error| error.is_cancelled()));
    assert_eq!(Arc::strong_count(&resource), 2, "the step continues");
    finish.send(()).expect("the step is waiting");
    eventually("the step ends", async || {
        holds(Arc::strong_count(&resource) == 1)
    })
    .await;
    assert!(body.subscribe().is_none(), "the body is aborted");
}
