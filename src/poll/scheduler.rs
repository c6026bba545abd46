//! The scheduler: the only module that decides when an organization is polled.

use std::collections::{BTreeMap, HashSet};
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::event::{PollEvent, PollObserver};
use super::org_state::OrgState;
use super::persistence::SaveFailures;
use super::targets::{PollPlan, TargetSelection, Targets};
use super::tasks::{self, TaskOutput};
use crate::inventory::InventoryStore;
use crate::storage::Storage;
use exporter_toolkit::bounded_file::READ_TIMEOUT;
use exporter_toolkit::liveness::Heartbeat;
use mongodb_atlas_client::{BucketKey, Client, Clock, OrgId};

/// Timeout for the revocation of the access tokens at the shutdown.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(2);

/// A command for the running scheduler.
pub enum SchedulerCommand {
    /// Applies a new plan.
    ApplyPlan(PollPlan),
    /// A file of the credential of that name has changed.
    CredentialChanged(Arc<str>),
}

/// Whether the state files of an organization that is no longer polled are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StateFilePolicy {
    /// Retains the files: the organization is missing in the configuration, which may be truncated.
    Keep,
    /// Removes the files: the organization is missing in the list of Atlas.
    Remove,
}

/// Polls every organization on schedule, one poll of an organization at a time.
pub struct Scheduler {
    pub(super) targets: Targets,
    pub(super) orgs: BTreeMap<OrgId, OrgState>,
    /// Clients that are no longer in the plan, until the end of their last task.
    closing_clients: Vec<Arc<Client>>,
    /// Buckets that do not sustain the configured interval.
    pub(super) over_budget: HashSet<BucketKey>,
    /// Number of discovered organizations in excess of `--atlas.max-orgs`, as last logged.
    omitted_orgs: usize,
    /// The plan, without its credentials.
    pub(super) plan: PollPlan,
    /// Whether each organization is polled only once; log messages then contain no `retry_in`.
    pub one_shot: bool,
    pub(super) save_failures: SaveFailures,
    pub(super) tasks: JoinSet<TaskOutput>,
    pub(super) store: Arc<InventoryStore>,
    pub(super) observer: Arc<dyn PollObserver>,
    pub(super) clock: Clock,
}

impl Scheduler {
    /// Applies `plan`, and restores the state of an earlier process. On return, the stored inventories are in the store.
    pub async fn start(
        plan: PollPlan,
        store: Arc<InventoryStore>,
        observer: Arc<dyn PollObserver>,
        clock: Clock,
    ) -> Self {
        let mut scheduler = Self {
            targets: Targets::default(),
            orgs: BTreeMap::new(),
            closing_clients: Vec::new(),
            over_budget: HashSet::new(),
            omitted_orgs: 0,
            plan,
            one_shot: false,
            save_failures: SaveFailures::default(),
            tasks: JoinSet::new(),
            store,
            observer,
            clock,
        };
        scheduler.apply_plan().await;
        scheduler
    }

    /// Runs until `shutdown`. Polls in progress are cancelled and publish nothing. Revokes the access tokens at the end.
    /// Every iteration of the loop is reported to `heartbeat`.
    pub async fn run(
        mut self,
        mut commands: mpsc::Receiver<SchedulerCommand>,
        heartbeat: Heartbeat,
        shutdown: CancellationToken,
    ) {
        loop {
            heartbeat.tick();
            let wake_at = self.dispatch_due().min(heartbeat.next_deadline());
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(output) = self.tasks.join_next() => {
                    // Tasks catch their panics, and no task is cancelled before the end.
                    if let Ok(output) = output {
                        self.on_task_done(output).await;
                    }
                }
                Some(command) = commands.recv() => match command {
                    SchedulerCommand::ApplyPlan(plan) => {
                        let previous = std::mem::replace(&mut self.plan, plan);
                        if previous.owner_tag != self.plan.owner_tag {
                            self.refresh_details();
                        }
                        if previous.storage != self.plan.storage {
                            // Its files belong to another directory.
                            self.save_failures = SaveFailures::default();
                        }
                        self.apply_plan().await;
                    }
                    SchedulerCommand::CredentialChanged(name) => self.on_credential_changed(&name).await,
                },
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
        self.tasks.shutdown().await;
        let credentials = self.targets.credentials.iter();
        let clients = credentials.map(|state| &state.target.client);
        let revocations = clients
            .chain(&self.closing_clients)
            .map(|client| client.revoke_token());
        // A token that is not revoked expires within an hour.
        let revocations = futures_util::future::join_all(revocations);
        let _ = tokio::time::timeout(REVOKE_TIMEOUT, revocations).await;
    }

    /// Fetches the details of all organizations again.
    fn refresh_details(&mut self) {
        for state in self.orgs.values_mut() {
            state.details_due_at = tokio::time::Instant::now();
        }
    }

    async fn apply_plan(&mut self) {
        let now = self.clock.now();
        let credentials = take(&mut self.plan.credentials);
        let names = credentials.iter();
        let names = names.map(|target| Arc::clone(target.client.credential_name()));
        let mut stored = self.load_credentials(names.collect()).await;
        let interval = self.plan.interval;
        let unused = self.targets.apply(credentials, interval, &mut stored, now);
        self.closing_clients.extend(unused);
        self.report_client_secrets();
        let used = &self.targets.credentials;
        self.save_failures.retain_credentials(|name| {
            let mut used = used.iter();
            used.any(|state| **state.target.client.credential_name() == *name)
        });
        self.sync_targets(StateFilePolicy::Keep).await;
        self.revoke_unused_tokens();
    }

    /// Adds and removes organizations, so that exactly the targets are polled.
    pub(super) async fn sync_targets(&mut self, policy: StateFilePolicy) {
        let is_polled = |org: &OrgId| self.orgs.contains_key(org);
        let TargetSelection { clients, omitted } =
            self.targets
                .select(self.plan.shard, self.plan.max_orgs, is_polled);
        // Logged once, not at each list.
        if omitted > 0 && self.omitted_orgs == 0 {
            warn!(
                polled = clients.len(),
                skipped = omitted,
                flag = "--atlas.max-orgs",
                "too many organizations; skipping some"
            );
        }
        self.omitted_orgs = omitted;
        let removed = self.orgs.keys().filter(|org| !clients.contains_key(*org));
        for org in removed.cloned().collect::<Vec<_>>() {
            self.remove_org(org, policy).await;
        }
        let pending_discovery = self.targets.pending_discovery();
        self.store
            .set_targets(clients.keys().cloned().collect(), pending_discovery);
        let mut added = Vec::new();
        for (org, client) in clients {
            match self.orgs.get_mut(&org) {
                Some(state) if Arc::ptr_eq(&state.client, &client) => {}
                Some(state) => {
                    state.client = client;
                    state.reset_backoff();
                }
                None => {
                    let state = OrgState::new(&org, client, self.plan.interval);
                    self.orgs.insert(org.clone(), state);
                    self.observer.on_event(PollEvent::OrgAdded(&org));
                    added.push(org);
                }
            }
        }
        self.restore(added).await;
        self.update_intervals();
        self.report_save_state();
    }

    async fn remove_org(&mut self, org: OrgId, policy: StateFilePolicy) {
        self.orgs.remove(&org);
        self.observer.on_event(PollEvent::OrgRemoved(&org));
        self.save_failures.remove_org(&org);
        warn!(%org, "organization no longer polled");
        if policy == StateFilePolicy::Remove
            && let Some(storage) = &self.plan.storage
        {
            // A failure is logged, and has no other effect.
            let remove = move |storage: &Storage| storage.remove_org(&org);
            let _ = storage.run_blocking(READ_TIMEOUT, remove).await;
        }
    }

    async fn on_credential_changed(&mut self, credential: &str) {
        let Some(state) = self.targets.credential_mut(credential) else {
            return;
        };
        info!(credential, "credential file changed");
        let client = Arc::clone(&state.target.client);
        client.on_credential_changed().await;
        state.on_credential_changed();
        // The change may end the failure.
        for state in self.orgs.values_mut() {
            if Arc::ptr_eq(&state.client, &client) {
                state.reset_backoff();
            }
        }
    }

    /// Revokes the tokens of clients that are no longer used.
    pub(super) fn revoke_unused_tokens(&mut self) {
        let unused = self
            .closing_clients
            .extract_if(.., |client| Arc::strong_count(client) == 1);
        for client in unused {
            self.tasks.spawn(tasks::revoke_token(client));
        }
    }
}
