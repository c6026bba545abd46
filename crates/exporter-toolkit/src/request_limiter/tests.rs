use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;

use axum::body::Body;

use super::*;
use crate::server::ConnectionState;

const WAIT: Duration = Duration::from_secs(2);

fn limiter() -> Arc<RequestLimiter> {
    RequestLimiter::new(8, WAIT)
}

/// Creates a request on a new connection from the n-th address. The closure returns the body of its response.
fn request(address: u8) -> (ResponseHandle, impl FnOnce() -> Body) {
    let address = IpAddr::from([10, 0, 0, address]);
    let connection = ConnectionState::new(address.into(), Arc::new(AtomicUsize::new(1)));
    let guard = connection.begin_response();
    (guard.handle(), move || guard.track(Body::from("x")))
}

#[tokio::test(start_paused = true)]
async fn excess_request_waits_and_is_rejected_after_the_timeout() {
    let limiter = limiter();
    let first = limiter.acquire(1, None).await.expect("a permit");
    let started_at = tokio::time::Instant::now();
    assert!(limiter.acquire(1, None).await.is_none());
    assert_eq!(started_at.elapsed(), WAIT);
    let waiting = tokio::spawn({
        let limiter = Arc::clone(&limiter);
        async move { limiter.acquire(1, None).await.is_some() }
    });
    tokio::time::sleep(WAIT / 2).await;
    drop(first);
    assert!(waiting.await.expect("no panic"));
    let requests = limiter.requests.lock();
    assert!(requests.by_id.is_empty() && requests.admitted == 0);
}

#[tokio::test(start_paused = true)]
async fn stalled_response_loses_its_permit() {
    let limiter = limiter();
    let mut permits = Vec::new();
    let mut bodies = Vec::new();
    let mut handles = Vec::new();
    for _ in 0..3 {
        let (handle, respond) = request(1);
        permits.push(limiter.acquire(3, Some(handle.clone())).await);
        bodies.push(respond());
        handles.push(handle);
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert!(permits.iter().all(Option::is_some));
    let started_at = tokio::time::Instant::now();
    let (handle, _respond) = request(1);
    let permit = limiter.acquire(3, Some(handle)).await;
    assert!(permit.is_some() && started_at.elapsed() <= STALLED_AFTER);
    let evicted = handles.iter().map(ResponseHandle::is_evicted);
    assert_eq!(evicted.collect::<Vec<_>>(), [true, false, false]);
    // The permit of an evicted request is not released twice.
    drop((permits, permit));
    let requests = limiter.requests.lock();
    assert!(requests.by_id.is_empty() && requests.admitted == 0);
}

#[tokio::test(start_paused = true)]
async fn client_with_many_permits_loses_one_sooner() {
    let limiter = limiter();
    let mut admitted = Vec::new();
    for _ in 0..3 {
        let (handle, respond) = request(1);
        let permit = limiter.acquire(3, Some(handle)).await;
        admitted.push((permit, respond()));
    }
    for (address, expected) in [(2, STALLED_AFTER_UNDER_CONTENTION), (1, STALLED_AFTER)] {
        let started_at = tokio::time::Instant::now();
        let (handle, respond) = request(address);
        let permit = limiter.acquire(3, Some(handle)).await;
        assert!(permit.is_some());
        // The timer's resolution is a millisecond.
        let waited =
            started_at.elapsed() + STALLED_AFTER_UNDER_CONTENTION * u32::from(address == 1);
        assert!(
            waited.abs_diff(expected) <= Duration::from_millis(3),
            "{waited:?}"
        );
        admitted.push((permit, respond()));
    }
}

#[tokio::test(start_paused = true)]
async fn requests_being_handled_keep_their_permits() {
    let limiter = limiter();
    let (handle, _respond) = request(1);
    let permit = limiter.acquire(1, Some(handle.clone())).await;
    let (other, _respond_to_other) = request(2);
    assert!(limiter.acquire(1, Some(other)).await.is_none());
    assert!(permit.is_some() && !handle.is_evicted());
}

#[tokio::test(start_paused = true)]
async fn newest_request_of_client_with_fewest_permits_is_admitted_first() {
    let limiter = limiter();
    let requests: Vec<_> = [(); 4].map(|()| request(1)).into();
    let mut permits = Vec::new();
    for (handle, _) in &requests {
        permits.push(limiter.acquire(4, Some(handle.clone())).await);
    }
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for (number, address) in [1, 2, 2, 1].into_iter().enumerate() {
        let (limiter, order) = (Arc::clone(&limiter), Arc::clone(&order));
        tasks.push(tokio::spawn(async move {
            let (handle, _respond) = request(address);
            let permit = limiter.acquire(4, Some(handle)).await;
            order.lock().push(number);
            // Held until all requests are admitted.
            permit
        }));
        tokio::task::yield_now().await;
    }
    for _ in 0..4 {
        permits.pop();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Two requests of the client without permits are first, until both clients have the same number.
    assert_eq!(*order.lock(), [2, 1, 3, 0]);
    for task in tasks {
        task.await.expect("no panic");
    }
}

#[tokio::test(start_paused = true)]
async fn single_client_cannot_fill_the_queue() {
    let limiter = limiter();
    let _held = limiter.acquire(1, None).await.expect("a permit");
    let wait = |address: u8| {
        let limiter = Arc::clone(&limiter);
        tokio::spawn(async move {
            let (handle, _respond) = request(address);
            let started_at = tokio::time::Instant::now();
            let rejected = limiter.acquire(1, Some(handle)).await.is_none();
            assert!(rejected);
            started_at.elapsed()
        })
    };
    let mut tasks: Vec<_> = [1; 20].map(wait).into();
    tasks.push(wait(2));
    let mut waited = Vec::new();
    for task in tasks {
        waited.push(task.await.expect("no panic") == WAIT);
    }
    let mut expected = [false; 21];
    expected[12..].fill(true);
    assert_eq!(
        waited, expected,
        "eight requests of the first client, one of the other"
    );
}

#[tokio::test(start_paused = true)]
async fn each_client_has_one_waiting_request_beyond_256() {
    let limiter = limiter();
    let _held = limiter.acquire(1, None).await.expect("a permit");
    let enqueue = |address: u8| limiter.enqueue(1, Some(request(address).0), &Arc::default());
    let others: Vec<_> = (0..254).map(|n| enqueue(n / 8)).collect();
    let mut waiting = vec![enqueue(100), enqueue(100)];
    let is_waiting = |permit: &RequestPermit| {
        let requests = limiter.requests.lock();
        requests.by_id.contains_key(&permit.id)
    };
    assert!(others.iter().chain(&waiting).all(is_waiting), "256 wait");
    waiting.push(enqueue(100));
    let waiting: Vec<_> = waiting.iter().map(is_waiting).collect();
    assert_eq!(waiting, [false, true, true]);
    assert!(others.iter().all(is_waiting));
}

#[tokio::test(start_paused = true)]
async fn cancelled_requests_leave_the_queue() {
    let limiter = limiter();
    let held = limiter.acquire(1, None).await.expect("a permit");
    let waiting = tokio::spawn({
        let limiter = Arc::clone(&limiter);
        async move { limiter.acquire(1, None).await }
    });
    tokio::task::yield_now().await;
    waiting.abort();
    assert!(waiting.await.is_err_and(|error| error.is_cancelled()));
    drop(held);
    let requests = limiter.requests.lock();
    assert!(requests.by_id.is_empty() && requests.admitted == 0);
}
