//! How the walks of each organization go, for people to read. The exporter's own metrics say the
//! same to Prometheus.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use mongodb_atlas_client::OrgId;

/// What is known of every organization's walks. Told by whoever hears of walks, read by the page.
#[derive(Debug, Default)]
pub struct OrgStatuses {
    orgs: Mutex<BTreeMap<OrgId, OrgStatus>>,
    /// Credentials whose organizations cannot be listed, and why, by the closed list of reasons.
    discovery_errors: Mutex<BTreeMap<String, &'static str>>,
}

/// Organizations that are named in one line; the others are counted.
const MAX_NAMED: usize = 4;

/// "stale 6: a, b, c, d and 2 more"; nothing when there are none.
fn summarize(what: &str, names: &[String]) -> Option<String> {
    let few: Vec<&str> = names.iter().take(MAX_NAMED).map(String::as_str).collect();
    let more = match names.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!names.is_empty()).then(|| format!("{what} {}: {}{more}", names.len(), few.join(", ")))
}

/// One organization.
#[derive(Debug, Clone, Default)]
pub(super) struct OrgStatus {
    /// Whether the last walk was complete; none before the first has ended.
    pub(super) up: Option<bool>,
    /// Whether what is shown comes from an earlier process.
    pub(super) restored: bool,
    /// Whether a walk has been complete since the start.
    pub(super) polled: bool,
    /// Whether a walk is under way.
    pub(super) poll_in_progress: bool,
    /// Why the last walk failed, by the closed list of reasons.
    pub(super) failure_reason: Option<&'static str>,
    /// When the last walk failed.
    pub(super) failed_at: Option<Timestamp>,
    /// When the next walk is due.
    pub(super) next_poll_at: Option<Timestamp>,
    /// The interval in force.
    pub(super) poll_interval: Duration,
    /// What the bucket of requests holds, and what is left in it.
    pub(super) rate_limit: Option<(u64, u64)>,
}

impl OrgStatuses {
    fn lock_orgs(&self) -> MutexGuard<'_, BTreeMap<OrgId, OrgStatus>> {
        self.orgs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The credentials whose organizations cannot be listed, and why.
    pub fn discovery_errors(&self) -> BTreeMap<String, &'static str> {
        let unlisted = self.discovery_errors.lock();
        unlisted.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The organizations of a credential were listed; or cannot be, for a reason.
    pub fn set_discovery_result(&self, credential: &str, reason: Option<&'static str>) {
        let mut unlisted = self
            .discovery_errors
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match reason {
            Some(reason) => unlisted.insert(credential.to_owned(), reason),
            None => unlisted.remove(credential),
        };
    }

    /// Whether the last walk of an organization was complete; none before one has ended.
    pub fn last_poll_ok(&self, org: &OrgId) -> Option<bool> {
        let card = self.get(org);
        let ended = card.polled || card.failed_at.is_some();
        ended.then_some(card.up == Some(true))
    }

    /// Which organizations are fresh, which are stale and why, and which have nothing to show, in
    /// one line.
    pub fn summary(&self) -> String {
        let (mut fresh, mut stale, mut nothing) = (Vec::new(), Vec::new(), Vec::new());
        for (org, card) in self.lock_orgs().iter() {
            match (card.up, card.failure_reason) {
                (Some(true), _) => fresh.push(org.to_string()),
                _ if card.restored || card.polled => {
                    let why = card.failure_reason.unwrap_or("from before the restart");
                    stale.push(format!("{org} ({why})"));
                }
                (_, Some(why)) => nothing.push(format!("{org} ({why})")),
                _ => nothing.push(format!("{org} (not walked yet)")),
            }
        }
        let unlisted = self.discovery_errors();
        let unlisted = unlisted.iter();
        let unlisted: Vec<String> = unlisted
            .map(|(credential, why)| format!("credential {credential} ({why})"))
            .collect();
        let parts = [
            summarize("fresh", &fresh),
            summarize("stale", &stale),
            summarize("nothing to show", &nothing),
            summarize("organizations not listed", &unlisted),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() {
            return "no organization is watched yet".to_owned();
        }
        parts.join("; ")
    }

    /// Changes the card of an organization that is watched.
    fn update(&self, org: &OrgId, change: impl FnOnce(&mut OrgStatus)) {
        if let Some(card) = self.lock_orgs().get_mut(org) {
            change(card);
        }
    }

    pub(super) fn get(&self, org: &OrgId) -> OrgStatus {
        self.lock_orgs().get(org).cloned().unwrap_or_default()
    }

    /// An organization is watched from now on.
    pub fn add_org(&self, org: &OrgId) {
        self.lock_orgs().insert(org.clone(), OrgStatus::default());
    }

    /// An organization is watched no more.
    pub fn remove_org(&self, org: &OrgId) {
        self.lock_orgs().remove(org);
    }

    /// The interval between two walks that is in force.
    pub fn set_poll_interval(&self, org: &OrgId, interval: Duration) {
        self.update(org, |card| card.poll_interval = interval);
    }

    /// When the next walk is due.
    pub fn set_next_poll(&self, org: &OrgId, at: Timestamp) {
        self.update(org, |card| card.next_poll_at = Some(at));
    }

    /// What an earlier process has left is shown.
    pub fn inventory_restored(&self, org: &OrgId, up: bool) {
        self.update(org, |card| (card.restored, card.up) = (true, Some(up)));
    }

    /// A walk begins.
    pub fn poll_started(&self, org: &OrgId) {
        self.update(org, |card| card.poll_in_progress = true);
    }

    /// A walk was complete.
    pub fn poll_succeeded(&self, org: &OrgId) {
        self.update(org, |card| {
            (card.up, card.failure_reason, card.failed_at) = (Some(true), None, None);
            (card.poll_in_progress, card.restored, card.polled) = (false, false, true);
        });
    }

    /// A walk failed, for one of the closed list of reasons.
    pub fn poll_failed(&self, org: &OrgId, reason: &'static str, at: Timestamp) {
        self.update(org, |card| {
            (card.up, card.failure_reason, card.failed_at) = (Some(false), Some(reason), Some(at));
            card.poll_in_progress = false;
        });
    }

    /// Atlas told about the bucket of requests that pays for the walks of an organization.
    pub fn set_rate_limit(&self, org: &OrgId, capacity: Option<u64>, remaining: Option<u64>) {
        self.update(org, |card| {
            let (holds, left) = card.rate_limit.unwrap_or_default();
            card.rate_limit = Some((capacity.unwrap_or(holds), remaining.unwrap_or(left)));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_summary_names_a_few_organizations_and_counts_the_rest() {
        let board = OrgStatuses::default();
        assert_eq!(board.summary(), "no organization is watched yet");
        let org = |n: u32| OrgId::parse(&format!("{n:024x}")).expect("an id");
        for n in 0..9 {
            board.add_org(&org(n));
        }
        for n in 0..6 {
            board.poll_succeeded(&org(n));
        }
        let at = Timestamp::UNIX_EPOCH;
        board.poll_failed(&org(5), "timeout", at);
        board.poll_failed(&org(6), "forbidden", at);
        board.inventory_restored(&org(7), false);
        board.set_discovery_result("research", Some("unauthorized"));
        let (a, b, c, d) = (org(0), org(1), org(2), org(3));
        let (five, six, seven, eight) = (org(5), org(6), org(7), org(8));
        assert_eq!(
            board.summary(),
            format!(
                "fresh 5: {a}, {b}, {c}, {d} and 1 more; \
                 stale 2: {five} (timeout), {seven} (from before the restart); \
                 nothing to show 2: {six} (forbidden), {eight} (not walked yet); \
                 organizations not listed 1: credential research (unauthorized)"
            )
        );
    }
}
