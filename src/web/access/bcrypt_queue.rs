//! Order in which passwords are checked. bcrypt is costly on purpose, so few checks run at once, and whoever guesses
//! passwords must not keep others from being checked: the client that has had the fewest checks is next.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use super::PeerAddr;

/// Checks that one client may have waiting.
const MAX_WAITING_PER_CLIENT: usize = 16;
/// Checks of all clients that may wait.
const MAX_WAITING: usize = 256;
/// Clients whose number of checks is remembered.
const MAX_CLIENTS: usize = 4096;

/// Clients that share a turn: an IPv4 address, or an IPv6 network of 64 bits, in which one host can have any address.
/// Requests without a peer address share one as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ClientNetwork(Option<IpAddr>);

impl From<Option<&PeerAddr>> for ClientNetwork {
    fn from(peer: Option<&PeerAddr>) -> Self {
        // a listener for both families sees IPv4 addresses inside IPv6 ones
        Self(peer.map(|peer| match peer.0.ip().to_canonical() {
            IpAddr::V6(address) => {
                Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into()
            }
            address @ IpAddr::V4(_) => address,
        }))
    }
}

/// Hands out permits to run bcrypt, fairly among clients.
#[derive(Debug)]
pub(super) struct BcryptQueue {
    state: Mutex<QueueState>,
}

#[derive(Debug)]
struct QueueState {
    free_permits: usize,
    clients: HashMap<ClientNetwork, ClientState>,
    next_ticket: u64,
}

#[derive(Debug, Default)]
struct ClientState {
    /// Permits since its last password that was right.
    permits: u64,
    waiters: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    sender: oneshot::Sender<BcryptPermit>,
}

/// The right to run bcrypt once. The next client gets it when this is dropped.
#[derive(Debug)]
pub(super) struct BcryptPermit {
    queue: Option<Arc<BcryptQueue>>,
}

impl Drop for BcryptPermit {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.grant_or_free();
        }
    }
}

impl BcryptQueue {
    pub(super) fn new() -> Arc<Self> {
        // never so many that no thread is left to serve
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self::with_permits((cores / 2).max(1))
    }

    pub(super) fn with_permits(permits: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(QueueState {
                free_permits: permits,
                clients: HashMap::new(),
                next_ticket: 0,
            }),
        })
    }

    /// Waits for the turn of `client`. None when it, or all clients together, have too many waiting.
    pub(super) async fn acquire(self: &Arc<Self>, client: ClientNetwork) -> Option<BcryptPermit> {
        let receiver = {
            let mut state = self.state();
            if state.free_permits > 0 {
                state.free_permits -= 1;
                state.client(client).permits += 1;
                return Some(self.new_permit());
            }
            state.enqueue(client)?
        };
        receiver.await.ok()
    }

    /// Forgets the checks of a client that knows a password.
    pub(super) fn on_success(&self, client: ClientNetwork) {
        if let Some(client) = self.state().clients.get_mut(&client) {
            client.permits = 0;
        }
    }

    fn new_permit(self: &Arc<Self>) -> BcryptPermit {
        BcryptPermit {
            queue: Some(Arc::clone(self)),
        }
    }

    /// Passes a permit on to the client that is next, or keeps it free.
    fn grant_or_free(self: &Arc<Self>) {
        loop {
            let waiter = {
                let mut state = self.state();
                let Some(waiter) = state.pop_next() else {
                    state.free_permits += 1;
                    return;
                };
                waiter
            };
            match waiter.sender.send(self.new_permit()) {
                Ok(()) => return,
                // that request has been given up; its permit must not come back here by its drop
                Err(mut permit) => permit.queue = None,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    fn client(&mut self, client: ClientNetwork) -> &mut ClientState {
        if self.clients.len() >= MAX_CLIENTS && !self.clients.contains_key(&client) {
            self.clients.retain(|_, state| !state.waiters.is_empty());
        }
        self.clients.entry(client).or_default()
    }

    fn enqueue(&mut self, client: ClientNetwork) -> Option<oneshot::Receiver<BcryptPermit>> {
        let mut waiting = 0;
        for state in self.clients.values_mut() {
            state.waiters.retain(|waiter| !waiter.sender.is_closed());
            waiting += state.waiters.len();
        }
        let own = self.client(client).waiters.len();
        if own >= MAX_WAITING_PER_CLIENT {
            return None;
        }
        if waiting >= MAX_WAITING {
            // the client with the most gives its last place up to one that has fewer
            let longest = self
                .clients
                .values_mut()
                .max_by_key(|state| state.waiters.len())?;
            if longest.waiters.len() <= own + 1 {
                return None;
            }
            longest.waiters.pop_back();
        }
        let (sender, receiver) = oneshot::channel();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.client(client)
            .waiters
            .push_back(Waiter { ticket, sender });
        Some(receiver)
    }

    fn pop_next(&mut self) -> Option<Waiter> {
        let next = self
            .clients
            .values_mut()
            .filter_map(|state| Some((state.permits, state.waiters.front()?.ticket, state)))
            .min_by_key(|(permits, ticket, _)| (*permits, *ticket));
        let (_, _, state) = next?;
        state.permits += 1;
        state.waiters.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use futures_util::FutureExt as _;

    use super::*;

    fn network(address: &str) -> ClientNetwork {
        let address = SocketAddr::new(address.parse().expect("an address"), 1);
        Some(&PeerAddr(address)).into()
    }

    #[test]
    fn clients_are_grouped_by_what_one_host_can_have() {
        for (one, other, is_same) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.2", false),
            ("2001:db8::1", "2001:db8::ffff:1:2:3", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::1", "127.0.0.1", false),
        ] {
            assert_eq!(network(one) == network(other), is_same, "{one} {other}");
        }
    }

    #[tokio::test]
    async fn a_client_without_checks_goes_before_those_that_guess() {
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
        // every guesser has its turn once
        for wait in &mut waiting[1..120] {
            drop(held.take());
            held = wait.await;
            assert!(held.is_some());
        }
        let mut scraper = Box::pin(queue.acquire(network("127.0.1.1")));
        assert!(scraper.as_mut().now_or_never().is_none());
        drop(held.take());
        held = scraper.await;
        assert!(held.is_some(), "before 121 that wait for longer");
        drop(held);
        assert!(waiting[0].as_mut().now_or_never().flatten().is_some());
    }

    #[tokio::test]
    async fn one_client_takes_no_more_than_its_places_and_nobody_takes_all() {
        let queue = BcryptQueue::with_permits(1);
        let held = queue.acquire(network("10.0.0.1")).await;
        let mut waiting = Vec::new();
        let mut wait = |address: String| {
            let mut wait = {
                let queue = Arc::clone(&queue);
                Box::pin(async move { queue.acquire(network(&address)).await })
            };
            let refused = wait.as_mut().now_or_never().is_some();
            waiting.push(wait);
            !refused
        };
        let admitted = (0..50).filter(|_| wait("10.0.0.1".into())).count();
        assert_eq!(admitted, MAX_WAITING_PER_CLIENT);
        for n in 2..=17 {
            let places = (0..50).filter(|_| wait(format!("10.0.0.{n}"))).count();
            assert!(places > 0, "{n}");
        }
        assert!(wait("10.0.1.1".into()), "a place is given up");
        let others = (0..1000).filter(|n| wait(format!("10.1.{}.{}", n / 250, n % 250)));
        assert!(others.count() >= 200, "one place each");
        let total: usize = queue
            .state()
            .clients
            .values()
            .map(|client| client.waiters.len())
            .sum();
        assert_eq!(total, MAX_WAITING);
        // requests that are given up leave no place taken, and no permit lost
        waiting.clear();
        assert!(queue.state().enqueue(network("10.0.0.1")).is_some());
        drop(held);
        assert_eq!(queue.state().free_permits, 1);
    }
}
