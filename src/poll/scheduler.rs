//! The task that lets everything happen in its time. It decides when an organization is walked, and
//! nothing else does.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::changes::{Change, KeyChange};
use super::fleet::{Fleet, Plan};
use super::jobs::{self, Ended};
use super::pace::{self, Cost};
use super::round::{Manner, Report};
use super::schedule::Schedule;
use super::storage::{Deferred, Storage, StorageError, Stored};
use super::walk::WalkError;
use super::watch::Watch;
use crate::atlas::{Client, Error, LaneId, ListedOrg};
use crate::clock::Clock;
use crate::ids::OrgId;
use crate::inventory::{Inventory, Shelf};

/// Organizations of one credential that are walked at the same time; the others wait for their turn.
const WALKS_AT_ONCE: usize = 16;
/// Organizations of one credential whose names and limits are asked for at the same time.
const DETAILS_AT_ONCE: usize = 2;
/// How long giving back the access tokens may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// A failed list of organizations is asked for again after this, or after the interval if that is shorter.
const LIST_AGAIN: Duration = Duration::from_mins(1);

/// Who is told of what happens. Implemented where the rooms are put together; called from the
/// scheduler's task, so it must not block.
pub trait Watcher: Send + Sync {
    /// An organization is watched from now on.
    fn watched(&self, org: &OrgId);
    /// An organization is watched no more.
    fn forgotten(&self, org: &OrgId);
    /// The interval between two walks that is in force.
    fn interval(&self, org: &OrgId, interval: Duration);
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

/// Walks every organization at its times, one walk of an organization at a time.
pub struct Scheduler {
    fleet: Fleet,
    orgs: BTreeMap<OrgId, Watch>,
    /// Clients that are no longer used, until the last task that does has ended.
    retired: Vec<Arc<Client>>,
    /// Buckets that do not allow the interval that was asked for.
    stretched: HashSet<LaneId>,
    interval: Duration,
    manner: Manner,
    storage: Option<Storage>,
    keeping: bool,
    jobs: JoinSet<Ended>,
    shelf: Arc<Shelf>,
    watcher: Arc<dyn Watcher>,
    clock: Clock,
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
            interval: plan.interval,
            manner: plan.manner.clone(),
            storage: None,
            keeping: true,
            jobs: JoinSet::new(),
            shelf,
            watcher,
            clock,
        };
        scheduler.apply(plan).await;
        scheduler
    }

    /// Runs until `shutdown`; walks that are under way then are dropped, and nothing of them is
    /// published. At the end the access tokens are given back.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>, shutdown: CancellationToken) {
        loop {
            let wake = self.begin_what_is_due();
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

    async fn apply(&mut self, plan: Plan) {
        let now = self.clock.now();
        self.storage = plan.storage;
        (self.interval, self.manner) = (plan.interval, plan.manner);
        let names = plan
            .members
            .iter()
            .map(|member| Arc::clone(member.client.name()));
        let mut kept = self.load_accounts(names.collect()).await;
        let pace = (plan.shard, plan.interval);
        let retired = self.fleet.apply(plan.members, pace, &mut kept, now);
        self.retired.extend(retired);
        self.refresh().await;
        self.close_retired();
    }

    async fn load_accounts(
        &self,
        names: Vec<Arc<str>>,
    ) -> BTreeMap<Arc<str>, super::storage::Account> {
        let Some(storage) = self.storage.clone() else {
            return BTreeMap::new();
        };
        tokio::task::spawn_blocking(move || {
            names
                .into_iter()
                .filter_map(|name| {
                    let account = storage.load_account(&name)?;
                    Some((name, account))
                })
                .collect()
        })
        .await
        .unwrap_or_default()
    }

    /// Watches what the fleet says now.
    async fn refresh(&mut self) {
        let watched = self.fleet.watched();
        let gone: Vec<OrgId> = self
            .orgs
            .keys()
            .filter(|org| !watched.contains_key(*org))
            .cloned()
            .collect();
        for org in gone {
            self.orgs.remove(&org);
            self.watcher.forgotten(&org);
            if let Some(storage) = self.storage.clone() {
                let forgotten = tokio::task::spawn_blocking(move || storage.forget(&org));
                let _ = forgotten.await;
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

    /// Takes up what an earlier process has left of these organizations.
    async fn restore(&mut self, orgs: Vec<OrgId>) {
        let Some(storage) = self.storage.clone().filter(|_| !orgs.is_empty()) else {
            return;
        };
        let load = tokio::task::spawn_blocking(move || {
            orgs.into_iter()
                .map(|org| {
                    let (stored, details) = (storage.load(&org), storage.load_details(&org));
                    let deferred = storage.load_deferred(&org);
                    (org, stored, details, deferred)
                })
                .collect::<Vec<_>>()
        });
        for (org, stored, details, deferred) in load.await.unwrap_or_default() {
            let now = self.clock.now();
            let Some(watch) = self.orgs.get_mut(&org) else {
                continue;
            };
            if let Some(details) = details {
                watch.knows_details(details.asked_at, now);
                self.shelf.put_details(&org, Arc::new(details));
            }
            if let Some(stored) = &stored {
                watch.restored(stored.inventory.read_at(), now);
            }
            if let Some(deferred) = deferred {
                watch.defer(deferred, now);
            }
            let up = watch.is_fresh(now);
            if let Some(stored) = stored {
                self.show_restored(&org, stored, up);
            }
        }
    }

    fn show_restored(&mut self, org: &OrgId, stored: Stored, up: bool) {
        let Some(watch) = self.orgs.get_mut(org) else {
            return;
        };
        watch.requests = stored.requests;
        for change in Change::ALL {
            let keys = stored.counts.get(change.as_str()).copied().unwrap_or(0);
            self.watcher.changed(org, change, keys);
        }
        watch.counts.extend(stored.counts);
        let inventory = Arc::new(stored.inventory);
        let age = self.clock.now().duration_since(inventory.read_at());
        let age = Duration::try_from(age).unwrap_or_default();
        info!(%org, keys = inventory.len(), age = %whole_seconds(age), "showing what an earlier start has read");
        self.watcher.restored(&inventory, up);
        self.shelf.put(inventory, age);
    }

    async fn credential_changed(&mut self, credential: &str) {
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

    /// Begins all that is due and may begin; says when to look again.
    fn begin_what_is_due(&mut self) -> Instant {
        let now = Instant::now();
        let mut wake = now + Duration::from_hours(1);
        self.begin_lists(now, &mut wake);
        self.begin_walks(now, &mut wake);
        self.begin_details(now, &mut wake);
        wake
    }

    fn begin_lists(&mut self, now: Instant, wake: &mut Instant) {
        let first_orgs: HashMap<Arc<str>, OrgId> = self
            .orgs
            .iter()
            .rev()
            .map(|(org, watch)| (Arc::clone(watch.client.name()), org.clone()))
            .collect();
        for scout in &mut self.fleet.members {
            let client = &scout.member.client;
            if scout.member.discover && !scout.listing {
                if scout.list_due <= now {
                    scout.listing = true;
                    self.jobs.spawn(jobs::list(Arc::clone(client)));
                } else {
                    *wake = scout.list_due.min(*wake);
                }
            }
            if let Some(org) = first_orgs.get(client.name())
                && !scout.limiting
            {
                if scout.limits_due <= now {
                    scout.limiting = true;
                    self.jobs
                        .spawn(jobs::limits(Arc::clone(client), org.clone()));
                } else {
                    *wake = scout.limits_due.min(*wake);
                }
            }
        }
    }

    /// Walks begin by the age of the inventory, the oldest first, so that none starves. Until it
    /// is clear whether Atlas tells the rate limits there is one walk at a time: many at once
    /// could be more than the bucket holds.
    fn begin_walks(&mut self, now: Instant, wake: &mut Instant) {
        let mut walking: HashMap<Arc<str>, usize> = HashMap::new();
        let mut drawing: HashSet<LaneId> = HashSet::new();
        let mut due: Vec<(Option<Timestamp>, Instant, OrgId)> = Vec::new();
        for (org, watch) in &self.orgs {
            if watch.busy {
                *walking.entry(Arc::clone(watch.client.name())).or_default() += 1;
                drawing.insert(watch.lane.clone());
            } else if watch.due <= now {
                due.push((watch.read_at, watch.due, org.clone()));
            } else {
                *wake = watch.due.min(*wake);
            }
        }
        due.sort_unstable();
        for (_, _, org) in due {
            let Some(watch) = self.orgs.get_mut(&org) else {
                continue;
            };
            let name = watch.client.name();
            let walks = walking.entry(Arc::clone(name)).or_default();
            let most = if self.fleet.knows_limits(name) {
                WALKS_AT_ONCE
            } else {
                1
            };
            // where the budget is short, one after the other keeps them in the order of age
            let waits_for_others =
                self.stretched.contains(&watch.lane) && drawing.contains(&watch.lane);
            if *walks >= most || waits_for_others {
                continue;
            }
            let delay = watch.client.delay(&org);
            if !delay.is_zero() {
                *wake = (now + delay).min(*wake);
                continue;
            }
            *walks += 1;
            drawing.insert(watch.lane.clone());
            watch.busy = true;
            let at = self.clock.now();
            self.watcher.begun(&org, at);
            let (client, manner) = (Arc::clone(&watch.client), self.manner.clone());
            let previous = self.shelf.get(&org);
            let if_killed = self.storage.clone().zip(watch.first_try(at));
            self.jobs
                .spawn(jobs::walk(client, org, manner, previous, if_killed));
        }
    }

    /// Names and limits come after the keys: only for organizations that have an inventory.
    fn begin_details(&mut self, now: Instant, wake: &mut Instant) {
        let mut asking: HashMap<Arc<str>, usize> = HashMap::new();
        for watch in self.orgs.values().filter(|watch| watch.asking) {
            *asking.entry(Arc::clone(watch.client.name())).or_default() += 1;
        }
        for (org, watch) in &mut self.orgs {
            if watch.asking || watch.read_at.is_none() {
                continue;
            }
            if watch.details_due > now {
                *wake = watch.details_due.min(*wake);
                continue;
            }
            let asked = asking.entry(Arc::clone(watch.client.name())).or_default();
            if *asked >= DETAILS_AT_ONCE {
                continue;
            }
            *asked += 1;
            watch.asking = true;
            watch.details_due = now + watch.details_every();
            let name = self.fleet.name_of(org).map(str::to_owned);
            let (client, before) = (Arc::clone(&watch.client), self.shelf.details(org));
            let details = jobs::details(client, org.clone(), name, before, self.clock.now());
            self.jobs.spawn(details);
        }
    }

    async fn ended(&mut self, ended: Ended) {
        match ended {
            Ended::Walk { org, took, result } => match result {
                Ok(report) => self.walked(&org, report),
                Err(error) => self.failed(&org, &error, took),
            },
            Ended::Kept { org, result } => {
                self.kept(result);
                if let Some(watch) = self.orgs.get_mut(&org) {
                    watch.busy = false;
                }
            }
            Ended::Details { org, details } => {
                if let Some(watch) = self.orgs.get_mut(&org) {
                    watch.asking = false;
                    let details = Arc::new(details);
                    self.shelf.put_details(&org, Arc::clone(&details));
                    if let Some(storage) = self.storage.clone() {
                        self.jobs.spawn(jobs::keep_details(storage, org, details));
                    }
                }
            }
            Ended::Listed { credential, result } => self.listed(&credential, result).await,
            Ended::Limits { credential, result } => {
                let told = result
                    .inspect_err(|error| {
                        info!(credential = &*credential, reason = %error.problem.reason(), "Atlas does not tell the rate limits; they are learnt from its answers");
                    })
                    .ok();
                if let Some(scout) = self.fleet.get(&credential) {
                    scout.limiting = false;
                    scout.limits_told(told, self.clock.now());
                    self.keep_account(&credential);
                }
                self.set_paces();
            }
            Ended::BesideKept(result) => self.kept(result),
            Ended::Closed => {}
        }
        self.close_retired();
    }

    fn walked(&mut self, org: &OrgId, report: Report) {
        let Report {
            inventory,
            changes,
            pages,
            requests,
            took,
        } = report;
        let Some(watch) = self.orgs.get_mut(org) else {
            return;
        };
        watch.backoff.reset();
        watch.read_at = Some(inventory.read_at());
        let dearer = watch.requests != requests;
        watch.requests = requests;
        count(org, &changes, watch, &*self.watcher);
        self.shelf.put(Arc::clone(&inventory), Duration::ZERO);
        self.watcher.succeeded(&inventory, pages, took);
        info!(
            %org,
            keys = inventory.len(),
            pages,
            dropped = inventory.dropped(),
            took = %humantime::format_duration(Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(0))),
            "walk complete"
        );
        let supply = watch.client.supply(org);
        if dearer || supply != (watch.lane.clone(), watch.supply) {
            self.set_paces();
        }
        let at = self.regular_time(org);
        let Some(watch) = self.orgs.get_mut(org) else {
            return;
        };
        watch.due = at;
        match self.storage.clone() {
            Some(storage) => {
                let counts = watch.counts.clone();
                self.jobs
                    .spawn(jobs::keep(storage, inventory, requests, counts));
            }
            None => watch.busy = false,
        }
    }

    /// The next regular time of `org`, at which no other organization is due.
    fn regular_time(&self, org: &OrgId) -> Instant {
        let Some(watch) = self.orgs.get(org) else {
            return Instant::now();
        };
        let mut at = Instant::now() + watch.schedule.next_after(self.clock.now());
        while self
            .orgs
            .iter()
            .any(|(other, watch)| other != org && watch.due == at)
        {
            at += Duration::from_millis(1);
        }
        at
    }

    fn failed(&mut self, org: &OrgId, error: &WalkError, took: Duration) {
        let regular = self
            .regular_time(org)
            .saturating_duration_since(Instant::now());
        let Some(watch) = self.orgs.get_mut(org) else {
            return;
        };
        let problem = &error.error.problem;
        let was_open = watch.backoff.is_open();
        let wait = watch
            .backoff
            .after_failure(problem.reason(), &watch.schedule, regular)
            // what Atlas asked to wait is waited, and by all who draw on the bucket
            .max(watch.client.delay(org));
        watch.due = Instant::now() + wait;
        warn!(
            %org,
            endpoint = %error.error.endpoint,
            page = error.page,
            reason = %problem.reason(),
            error = %problem,
            again_in = %whole_seconds(wait),
            "walk failed; what the last complete one said still stands"
        );
        if watch.backoff.is_open() && !was_open {
            warn!(%org, reason = %problem.reason(), "the refusal lasts; trying again at a slower pace until it is over or the credential changes");
        }
        self.watcher.failed(org, error, took);
        let until = SignedDuration::try_from(wait)
            .ok()
            .and_then(|wait| self.clock.now().saturating_add(wait).ok());
        match (self.storage.clone(), until) {
            (Some(storage), Some(until)) => {
                let backoff = watch.backoff;
                let deferred = Deferred { until, backoff };
                self.jobs.spawn(jobs::defer(storage, org.clone(), deferred));
            }
            _ => watch.busy = false,
        }
    }

    async fn listed(&mut self, credential: &str, result: Result<Vec<ListedOrg>, Error>) {
        let interval = self.interval;
        let Some(scout) = self.fleet.get(credential) else {
            return;
        };
        scout.listing = false;
        match result {
            Ok(listed) => {
                scout.list_due = Instant::now() + interval;
                self.fleet.listed(credential, listed, self.clock.now());
                self.keep_account(credential);
                self.refresh().await;
            }
            Err(error) => {
                let wait = interval.min(LIST_AGAIN);
                scout.list_due = Instant::now() + wait;
                warn!(
                    credential,
                    endpoint = %error.endpoint,
                    reason = %error.problem.reason(),
                    error = %error.problem,
                    again_in = %whole_seconds(wait),
                    "the organizations cannot be listed; those that are known are watched on"
                );
            }
        }
    }

    fn keep_account(&mut self, credential: &str) {
        let (Some(storage), Some(scout)) = (self.storage.clone(), self.fleet.get(credential))
        else {
            return;
        };
        let (name, account) = (Arc::clone(scout.member.client.name()), scout.account());
        self.jobs.spawn(jobs::keep_account(storage, name, account));
    }

    fn kept(&mut self, result: Result<(), StorageError>) {
        match result {
            Ok(()) if !self.keeping => {
                self.keeping = true;
                info!("what is read is kept for the next start again");
            }
            Ok(()) => {}
            Err(error) => {
                self.watcher.not_kept();
                // once, and not at each walk
                if std::mem::replace(&mut self.keeping, false) {
                    warn!(%error, "what is read is not kept for the next start");
                }
            }
        }
    }

    /// Works out which interval each organization can have.
    fn set_paces(&mut self) {
        for (org, watch) in &mut self.orgs {
            (watch.lane, watch.supply) = watch.client.supply(org);
        }
        let least = pace::least_intervals(self.orgs.values().map(|watch| Cost {
            bucket: &watch.lane,
            requests: watch.requests,
            supply: watch.supply,
        }));
        let stretched: HashSet<LaneId> = least
            .iter()
            .filter(|(_, least)| **least > self.interval)
            .map(|(lane, _)| (*lane).clone())
            .collect();
        let in_force: Vec<Duration> = self
            .orgs
            .values()
            .map(|watch| {
                let least = least.get(&watch.lane).copied().unwrap_or_default();
                least.max(self.interval)
            })
            .collect();
        for ((org, watch), interval) in self.orgs.iter_mut().zip(in_force) {
            if watch.schedule.interval() != interval {
                watch.schedule = Schedule::new(org, interval);
            }
            self.watcher.interval(org, interval);
        }
        self.tell_of_stretched(&stretched);
        self.stretched = stretched;
    }

    /// Once when it begins, and once when it is over.
    fn tell_of_stretched(&self, now: &HashSet<LaneId>) {
        if self.stretched.is_empty() && !now.is_empty() {
            let longest = self
                .orgs
                .values()
                .filter(|watch| now.contains(&watch.lane))
                .map(|watch| watch.schedule.interval());
            warn!(
                organizations = longest.clone().count(),
                asked = %humantime::format_duration(self.interval),
                longest_in_force = %humantime::format_duration(longest.max().unwrap_or_default()),
                "Atlas' request budget does not allow the interval that was asked for; walking less often"
            );
        }
        if !self.stretched.is_empty() && now.is_empty() {
            info!(interval = %humantime::format_duration(self.interval), "Atlas' request budget allows the interval that was asked for");
        }
    }

    /// Lets clients that nobody uses any more give back their tokens.
    fn close_retired(&mut self) {
        let idle = self
            .retired
            .extract_if(.., |client| Arc::strong_count(client) == 1);
        for client in idle {
            self.jobs.spawn(jobs::close(client));
        }
    }
}

/// Counts changes, and writes each into the log: an audit trail.
fn count(org: &OrgId, changes: &[KeyChange], watch: &mut Watch, watcher: &dyn Watcher) {
    for change in changes {
        info!(%org, project = change.project, key = change.key, change = change.change.as_str(), "key changed");
        *watch
            .counts
            .entry(change.change.as_str().to_owned())
            .or_default() += 1;
        watcher.changed(org, change.change, 1);
    }
}

fn whole_seconds(length: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(length.as_secs()))
}
