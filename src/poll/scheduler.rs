//! The task that lets everything happen in its time. It decides when an organization is walked, and
//! nothing else does.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::save_failures::Unkept;

use super::collect::Manner;
use super::diff::Change;
use super::org_state::Watch;
use super::targets::{Fleet, FleetLimits, Plan, Watched};
use super::tasks::{self, Ended};
use super::walk::WalkError;
use crate::inventory::{Inventory, Shelf};
use crate::storage::Storage;
use exporter_toolkit::bounded_file::READ_TIMEOUT;
use exporter_toolkit::liveness::Heartbeat;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{Client, Error, LaneId};

/// How long giving back the access tokens may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Who is told of what happens. Implemented where the rooms are put together; called from the
/// scheduler's task, so it must not block.
pub trait Watcher: Send + Sync {
    /// The organizations that a credential can see were listed, or cannot be.
    fn listed(&self, credential: &str, problem: Option<&Error>);
    /// An organization is watched from now on.
    fn watched(&self, org: &OrgId);
    /// An organization is watched no more.
    fn forgotten(&self, org: &OrgId);
    /// The interval between two walks that is in force.
    fn interval(&self, org: &OrgId, interval: Duration);
    /// When the next walk is due; told again when that changes.
    fn due(&self, org: &OrgId, at: Timestamp);
    /// What an earlier process has left is shown until the first walk. `up` says that its last
    /// walk was complete and not long ago.
    fn restored(&self, inventory: &Inventory, up: bool);
    /// A walk begins.
    fn begun(&self, org: &OrgId, at: Timestamp);
    /// A walk was complete; its inventory stands on the shelf already.
    fn succeeded(&self, inventory: &Inventory, pages: u32, took: Duration);
    /// A walk failed; what stood on the shelf still stands.
    fn failed(&self, org: &OrgId, error: &WalkError, took: Duration);
    /// A change has happened to so many keys more.
    fn changed(&self, org: &OrgId, change: Change, keys: u64);
    /// Something could not be kept for the next start.
    fn not_kept(&self);
}

/// What the scheduler is told while it runs.
pub enum Command {
    /// Watch this from now on.
    Plan(Plan),
    /// A file of the credential of that name has changed.
    CredentialChanged(Arc<str>),
}

/// What becomes of the state files of an organization that is no longer watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoredState {
    /// A configuration does not name it any more, which may be a configuration that was cut.
    Keep,
    /// Atlas does not list it any more.
    Remove,
}

/// Walks every organization at its times, one walk of an organization at a time.
pub struct Scheduler {
    pub(super) fleet: Fleet,
    pub(super) orgs: BTreeMap<OrgId, Watch>,
    /// Clients that are no longer used, until the last task that does has ended.
    pub(super) retired: Vec<Arc<Client>>,
    /// Buckets that do not allow the interval that was asked for.
    pub(super) stretched: HashSet<LaneId>,
    /// Discovered organizations past `--atlas.max-orgs`, as last logged.
    pub(super) left_out: usize,
    pub(super) interval: Duration,
    /// Each organization is polled once, and nothing is retried.
    pub(super) one_shot: bool,
    pub(super) manner: Manner,
    pub(super) storage: Option<Storage>,
    pub(super) unkept: Unkept,
    pub(super) jobs: JoinSet<Ended>,
    pub(super) shelf: Arc<Shelf>,
    pub(super) watcher: Arc<dyn Watcher>,
    pub(super) clock: Clock,
}

impl Scheduler {
    /// Takes up `plan`, and with it what an earlier process has left, which stands on the shelf
    /// when this returns.
    pub async fn start(
        plan: Plan,
        shelf: Arc<Shelf>,
        watcher: Arc<dyn Watcher>,
        clock: Clock,
    ) -> Self {
        let mut scheduler = Self {
            fleet: Fleet::new(),
            orgs: BTreeMap::new(),
            retired: Vec::new(),
            stretched: HashSet::new(),
            left_out: 0,
            interval: plan.interval,
            one_shot: false,
            manner: plan.manner.clone(),
            storage: None,
            unkept: Unkept::default(),
            jobs: JoinSet::new(),
            shelf,
            watcher,
            clock,
        };
        scheduler.apply(plan).await;
        scheduler
    }

    /// Polls each organization once only, and promises nothing else in the log.
    #[must_use]
    pub fn into_one_shot(self) -> Self {
        Self {
            one_shot: true,
            ..self
        }
    }

    /// Runs until `shutdown`; walks that are under way then are dropped, and nothing of them is
    /// published. At the end the access tokens are given back.
    /// Each turn of the loop is told to `beat`.
    pub async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        beat: Heartbeat,
        shutdown: CancellationToken,
    ) {
        loop {
            beat.tick();
            let wake = self.begin_what_is_due().min(beat.next_deadline());
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(ended) = self.jobs.join_next() => {
                    // tasks catch their panics, and none is cancelled before the end
                    if let Ok(ended) = ended {
                        self.ended(ended).await;
                    }
                }
                Some(command) = commands.recv() => match command {
                    Command::Plan(plan) => self.apply(plan).await,
                    Command::CredentialChanged(name) => self.credential_changed(&name).await,
                },
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        self.jobs.shutdown().await;
        let current = self.fleet.members.iter().map(|scout| &scout.member.client);
        let close = current.chain(&self.retired).map(|client| client.close());
        // what is left undone ends by itself within the hour
        let _ = tokio::time::timeout(CLOSE_WITHIN, futures_util::future::join_all(close)).await;
    }

    pub(super) async fn apply(&mut self, plan: Plan) {
        let now = self.clock.now();
        self.storage = plan.storage;
        (self.interval, self.manner) = (plan.interval, plan.manner);
        let names = plan
            .members
            .iter()
            .map(|member| Arc::clone(member.client.name()));
        let mut kept = self.load_accounts(names.collect()).await;
        let limits = FleetLimits {
            shard: plan.shard,
            max_orgs: plan.max_orgs,
            interval: plan.interval,
        };
        let retired = self.fleet.apply(plan.members, limits, &mut kept, now);
        self.retired.extend(retired);
        self.refresh(StoredState::Keep).await;
        self.close_retired();
    }

    /// Watches what the fleet says now.
    pub(super) async fn refresh(&mut self, stored: StoredState) {
        let Watched {
            clients: watched,
            left_out,
        } = self.fleet.watched(|org| self.orgs.contains_key(org));
        // once, and not at each listing
        if left_out > 0 && self.left_out == 0 {
            warn!(
                watched = watched.len(),
                left_out,
                flag = "--atlas.max-orgs",
                "too many organizations; leaving some out"
            );
        }
        self.left_out = left_out;
        let gone: Vec<OrgId> = self
            .orgs
            .keys()
            .filter(|org| !watched.contains_key(*org))
            .cloned()
            .collect();
        for org in gone {
            self.orgs.remove(&org);
            self.watcher.forgotten(&org);
            self.unkept.forget(&org);
            warn!(%org, "organization no longer watched");
            if stored == StoredState::Remove
                && let Some(storage) = self.storage.clone()
            {
                // what cannot be removed is logged, and does no harm
                let _ = storage
                    .run(READ_TIMEOUT, move |storage| storage.forget(&org))
                    .await;
            }
        }
        self.shelf
            .watch(watched.keys().cloned().collect(), self.fleet.searching());
        let mut new = Vec::new();
        for (org, client) in watched {
            match self.orgs.get_mut(&org) {
                Some(watch) if Arc::ptr_eq(&watch.client, &client) => {}
                Some(watch) => {
                    watch.client = client;
                    if !watch.backoff.is_well() {
                        watch.backoff.reset();
                        watch.due = Instant::now();
                    }
                }
                None => {
                    let watch = Watch::new(&org, client, self.interval);
                    self.orgs.insert(org.clone(), watch);
                    self.watcher.watched(&org);
                    new.push(org);
                }
            }
        }
        self.restore(new).await;
        self.set_paces();
    }

    pub(super) async fn credential_changed(&mut self, credential: &str) {
        let Some(scout) = self.fleet.get(credential) else {
            return;
        };
        info!(credential, "a file of the credential has changed");
        let client = Arc::clone(&scout.member.client);
        client.credential_changed().await;
        if scout.member.discover && scout.list_due > Instant::now() {
            scout.list_due = Instant::now();
        }
        // whatever was wrong may be right now
        for watch in self.orgs.values_mut() {
            if Arc::ptr_eq(&watch.client, &client) && !watch.backoff.is_well() {
                watch.backoff.reset();
                watch.due = Instant::now();
            }
        }
    }

    /// Lets clients that nobody uses any more give back their tokens.
    pub(super) fn close_retired(&mut self) {
        let idle = self
            .retired
            .extract_if(.., |client| Arc::strong_count(client) == 1);
        for client in idle {
            self.jobs.spawn(tasks::close(client));
        }
    }
}

pub(super) fn whole_seconds(length: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(length.as_secs()))
}
