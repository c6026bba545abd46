//! The state of each organization, for the page, readiness and systemd. The exporter's own metrics report the same to
//! Prometheus.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::poll::{PollEvent, PollObserver};
use mongodb_atlas_client::{FailureReason, OrgId};

/// The state of every organization, updated by events of the scheduler.
#[derive(Debug, Default)]
pub struct OrgStatuses(Mutex<StatusState>);

#[derive(Debug, Default)]
struct StatusState {
    orgs: BTreeMap<OrgId, OrgStatus>,
    /// Credentials with a failed organization discovery, and the reason.
    discovery_errors: BTreeMap<String, FailureReason>,
}

/// The state of one organization.
#[derive(Debug, Clone, Default)]
pub(crate) struct OrgStatus {
    /// Whether the last poll succeeded; `None` before the end of the first poll.
    pub(crate) up: Option<bool>,
    /// Whether the exported inventory was stored by an earlier process.
    pub(crate) restored: bool,
    /// Whether a poll has succeeded since the start.
    pub(crate) polled: bool,
    /// Whether a poll is in progress.
    pub(crate) poll_in_progress: bool,
    /// The failure of the last poll; `None` if it succeeded.
    pub(crate) failure: Option<PollFailure>,
    /// Time of the next poll.
    pub(crate) next_poll_at: Option<Timestamp>,
    /// The effective poll interval.
    pub(crate) poll_interval: Duration,
}

/// The failure of the last poll.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PollFailure {
    pub(crate) reason: FailureReason,
    /// When the first poll since the last success failed.
    pub(crate) since: Timestamp,
}

/// Maximum number of names in one list of the summary; the others are counted.
const MAX_NAMED: usize = 4;

/// Returns "stale 6: a, b, c, d and 2 more", or nothing when there are no names.
fn summarize(what: &str, names: &[String]) -> Option<String> {
    let named = names.get(..MAX_NAMED).unwrap_or(names).join(", ");
    let more = match names.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!names.is_empty()).then(|| format!("{what} {}: {named}{more}", names.len()))
}

impl OrgStatuses {
    fn lock(&self) -> MutexGuard<'_, StatusState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the credentials with a failed organization discovery, and the reason.
    pub fn discovery_errors(&self) -> BTreeMap<String, FailureReason> {
        self.lock().discovery_errors.clone()
    }

    /// Removes the state of a credential.
    pub fn remove_credential(&self, credential: &str) {
        self.lock().discovery_errors.remove(credential);
    }

    /// Returns whether the last poll of an organization succeeded; `None` before one has ended.
    pub fn last_poll_ok(&self, org: &OrgId) -> Option<bool> {
        let status = self.get(org);
        let ended = status.polled || status.failure.is_some();
        ended.then_some(status.up == Some(true))
    }

    /// Returns a summary in one line: organizations that are fresh, stale (with the reason) or without data.
    pub fn summary(&self) -> String {
        let (mut fresh, mut stale, mut without_data) = (Vec::new(), Vec::new(), Vec::new());
        for (org, status) in &self.lock().orgs {
            let reason = status.failure.map(|failure| failure.reason.as_str());
            if status.up == Some(true) {
                fresh.push(org.to_string());
            } else if status.restored || status.polled {
                let reason = reason.unwrap_or("restored");
                stale.push(format!("{org} ({reason})"));
            } else {
                let reason = reason.unwrap_or("not polled yet");
                without_data.push(format!("{org} ({reason})"));
            }
        }
        let errors = self.discovery_errors();
        let errors = errors.iter();
        let unlisted: Vec<String> = errors
            .map(|(credential, reason)| format!("credential {credential} ({reason})"))
            .collect();
        let parts = [
            summarize("fresh", &fresh),
            summarize("stale", &stale),
            summarize("no data", &without_data),
            summarize("discovery failed", &unlisted),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() {
            return "no organization yet".to_owned();
        }
        parts.join("; ")
    }

    /// Updates the state of an organization that was added.
    fn update(&self, org: &OrgId, update: impl FnOnce(&mut OrgStatus)) {
        if let Some(status) = self.lock().orgs.get_mut(org) {
            update(status);
        }
    }

    pub(crate) fn get(&self, org: &OrgId) -> OrgStatus {
        self.lock().orgs.get(org).cloned().unwrap_or_default()
    }
}

impl PollObserver for OrgStatuses {
    fn on_event(&self, event: PollEvent<'_>) {
        match event {
            PollEvent::OrgsListed { credential, error } => {
                let mut state = self.lock();
                let errors = &mut state.discovery_errors;
                match error {
                    Some(error) => errors.insert(credential.to_owned(), error.kind.reason()),
                    None => errors.remove(credential),
                };
            }
            PollEvent::OrgAdded(org) => {
                self.lock().orgs.insert(org.clone(), OrgStatus::default());
            }
            PollEvent::OrgRemoved(org) => drop(self.lock().orgs.remove(org)),
            PollEvent::IntervalChanged { org, interval, .. } => {
                self.update(org, |status| status.poll_interval = interval);
            }
            PollEvent::DueChanged { org, due_at } => {
                self.update(org, |status| status.next_poll_at = Some(due_at));
            }
            PollEvent::InventoryRestored { inventory, up } => {
                self.update(inventory.org(), |status| {
                    status.restored = true;
                    status.up = Some(up);
                });
            }
            PollEvent::PollStarted { org, .. } => {
                self.update(org, |status| status.poll_in_progress = true);
            }
            PollEvent::PollSucceeded { inventory, .. } => {
                self.update(inventory.org(), |status| {
                    *status = OrgStatus {
                        up: Some(true),
                        restored: false,
                        polled: true,
                        poll_in_progress: false,
                        failure: None,
                        ..*status
                    };
                });
            }
            PollEvent::PollFailed {
                org,
                error,
                failed_at: at,
                ..
            } => {
                let reason = error.error.kind.reason();
                self.update(org, |status| {
                    status.up = Some(false);
                    let since = status.failure.map_or(at, |failure| failure.since);
                    status.failure = Some(PollFailure { reason, since });
                    status.poll_in_progress = false;
                });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Inventory;
    use crate::poll::WalkError;
    use mongodb_atlas_client::{Endpoint, Error, ErrorCode, ErrorKind};

    fn error(kind: ErrorKind) -> Error {
        kind.with_endpoint(Endpoint::AiModelApiKeys)
    }

    #[test]
    fn failure_starts_with_the_first_failed_poll_since_the_last_success() {
        let statuses = OrgStatuses::default();
        let org = OrgId::parse(&format!("{:024x}", 1)).expect("an id");
        statuses.on_event(PollEvent::OrgAdded(&org));
        let fail = |second| {
            let forbidden = ErrorKind::Forbidden(ErrorCode::default());
            statuses.on_event(PollEvent::PollFailed {
                org: &org,
                error: &WalkError {
                    page: 1,
                    error: error(forbidden),
                },
                failed_at: Timestamp::from_second(second).expect("a time"),
                duration: Duration::ZERO,
            });
            let failure = statuses.get(&org).failure.expect("a failure");
            failure.since.as_second()
        };
        assert_eq!([10, 20, 30].map(fail), [10, 10, 10]);
        statuses.on_event(PollEvent::PollSucceeded {
            inventory: &Inventory::from_records(org.clone(), Timestamp::UNIX_EPOCH, []),
            pages: 1,
            duration: Duration::ZERO,
        });
        assert_eq!([40, 50].map(fail), [40, 40]);
    }

    #[test]
    fn status_summary_names_a_few_organizations_and_counts_the_rest() {
        let statuses = OrgStatuses::default();
        assert_eq!(statuses.summary(), "no organization yet");
        let org = |n: u32| OrgId::parse(&format!("{n:024x}")).expect("an id");
        for n in 0..9 {
            statuses.on_event(PollEvent::OrgAdded(&org(n)));
        }
        let at = Timestamp::UNIX_EPOCH;
        let inventory = |n| Inventory::from_records(org(n), at, []);
        for n in 0..6 {
            statuses.on_event(PollEvent::PollSucceeded {
                inventory: &inventory(n),
                pages: 1,
                duration: Duration::ZERO,
            });
        }
        let timeout = ErrorKind::Timeout {
            limit: Duration::ZERO,
            proxy: None,
        };
        for (n, kind) in [
            (5, timeout),
            (6, ErrorKind::Forbidden(ErrorCode::default())),
        ] {
            statuses.on_event(PollEvent::PollFailed {
                org: &org(n),
                error: &WalkError {
                    page: 1,
                    error: error(kind),
                },
                failed_at: at,
                duration: Duration::ZERO,
            });
        }
        statuses.on_event(PollEvent::InventoryRestored {
            inventory: &inventory(7),
            up: false,
        });
        statuses.on_event(PollEvent::OrgsListed {
            credential: "research",
            error: Some(&error(ErrorKind::Unauthorized(ErrorCode::default()))),
        });
        let (a, b, c, d) = (org(0), org(1), org(2), org(3));
        let (five, six, seven, eight) = (org(5), org(6), org(7), org(8));
        assert_eq!(
            statuses.summary(),
            format!(
                "fresh 5: {a}, {b}, {c}, {d} and 1 more; \
                 stale 2: {five} (timeout), {seven} (restored); \
                 no data 2: {six} (forbidden), {eight} (not polled yet); \
                 discovery failed 1: credential research (unauthorized)"
            )
        );
    }
}
