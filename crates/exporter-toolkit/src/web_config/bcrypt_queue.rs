//! Order in which passwords are checked. bcrypt is costly on purpose, so few checks run at once, and whoever guesses
//! passwords must not keep others from being checked: a client that has passed before is next, then the one that has
//! had the fewest checks.

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
/// Clients that are remembered for a password that was right.
const MAX_PASSED: usize = 256;
/// Checks without a right password after which a client that has passed before has no priority any more: somebody may
/// be guessing at its address, and must not keep all others waiting.
const MAX_PRIORITY_CHECKS: u64 = 32;

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
    /// Clients that have had a right password, with the ticket of the last time. Outlives the hash that it matched.
    passed: HashMap<ClientNetwork, u64>,
    next_ticket: u64,
}

/// When a check is due, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct CheckRank {
    /// Whether the client has not passed before, or has had too many checks since.
    is_unproven: bool,
    /// Checks of the same client that come before this one.
    checks: u64,
}

#[derive(Debug, Default)]
struct ClientState {
    /// Permits since its last password that was right.
    permits: u64,
    waiters: VecDeque<WaitingCheck>,
}

#[derive(Debug)]
struct WaitingCheck {
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
                passed: HashMap::new(),
                next_ticket: 0,
            }),
        })
    }

    /// Waits for the turn of `client`. None when it has too many waiting, or when all clients together have and none of
    /// the others is to be checked after it.
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

    /// Forgets the checks of a client that knows a password, and remembers the client.
    pub(super) fn on_success(&self, client: ClientNetwork) {
        let mut state = self.state();
        if let Some(client) = state.clients.get_mut(&client) {
            client.permits = 0;
        }
        state.record_passed(client);
    }

    /// Remembers a client whose password was right without a check. Its checks still count: somebody else may guess at
    /// the same address.
    pub(super) fn on_remembered_success(&self, client: ClientNetwork) {
        self.state().record_passed(client);
    }

    /// Whether a password of this client has been right before.
    pub(super) fn has_passed(&self, client: ClientNetwork) -> bool {
        self.state().passed.contains_key(&client)
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

    fn take_ticket(&mut self) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        ticket
    }

    fn record_passed(&mut self, client: ClientNetwork) {
        let ticket = self.take_ticket();
        self.passed.insert(client, ticket);
        if self.passed.len() > MAX_PASSED {
            let oldest = self.passed.iter().min_by_key(|(_, ticket)| **ticket);
            if let Some(oldest) = oldest.map(|(client, _)| *client) {
                self.passed.remove(&oldest);
            }
        }
    }

    fn rank(&self, client: ClientNetwork, waiters_before: usize) -> CheckRank {
        let permits = self.clients.get(&client).map_or(0, |state| state.permits);
        let checks = permits.saturating_add(waiters_before as u64);
        CheckRank {
            is_unproven: checks >= MAX_PRIORITY_CHECKS || !self.passed.contains_key(&client),
            checks,
        }
    }

    fn enqueue(&mut self, client: ClientNetwork) -> Option<oneshot::Receiver<BcryptPermit>> {
        let mut waiting = 0;
        for state in self.clients.values_mut() {
            state.waiters.retain(|waiter| !waiter.sender.is_closed());
            waiting += state.waiters.len();
        }
        let own = self.clients.get(&client);
        let own = own.map_or(0, |state| state.waiters.len());
        if own >= MAX_WAITING_PER_CLIENT {
            return None;
        }
        if waiting >= MAX_WAITING {
            self.displace_last(self.rank(client, own))?;
        }
        let (sender, receiver) = oneshot::channel();
        let ticket = self.take_ticket();
        self.client(client)
            .waiters
            .push_back(WaitingCheck { ticket, sender });
        Some(receiver)
    }

    /// Removes the waiter that would be checked last, unless that is before `newcomer`. Among equals a random one goes,
    /// so that nobody holds all places by being first: a scraper that tries again gets its turn.
    fn displace_last(&mut self, newcomer: CheckRank) -> Option<()> {
        let last_waiters = self.clients.iter().filter_map(|(client, state)| {
            let waiters_before = state.waiters.len().checked_sub(1)?;
            Some((*client, self.rank(*client, waiters_before)))
        });
        let (displaced, rank) = last_waiters.max_by_key(|(_, rank)| (*rank, fastrand::u64(..)))?;
        if rank < newcomer {
            return None;
        }
        self.clients.get_mut(&displaced)?.waiters.pop_back()?;
        Some(())
    }

    fn pop_next(&mut self) -> Option<WaitingCheck> {
        let next = self.clients.iter().filter_map(|(client, state)| {
            let ticket = state.waiters.front()?.ticket;
            Some((self.rank(*client, 0), ticket, *client))
        });
        let (_, _, client) = next.min_by_key(|(rank, ticket, _)| (*rank, *ticket))?;
        let state = self.clients.get_mut(&client)?;
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
    fn clients_are_grouped_by_address_or_ipv6_network() {
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
    async fn waiting_checks_are_bounded_per_client_and_in_total() {
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

    /// Guessers in 10.0.0.0/8, each with `checks` checks behind it, that hold the only permit and all places.
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
            .filter_map(|guesser| queue.state().enqueue(*guesser));
        (held, waiting.collect())
    }

    #[tokio::test]
    async fn new_client_displaces_a_guessing_client_in_a_full_queue() {
        for checks in [1, 2, 40] {
            let queue = BcryptQueue::with_permits(1);
            let (mut held, mut waiting) = fill(&queue, checks);
            for n in 0..20 {
                let newcomer = network(&format!("127.0.0.{n}"));
                let mut wait = Box::pin(queue.acquire(newcomer));
                assert!(wait.as_mut().now_or_never().is_none(), "{checks} {n}");
                // a guesser takes no place from it
                let guesser = network(&format!("10.0.0.{n}"));
                waiting.extend(queue.state().enqueue(guesser));
                drop(held.take());
                held = wait.now_or_never().flatten();
                assert!(held.is_some(), "{checks} {n}: it is next");
                waiting.extend(queue.state().enqueue(guesser));
            }
        }
    }

    #[tokio::test]
    async fn retrying_client_gets_through_a_flood_of_new_addresses() {
        let queue = BcryptQueue::with_permits(1);
        let (mut held, mut waiting) = fill(&queue, 0);
        let scraper = network("127.0.0.1");
        let mut wait = None;
        for round in 0_u32..6000 {
            for n in 0..4 {
                let address = Ipv6Addr::from_bits(u128::from(round * 4 + n) << 64);
                let guess = queue.state().enqueue(network(&address.to_string()));
                waiting.extend(guess);
            }
            let mut scrape = match wait.take() {
                Some(scrape) => scrape,
                None => match queue.state().enqueue(scraper) {
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
        panic!("it never had its turn");
    }

    #[tokio::test]
    async fn verified_client_has_priority_until_it_guesses() {
        let scraper = network("127.0.0.1");
        for is_remembered in [false, true] {
            let queue = BcryptQueue::with_permits(1);
            if is_remembered {
                queue.on_remembered_success(scraper);
            } else {
                queue.on_success(scraper);
            }
            assert!(queue.has_passed(scraper) && !queue.has_passed(network("10.0.0.1")));
            let (mut held, mut waiting) = fill(&queue, 0);
            // checks that fail: the hash has changed, and the scraper has the old password for a while
            for check in 0..MAX_PRIORITY_CHECKS {
                let wait = queue.state().enqueue(scraper);
                drop(held.take());
                held = wait.and_then(|mut wait| wait.try_recv().ok());
                assert!(held.is_some(), "{check}");
                let guesser = network(&format!("10.1.0.{check}"));
                waiting.extend(queue.state().enqueue(guesser));
            }
            // somebody guesses there: others that have had fewer checks go first again
            assert!(queue.state().enqueue(scraper).is_none());
            queue.on_success(scraper);
            assert!(queue.state().enqueue(scraper).is_some());
        }
    }

    #[test]
    fn most_recently_verified_clients_are_remembered() {
        let queue = BcryptQueue::with_permits(1);
        let first = network("127.0.0.1");
        queue.on_success(first);
        for n in 0..MAX_PASSED * 2 {
            queue.on_success(network(&format!("10.0.{}.{}", n / 250, n % 250)));
            queue.on_remembered_success(first);
        }
        assert!(queue.has_passed(first) && !queue.has_passed(network("10.0.0.0")));
        assert_eq!(queue.state().passed.len(), MAX_PASSED);
    }
}
