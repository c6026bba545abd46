//! Which organizations are watched, and with which credential: those that the configuration names,
//! and those that a credential can see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tracing::{info, warn};

use super::collect::Manner;
use crate::shard::Shard;
use crate::storage::{Account, Storage};
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{Client, EndpointSet, OrgList};

/// What to watch, and how. Made of the configuration, again at each reload.
pub struct Plan {
    /// The credentials, each with what it watches; no two of the same name.
    pub members: Vec<Member>,
    /// This instance's share of the organizations.
    pub shard: Shard,
    /// Discovered organizations past this number are not watched.
    pub max_orgs: usize,
    /// How often each organization is walked, as long as the request budget allows.
    pub interval: Duration,
    /// How a walk is done.
    pub manner: Manner,
    /// Where state is kept, if anywhere.
    pub storage: Option<Storage>,
}

/// A credential and its organizations.
pub struct Member {
    /// Asks Atlas on behalf of the credential.
    pub client: Arc<Client>,
    /// The organizations that the configuration names.
    pub orgs: Vec<OrgId>,
    /// Whether every other organization that the credential can see is watched as well.
    pub discover: bool,
}

/// How long after a restart or a change the rate limits are asked for again.
const LIMITS_EVERY: Duration = Duration::from_hours(1);

/// All credentials, and what they have found.
pub(super) struct Fleet {
    pub(super) members: Vec<Scout>,
    shard: Shard,
    max_orgs: usize,
    interval: Duration,
}

/// The organizations to watch.
pub(super) struct Watched {
    /// Each with the client that asks about it.
    pub(super) clients: BTreeMap<OrgId, Arc<Client>>,
    /// Number of discovered organizations past `--atlas.max-orgs`.
    pub(super) left_out: usize,
}

/// A credential, what it has found, and when it looks again.
pub(super) struct Scout {
    pub(super) member: Member,
    seen: BTreeMap<OrgId, Seen>,
    listed_at: Option<Timestamp>,
    limits: Vec<EndpointSet>,
    limits_at: Option<Timestamp>,
    pub(super) list_due: Instant,
    pub(super) limits_due: Instant,
    pub(super) listing: bool,
    is_list_short: bool,
    pub(super) limiting: bool,
    pub(super) keeping: Keeping,
}

/// Whether what a credential has found is being written to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeping {
    Not,
    UnderWay,
    /// And there is something new already.
    Again,
}

struct Seen {
    name: Option<String>,
    last: Instant,
}

/// What a plan says of all credentials together.
#[derive(Clone, Copy)]
pub(super) struct FleetLimits {
    pub(super) shard: Shard,
    pub(super) max_orgs: usize,
    pub(super) interval: Duration,
}

impl Fleet {
    pub(super) fn new() -> Self {
        Self {
            members: Vec::new(),
            shard: Shard::WHOLE,
            max_orgs: 0,
            interval: Duration::ZERO,
        }
    }

    /// Takes over a plan. What a credential of the same name has found stays found; what was
    /// `kept` of the others is taken up. Hands out the clients that are no longer used.
    pub(super) fn apply(
        &mut self,
        members: Vec<Member>,
        limits: FleetLimits,
        kept: &mut BTreeMap<Arc<str>, Account>,
        now: Timestamp,
    ) -> Vec<Arc<Client>> {
        let mut before: BTreeMap<Arc<str>, Scout> = std::mem::take(&mut self.members)
            .into_iter()
            .map(|scout| (Arc::clone(scout.member.client.name()), scout))
            .collect();
        let mut retired = Vec::new();
        let FleetLimits {
            shard,
            max_orgs,
            interval,
        } = limits;
        (self.shard, self.max_orgs, self.interval) = (shard, max_orgs, interval);
        for member in members {
            let name = Arc::clone(member.client.name());
            let scout = match before.remove(&name) {
                Some(known) => {
                    if !Arc::ptr_eq(&known.member.client, &member.client) {
                        retired.push(Arc::clone(&known.member.client));
                    }
                    known.reassigned(member)
                }
                None => Scout::new(
                    member,
                    kept.remove(&name).unwrap_or_default(),
                    interval,
                    now,
                ),
            };
            self.members.push(scout);
        }
        retired.extend(before.into_values().map(|scout| scout.member.client));
        retired
    }

    /// The organizations to watch. One that several credentials can see belongs to the one that names it, else to the
    /// first. Where there are more discovered ones than allowed, those that are watched already stay, so that a new one
    /// takes nobody's place.
    pub(super) fn watched(&self, is_watched: impl Fn(&OrgId) -> bool) -> Watched {
        let mut clients = BTreeMap::new();
        let named = self
            .members
            .iter()
            .flat_map(|scout| scout.member.orgs.iter().map(move |org| (org, scout)));
        for (org, scout) in named.filter(|(org, _)| self.shard.contains(org)) {
            clients
                .entry(org.clone())
                .or_insert_with(|| Arc::clone(&scout.member.client));
        }
        let most = clients.len().saturating_add(self.max_orgs);
        let found = || {
            self.members
                .iter()
                .filter(|scout| scout.member.discover)
                .flat_map(|scout| scout.seen.keys().map(move |org| (org, scout)))
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
                clients.insert(org.clone(), Arc::clone(&scout.member.client));
            } else {
                left_out.insert(org);
            }
        }
        Watched {
            left_out: left_out.len(),
            clients,
        }
    }

    /// The credentials that have not yet found out which organizations they can see.
    pub(super) fn searching(&self) -> Vec<Arc<str>> {
        self.members
            .iter()
            .filter(|scout| scout.member.discover && scout.listed_at.is_none())
            .map(|scout| Arc::clone(scout.member.client.name()))
            .collect()
    }

    /// The name of `org` as a list has told it.
    pub(super) fn name_of(&self, org: &OrgId) -> Option<&str> {
        self.members
            .iter()
            .find_map(|scout| scout.seen.get(org)?.name.as_deref())
    }

    /// Whether Atlas has told the rate limits of a credential, or that it does not tell them.
    pub(super) fn knows_limits(&self, credential: &str) -> bool {
        self.members
            .iter()
            .any(|scout| &**scout.member.client.name() == credential && scout.limits_at.is_some())
    }

    pub(super) fn get(&mut self, credential: &str) -> Option<&mut Scout> {
        self.members
            .iter_mut()
            .find(|scout| &**scout.member.client.name() == credential)
    }

    /// A credential has listed what it can see. An organization that is missing from the list is
    /// watched for one interval more, or for as long as the list is shorter than it says itself; one that is marked
    /// deleted is not.
    pub(super) fn listed(&mut self, credential: &str, listed: OrgList, now: Timestamp) {
        let (interval, at) = (self.interval, Instant::now());
        let Some(scout) = self.get(credential) else {
            return;
        };
        scout.listed_at = Some(now);
        // once, and not at each listing
        if listed.is_short && !scout.is_list_short {
            warn!(
                credential,
                organizations = listed.orgs.len(),
                "organization list is shorter than its totalCount; keeping known organizations"
            );
        }
        scout.is_list_short = listed.is_short;
        if listed.is_short {
            for seen in scout.seen.values_mut() {
                seen.last = at;
            }
        }
        for org in listed.orgs {
            let known = if org.deleted {
                scout.seen.remove(&org.id).map(|_| "deleted")
            } else {
                let seen = Seen {
                    name: org.name,
                    last: at,
                };
                match scout.seen.insert(org.id.clone(), seen) {
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
        scout.seen.retain(|org, seen| {
            let stays = at.saturating_duration_since(seen.last) < long_gone;
            if !stays {
                info!(credential, %org, what = "gone", "organization");
            }
            stays
        });
    }
}

impl Scout {
    fn new(member: Member, kept: Account, interval: Duration, now: Timestamp) -> Self {
        let at = Instant::now();
        if !kept.limits.is_empty() {
            member.client.learn(kept.limits.clone());
        }
        let seen = kept.orgs.into_iter().filter_map(|(id, name)| {
            let org = OrgId::parse(&id).ok()?;
            Some((org, Seen { name, last: at }))
        });
        Self {
            seen: seen.collect(),
            listed_at: kept.listed_at,
            limits: kept.limits,
            limits_at: kept.limits_at,
            list_due: at + left(kept.listed_at, interval, now),
            limits_due: at + left(kept.limits_at, LIMITS_EVERY, now),
            listing: false,
            is_list_short: false,
            limiting: false,
            keeping: Keeping::Not,
            member,
        }
    }

    fn reassigned(self, member: Member) -> Self {
        // what was found with another credential of that name may not be seen with this one
        let list_due = if Arc::ptr_eq(&self.member.client, &member.client) {
            self.list_due
        } else {
            Instant::now()
        };
        Self {
            member,
            list_due,
            ..self
        }
    }

    /// What is to be kept over a restart.
    pub(super) fn account(&self) -> Account {
        Account {
            listed_at: self.listed_at,
            orgs: self
                .seen
                .iter()
                .map(|(org, seen)| (org.to_string(), seen.name.clone()))
                .collect(),
            limits_at: self.limits_at,
            limits: self.limits.clone(),
        }
    }

    /// Whether the rate limits were asked for before.
    pub(super) fn has_asked_for_limits(&self) -> bool {
        self.limits_at.is_some()
    }

    /// The rate limits are known now, or known not to be told.
    pub(super) fn limits_told(&mut self, told: Option<Vec<EndpointSet>>, now: Timestamp) {
        if let Some(sets) = told {
            self.member.client.learn(sets.clone());
            self.limits = sets;
        }
        self.limits_at = Some(now);
        self.limits_due = Instant::now() + LIMITS_EVERY;
    }
}

/// What is left of `every` since `then`; at most all of it, should the clock have been set.
fn left(then: Option<Timestamp>, every: Duration, now: Timestamp) -> Duration {
    let Some(then) = then else {
        return Duration::ZERO;
    };
    let passed = now.duration_since(then).max(SignedDuration::ZERO);
    every.saturating_sub(Duration::try_from(passed).unwrap_or_default())
}
