//! Handles the results of finished tasks.

use std::collections::HashMap;
use std::mem::replace;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::audit_log::log_change;
use super::collect::PollReport;
use super::diff::KeyChange;
use super::event::{PollEvent, PollObserver};
use super::org_state::{OrgState, add_saturating};
use super::schedule::BackoffState;
use super::scheduler::{Scheduler, StateFilePolicy};
use super::tasks::TaskOutput;
use super::walk::{Shortfall, WalkError};
use crate::failure::Explanation;
use crate::humanize::{whole_millis, whole_seconds};
use crate::inventory::{
    ClassifiedInventory, DetailsWithOwners, Inventory, InventoryStore, OrgDetails,
};
use crate::storage::{StateFile, StoredInventory};
use mongodb_atlas_client::{EndpointSet, Error, OrgId, OrgList};

/// Time to the next attempt after a failed organization list, unless the interval is shorter.
const LIST_RETRY_INTERVAL: Duration = Duration::from_mins(1);

/// Inserts an inventory. An inventory that was classified before a reload is classified again.
pub(super) fn insert_inventory(
    store: &Arc<InventoryStore>,
    inventory: ClassifiedInventory,
    age: Duration,
) {
    let org = inventory.org().clone();
    if !store.insert(inventory, age) {
        let store = Arc::clone(store);
        tokio::task::spawn_blocking(move || store.reclassify(&org));
    }
}

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
                self.report_save_state();
            }
            TaskOutput::DetailsFetched { org, details } => self.on_details_fetched(org, details),
            TaskOutput::OrgsListed { credential, result } => {
                self.on_orgs_listed(&credential, result).await;
            }
            TaskOutput::RateLimitsFetched { credential, result } => {
                self.on_rate_limits_fetched(&credential, result);
            }
            TaskOutput::ClientSecretsFetched {
                credential,
                last_org,
                result,
            } => self.on_client_secrets_fetched(&credential, last_org, result),
            TaskOutput::TokenRevoked => {}
        }
        self.revoke_unused_tokens();
    }

    fn on_poll_succeeded(&mut self, org: &OrgId, report: PollReport) {
        let (inventory, shortfall) = (report.inventory, report.shortfall);
        let Some(state) = self.orgs.get_mut(org) else {
            return;
        };
        state.backoff.reset();
        state.completed_at = Some(inventory.completed_at());
        let previous_requests = replace(&mut state.requests_per_poll, report.requests);
        let log_names = self.plan.options.log_key_names;
        let details = self.store.org_details(org);
        let details = details.as_deref();
        record_changes(
            org,
            &report.changes,
            log_names,
            details,
            state,
            &*self.observer,
        );
        insert_inventory(&self.store, inventory.clone(), Duration::ZERO);
        self.observer.on_event(PollEvent::PollSucceeded {
            inventory: &inventory,
            pages: report.pages,
            duration: report.duration,
        });
        let is_routine = state.last_poll_succeeded.replace(true) == Some(true);
        log_poll(&inventory, report.pages, report.duration, is_routine);
        // Logged once, not at each poll.
        if let Some(Shortfall { read, total }) = shortfall
            && state.shortfall.is_none()
        {
            warn!(%org, read, total, "fewer keys than totalCount");
        }
        state.shortfall = shortfall;
        let change_counts = state.change_counts.clone();
        let rate = state.client.sustained_rate(org);
        if previous_requests != report.requests || rate != state.rate {
            self.update_intervals();
        }
        let due_at = self.next_regular_due(org, report.duration);
        let stored = StoredInventory {
            inventory: inventory.inventory,
            requests: report.requests,
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
        // Counted from the start of the poll: a poll that waits for the rate limit often takes more than half an interval,
        // and must not skip the next regular time.
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
        let (reason, failed_at) = (error.error.kind.reason(), self.clock.now());
        let was_permanent = state.backoff.is_permanent();
        let wait = state
            .backoff
            .on_failure(reason, &state.schedule, regular)
            // A Retry-After of Atlas applies to every organization that shares the bucket.
            .max(state.client.next_delay(org));
        state.due_at = Instant::now() + wait;
        state.last_poll_succeeded = Some(false);
        warn!(
            %org,
            operation = %error.error.endpoint,
            page = error.page,
            %reason,
            error = %error.error.kind,
            hint = Explanation::for_error(&error.error.kind).remedy,
            retry_in = (!self.one_shot).then(|| tracing::field::display(whole_seconds(wait))),
            "poll failed"
        );
        if state.backoff.is_permanent() && !was_permanent {
            warn!(%org, %reason, "repeated authorization failures; reducing poll rate");
        }
        self.observer.on_event(PollEvent::PollFailed {
            org,
            error,
            failed_at,
            duration,
        });
        let backoff = BackoffState {
            until: add_saturating(failed_at, wait),
            backoff: state.backoff,
        };
        let is_saving = self.start_save(StateFile::Backoff(org.clone()), move |storage, file| {
            storage.save(file, &backoff)
        });
        if let Some(state) = self.orgs.get_mut(org) {
            state.in_progress = is_saving;
        }
    }

    fn on_details_fetched(&mut self, org: OrgId, details: Arc<OrgDetails>) {
        let Some(state) = self.orgs.get_mut(&org) else {
            return;
        };
        state.fetching_details = false;
        self.save_details(org, details);
    }

    async fn on_orgs_listed(&mut self, credential: &str, result: Result<OrgList, Error>) {
        let interval = self.plan.interval;
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
                    operation = %error.endpoint,
                    reason = %error.kind.reason(),
                    error = %error.kind,
                    hint = Explanation::for_error(&error.kind).remedy,
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
                // Logged once, not at each refresh.
                if state.has_fetched_limits() {
                    debug!(credential, %reason, "rate limits unavailable");
                } else {
                    info!(credential, %reason, "rate limits unavailable; learning them from responses");
                }
            }
            state.set_limits(result.ok(), self.clock.now());
            self.save_credential(credential);
        }
        self.update_intervals();
    }
}

/// Logs a successful poll, at info for the first poll and the first one after a failure, else at debug.
fn log_poll(inventory: &Inventory, pages: u32, duration: Duration, is_routine: bool) {
    macro_rules! log {
        ($level:ident) => {
            $level!(
                org = %inventory.org(),
                keys = inventory.len(),
                pages,
                dropped = inventory.invalid_keys(),
                duration = %whole_millis(duration),
                "poll succeeded"
            )
        };
    }
    if is_routine {
        log!(debug);
    } else {
        log!(info);
    }
}

/// Counts changes, and writes each to the audit log.
fn record_changes(
    org: &OrgId,
    changes: &[KeyChange],
    log_names: bool,
    details: Option<&DetailsWithOwners>,
    state: &mut OrgState,
    observer: &dyn PollObserver,
) {
    let projects = details.filter(|_| !changes.is_empty()).into_iter();
    let projects = projects.flat_map(DetailsWithOwners::projects);
    let owners: HashMap<_, _> = projects
        .map(|(project, owner)| (&project.id, owner))
        .collect();
    for change in changes {
        let name = log_names.then_some(change.name.as_str());
        let owner = owners.get(&change.project).copied().flatten();
        log_change(org, change, name, owner);
        let counts = &mut state.change_counts;
        *counts.entry(change.change.as_str().to_owned()).or_default() += 1;
        observer.on_event(PollEvent::KeysChanged {
            org,
            change: change.change,
            keys: 1,
        });
    }
}
