//! Orders password checks. bcrypt is expensive by design, so few checks run concurrently, and a client that guesses passwords
//! must not starve others: clients that have sent a correct password before are first, then the client with the fewest checks.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread;

use tokio::sync::oneshot;

use crate::client_network::ClientNetwork;
use crate::sync::Mutex;

/// The maximum number of waiting checks of one client.
const MAX_WAITING_PER_CLIENT: usize = 16;
/// The maximum number of waiting checks of all clients.
const MAX_WAITING: usize = 256;
/// The maximum number of clients with counted checks.
const MAX_CLIENTS: usize = 4096;
/// The maximum number of verified clients, which have sent a correct password.
const MAX_VERIFIED: usize = 256;
/// The number of checks without a correct password after which a verified client loses its priority: a client that guesses
/// passwords may share its address, and must not starve others.
const MAX_PRIORITY_CHECKS: u64 = 32;

/// Grants permits to run bcrypt, fairly among clients.
#[derive(Debug)]
pub(super) struct BcryptQueue {
    state: Mutex<QueueState>,
}

#[derive(Debug, Default)]
struct QueueState {
    free_permits: usize,
    clients: HashMap<ClientNetwork, ClientState>,
    /// The verified clients, with the ticket of the last correct password. Reloads do not remove entries.
    verified: HashMap<ClientNetwork, u64>,
    next_ticket: u64,
}

/// The order of checks, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct CheckRank {
    /// Whether the client has never sent a correct password, or has exceeded [`MAX_PRIORITY_CHECKS`].
    is_unverified: bool,
    /// The number of checks of the same client before this one.
    checks: u64,
}

#[derive(Debug, Default)]
struct ClientState {
    /// The number of permits since the client's last correct password.
    permits: u64,
    waiting: VecDeque<WaitingCheck>,
}

#[derive(Debug)]
struct WaitingCheck {
    ticket: u64,
    sender: oneshot::Sender<BcryptPermit>,
}

/// The permit to run bcrypt once. When it is dropped, the next client receives it.
#[derive(Debug)]
pub(super) struct BcryptPermit(Arc<BcryptQueue>);

impl Drop for BcryptPermit {
    fn drop(&mut self) {
        let next = self.0.state.lock().pop_next();
        if let Some(next) = next {
            // Fails if the request was cancelled: the permit is dropped and passed to the next check.
            let _ = next.sender.send(Self(Arc::clone(&self.0)));
        }
    }
}

impl BcryptQueue {
    pub(super) fn new() -> Arc<Self> {
        // Half of the cores remain free to serve requests.
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self::with_permits((cores / 2).max(1))
    }

    fn with_permits(free_permits: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(QueueState {
                free_permits,
                ..QueueState::default()
            }),
        })
    }

    /// Waits until `client` is next. Returns `None` when the client has too many waiting checks, or when the queue is full and
    /// no waiting check has a lower priority.
    pub(super) async fn acquire(self: &Arc<Self>, client: ClientNetwork) -> Option<BcryptPermit> {
        let receiver = {
            let mut state = self.state.lock();
            if state.free_permits > 0 {
                state.free_permits -= 1;
                state.client(client).permits += 1;
                return Some(BcryptPermit(Arc::clone(self)));
            }
            state.enqueue(client)?
        };
        receiver.await.ok()
    }

    /// Records a correct password of `client`, and resets its number of checks.
    pub(super) fn on_success(&self, client: ClientNetwork) {
        let mut state = self.state.lock();
        if let Some(client) = state.clients.get_mut(&client) {
            client.permits = 0;
        }
        state.record_verified(client);
    }

    /// Records a correct cached password of `client`. Its number of checks is not reset, because a client that guesses
    /// passwords may share its address.
    pub(super) fn on_cached_success(&self, client: ClientNetwork) {
        self.state.lock().record_verified(client);
    }

    /// Returns whether this client has sent a correct password before.
    pub(super) fn is_verified(&self, client: ClientNetwork) -> bool {
        self.state.lock().verified.contains_key(&client)
    }
}

impl QueueState {
    fn client(&mut self, client: ClientNetwork) -> &mut ClientState {
        if self.clients.len() >= MAX_CLIENTS && !self.clients.contains_key(&client) {
            self.clients.retain(|_, state| !state.waiting.is_empty());
        }
        self.clients.entry(client).or_default()
    }

    fn take_ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    fn record_verified(&mut self, client: ClientNetwork) {
        let ticket = self.take_ticket();
        self.verified.insert(client, ticket);
        if self.verified.len() > MAX_VERIFIED {
            let oldest = self.verified.iter().min_by_key(|(_, ticket)| **ticket);
            if let Some(oldest) = oldest.map(|(client, _)| *client) {
                self.verified.remove(&oldest);
            }
        }
    }

    fn rank(&self, client: ClientNetwork, waiting_before: usize) -> CheckRank {
        let permits = self.clients.get(&client).map_or(0, |state| state.permits);
        let checks = permits.saturating_add(waiting_before as u64);
        CheckRank {
            is_unverified: checks >= MAX_PRIORITY_CHECKS || !self.verified.contains_key(&client),
            checks,
        }
    }

    fn enqueue(&mut self, client: ClientNetwork) -> Option<oneshot::Receiver<BcryptPermit>> {
        let mut waiting = 0;
        for state in self.clients.values_mut() {
            state.waiting.retain(|check| !check.sender.is_closed());
            waiting += state.waiting.len();
        }
        let state = self.clients.get(&client);
        let waiting_of_client = state.map_or(0, |state| state.waiting.len());
        if waiting_of_client >= MAX_WAITING_PER_CLIENT {
            return None;
        }
        if waiting >= MAX_WAITING {
            self.displace_last(self.rank(client, waiting_of_client))?;
        }
        let (sender, receiver) = oneshot::channel();
        let ticket = self.take_ticket();
        let check = WaitingCheck { ticket, sender };
        self.client(client).waiting.push_back(check);
        Some(receiver)
    }

    /// Removes the last waiting check, unless `new` ranks after it. Among equal ranks, removes a random one, so that no client
    /// occupies all places because it was first, and a scraper that retries is admitted.
    fn displace_last(&mut self, new: CheckRank) -> Option<()> {
        let last = self.clients.iter().filter_map(|(client, state)| {
            let waiting_before = state.waiting.len().checked_sub(1)?;
            Some((*client, self.rank(*client, waiting_before)))
        });
        let (displaced, rank) = last.max_by_key(|(_, rank)| (*rank, fastrand::u64(..)))?;
        if rank < new {
            return None;
        }
        self.clients.get_mut(&displaced)?.waiting.pop_back()?;
        Some(())
    }

    /// Removes the next waiting check, or adds a free permit when no check is waiting.
    fn pop_next(&mut self) -> Option<WaitingCheck> {
        let first = self.clients.iter().filter_map(|(client, state)| {
            let ticket = state.waiting.front()?.ticket;
            Some((self.rank(*client, 0), ticket, *client))
        });
        let Some((_, _, client)) = first.min_by_key(|(rank, ticket, _)| (*rank, *ticket)) else {
            self.free_permits += 1;
            return None;
        };
        let state = self.clients.get_mut(&client)?;
        state.permits += 1;
        state.waiting.pop_front()
    }
}

#[cfg(test)]
mod tests;
