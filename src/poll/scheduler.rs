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

use super::save_failures::SaveFailures;

use super::collect::PollOptions;
use super::diff::Change;
use super::org_state::OrgState;
use super::targets::{PollPlan, TargetLimits, TargetSelection, Targets};
use super::tasks::{self, TaskOutput};
use super::walk::WalkError;
use crate::inventory::{Inventory, InventoryStore};
use crate::storage::Storage;
use exporter_toolkit::bounded_file::READ_TIMEOUT;
use exporter_toolkit::liveness::Heartbeat;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{BucketKey, Client, Error};

/// How long giving back the access tokens may take.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(2);
/// Who is told of what happens. Implemented where the rooms are put together; called from the
/// scheduler's task, so it must not block.
pub trait PollObserver: Send + Sync {
    /// The organizations that a credential can see were listed, or cannot be.
    fn orgs_listed(&self, credential: &str, problem: Option<&Error>);
    /// An organization is watched from now on.
    fn org_added(&self, org: &OrgId);
    /// An organization is watched no more.
    fn org_removed(&self, org: &OrgId);
    /// The interval between two walks that is in force.
    fn interval_changed(&self, org: &OrgId, interval: Duration);
    /// When the next walk is due; told again when that changes.
    fn due_changed(&self, org: &OrgId, at: Timestamp);
    /// What an earlier process has left is shown until the first walk. `up` says that its last
    /// walk was complete and not long ago.
    fn inventory_restored(&self, inventory: &Inventory, up: bool);
    /// A walk begins.
    fn poll_started(&self, org: &OrgId, at: Timestamp);
    /// A walk was complete; its inventory stands on the shelf already.
    fn poll_succeeded(&self, inventory: &Inventory, pages: u32, took: Duration);
    /// A walk failed; what stood on the shelf still stands.
    fn poll_failed(&self, org: &OrgId, error: &WalkError, took: Duration);
    /// A change has happened to so many keys more.
    fn keys_changed(&self, org: &OrgId, change: Change, keys: u64);
    /// Something could not be kept for the next start.
    fn save_failed(&self);
}

/// What the scheduler is told while it runs.
pub enum SchedulerCommand {
    /// Watch this from now on.
    ApplyPlan(PollPlan),
    /// A file of the credential of that name has changed.
    CredentialChanged(Arc<str>),
}

/// What becomes of the state files of an organization that is no longer watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StateFilePolicy {
    /// A configuration does not name it any more, which may be a configuration that was cut.
    Keep,
    /// Atlas does not list it any more.
    Remove,
}

/// Walks every organization at its times, one walk of an organization at a time.
pub struct Scheduler {
    pub(super) targets: Targets,
    pub(super) orgs: BTreeMap<OrgId, OrgState>,
    /// Clients that are no longer used, until the last task that does has ended.
    pub(super) closing_clients: Vec<Arc<Client>>,
    /// Buckets that do not allow the interval that was asked for.
    pub(super) over_budget: HashSet<BucketKey>,
    /// Discovered organizations past `--atlas.max-orgs`, as last logged.
    pub(super) omitted_orgs: usize,
    pub(super) interval: Duration,
    /// Each organization is polled once, and nothing is retried.
    pub(super) one_shot: bool,
    pub(super) options: PollOptions,
    pub(super) storage: Option<Storage>,
    pub(super) save_failures: SaveFailures,
    pub(super) tasks: JoinSet<TaskOutput>,
    pub(super) store: Arc<InventoryStore>,
    pub(super) observer: Arc<dyn PollObserver>,
    pub(super) clock: Clock,
}

impl Scheduler {
    /// Takes up `plan`, and with it what an earlier process has left, which stands on the shelf
    /// when this returns.
    pub async fn start(
        plan: PollPlan,
        shelf: Arc<InventoryStore>,
        watcher: Arc<dyn PollObserver>,
        clock: Clock,
    ) -> Self {
        let mut scheduler = Self {
            targets: Targets::new(),
            orgs: BTreeMap::new(),
            closing_clients: Vec::new(),
            over_budget: HashSet::new(),
            omitted_orgs: 0,
            interval: plan.interval,
            one_shot: false,
            options: plan.options.clone(),
            storage: None,
            save_failures: SaveFailures::default(),
            tasks: JoinSet::new(),
            store: shelf,
            observer: watcher,
            clock,
        };
        scheduler.apply_plan(plan).await;
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
        mut commands: mpsc::Receiver<SchedulerCommand>,
        beat: Heartbeat,
        shutdown: CancellationToken,
    ) {
        loop {
            beat.tick();
            let wake = self.dispatch_due().min(beat.next_deadline());
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(ended) = self.tasks.join_next() => {
                    // tasks catch their panics, and none is cancelled before the end
                    if let Ok(ended) = ended {
                        self.on_task_done(ended).await;
                    }
                }
                Some(command) = commands.recv() => match command {
                    SchedulerCommand::ApplyPlan(plan) => self.apply_plan(plan).await,
                    SchedulerCommand::CredentialChanged(name) => self.on_credential_changed(&name).await,
                },
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        self.tasks.shutdown().await;
        let current = self
            .targets
            .credentials
            .iter()
            .map(|scout| &scout.target.client);
        let close = current
            .chain(&self.closing_clients)
            .map(|client| client.revoke_token());
        // what is left undone ends by itself within the hour
        let _ = tokio::time::timeout(REVOKE_TIMEOUT, futures_util::future::join_all(close)).await;
    }

    pub(super) async fn apply_plan(&mut self, plan: PollPlan) {
        let now = self.clock.now();
        self.storage = plan.storage;
        (self.interval, self.options) = (plan.interval, plan.options);
        let names = plan
            .credentials
            .iter()
            .map(|member| Arc::clone(member.client.credential_name()));
        let mut kept = self.load_credentials(names.collect()).await;
        let limits = TargetLimits {
            shard: plan.shard,
            max_orgs: plan.max_orgs,
            interval: plan.interval,
        };
        let retired = self.targets.apply(plan.credentials, limits, &mut kept, now);
        self.closing_clients.extend(retired);
        self.sync_targets(StateFilePolicy::Keep).await;
        self.revoke_unused_tokens();
    }

    /// Watches what the fleet says now.
    pub(super) async fn sync_targets(&mut self, stored: StateFilePolicy) {
        let TargetSelection {
            clients: watched,
            omitted: left_out,
        } = self.targets.select(|org| self.orgs.contains_key(org));
        // once, and not at each listing
        if left_out > 0 && self.omitted_orgs == 0 {
            warn!(
                watched = watched.len(),
                left_out,
                flag = "--atlas.max-orgs",
                "too many organizations; leaving some out"
            );
        }
        self.omitted_orgs = left_out;
        let gone: Vec<OrgId> = self
            .orgs
            .keys()
            .filter(|org| !watched.contains_key(*org))
            .cloned()
            .collect();
        for org in gone {
            self.orgs.remove(&org);
            self.observer.org_removed(&org);
            self.save_failures.remove_org(&org);
            warn!(%org, "organization no longer watched");
            if stored == StateFilePolicy::Remove
                && let Some(storage) = self.storage.clone()
            {
                // what cannot be removed is logged, and does no harm
                let _ = storage
                    .run_blocking(READ_TIMEOUT, move |storage| storage.remove_org(&org))
                    .await;
            }
        }
        self.store.set_targets(
            watched.keys().cloned().collect(),
            self.targets.pending_discovery(),
        );
        let mut new = Vec::new();
        for (org, client) in watched {
            match self.orgs.get_mut(&org) {
                Some(watch) if Arc::ptr_eq(&watch.client, &client) => {}
                Some(watch) => {
                    watch.client = client;
                    if !watch.backoff.is_healthy() {
                        watch.backoff.reset();
                        watch.due_at = Instant::now();
                    }
                }
                None => {
                    let watch = OrgState::new(&org, client, self.interval);
                    self.orgs.insert(org.clone(), watch);
                    self.observer.org_added(&org);
                    new.push(org);
                }
            }
        }
        self.restore(new).await;
        self.update_intervals();
    }

    pub(super) async fn on_credential_changed(&mut self, credential: &str) {
        let Some(scout) = self.targets.credential_mut(credential) else {
            return;
        };
        info!(credential, "a file of the credential has changed");
        let client = Arc::clone(&scout.target.client);
        client.on_credential_changed().await;
        if scout.target.discover && scout.list_due_at > Instant::now() {
            scout.list_due_at = Instant::now();
        }
        // whatever was wrong may be right now
        for watch in self.orgs.values_mut() {
            if Arc::ptr_eq(&watch.client, &client) && !watch.backoff.is_healthy() {
                watch.backoff.reset();
                watch.due_at = Instant::now();
            }
        }
    }

    /// Lets clients that nobody uses any more give back their tokens.
    pub(super) fn revoke_unused_tokens(&mut self) {
        let idle = self
            .closing_clients
            .extract_if(.., |client| Arc::strong_count(client) == 1);
        for client in idle {
            self.tasks.spawn(tasks::revoke_token(client));
        }
    }
}

pub(super) fn format_seconds(length: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(length.as_secs()))
}
