//! What has ended, and what follows from it.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::collect::Report;
use super::diff::KeyChange;
use super::org_state::Watch;
use super::scheduler::StoredState;
use super::scheduler::{Scheduler, Watcher, whole_seconds};
use super::targets::Keeping;
use super::tasks::{self, Ended};
use super::walk::{Shortfall, WalkError};
use crate::inventory::Inventory;
use crate::storage::{Deferred, Paper, StorageError};
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{Error, OrgList};

/// A failed list of organizations is asked for again after this, or after the interval if that is shorter.
const LIST_AGAIN: Duration = Duration::from_mins(1);

impl Scheduler {
    pub(super) async fn ended(&mut self, ended: Ended) {
        match ended {
            Ended::Walk { org, took, result } => match result {
                Ok(report) => self.walked(&org, report),
                Err(error) => self.failed(&org, &error, took),
            },
            Ended::Kept { paper, result } => {
                self.kept(&paper, result);
                self.after(paper);
            }
            Ended::Details { org, details } => {
                if let Some(watch) = self.orgs.get_mut(&org) {
                    watch.asking = false;
                    let details = Arc::new(details);
                    self.shelf.put_details(&org, Arc::clone(&details));
                    if let Some(storage) = self.storage.clone() {
                        self.jobs.spawn(tasks::keep_details(storage, org, details));
                    }
                }
            }
            Ended::Listed { credential, result } => self.listed(&credential, result).await,
            Ended::Limits { credential, result } => {
                if let Some(scout) = self.fleet.get(&credential) {
                    if let Err(error) = &result {
                        let reason = error.problem.reason();
                        // asked for hourly, and said once
                        if scout.has_asked_for_limits() {
                            debug!(credential = &*credential, %reason, "rate limits unreadable");
                        } else {
                            info!(credential = &*credential, %reason, "rate limits unreadable; learning them from responses");
                        }
                    }
                    scout.limiting = false;
                    scout.limits_told(result.ok(), self.clock.now());
                    self.keep_account(&credential);
                }
                self.set_paces();
            }
            Ended::Closed => {}
        }
        self.close_retired();
    }

    pub(super) fn walked(&mut self, org: &OrgId, report: Report) {
        let Report {
            inventory,
            changes,
            pages,
            requests,
            took,
            shortfall,
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
        let is_routine = watch.last_poll_succeeded.replace(true) == Some(true);
        log_poll(&inventory, pages, took, is_routine);
        // once, and not at each poll
        if let Some(Shortfall { read, total }) = shortfall
            && watch.shortfall.is_none()
        {
            warn!(%org, read, total, "fewer keys than totalCount");
        }
        watch.shortfall = shortfall;
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
                    .spawn(tasks::keep(storage, inventory, requests, counts));
            }
            None => watch.busy = false,
        }
    }

    /// The next regular time of `org`, at which no other organization is due.
    pub(super) fn regular_time(&self, org: &OrgId) -> Instant {
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

    pub(super) fn failed(&mut self, org: &OrgId, error: &WalkError, took: Duration) {
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
        watch.last_poll_succeeded = Some(false);
        warn!(
            %org,
            endpoint = %error.error.endpoint,
            page = error.page,
            reason = %problem.reason(),
            error = %problem,
            retry_in = (!self.one_shot).then(|| tracing::field::display(whole_seconds(wait))),
            "poll failed"
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
                self.jobs
                    .spawn(tasks::defer(storage, org.clone(), deferred));
            }
            _ => watch.busy = false,
        }
    }

    pub(super) async fn listed(&mut self, credential: &str, result: Result<OrgList, Error>) {
        let interval = self.interval;
        let Some(scout) = self.fleet.get(credential) else {
            return;
        };
        scout.listing = false;
        self.watcher.listed(credential, result.as_ref().err());
        match result {
            Ok(listed) => {
                scout.list_due = Instant::now() + interval;
                self.fleet.listed(credential, listed, self.clock.now());
                self.keep_account(credential);
                self.refresh(StoredState::Remove).await;
            }
            Err(error) => {
                let wait = interval.min(LIST_AGAIN);
                scout.list_due = Instant::now() + wait;
                warn!(
                    credential,
                    endpoint = %error.endpoint,
                    reason = %error.problem.reason(),
                    error = %error.problem,
                    retry_in = (!self.one_shot).then(|| tracing::field::display(whole_seconds(wait))),
                    "organization discovery failed"
                );
            }
        }
    }

    pub(super) fn keep_account(&mut self, credential: &str) {
        let (Some(storage), Some(scout)) = (self.storage.clone(), self.fleet.get(credential))
        else {
            return;
        };
        // one at a time: two at once could leave the older of them
        if scout.keeping != Keeping::Not {
            scout.keeping = Keeping::Again;
            return;
        }
        scout.keeping = Keeping::UnderWay;
        let (name, account) = (Arc::clone(scout.member.client.name()), scout.account());
        self.jobs.spawn(tasks::keep_account(storage, name, account));
    }

    fn kept(&mut self, paper: &Paper, result: Result<(), StorageError>) {
        match result {
            Ok(()) => {
                if self.unkept.kept(paper) {
                    info!("what is read is kept for the next start again");
                }
            }
            Err(error) => {
                self.watcher.not_kept();
                // once, and not at each walk
                if self.unkept.failed(paper) {
                    warn!(%error, "what is read is not kept for the next start");
                }
            }
        }
    }

    /// What waited for `paper` to be kept.
    fn after(&mut self, paper: Paper) {
        match paper {
            Paper::Walk(org) | Paper::Deferral(org) => {
                if let Some(watch) = self.orgs.get_mut(&org) {
                    watch.busy = false;
                } else {
                    // it was dropped meanwhile
                    self.unkept.forget(&org);
                }
            }
            Paper::Details(org) => {
                if !self.orgs.contains_key(&org) {
                    self.unkept.forget(&org);
                }
            }
            Paper::Account(credential) => {
                let scout = self.fleet.get(&credential);
                let more = scout.is_some_and(|scout| {
                    std::mem::replace(&mut scout.keeping, Keeping::Not) == Keeping::Again
                });
                if more {
                    self.keep_account(&credential);
                }
            }
        }
    }
}

/// Logs a successful poll. The first one and the first after a failure are news; the others are routine.
fn log_poll(inventory: &Inventory, pages: u32, took: Duration, is_routine: bool) {
    let took = Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(0));
    macro_rules! log {
        ($level:ident) => {
            $level!(
                org = %inventory.org(),
                keys = inventory.len(),
                pages,
                dropped = inventory.dropped(),
                took = %humantime::format_duration(took),
                "walk complete"
            )
        };
    }
    if is_routine {
        log!(debug);
    } else {
        log!(info);
    }
}

/// Counts changes, and writes each into the log: an audit trail.
fn count(org: &OrgId, changes: &[KeyChange], watch: &mut Watch, watcher: &dyn Watcher) {
    for change in changes {
        info!(%org, project = %change.project, key = change.key, change = change.change.as_str(), "key changed");
        *watch
            .counts
            .entry(change.change.as_str().to_owned())
            .or_default() += 1;
        watcher.changed(org, change.change, 1);
    }
}
