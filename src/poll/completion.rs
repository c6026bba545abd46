//! Handles the results of finished tasks.

use std::mem::replace;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::collect::PollReport;
use super::diff::KeyChange;
use super::event::{PollEvent, PollObserver};
use super::org_state::{OrgState, add_saturating};
use super::schedule::BackoffState;
use super::scheduler::{Scheduler, StateFilePolicy};
use super::targets::SaveState;
use super::tasks::{self, TaskOutput};
use super::walk::{Shortfall, WalkError};
use crate::humanize::whole_seconds;
use crate::inventory::{Inventory, OrgDetails};
use crate::storage::{StateFile, Storage, StorageError, StoredInventory};
use mongodb_atlas_client::{EndpointSet, Error, OrgId, OrgList};

/// The time to the next attempt after a failed organization list, unless the interval is shorter.
const LIST_RETRY_INTERVAL: Duration = Duration::from_mins(1);

impl Scheduler {
    pub(super) async fn on_task_done(&mut self, output: TaskOutput) {
        match output {
            TaskOutput::PollFinished {
                org,
                duration,
                result,
            } => match result {
                Ok(report) => self.on_poll_succeeded(&org, report),
                Err(error) => self.on_poll_failed(&org, &error, duration),
            },
            TaskOutput::SaveFinished { file, result } => {
                self.log_save_result(&file, result);
                self.on_save_done(&file);
            }
            TaskOutput::DetailsFetched { org, details } => self.on_details_fetched(org, details),
            TaskOutput::OrgsListed { credential, result } => {
                self.on_orgs_listed(&credential, result).await;
            }
            TaskOutput::RateLimitsFetched { credential, result } => {
                self.on_rate_limits_fetched(&credential, result);
            }
            TaskOutput::TokenRevoked => {}
        }
        self.revoke_unused_tokens();
    }

    fn on_poll_succeeded(&mut self, org: &OrgId, report: PollReport) {
        let PollReport {
            inventory,
            changes,
            pages,
            requests,
            duration,
            shortfall,
        } = report;
        let Some(state) = self.orgs.get_mut(org) else {
            return;
        };
        state.backoff.reset();
        state.completed_at = Some(inventory.completed_at());
        let previous_requests = replace(&mut state.requests_per_poll, requests);
        record_changes(org, &changes, state, &*self.observer);
        self.store.insert(Arc::clone(&inventory), Duration::ZERO);
        self.observer.on_event(PollEvent::PollSucceeded {
            inventory: &inventory,
            pages,
            duration,
        });
        let is_routine = state.last_poll_succeeded.replace(true) == Some(true);
        log_poll(&inventory, pages, duration, is_routine);
        // Once, and not at each poll
        if let Some(Shortfall { read, total }) = shortfall
            && state.shortfall.is_none()
        {
            warn!(%org, read, total, "fewer keys than totalCount");
        }
        state.shortfall = shortfall;
        let change_counts = state.change_counts.clone();
        let rate = state.client.sustained_rate(org);
        if previous_requests != requests || rate != state.rate {
            self.update_intervals();
        }
        let due_at = self.next_regular_due(org, duration);
        let stored = StoredInventory {
            inventory,
            requests,
            change_counts,
        };
        let is_saving = self.start_save(StateFile::Inventory(org.clone()), move |storage, _| {
            storage.save_inventory(&stored)
        });
        if let Some(state) = self.orgs.get_mut(org) {
            state.due_at = due_at;
            state.in_progress = is_saving;
        }
    }

    /// Returns the next regular time of `org` at which no other organization is due, after a poll of this duration.
    fn next_regular_due(&self, org: &OrgId, duration: Duration) -> Instant {
        let Some(state) = self.orgs.get(org) else {
            return Instant::now();
        };
        // Counted from the start of the poll: one that waits for the rate limit often takes more than half an interval,
        // and must not skip the regular time after it
        let elapsed = duration.min(state.schedule.interval() / 2);
        let now = self.clock.now();
        let wait = state
            .schedule
            .time_until_next(now.checked_sub(elapsed).unwrap_or(now));
        let mut due_at = Instant::now() + wait.saturating_sub(elapsed);
        while self
            .orgs
            .iter()
            .any(|(other, state)| other != org && state.due_at == due_at)
        {
            due_at += Duration::from_millis(1);
        }
        due_at
    }

    fn on_poll_failed(&mut self, org: &OrgId, error: &WalkError, duration: Duration) {
        let regular = self.next_regular_due(org, duration);
        let regular = regular.saturating_duration_since(Instant::now());
        let Some(state) = self.orgs.get_mut(org) else {
            return;
        };
        let reason = error.error.kind.reason();
        let was_permanent = state.backoff.is_permanent();
        let wait = state
            .backoff
            .on_failure(reason, &state.schedule, regular)
            // A Retry-After of Atlas applies to every organization that shares the bucket
            .max(state.client.next_delay(org));
        state.due_at = Instant::now() + wait;
        state.last_poll_succeeded = Some(false);
        warn!(
            %org,
            endpoint = %error.error.endpoint,
            page = error.page,
            %reason,
            error = %error.error.kind,
            retry_in = (!self.one_shot).then(|| tracing::field::display(whole_seconds(wait))),
            "poll failed"
        );
        if state.backoff.is_permanent() && !was_permanent {
            warn!(%org, %reason, "the refusal lasts; trying again at a slower pace until it is over or the credential changes");
        }
        self.observer.on_event(PollEvent::PollFailed {
            org,
            error,
            duration,
        });
        let backoff = BackoffState {
            until: add_saturating(self.clock.now(), wait),
            backoff: state.backoff,
        };
        let is_saving = self.start_save(StateFile::Backoff(org.clone()), move |storage, file| {
            storage.save(file, &backoff)
        });
        if let Some(state) = self.orgs.get_mut(org) {
            state.in_progress = is_saving;
        }
    }

    fn on_details_fetched(&mut self, org: OrgId, details: OrgDetails) {
        let Some(state) = self.orgs.get_mut(&org) else {
            return;
        };
        state.fetching_details = false;
        let details = Arc::new(details);
        self.store.insert_details(&org, Arc::clone(&details));
        self.start_save(StateFile::Details(org), move |storage, file| {
            storage.save(file, &*details)
        });
    }

    async fn on_orgs_listed(&mut self, credential: &str, result: Result<OrgList, Error>) {
        let interval = self.interval;
        let Some(state) = self.targets.credential_mut(credential) else {
            return;
        };
        state.is_listing = false;
        let error = result.as_ref().err();
        self.observer
            .on_event(PollEvent::OrgsListed { credential, error });
        match result {
            Ok(list) => {
                state.list_due_at = Instant::now() + interval;
                state.on_orgs_listed(list, interval, self.clock.now());
                self.save_credential(credential);
                self.sync_targets(StateFilePolicy::Remove).await;
            }
            Err(error) => {
                let wait = interval.min(LIST_RETRY_INTERVAL);
                state.list_due_at = Instant::now() + wait;
                warn!(
                    credential,
                    endpoint = %error.endpoint,
                    reason = %error.kind.reason(),
                    error = %error.kind,
                    retry_in = (!self.one_shot).then(|| tracing::field::display(whole_seconds(wait))),
                    "organization discovery failed"
                );
            }
        }
    }

    fn on_rate_limits_fetched(
        &mut self,
        credential: &str,
        result: Result<Vec<EndpointSet>, Error>,
    ) {
        if let Some(state) = self.targets.credential_mut(credential) {
            if let Err(error) = &result {
                let reason = error.kind.reason();
                // Once, and not at each refresh
                if state.has_fetched_limits() {
                    debug!(credential, %reason, "rate limits unreadable");
                } else {
                    info!(credential, %reason, "rate limits unreadable; learning them from responses");
                }
            }
            state.set_limits(result.ok(), self.clock.now());
            self.save_credential(credential);
        }
        self.update_intervals();
    }

    fn save_credential(&mut self, credential: &str) {
        let Some(state) = self.targets.credential_mut(credential) else {
            return;
        };
        // Of two concurrent writes, the older one could be the last
        if state.save_state != SaveState::Idle {
            state.save_state = SaveState::Dirty;
            return;
        }
        let name = Arc::clone(state.target.client.credential_name());
        let snapshot = state.snapshot();
        let file = StateFile::Credential(Arc::clone(&name));
        let is_saving = self.start_save(file, move |storage, _| {
            storage.save_credential(&name, snapshot)
        });
        if is_saving && let Some(state) = self.targets.credential_mut(credential) {
            state.save_state = SaveState::Saving;
        }
    }

    /// Starts to write `file`. Returns false without a state directory.
    fn start_save(
        &mut self,
        file: StateFile,
        write: impl FnOnce(&Storage, &StateFile) -> Result<(), StorageError> + Send + 'static,
    ) -> bool {
        let Some(storage) = self.storage.clone() else {
            return false;
        };
        self.tasks.spawn(tasks::save(storage, file, write));
        true
    }

    fn log_save_result(&mut self, file: &StateFile, result: Result<(), StorageError>) {
        match result {
            Ok(()) => {
                if self.save_failures.record_success(file) {
                    info!("what is read is kept for the next start again");
                }
            }
            Err(error) => {
                self.observer.on_event(PollEvent::SaveFailed);
                // Once, and not at each poll
                if self.save_failures.record_failure(file) {
                    warn!(%error, "what is read is not kept for the next start");
                }
            }
        }
    }

    /// Continues what has waited for `file`.
    fn on_save_done(&mut self, file: &StateFile) {
        match file {
            StateFile::Inventory(org) | StateFile::Backoff(org) | StateFile::Details(org) => {
                let Some(state) = self.orgs.get_mut(org) else {
                    // The organization was removed meanwhile
                    self.save_failures.remove_org(org);
                    return;
                };
                if !matches!(file, StateFile::Details(_)) {
                    state.in_progress = false;
                }
            }
            StateFile::Credential(credential) => {
                let state = self.targets.credential_mut(credential);
                let previous = state.map(|state| replace(&mut state.save_state, SaveState::Idle));
                if previous == Some(SaveState::Dirty) {
                    self.save_credential(credential);
                }
            }
            StateFile::Token(_) => {}
        }
    }
}

/// Logs a successful poll: the first one and the first one after a failure as info.
fn log_poll(inventory: &Inventory, pages: u32, duration: Duration, is_routine: bool) {
    let took = Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(0));
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

/// Counts changes, and logs each as an audit trail.
fn record_changes(
    org: &OrgId,
    changes: &[KeyChange],
    state: &mut OrgState,
    observer: &dyn PollObserver,
) {
    for change in changes {
        info!(%org, project = %change.project, key = change.key, change = change.change.as_str(), "key changed");
        let counts = &mut state.change_counts;
        *counts.entry(change.change.as_str().to_owned()).or_default() += 1;
        observer.on_event(PollEvent::KeysChanged {
            org,
            change: change.change,
            keys: 1,
        });
    }
}
