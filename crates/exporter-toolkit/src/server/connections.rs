//! Limits the number of open connections.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::connection_state::ConnectionState;
use crate::client_network::ClientNetwork;

/// Share of the open connections that is reserved for those without an authorized request: a new connection has to get
/// as far as its first request. Beyond it, they are evicted before all others.
const UNAUTHORIZED_SHARE: usize = 4;

/// Open connections of all listeners of a server.
///
/// At `max`, a new connection evicts another one: first those without an authorized request, oldest first, whatever they
/// are doing; then those without progress (idle, waiting, or with a response that the client does not read), longest
/// first. In both groups, a connection of the client with the most connections is evicted. Connections of authorized
/// clients that read their response are never evicted.
pub(super) struct ConnectionTracker {
    max: usize,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    next_id: u64,
    open: HashMap<u64, Arc<ConnectionState>>,
    /// Number of open connections of each client.
    clients: HashMap<ClientNetwork, Arc<AtomicUsize>>,
}

/// Counts a connection as open until it is dropped.
pub(super) struct ConnectionGuard {
    tracker: Arc<ConnectionTracker>,
    id: u64,
    pub(super) state: Arc<ConnectionState>,
}

impl ConnectionTracker {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            connections: Mutex::default(),
        })
    }

    /// Admits a connection from `address`. Returns `None` when the limit is reached and no connection can be evicted.
    pub(super) fn try_admit(self: &Arc<Self>, address: IpAddr) -> Option<ConnectionGuard> {
        let mut connections = self.connections.lock();
        if connections.open.len() >= self.max && !connections.evict() {
            return None;
        }
        let client = ClientNetwork::from(address);
        let count = Arc::clone(connections.clients.entry(client).or_default());
        count.fetch_add(1, Ordering::Relaxed);
        let state = ConnectionState::new(client, count);
        let id = connections.next_id;
        connections.next_id += 1;
        connections.open.insert(id, Arc::clone(&state));
        Some(ConnectionGuard {
            tracker: Arc::clone(self),
            id,
            state,
        })
    }

    /// Evicts a connection, as when the system has no file descriptor left.
    pub(super) fn evict(&self) {
        self.connections.lock().evict();
    }
}

impl Connections {
    /// Evicts a connection. Returns `false` when none can be evicted.
    fn evict(&mut self) -> bool {
        let ranks = self.open.iter().filter_map(|(id, state)| {
            let rank = state.eviction_rank()?;
            let order = (Reverse(rank.client_connections), rank.since, *id);
            Some((rank.authorized, order))
        });
        let (authorized, unauthorized): (Vec<_>, Vec<_>) = ranks.partition(|(auth, _)| *auth);
        let exceeds_share = unauthorized.len() * UNAUTHORIZED_SHARE > self.open.len();
        let first_authorized = authorized.into_iter().min();
        let first_unauthorized = unauthorized.into_iter().min();
        let first = if exceeds_share {
            first_unauthorized.or(first_authorized)
        } else {
            first_authorized.or(first_unauthorized)
        };
        let evicted = first.and_then(|(_, (_, _, id))| self.remove(id));
        if let Some(state) = &evicted {
            state.evicted.cancel();
        }
        evicted.is_some()
    }

    fn remove(&mut self, id: u64) -> Option<Arc<ConnectionState>> {
        let state = self.open.remove(&id)?;
        if let Some(count) = self.clients.get(&state.client)
            && count.fetch_sub(1, Ordering::Relaxed) == 1
        {
            self.clients.remove(&state.client);
        }
        Some(state)
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.tracker.connections.lock().remove(self.id);
    }
}

#[cfg(test)]
mod tests;
