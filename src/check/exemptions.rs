//! Exemptions that ended, end soon, or match no key.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::findings::{Component, Finding, Topic};
use crate::config::Config;
use crate::inventory::{ClassifiedInventory, OrgDetails};
use crate::key_policy::{Exemption, KeySelector};
use crate::poll::{self, PollOptions};
use mongodb_atlas_client::{Client, Clock, OptionalFields, OrgId, Project};

/// Time before the end of an exemption in which the exemption is reported.
const NOTICE_PERIOD: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Reports exemptions that ended or end soon.
pub(super) fn check_ends(config: &Config, now: Timestamp) -> Vec<Finding> {
    let exemptions = config.key_policy.exemptions.as_slice();
    let findings = exemptions.iter().filter_map(|exemption| {
        let ends_at = exemption.ends_at();
        let until = exemption.until;
        let (message, hint) = if ends_at <= now {
            (
                format!("exemption ended: valid until {until}"),
                "remove the exemption, or change `until`",
            )
        } else if ends_at.duration_since(now) <= NOTICE_PERIOD {
            (
                format!("exemption ends soon: valid until {until}"),
                "delete the key, or change `until` of the exemption; alerts for the key start when the exemption ends",
            )
        } else {
            return None;
        };
        Some(topic(exemption).warning(message, hint))
    });
    findings.collect()
}

fn topic(exemption: &Exemption) -> Topic {
    let subject = match &exemption.selector {
        KeySelector::Id(id) => format!("exemption of key {:?}", id.as_str()),
        KeySelector::Name {
            name,
            project: None,
        } => format!("exemption of keys {:?}", name.glob()),
        KeySelector::Name {
            name,
            project: Some(project),
        } => format!(
            "exemption of keys {:?} in projects {:?}",
            name.glob(),
            project.to_string()
        ),
    };
    Topic::new(Component::Configuration, subject)
}

/// Records which exemptions match a key.
pub(super) struct ExemptionMatches {
    state: Mutex<MatchState>,
}

struct MatchState {
    /// For each exemption, whether a key matched.
    matched: Vec<bool>,
    /// Whether the keys of all organizations were read.
    is_complete: bool,
}

impl ExemptionMatches {
    pub(super) fn new(config: &Config) -> Self {
        let state = MatchState {
            matched: vec![false; config.key_policy.exemptions.as_slice().len()],
            is_complete: true,
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// Reads every key of `org` if there are exemptions, and records which exemptions match. `projects` is `None` if the
    /// projects could not be read.
    pub(super) async fn add_org(
        &self,
        config: &Config,
        client: &Client,
        clock: &Clock,
        org: &OrgId,
        projects: Option<Vec<Project>>,
    ) {
        if config.key_policy.exemptions.is_empty() {
            return;
        }
        let options = PollOptions {
            page_size: config.page_size,
            revived_after: std::time::Duration::ZERO,
            optional_fields: OptionalFields::default(),
            log_key_names: false,
            clock: clock.clone(),
            prepare_inventory: Arc::new(ClassifiedInventory::from),
            walk_timeout: poll::walk_timeout(config.poll_interval),
        };
        let (Ok(report), Some(projects)) =
            (poll::collect(client, org, &options, None).await, projects)
        else {
            self.set_incomplete();
            return;
        };
        let details = Arc::new(OrgDetails {
            projects,
            ..OrgDetails::default()
        });
        let inventory = report.inventory.inventory;
        let policy = &config.key_policy;
        let classified = ClassifiedInventory::new(inventory, policy, Some(&details));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let matched = classified.classes.matched_exemptions();
        for (known, matched) in state.matched.iter_mut().zip(matched) {
            *known |= matched;
        }
    }

    /// Records that the keys of an organization are unknown.
    pub(super) fn set_incomplete(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_complete = false;
    }

    /// Reports the exemptions that match no key of any organization.
    pub(super) fn findings(self, config: &Config) -> Vec<Finding> {
        let exemptions = config.key_policy.exemptions.as_slice();
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if exemptions.is_empty() {
            return Vec::new();
        }
        if !state.is_complete || config.shard != crate::shard::Shard::ALL {
            let topic = Topic::new(Component::Configuration, "exemptions");
            return vec![topic.skipped("skipped: not all keys could be read")];
        }
        let unmatched = exemptions.iter().zip(state.matched).filter(|(_, it)| !it);
        let findings = unmatched.map(|(exemption, _)| {
            topic(exemption).warning(
                "exemption matches no key",
                "remove the exemption, or correct its key, name or project",
            )
        });
        findings.collect()
    }
}
