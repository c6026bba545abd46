use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::FutureExt as _;

use super::*;

fn network(address: &str) -> ClientNetwork {
    let address: IpAddr = address.parse().expect("an address");
    address.into()
}

#[tokio::test]
async fn client_without_checks_precedes_guessing_clients() {
    let queue = BcryptQueue::with_permits(1);
    let guessers: Vec<_> = (1..=120)
        .map(|n| network(&format!("127.0.0.{n}")))
        .collect();
    let mut held = queue.acquire(guessers[0]).await;
    let mut waiting = Vec::new();
    for round in 0..2 {
        for guesser in &guessers {
            let mut wait = Box::pin(queue.acquire(*guesser));
            assert!(wait.as_mut().now_or_never().is_none(), "round {round}");
            waiting.push(wait);
        }
    }
    // Every guessing client gets one permit.
    for wait in &mut waiting[1..120] {
        drop(held.take());
        held = wait.await;
        assert!(held.is_some());
    }
    let mut scraper = Box::pin(queue.acquire(network("127.0.1.1")));
    assert!(scraper.as_mut().now_or_never().is_none());
    drop(held.take());
    held = scraper.await;
    assert!(held.is_some(), "before 121 older checks");
    drop(held);
    assert!(waiting[0].as_mut().now_or_never().flatten().is_some());
}

#[tokio::test]
async fn waiting_checks_are_bounded_per_client_and_in_total() {
    let queue = BcryptQueue::with_permits(1);
    let held = queue.acquire(network("10.0.0.1")).await;
    let mut waiting = Vec::new();
    let mut wait = |address: String| {
        let mut wait = {
            let queue = Arc::clone(&queue);
            Box::pin(async move { queue.acquire(network(&address)).await })
        };
        let rejected = wait.as_mut().now_or_never().is_some();
        waiting.push(wait);
        !rejected
    };
    let admitted = (0..50).filter(|_| wait("10.0.0.1".into())).count();
    assert_eq!(admitted, 16);
    for n in 2..=17 {
        let places = (0..50).filter(|_| wait(format!("10.0.0.{n}"))).count();
        assert!(places > 0, "{n}");
    }
    assert!(wait("10.0.1.1".into()), "a waiting check is displaced");
    let others = (0..1000).filter(|n| wait(format!("10.1.{}.{}", n / 250, n % 250)));
    assert!(others.count() >= 200, "one waiting check each");
    let total: usize = queue
        .state
        .lock()
        .clients
        .values()
        .map(|client| client.waiting.len())
        .sum();
    assert_eq!(total, 256);
    // Cancelled requests leave no waiting check, and lose no permit.
    waiting.clear();
    assert!(queue.state.lock().enqueue(network("10.0.0.1")).is_some());
    drop(held);
    assert_eq!(queue.state.lock().free_permits, 1);
}

/// Fills the queue with guessing clients in 10.0.0.0/8, which have had `checks` checks each and hold the only permit.
fn fill(
    queue: &Arc<BcryptQueue>,
    checks: usize,
) -> (Option<BcryptPermit>, Vec<oneshot::Receiver<BcryptPermit>>) {
    let guessers: Vec<_> = (0..320)
        .map(|n| network(&format!("10.0.{}.{}", n / 250, n % 250)))
        .collect();
    for _ in 0..checks {
        for guesser in &guessers {
            drop(queue.acquire(*guesser).now_or_never());
        }
    }
    let held = queue.acquire(guessers[0]).now_or_never().flatten();
    assert!(held.is_some());
    let waiting = guessers
        .iter()
        .skip(1)
        .filter_map(|guesser| queue.state.lock().enqueue(*guesser));
    (held, waiting.collect())
}

#[tokio::test]
async fn new_client_displaces_a_guessing_client_in_a_full_queue() {
    for checks in [1, 2, 40] {
        let queue = BcryptQueue::with_permits(1);
        let (mut held, mut waiting) = fill(&queue, checks);
        for n in 0..20 {
            let new_client = network(&format!("127.0.0.{n}"));
            let mut wait = Box::pin(queue.acquire(new_client));
            assert!(wait.as_mut().now_or_never().is_none(), "{checks} {n}");
            // A guessing client does not displace the new client.
            let guesser = network(&format!("10.0.0.{n}"));
            waiting.extend(queue.state.lock().enqueue(guesser));
            drop(held.take());
            held = wait.now_or_never().flatten();
            assert!(held.is_some(), "{checks} {n}: expected to be next");
            waiting.extend(queue.state.lock().enqueue(guesser));
        }
    }
}

#[tokio::test]
async fn retrying_client_is_admitted_during_a_flood_of_new_addresses() {
    let queue = BcryptQueue::with_permits(1);
    let (mut held, mut waiting) = fill(&queue, 0);
    let scraper = network("127.0.0.1");
    let mut wait = None;
    for round in 0_u32..6000 {
        for n in 0..4 {
            let address = Ipv6Addr::from_bits(u128::from(round * 4 + n) << 64);
            let guess = queue.state.lock().enqueue(network(&address.to_string()));
            waiting.extend(guess);
        }
        let mut scrape = match wait.take() {
            Some(scrape) => scrape,
            None => match queue.state.lock().enqueue(scraper) {
                Some(scrape) => scrape,
                None => continue,
            },
        };
        drop(held.take());
        match scrape.try_recv() {
            Ok(_) => return,
            Err(oneshot::error::TryRecvError::Empty) => wait = Some(scrape),
            Err(oneshot::error::TryRecvError::Closed) => {}
        }
        waiting.retain_mut(|guess| match guess.try_recv() {
            Ok(permit) => {
                held = Some(permit);
                false
            }
            Err(error) => error == oneshot::error::TryRecvError::Empty,
        });
    }
    panic!("the client never got a permit");
}

#[tokio::test]
async fn verified_client_has_priority_until_it_guesses() {
    let scraper = network("127.0.0.1");
    for is_cached in [false, true] {
        let queue = BcryptQueue::with_permits(1);
        if is_cached {
            queue.on_cached_success(scraper);
        } else {
            queue.on_success(scraper);
        }
        assert!(queue.is_verified(scraper) && !queue.is_verified(network("10.0.0.1")));
        let (mut held, mut waiting) = fill(&queue, 0);
        // Failed checks: the hash has changed, and the scraper still has the old password.
        for check in 0..32 {
            let wait = queue.state.lock().enqueue(scraper);
            drop(held.take());
            held = wait.and_then(|mut wait| wait.try_recv().ok());
            assert!(held.is_some(), "{check}");
            let guesser = network(&format!("10.1.0.{check}"));
            waiting.extend(queue.state.lock().enqueue(guesser));
        }
        // Too many failures: clients with fewer checks have priority again.
        assert!(queue.state.lock().enqueue(scraper).is_none());
        queue.on_success(scraper);
        assert!(queue.state.lock().enqueue(scraper).is_some());
    }
}

/// Returns the n-th of many clients.
fn client(n: u32) -> ClientNetwork {
    IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n)).into()
}

#[test]
fn last_256_verified_clients_are_retained() {
    let queue = BcryptQueue::with_permits(1);
    for n in 0..256 {
        queue.on_success(client(n));
    }
    assert!((0..256).all(|n| queue.is_verified(client(n))));
    queue.on_cached_success(client(0));
    queue.on_success(client(256));
    let removed = (0..=256).filter(|n| !queue.is_verified(client(*n)));
    assert_eq!(removed.collect::<Vec<_>>(), [1]);
}

#[test]
fn checks_of_4096_clients_are_counted() {
    let queue = BcryptQueue::with_permits(1);
    for n in 0..4096 {
        drop(queue.acquire(client(n)).now_or_never());
    }
    let checks = |n: u32| queue.state.lock().rank(client(n), 0).checks;
    assert!((0..4096).all(|n| checks(n) == 1));
    let _held = queue.acquire(client(0)).now_or_never();
    let _waiting = [client(1), client(4096)].map(|n| queue.state.lock().enqueue(n));
    assert_eq!(
        [1, 2].map(checks),
        [1, 0],
        "only waiting clients are retained"
    );
}
