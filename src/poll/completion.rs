//! What has ended, and what follows from it.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::collect::PollReport;
use super::diff::KeyChange;
use super::org_state::OrgState;
use super::scheduler::StateFilePolicy;
use super::scheduler::{PollObserver, Scheduler, format_seconds};
use super::targets::SaveState;
use super::tasks::{self, TaskOutput};
use super::walk::{Shortfall, WalkError};
use crate::inventory::Inventory;
use crate::storage::{BackoffState, StateFile, StorageError};
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{Error, OrgList};

/// A failed list of organizations is asked for again after this, or after the interval if that is shorter.
const LIST_RETRY_INTERVAL: Duration = Duration::from_mins(1);

impl Scheduler {
    pub(super) async fn on_task_done(&mut self, ended: TaskOutput) {
        match ended {
            TaskOutput::PollFinished {
                org,
                duration: took,
                result,
            } => match result {
                Ok(report) => self.on_poll_succeeded(&org, report),
                Err(error) => self.on_poll_failed(&org, &error, took),
            },
            TaskOutput::SaveFinished {
                file: paper,
                result,
            } => {
                self.log_save_result(&paper, result);
                self.on_save_done(paper);
            }
            TaskOutput::DetailsFetched { org, details } => {
                if let Some(watch) = self.orgs.get_mut(&org) {
                    watch.fetching_details = false;
                    let details = Arc::new(details);
                    self.store.insert_details(&org, Arc::clone(&details));
                    if let Some(storage) = self.storage.clone() {
                        self.tasks.spawn(tasks::save_details(storage, org, details));
                    }
                }
            }
            TaskOutput::OrgsListed { credential, result } => {
                self.on_orgs_listed(&credential, result).await;
            }
            TaskOutput::RateLimitsFetched { credential, result } => {
                if let Some(scout) = self.targets.credential_mut(&credential) {
                    if let Err(error) = &result {
                        let reason = error.kind.reason();
                        // asked for hourly, and said once
                        if scout.has_fetched_limits() {
                            debug!(credential = &*credential, %reason, "rate limits unreadable");
                        } else {
                            info!(credential = &*credential, %reason, "rate limits unreadable; learning them from responses");
                        }
                    }
                    scout.is_fetching_limits = false;
                    scout.set_limits(result.ok(), self.clock.now());
                    self.save_credential(&credential);
                }
                self.update_intervals();
            }
            TaskOutput::TokenRevoked => {}
        }
        self.revoke_unused_tokens();
    }

    pub(super) fn on_poll_succeeded(&mut self, org: &OrgId, report: PollReport) {
        let PollReport {
            inventory,
            changes,
            pages,
            requests,
            duration: took,
            shortfall,
        } = report;
        let Some(watch) = self.orgs.get_mut(org) else {
            return;
        };
        watch.backoff.reset();
        watch.completed_at = Some(inventory.completed_at());
        let dearer = watch.requests_per_poll != requests;
        watch.requests_per_poll = requests;
        record_changes(org, &changes, watch, &*self.observer);
        self.store.insert(Arc::clone(&inventory), Duration::ZERO);
        self.observer.poll_succeeded(&inventory, pages, took);
        let is_routine = watch.last_poll_succeeded.replace(true) == Some(true);
        log_poll(&inventory, pages, took, is_routine);
        // once, and not at each poll
        if let Some(Shortfall { read, total }) = shortfall
            && watch.shortfall.is_none()
        {
            warn!(%org, read, total, "fewer keys than totalCount");
        }
        watch.shortfall = shortfall;
        let supply = watch.client.sustained_rate(org);
        if dearer || supply != (watch.bucket.clone(), watch.sustained_rate) {
            self.update_intervals();
        }
        let at = self.next_regular_due(org);
        let Some(watch) = self.orgs.get_mut(org) else {
            return;
        };
        watch.due_at = at;
        match self.storage.clone() {
            Some(storage) => {
                let counts = watch.change_counts.clone();
                self.tasks
                    .spawn(tasks::save_inventory(storage, inventory, requests, counts));
            }
            None => watch.in_progress = false,
        }
    }

    /// The next regular time of `org`, at which no other organization is due.
    pub(super) fn next_regular_due(&self, org: &OrgId) -> Instant {
        let Some(watch) = self.orgs.get(org) else {
            return Instant::now();
        };
        let mut at = Instant::now() + watch.schedule.time_until_next(self.clock.now());
        while self
            .orgs
            .iter()
            .any(|(other, watch)| other != org && watch.due_at == at)
        {
            at += Duration::from_millis(1);
        }
        at
    }

    pub(super) fn on_poll_failed(&mut self, org: &OrgId, error: &WalkError, took: Duration) {
        let regular = self
            .next_regular_due(org)
            .saturating_duration_since(Instant::now());
        let Some(watch) = self.orgs.get_mut(org) else {
            return;
        };
        let problem = &error.error.kind;
        let was_open = watch.backoff.is_permanent();
        let wait = watch
            .backoff
            .on_failure(problem.reason(), &watch.schedule, regular)
            // what Atlas asked to wait is waited, and by all who draw on the bucket
            .max(watch.client.next_delay(org));
        watch.due_at = Instant::now() + wait;
        watch.last_poll_succeeded = Some(false);
        warn!(
            %org,
            endpoint = %error.error.endpoint,
            page = error.page,
            reason = %problem.reason(),
            error = %problem,
            retry_in = (!self.one_shot).then(|| tracing::field::display(format_seconds(wait))),
            "poll failed"
        );
        if watch.backoff.is_permanent() && !was_open {
            warn!(%org, reason = %problem.reason(), "the refusal lasts; trying again at a slower pace until it is over or the credential changes");
        }
        self.observer.poll_failed(org, error, took);
        let until = SignedDuration::try_from(wait)
            .ok()
            .and_then(|wait| self.clock.now().saturating_add(wait).ok());
        match (self.storage.clone(), until) {
            (Some(storage), Some(until)) => {
                let backoff = watch.backoff;
                let deferred = BackoffState { until, backoff };
                self.tasks
                    .spawn(tasks::save_backoff(storage, org.clone(), deferred));
            }
            _ => watch.in_progress = false,
        }
    }

    pub(super) async fn on_orgs_listed(
        &mut self,
        credential: &str,
        result: Result<OrgList, Error>,
    ) {
        let interval = self.interval;
        let Some(scout) = self.targets.credential_mut(credential) else {
            return;
        };
        scout.is_listing = false;
        self.observer.orgs_listed(credential, result.as_ref().err());
        match result {
            Ok(listed) => {
                scout.list_due_at = Instant::now() + interval;
                self.targets
                    .on_orgs_listed(credential, listed, self.clock.now());
                self.save_credential(credential);
                self.sync_targets(StateFilePolicy::Remove).await;
            }
            Err(error) => {
                let wait = interval.min(LIST_RETRY_INTERVAL);
                scout.list_due_at = Instant::now() + wait;
                warn!(
                    credential,
                    endpoint = %error.endpoint,
                    reason = %error.kind.reason(),
                    error = %error.kind,
                    retry_in = (!self.one_shot).then(|| tracing::field::display(format_seconds(wait))),
                    "organization discovery failed"
                );
            }
        }
    }

    pub(super) fn save_credential(&mut self, credential: &str) {
        let (Some(storage), Some(scout)) = (
            self.storage.clone(),
            self.targets.credential_mut(credential),
        ) else {
            return;
        };
        // one at a time: two at once could leave the older of them
        if scout.save_state != SaveState::Idle {
            scout.save_state = SaveState::Dirty;
            return;
        }
        scout.save_state = SaveState::Saving;
        let (name, account) = (
            Arc::clone(scout.target.client.credential_name()),
            scout.snapshot(),
        );
        self.tasks
            .spawn(tasks::save_credential(storage, name, account));
    }

    fn log_save_result(&mut self, paper: &StateFile, result: Result<(), StorageError>) {
        match result {
            Ok(()) => {
                if self.save_failures.record_success(paper) {
                    info!("what is read is kept for the next start again");
                }
            }
            Err(error) => {
                self.observer.save_failed();
                // once, and not at each walk
                if self.save_failures.record_failure(paper) {
                    warn!(%error, "what is read is not kept for the next start");
                }
            }
        }
    }

    /// What waited for `paper` to be kept.
    fn on_save_done(&mut self, paper: StateFile) {
        match paper {
            StateFile::Inventory(org) | StateFile::Backoff(org) => {
                if let Some(watch) = self.orgs.get_mut(&org) {
                    watch.in_progress = false;
                } else {
                    // it was dropped meanwhile
                    self.save_failures.remove_org(&org);
                }
            }
            StateFile::Details(org) => {
                if !self.orgs.contains_key(&org) {
                    self.save_failures.remove_org(&org);
                }
            }
            StateFile::Credential(credential) => {
                let scout = self.targets.credential_mut(&credential);
                let more = scout.is_some_and(|scout| {
                    std::mem::replace(&mut scout.save_state, SaveState::Idle) == SaveState::Dirty
                });
                if more {
                    self.save_credential(&credential);
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
                dropped = inventory.invalid_keys(),
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
fn record_changes(
    org: &OrgId,
    changes: &[KeyChange],
    watch: &mut OrgState,
    watcher: &dyn PollObserver,
) {
    for change in changes {
        info!(%org, project = %change.project, key = change.key, change = change.change.as_str(), "key changed");
        *watch
            .change_counts
            .entry(change.change.as_str().to_owned())
            .or_default() += 1;
        watcher.keys_changed(org, change.change, 1);
    }
}
