//! The client secrets of a credential's service account: the organizations to request them from, and when.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::debug;

use super::dispatch::is_due;
use super::event::PollEvent;
use super::org_state::OrgState;
use super::scheduler::Scheduler;
use super::targets::remaining;
use super::tasks;
use crate::storage::ClientSecretsSnapshot;
use mongodb_atlas_client::{Client, ClientSecret, Credential, Error, OrgId};

/// The interval between two requests for the client secrets.
const REFRESH_INTERVAL: Duration = Duration::from_hours(1);
/// Maximum number of organizations that a service account is requested from in one refresh.
pub const MAX_ACCOUNT_ORGS: usize = 10;

/// The known client secrets of a service account.
///
/// The account belongs to one organization; requests to others return 403 or 404. Organizations are tried in order until
/// one returns the account. From then on only that organization is used.
pub(super) struct ClientSecretsState {
    stored: ClientSecretsSnapshot,
    due_at: Instant,
    is_fetching: bool,
}

impl ClientSecretsState {
    pub(super) fn restore(stored: ClientSecretsSnapshot, client: &Client, now: Timestamp) -> Self {
        let delay = remaining(stored.fetched_at, REFRESH_INTERVAL, now);
        let mut state = Self {
            stored,
            due_at: Instant::now() + delay,
            is_fetching: false,
        };
        state.remove_unless_service_account(client);
        state
    }

    /// Handles a change of the credential, which may now be another account.
    pub(super) fn on_credential_changed(&mut self, client: &Client) {
        self.due_at = Instant::now().min(self.due_at);
        self.remove_unless_service_account(client);
    }

    fn remove_unless_service_account(&mut self, client: &Client) {
        if !is_service_account(client) {
            self.stored = ClientSecretsSnapshot::default();
        }
    }

    pub(super) fn snapshot(&self) -> ClientSecretsSnapshot {
        self.stored.clone()
    }

    /// Returns the secrets; none if they are unknown.
    pub(super) fn secrets(&self) -> &[ClientSecret] {
        self.stored.secrets.as_deref().unwrap_or_default()
    }

    fn last_org(&self) -> Option<OrgId> {
        OrgId::parse(self.stored.org.as_deref()?).ok()
    }

    /// Returns the organization of the account, if known.
    fn home_org(&self) -> Option<OrgId> {
        self.stored.secrets.as_ref().and_then(|_| self.last_org())
    }

    /// Returns the organizations to try, in order: the organization of the account, then those after the last one that was
    /// tried.
    fn next_orgs(&self, polled: &BTreeSet<&OrgId>) -> Vec<OrgId> {
        let (home, last) = (self.home_org(), self.last_org());
        let is_later = |org: &&&OrgId| last.as_ref().is_none_or(|last| **org > last);
        let later = polled.iter().filter(is_later);
        let earlier = polled.iter().filter(|org| !is_later(org));
        let others = later.chain(earlier).map(|org| (*org).clone());
        let others = others.filter(|org| home.as_ref() != Some(org));
        home.clone()
            .into_iter()
            .chain(others)
            .take(MAX_ACCOUNT_ORGS)
            .collect()
    }

    /// Handles the response for `org`, the last organization that was tried. `None` means that no organization has the
    /// account. An error does not remove the known secrets.
    fn on_fetched(
        &mut self,
        org: &OrgId,
        result: Result<Option<Vec<ClientSecret>>, Error>,
        now: Timestamp,
    ) {
        self.stored.fetched_at = Some(now);
        match result {
            Ok(secrets) => self.stored.secrets = secrets,
            Err(_) if self.home_org().as_ref() == Some(org) => {}
            // The previous organization of the account was tried first, and no longer has the account.
            Err(_) => self.stored.secrets = None,
        }
        self.stored.org = Some(org.to_string());
    }
}

fn is_service_account(client: &Client) -> bool {
    matches!(
        client.config().credential,
        Credential::ServiceAccount { .. }
    )
}

impl Scheduler {
    /// Lists the client secrets of service accounts that have an organization with an inventory: keys take precedence.
    pub(super) fn start_client_secrets(&mut self, now: Instant, wake_at: &mut Instant) {
        // A one-shot run does not wait for client secrets, so its result would depend on timing.
        if self.one_shot {
            return;
        }
        let orgs = &self.orgs;
        for state in &mut self.targets.credentials {
            let client = &state.target.client;
            if !is_service_account(client)
                || state.client_secrets.is_fetching
                || !is_due(state.client_secrets.due_at, now, wake_at)
            {
                continue;
            }
            let polled = state.accessible_orgs().filter(|org| orgs.contains_key(org));
            let polled: BTreeSet<&OrgId> = polled.collect();
            let has_inventory = |org: &&OrgId| orgs.get(org).is_some_and(OrgState::has_inventory);
            if !polled.iter().any(has_inventory) {
                continue;
            }
            let (client, orgs) = (Arc::clone(client), state.client_secrets.next_orgs(&polled));
            state.client_secrets.is_fetching = true;
            state.client_secrets.due_at = now + REFRESH_INTERVAL;
            self.tasks.spawn(tasks::fetch_client_secrets(client, orgs));
        }
    }

    pub(super) fn on_client_secrets_fetched(
        &mut self,
        credential: &str,
        last_org: Option<OrgId>,
        result: Result<Option<Vec<ClientSecret>>, Error>,
    ) {
        let Some(state) = self.targets.credential_mut(credential) else {
            return;
        };
        let client_secrets = &mut state.client_secrets;
        client_secrets.is_fetching = false;
        if let Err(error) = &result {
            debug!(credential, reason = %error.kind.reason(), "client secrets unavailable");
        }
        // The credential may have been replaced by another kind of credential during the request.
        if let Some(org) = last_org
            && is_service_account(&state.target.client)
        {
            client_secrets.on_fetched(&org, result, self.clock.now());
            self.observer.on_event(PollEvent::ClientSecretsChanged {
                credential,
                secrets: client_secrets.secrets(),
            });
            self.save_credential(credential);
        }
    }

    /// Reports the client secrets of all credentials, after a change of the plan.
    pub(super) fn report_client_secrets(&self) {
        for state in &self.targets.credentials {
            self.observer.on_event(PollEvent::ClientSecretsChanged {
                credential: state.target.client.credential_name(),
                secrets: state.client_secrets.secrets(),
            });
        }
    }
}

#[cfg(test)]
mod tests;
