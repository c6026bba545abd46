//! Limits the number of open connections.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::connection_state::ConnectionState;
use crate::client_network::ClientNetwork;
use crate::sync::Mutex;

/// The reciprocal of the share of open connections that is reserved for connections without an authorized request, so that a
/// new connection can send its first request. Above this share, such connections are evicted before all others.
const UNAUTHORIZED_SHARE: usize = 4;

/// Tracks the open connections of all listeners of a server.
///
/// When `max` is reached, a new connection evicts another one: first a connection without an authorized request, oldest
/// first; then a connection without progress (idle, waiting, or with a response that the client does not read), longest
/// first. In both groups, the client with the most connections loses one. Connections of authorized clients that read their
/// response are never evicted.
pub(super) struct ConnectionTracker {
    max: usize,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    next_id: u64,
    open: HashMap<u64, Arc<ConnectionState>>,
    /// The number of open connections of each client.
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

    /// Evicts a connection, for example to free a file descriptor.
    pub(super) fn evict(&self) {
        self.connections.lock().evict();
    }
}

impl Connections {
    /// Evicts a connection. Returns `false` when none can be evicted.
    fn evict(&mut self) -> bool {
        let mut unauthorized = 0;
        let (mut first_authorized, mut first_unauthorized) = (None, None);
        for (id, state) in &self.open {
            let Some(rank) = state.eviction_rank() else {
                continue;
            };
            let first = if rank.authorized {
                &mut first_authorized
            } else {
                unauthorized += 1;
                &mut first_unauthorized
            };
            let order = (Reverse(rank.client_connections), rank.since, *id);
            if first.is_none_or(|first| order < first) {
                *first = Some(order);
            }
        }
        let first = if unauthorized * UNAUTHORIZED_SHARE > self.open.len() {
            first_unauthorized.or(first_authorized)
        } else {
            first_authorized.or(first_unauthorized)
        };
        let evicted = first.and_then(|(_, _, id)| self.remove(id));
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
