//! Which organizations are watched, and with which credential: those that the configuration names,
//! and those that a credential can see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tracing::{info, warn};

use super::collect::PollOptions;
use crate::shard::Shard;
use crate::storage::{CredentialSnapshot, Storage};
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{Client, EndpointSet, OrgList};

/// What to watch, and how. Made of the configuration, again at each reload.
pub struct PollPlan {
    /// The credentials, each with what it watches; no two of the same name.
    pub credentials: Vec<CredentialTarget>,
    /// This instance's share of the organizations.
    pub shard: Shard,
    /// Discovered organizations past this number are not watched.
    pub max_orgs: usize,
    /// How often each organization is walked, as long as the request budget allows.
    pub interval: Duration,
    /// How a walk is done.
    pub options: PollOptions,
    /// Where state is kept, if anywhere.
    pub storage: Option<Storage>,
}

/// A credential and its organizations.
pub struct CredentialTarget {
    /// Asks Atlas on behalf of the credential.
    pub client: Arc<Client>,
    /// The organizations that the configuration names.
    pub orgs: Vec<OrgId>,
    /// Whether every other organization that the credential can see is watched as well.
    pub discover: bool,
}

/// How long after a restart or a change the rate limits are asked for again.
const LIMITS_REFRESH_INTERVAL: Duration = Duration::from_hours(1);

/// All credentials, and what they have found.
pub(super) struct Targets {
    pub(super) credentials: Vec<CredentialState>,
    shard: Shard,
    max_orgs: usize,
    interval: Duration,
}

/// The organizations to watch.
pub(super) struct TargetSelection {
    /// Each with the client that asks about it.
    pub(super) clients: BTreeMap<OrgId, Arc<Client>>,
    /// Number of discovered organizations past `--atlas.max-orgs`.
    pub(super) omitted: usize,
}

/// A credential, what it has found, and when it looks again.
pub(super) struct CredentialState {
    pub(super) target: CredentialTarget,
    discovered: BTreeMap<OrgId, DiscoveredOrg>,
    listed_at: Option<Timestamp>,
    rate_limits: Vec<EndpointSet>,
    rate_limits_at: Option<Timestamp>,
    pub(super) list_due_at: Instant,
    pub(super) rate_limits_due_at: Instant,
    pub(super) is_listing: bool,
    is_list_incomplete: bool,
    pub(super) is_fetching_limits: bool,
    pub(super) save_state: SaveState,
}

/// Whether what a credential has found is being written to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SaveState {
    Idle,
    Saving,
    /// And there is something new already.
    Dirty,
}

struct DiscoveredOrg {
    name: Option<String>,
    last_seen_at: Instant,
}

/// What a plan says of all credentials together.
#[derive(Clone, Copy)]
pub(super) struct TargetLimits {
    pub(super) shard: Shard,
    pub(super) max_orgs: usize,
    pub(super) interval: Duration,
}

impl Targets {
    pub(super) fn new() -> Self {
        Self {
            credentials: Vec::new(),
            shard: Shard::ALL,
            max_orgs: 0,
            interval: Duration::ZERO,
        }
    }

    /// Takes over a plan. What a credential of the same name has found stays found; what was
    /// `kept` of the others is taken up. Hands out the clients that are no longer used.
    pub(super) fn apply(
        &mut self,
        members: Vec<CredentialTarget>,
        limits: TargetLimits,
        kept: &mut BTreeMap<Arc<str>, CredentialSnapshot>,
        now: Timestamp,
    ) -> Vec<Arc<Client>> {
        let mut before: BTreeMap<Arc<str>, CredentialState> = std::mem::take(&mut self.credentials)
            .into_iter()
            .map(|scout| (Arc::clone(scout.target.client.credential_name()), scout))
            .collect();
        let mut retired = Vec::new();
        let TargetLimits {
            shard,
            max_orgs,
            interval,
        } = limits;
        (self.shard, self.max_orgs, self.interval) = (shard, max_orgs, interval);
        for member in members {
            let name = Arc::clone(member.client.credential_name());
            let scout = match before.remove(&name) {
                Some(known) => {
                    if !Arc::ptr_eq(&known.target.client, &member.client) {
                        retired.push(Arc::clone(&known.target.client));
                    }
                    known.with_target(member)
                }
                None => CredentialState::new(
                    member,
                    kept.remove(&name).unwrap_or_default(),
                    interval,
                    now,
                ),
            };
            self.credentials.push(scout);
        }
        retired.extend(before.into_values().map(|scout| scout.target.client));
        retired
    }

    /// The organizations to watch. One that several credentials can see belongs to the one that names it, else to the
    /// first. Where there are more discovered ones than allowed, those that are watched already stay, so that a new one
    /// takes nobody's place.
    pub(super) fn select(&self, is_watched: impl Fn(&OrgId) -> bool) -> TargetSelection {
        let mut clients = BTreeMap::new();
        let named = self
            .credentials
            .iter()
            .flat_map(|scout| scout.target.orgs.iter().map(move |org| (org, scout)));
        for (org, scout) in named.filter(|(org, _)| self.shard.contains(org)) {
            clients
                .entry(org.clone())
                .or_insert_with(|| Arc::clone(&scout.target.client));
        }
        let most = clients.len().saturating_add(self.max_orgs);
        let found = || {
            self.credentials
                .iter()
                .filter(|scout| scout.target.discover)
                .flat_map(|scout| scout.discovered.keys().map(move |org| (org, scout)))
                .filter(|(org, _)| self.shard.contains(org))
        };
        let known = found().filter(|(org, _)| is_watched(org));
        let new = found().filter(|(org, _)| !is_watched(org));
        let mut left_out = BTreeSet::new();
        for (org, scout) in known.chain(new) {
            if clients.contains_key(org) {
                continue;
            }
            if clients.len() < most {
                clients.insert(org.clone(), Arc::clone(&scout.target.client));
            } else {
                left_out.insert(org);
            }
        }
        TargetSelection {
            omitted: left_out.len(),
            clients,
        }
    }

    /// The credentials that have not yet found out which organizations they can see.
    pub(super) fn pending_discovery(&self) -> Vec<Arc<str>> {
        self.credentials
            .iter()
            .filter(|scout| scout.target.discover && scout.listed_at.is_none())
            .map(|scout| Arc::clone(scout.target.client.credential_name()))
            .collect()
    }

    /// The name of `org` as a list has told it.
    pub(super) fn org_name(&self, org: &OrgId) -> Option<&str> {
        self.credentials
            .iter()
            .find_map(|scout| scout.discovered.get(org)?.name.as_deref())
    }

    /// Whether Atlas has told the rate limits of a credential, or that it does not tell them.
    pub(super) fn knows_rate_limits(&self, credential: &str) -> bool {
        self.credentials.iter().any(|scout| {
            &**scout.target.client.credential_name() == credential && scout.rate_limits_at.is_some()
        })
    }

    pub(super) fn credential_mut(&mut self, credential: &str) -> Option<&mut CredentialState> {
        self.credentials
            .iter_mut()
            .find(|scout| &**scout.target.client.credential_name() == credential)
    }

    /// A credential has listed what it can see. An organization that is missing from the list is
    /// watched for one interval more, or for as long as the list is shorter than it says itself; one that is marked
    /// deleted is not.
    pub(super) fn on_orgs_listed(&mut self, credential: &str, listed: OrgList, now: Timestamp) {
        let (interval, at) = (self.interval, Instant::now());
        let Some(scout) = self.credential_mut(credential) else {
            return;
        };
        scout.listed_at = Some(now);
        // once, and not at each listing
        if listed.is_incomplete && !scout.is_list_incomplete {
            warn!(
                credential,
                organizations = listed.items.len(),
                "organization list is shorter than its totalCount; keeping known organizations"
            );
        }
        scout.is_list_incomplete = listed.is_incomplete;
        if listed.is_incomplete {
            for seen in scout.discovered.values_mut() {
                seen.last_seen_at = at;
            }
        }
        for org in listed.items {
            let known = if org.is_deleted {
                scout.discovered.remove(&org.id).map(|_| "deleted")
            } else {
                let seen = DiscoveredOrg {
                    name: org.name,
                    last_seen_at: at,
                };
                match scout.discovered.insert(org.id.clone(), seen) {
                    None => Some("found"),
                    Some(_) => None,
                }
            };
            if let Some(what) = known {
                info!(credential, org = %org.id, what, "organization");
            }
        }
        // lists are an interval apart: it was missing from the one before as well
        let long_gone = interval * 3 / 2;
        scout.discovered.retain(|org, seen| {
            let stays = at.saturating_duration_since(seen.last_seen_at) < long_gone;
            if !stays {
                info!(credential, %org, what = "gone", "organization");
            }
            stays
        });
    }
}

impl CredentialState {
    fn new(
        member: CredentialTarget,
        kept: CredentialSnapshot,
        interval: Duration,
        now: Timestamp,
    ) -> Self {
        let at = Instant::now();
        if !kept.limits.is_empty() {
            member.client.set_rate_limits(kept.limits.clone());
        }
        let seen = kept.orgs.into_iter().filter_map(|(id, name)| {
            let org = OrgId::parse(&id).ok()?;
            Some((
                org,
                DiscoveredOrg {
                    name,
                    last_seen_at: at,
                },
            ))
        });
        Self {
            discovered: seen.collect(),
            listed_at: kept.listed_at,
            rate_limits: kept.limits,
            rate_limits_at: kept.limits_at,
            list_due_at: at + remaining(kept.listed_at, interval, now),
            rate_limits_due_at: at + remaining(kept.limits_at, LIMITS_REFRESH_INTERVAL, now),
            is_listing: false,
            is_list_incomplete: false,
            is_fetching_limits: false,
            save_state: SaveState::Idle,
            target: member,
        }
    }

    fn with_target(self, member: CredentialTarget) -> Self {
        // what was found with another credential of that name may not be seen with this one
        let list_due = if Arc::ptr_eq(&self.target.client, &member.client) {
            self.list_due_at
        } else {
            Instant::now()
        };
        Self {
            target: member,
            list_due_at: list_due,
            ..self
        }
    }

    /// What is to be kept over a restart.
    pub(super) fn snapshot(&self) -> CredentialSnapshot {
        CredentialSnapshot {
            listed_at: self.listed_at,
            orgs: self
                .discovered
                .iter()
                .map(|(org, seen)| (org.to_string(), seen.name.clone()))
                .collect(),
            limits_at: self.rate_limits_at,
            limits: self.rate_limits.clone(),
        }
    }

    /// Whether the rate limits were asked for before.
    pub(super) fn has_fetched_limits(&self) -> bool {
        self.rate_limits_at.is_some()
    }

    /// The rate limits are known now, or known not to be told.
    pub(super) fn set_limits(&mut self, told: Option<Vec<EndpointSet>>, now: Timestamp) {
        if let Some(sets) = told {
            self.target.client.set_rate_limits(sets.clone());
            self.rate_limits = sets;
        }
        self.rate_limits_at = Some(now);
        self.rate_limits_due_at = Instant::now() + LIMITS_REFRESH_INTERVAL;
    }
}

/// What is left of `every` since `then`; at most all of it, should the clock have been set.
fn remaining(then: Option<Timestamp>, every: Duration, now: Timestamp) -> Duration {
    let Some(then) = then else {
        return Duration::ZERO;
    };
    let passed = now.duration_since(then).max(SignedDuration::ZERO);
    every.saturating_sub(Duration::try_from(passed).unwrap_or_default())
}
