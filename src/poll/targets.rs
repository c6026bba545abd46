//! The organizations that are polled and their credentials: configured organizations, and organizations that a credential
//! discovers.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{info, warn};

use super::client_secrets::ClientSecretsState;
use super::collect::PollOptions;
use crate::humanize::elapsed;
use crate::shard::Shard;
use crate::storage::{CredentialSnapshot, Storage};
use mongodb_atlas_client::{Client, EndpointSet, OrgId, OrgList};

/// The credentials and organizations to poll, and the options of polls. Created from the configuration at each reload.
pub struct PollPlan {
    /// The credentials and their organizations; the names of the credentials are unique.
    pub credentials: Vec<CredentialTarget>,
    /// The shard of this instance.
    pub shard: Shard,
    /// Maximum number of discovered organizations.
    pub max_orgs: usize,
    /// The poll interval, unless the rate limit requires a longer one.
    pub interval: Duration,
    /// The tag that contains the owner of a project, if any.
    pub owner_tag: Option<String>,
    /// The options of a poll.
    pub options: PollOptions,
    /// The state directory, if there is one.
    pub storage: Option<Storage>,
}

/// A credential and its organizations.
pub struct CredentialTarget {
    /// The client that uses the credential.
    pub client: Arc<Client>,
    /// The organizations of the configuration.
    pub orgs: Vec<OrgId>,
    /// Whether all other organizations that the credential can access are polled as well.
    pub discover: bool,
}

/// The interval between two requests for the rate limits.
const LIMITS_REFRESH_INTERVAL: Duration = Duration::from_hours(1);

/// All credentials, and what they have discovered.
#[derive(Default)]
pub(super) struct Targets {
    pub(super) credentials: Vec<CredentialState>,
}

/// The organizations to poll.
pub(super) struct TargetSelection {
    /// The organizations and their clients.
    pub(super) clients: BTreeMap<OrgId, Arc<Client>>,
    /// Number of discovered organizations in excess of `--atlas.max-orgs`.
    pub(super) omitted: usize,
}

/// A credential, its discovered organizations, and the time of its next requests.
pub(super) struct CredentialState {
    pub(super) target: CredentialTarget,
    discovered: BTreeMap<OrgId, DiscoveredOrg>,
    /// The state that survives a restart, without the discovered organizations.
    stored: CredentialSnapshot,
    pub(super) list_due_at: Instant,
    pub(super) rate_limits_due_at: Instant,
    pub(super) is_listing: bool,
    is_list_incomplete: bool,
    pub(super) is_fetching_limits: bool,
    pub(super) client_secrets: ClientSecretsState,
    pub(super) save_state: SaveState,
}

/// Whether the state of a credential is being stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SaveState {
    Idle,
    Saving,
    /// Being stored, and changed since the write started.
    Dirty,
}

struct DiscoveredOrg {
    name: Option<String>,
    last_seen_at: Instant,
}

impl Targets {
    /// Replaces the credentials. A credential with a known name retains its state; the state of the others is restored from
    /// `stored`. Returns the clients that are no longer used.
    pub(super) fn apply(
        &mut self,
        targets: Vec<CredentialTarget>,
        interval: Duration,
        stored: &mut BTreeMap<Arc<str>, CredentialSnapshot>,
        now: Timestamp,
    ) -> Vec<Arc<Client>> {
        let mut previous: BTreeMap<Arc<str>, CredentialState> = take(&mut self.credentials)
            .into_iter()
            .map(|state| (Arc::clone(state.name()), state))
            .collect();
        let mut unused = Vec::new();
        for target in targets {
            let name = target.client.credential_name();
            let state = match previous.remove(name) {
                Some(state) if Arc::ptr_eq(&state.target.client, &target.client) => {
                    CredentialState { target, ..state }
                }
                Some(state) => {
                    unused.push(Arc::clone(&state.target.client));
                    let mut state = CredentialState { target, ..state };
                    state.on_credential_changed();
                    state
                }
                None => {
                    let stored = stored.remove(name).unwrap_or_default();
                    CredentialState::restore(target, stored, interval, now)
                }
            };
            self.credentials.push(state);
        }
        unused.extend(previous.into_values().map(|state| state.target.client));
        unused
    }

    /// Selects the organizations to poll. An organization that several credentials can access belongs to the credential that
    /// configures it, else to the first credential. If there are too many, organizations that are already polled take
    /// precedence over new ones.
    pub(super) fn select(
        &self,
        shard: Shard,
        max_orgs: usize,
        is_polled: impl Fn(&OrgId) -> bool,
    ) -> TargetSelection {
        let mut clients = BTreeMap::new();
        for state in &self.credentials {
            for org in state.target.orgs.iter().filter(|org| shard.contains(org)) {
                clients
                    .entry(org.clone())
                    .or_insert_with(|| Arc::clone(&state.target.client));
            }
        }
        let max_clients = clients.len().saturating_add(max_orgs);
        let discovered = || {
            self.credentials
                .iter()
                .filter(|state| state.target.discover)
                .flat_map(|state| state.discovered.keys().map(move |org| (org, state)))
                .filter(|(org, _)| shard.contains(org))
        };
        let polled = discovered().filter(|(org, _)| is_polled(org));
        let new = discovered().filter(|(org, _)| !is_polled(org));
        let mut omitted = BTreeSet::new();
        for (org, state) in polled.chain(new) {
            if clients.contains_key(org) {
                continue;
            }
            if clients.len() < max_clients {
                clients.insert(org.clone(), Arc::clone(&state.target.client));
            } else {
                omitted.insert(org);
            }
        }
        TargetSelection {
            omitted: omitted.len(),
            clients,
        }
    }

    /// Returns the credentials that have not listed their organizations yet.
    pub(super) fn pending_discovery(&self) -> Vec<Arc<str>> {
        self.credentials
            .iter()
            .filter(|state| state.target.discover && state.stored.listed_at.is_none())
            .map(|state| Arc::clone(state.name()))
            .collect()
    }

    /// Returns the name of `org`, if it was discovered.
    pub(super) fn org_name(&self, org: &OrgId) -> Option<&str> {
        self.credentials
            .iter()
            .find_map(|state| state.discovered.get(org)?.name.as_deref())
    }

    /// Returns whether the rate limits of a credential are known, or known to be unavailable.
    pub(super) fn knows_rate_limits(&self, credential: &str) -> bool {
        self.credentials
            .iter()
            .any(|state| **state.name() == *credential && state.has_fetched_limits())
    }

    pub(super) fn credential_mut(&mut self, credential: &str) -> Option<&mut CredentialState> {
        self.credentials
            .iter_mut()
            .find(|state| **state.name() == *credential)
    }
}

impl CredentialState {
    fn restore(
        target: CredentialTarget,
        mut stored: CredentialSnapshot,
        interval: Duration,
        now: Timestamp,
    ) -> Self {
        let last_seen_at = Instant::now();
        if !stored.limits.is_empty() {
            target.client.set_rate_limits(stored.limits.clone());
        }
        let discovered = take(&mut stored.orgs).into_iter().filter_map(|(id, name)| {
            Some((
                OrgId::parse(&id).ok()?,
                DiscoveredOrg { name, last_seen_at },
            ))
        });
        let client_secrets = take(&mut stored.client_secrets);
        let client_secrets = ClientSecretsState::restore(client_secrets, &target.client, now);
        let limits_delay = remaining(stored.limits_at, LIMITS_REFRESH_INTERVAL, now);
        Self {
            discovered: discovered.collect(),
            list_due_at: last_seen_at + remaining(stored.listed_at, interval, now),
            rate_limits_due_at: last_seen_at + limits_delay,
            stored,
            is_listing: false,
            is_list_incomplete: false,
            is_fetching_limits: false,
            client_secrets,
            save_state: SaveState::Idle,
            target,
        }
    }

    fn name(&self) -> &Arc<str> {
        self.target.client.credential_name()
    }

    /// Handles a change of the credential, which may now have access to other organizations.
    pub(super) fn on_credential_changed(&mut self) {
        self.list_due_at = Instant::now().min(self.list_due_at);
        self.client_secrets
            .on_credential_changed(&self.target.client);
    }

    /// Returns the configured and the discovered organizations.
    pub(super) fn accessible_orgs(&self) -> impl Iterator<Item = &OrgId> {
        let discovered = self.discovered.keys().filter(|_| self.target.discover);
        self.target.orgs.iter().chain(discovered)
    }

    /// Returns the state that survives a restart.
    pub(super) fn snapshot(&self) -> CredentialSnapshot {
        let discovered = self.discovered.iter();
        CredentialSnapshot {
            orgs: discovered
                .map(|(org, discovered)| (org.to_string(), discovered.name.clone()))
                .collect(),
            client_secrets: self.client_secrets.snapshot(),
            ..self.stored.clone()
        }
    }

    /// Handles a list of organizations. A missing organization is polled for one more interval, and as long as the list is
    /// incomplete. An organization that is marked as deleted is no longer polled.
    pub(super) fn on_orgs_listed(&mut self, list: OrgList, interval: Duration, now: Timestamp) {
        let (last_seen_at, credential) = (Instant::now(), Arc::clone(self.name()));
        let credential = &*credential;
        self.stored.listed_at = Some(now);
        // Logged once, not at each list.
        if list.is_incomplete && !self.is_list_incomplete {
            warn!(
                credential,
                organizations = list.items.len(),
                "incomplete organization list; keeping known organizations"
            );
        }
        self.is_list_incomplete = list.is_incomplete;
        if list.is_incomplete {
            for known in self.discovered.values_mut() {
                known.last_seen_at = last_seen_at;
            }
        }
        for org in list.items {
            if org.is_deleted {
                if self.discovered.remove(&org.id).is_some() {
                    info!(credential, org = %org.id, "organization deleted");
                }
                continue;
            }
            let name = org.name;
            let discovered = DiscoveredOrg { name, last_seen_at };
            let known = self.discovered.insert(org.id.clone(), discovered);
            if known.is_none() {
                info!(credential, org = %org.id, "organization discovered");
            }
        }
        // Lists are one interval apart, so 1.5 intervals means missing from two consecutive lists.
        let max_missing = interval * 3 / 2;
        self.discovered.retain(|org, known| {
            let is_listed =
                last_seen_at.saturating_duration_since(known.last_seen_at) < max_missing;
            if !is_listed {
                info!(credential, %org, "organization no longer listed");
            }
            is_listed
        });
    }

    /// Returns whether the rate limits were already requested.
    pub(super) fn has_fetched_limits(&self) -> bool {
        self.stored.limits_at.is_some()
    }

    /// Sets the rate limits; `None` when they are unavailable.
    pub(super) fn set_limits(&mut self, limits: Option<Vec<EndpointSet>>, now: Timestamp) {
        if let Some(limits) = limits {
            self.target.client.set_rate_limits(limits.clone());
            self.stored.limits = limits;
        }
        self.is_fetching_limits = false;
        self.stored.limits_at = Some(now);
        self.rate_limits_due_at = Instant::now() + LIMITS_REFRESH_INTERVAL;
    }
}

/// Returns the remaining time of `interval` since `start`; at most `interval`, because the clock may have been set.
pub(super) fn remaining(start: Option<Timestamp>, interval: Duration, now: Timestamp) -> Duration {
    start.map_or(Duration::ZERO, |start| {
        interval.saturating_sub(elapsed(start, now))
    })
}
