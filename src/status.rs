//! How the walks of each organization go, for people to read. The exporter's own metrics say the
//! same to Prometheus.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use mongodb_atlas_client::OrgId;

/// What is known of every organization's walks. Told by whoever hears of walks, read by the page.
#[derive(Debug, Default)]
pub struct Board {
    cards: Mutex<BTreeMap<OrgId, Card>>,
    /// Credentials whose organizations cannot be listed, and why, by the closed list of reasons.
    unlisted: Mutex<BTreeMap<String, &'static str>>,
}

/// Organizations that are named in one line; the others are counted.
const NAMED: usize = 4;

/// "stale 6: a, b, c, d and 2 more"; nothing when there are none.
fn named(what: &str, names: &[String]) -> Option<String> {
    let few: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!names.is_empty()).then(|| format!("{what} {}: {}{more}", names.len(), few.join(", ")))
}

/// One organization.
#[derive(Debug, Clone, Default)]
pub(super) struct Card {
    /// Whether the last walk was complete; none before the first has ended.
    pub(super) up: Option<bool>,
    /// Whether what is shown comes from an earlier process.
    pub(super) restored: bool,
    /// Whether a walk has been complete since the start.
    pub(super) read: bool,
    /// Whether a walk is under way.
    pub(super) walking: bool,
    /// Why the last walk failed, by the closed list of reasons.
    pub(super) reason: Option<&'static str>,
    /// When the last walk failed.
    pub(super) failed_at: Option<Timestamp>,
    /// When the next walk is due.
    pub(super) due: Option<Timestamp>,
    /// The interval in force.
    pub(super) interval: Duration,
    /// What the bucket of requests holds, and what is left in it.
    pub(super) budget: Option<(u64, u64)>,
}

impl Board {
    fn cards(&self) -> MutexGuard<'_, BTreeMap<OrgId, Card>> {
        self.cards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The credentials whose organizations cannot be listed, and why.
    pub fn unlisted(&self) -> BTreeMap<String, &'static str> {
        let unlisted = self.unlisted.lock();
        unlisted.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The organizations of a credential were listed; or cannot be, for a reason.
    pub fn listed(&self, credential: &str, reason: Option<&'static str>) {
        let mut unlisted = self.unlisted.lock().unwrap_or_else(PoisonError::into_inner);
        match reason {
            Some(reason) => unlisted.insert(credential.to_owned(), reason),
            None => unlisted.remove(credential),
        };
    }

    /// Whether the last walk of an organization was complete; none before one has ended.
    pub fn outcome(&self, org: &OrgId) -> Option<bool> {
        let card = self.card(org);
        let ended = card.read || card.failed_at.is_some();
        ended.then_some(card.up == Some(true))
    }

    /// Which organizations are fresh, which are stale and why, and which have nothing to show, in
    /// one line.
    pub fn status(&self) -> String {
        let (mut fresh, mut stale, mut nothing) = (Vec::new(), Vec::new(), Vec::new());
        for (org, card) in self.cards().iter() {
            match (card.up, card.reason) {
                (Some(true), _) => fresh.push(org.to_string()),
                _ if card.restored || card.read => {
                    let why = card.reason.unwrap_or("from before the restart");
                    stale.push(format!("{org} ({why})"));
                }
                (_, Some(why)) => nothing.push(format!("{org} ({why})")),
                _ => nothing.push(format!("{org} (not walked yet)")),
            }
        }
        let unlisted = self.unlisted();
        let unlisted = unlisted.iter();
        let unlisted: Vec<String> = unlisted
            .map(|(credential, why)| format!("credential {credential} ({why})"))
            .collect();
        let parts = [
            named("fresh", &fresh),
            named("stale", &stale),
            named("nothing to show", &nothing),
            named("organizations not listed", &unlisted),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() {
            return "no organization is watched yet".to_owned();
        }
        parts.join("; ")
    }

    /// Changes the card of an organization that is watched.
    fn change(&self, org: &OrgId, change: impl FnOnce(&mut Card)) {
        if let Some(card) = self.cards().get_mut(org) {
            change(card);
        }
    }

    pub(super) fn card(&self, org: &OrgId) -> Card {
        self.cards().get(org).cloned().unwrap_or_default()
    }

    /// An organization is watched from now on.
    pub fn watched(&self, org: &OrgId) {
        self.cards().insert(org.clone(), Card::default());
    }

    /// An organization is watched no more.
    pub fn forgotten(&self, org: &OrgId) {
        self.cards().remove(org);
    }

    /// The interval between two walks that is in force.
    pub fn interval(&self, org: &OrgId, interval: Duration) {
        self.change(org, |card| card.interval = interval);
    }

    /// When the next walk is due.
    pub fn due(&self, org: &OrgId, at: Timestamp) {
        self.change(org, |card| card.due = Some(at));
    }

    /// What an earlier process has left is shown.
    pub fn restored(&self, org: &OrgId, up: bool) {
        self.change(org, |card| (card.restored, card.up) = (true, Some(up)));
    }

    /// A walk begins.
    pub fn begun(&self, org: &OrgId) {
        self.change(org, |card| card.walking = true);
    }

    /// A walk was complete.
    pub fn succeeded(&self, org: &OrgId) {
        self.change(org, |card| {
            (card.up, card.reason, card.failed_at) = (Some(true), None, None);
            (card.walking, card.restored, card.read) = (false, false, true);
        });
    }

    /// A walk failed, for one of the closed list of reasons.
    pub fn failed(&self, org: &OrgId, reason: &'static str, at: Timestamp) {
        self.change(org, |card| {
            (card.up, card.reason, card.failed_at) = (Some(false), Some(reason), Some(at));
            card.walking = false;
        });
    }

    /// Atlas told about the bucket of requests that pays for the walks of an organization.
    pub fn budget(&self, org: &OrgId, capacity: Option<u64>, remaining: Option<u64>) {
        self.change(org, |card| {
            let (holds, left) = card.budget.unwrap_or_default();
            card.budget = Some((capacity.unwrap_or(holds), remaining.unwrap_or(left)));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_names_a_few_and_counts_the_others() {
        let board = Board::default();
        assert_eq!(board.status(), "no organization is watched yet");
        let org = |n: u32| OrgId::parse(&format!("{n:024x}")).expect("an id");
        for n in 0..9 {
            board.watched(&org(n));
        }
        for n in 0..6 {
            board.succeeded(&org(n));
        }
        let at = Timestamp::UNIX_EPOCH;
        board.failed(&org(5), "timeout", at);
        board.failed(&org(6), "forbidden", at);
        board.restored(&org(7), false);
        board.listed("research", Some("unauthorized"));
        let (a, b, c, d) = (org(0), org(1), org(2), org(3));
        let (five, six, seven, eight) = (org(5), org(6), org(7), org(8));
        assert_eq!(
            board.status(),
            format!(
                "fresh 5: {a}, {b}, {c}, {d} and 1 more; \
                 stale 2: {five} (timeout), {seven} (from before the restart); \
                 nothing to show 2: {six} (forbidden), {eight} (not walked yet); \
                 organizations not listed 1: credential research (unauthorized)"
            )
        );
    }
}
