//! The tasks that the scheduler spawns, and their results.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::debug;

use super::collect::{PollOptions, PollReport, collect};
use super::schedule::BackoffState;
use super::walk::WalkError;
use crate::inventory::{Inventory, InventoryStore, OrgDetails};
use crate::storage::{SAVE_TIMEOUT, StateFile, Storage, StorageError};
use exporter_toolkit::bounded_file::READ_TIMEOUT;
use mongodb_atlas_client::{Client, ClientSecret, Endpoint, EndpointSet, Error, OrgId, OrgList};

/// The result of a task.
pub(super) enum TaskOutput {
    PollFinished {
        org: OrgId,
        duration: Duration,
        result: Result<PollReport, WalkError>,
    },
    SaveFinished {
        file: StateFile,
        result: Result<(), StorageError>,
    },
    DetailsFetched {
        org: OrgId,
        details: Arc<OrgDetails>,
    },
    OrgsListed {
        credential: Arc<str>,
        result: Result<OrgList, Error>,
    },
    RateLimitsFetched {
        credential: Arc<str>,
        result: Result<Vec<EndpointSet>, Error>,
    },
    ClientSecretsFetched {
        credential: Arc<str>,
        /// The last organization that was tried, and its response.
        last_org: Option<OrgId>,
        result: Result<Option<Vec<ClientSecret>>, Error>,
    },
    TokenRevoked,
}

/// Polls an organization. `crash_backoff` is stored before the poll, and removed after a successful one.
pub(super) async fn run_poll(
    client: Arc<Client>,
    org: OrgId,
    options: PollOptions,
    previous: Option<Arc<Inventory>>,
    crash_backoff: Option<(Storage, BackoffState)>,
) -> TaskOutput {
    let started = Instant::now();
    if let Some((storage, backoff)) = crash_backoff {
        let file = StateFile::Backoff(org.clone());
        let save = move |storage: &Storage| storage.save(&file, &backoff);
        // A full disk is reported when the result is stored.
        let _ = storage.run_blocking(READ_TIMEOUT, save).await;
    }
    // A panic must not end the polls of the organization.
    let result = AssertUnwindSafe(collect(&client, &org, &options, previous))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(WalkError::panicked()));
    TaskOutput::PollFinished {
        org,
        duration: started.elapsed(),
        result,
    }
}

/// Writes `file` with `write`. A panic and a timeout of the file system are errors.
pub(super) async fn save(
    storage: Storage,
    file: StateFile,
    write: impl FnOnce(&Storage, &StateFile) -> Result<(), StorageError> + Send + 'static,
) -> TaskOutput {
    let written = file.clone();
    let write = move |storage: &Storage| write(storage, &written);
    let result = storage.run_blocking(SAVE_TIMEOUT, write).await.flatten();
    TaskOutput::SaveFinished { file, result }
}

/// Returns the result of `request`, or an error if it panics: a task without a result would never be repeated.
async fn catch_panic<T>(
    endpoint: Endpoint,
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let result = AssertUnwindSafe(request).catch_unwind().await;
    result.unwrap_or_else(|_| Err(WalkError::panicked().error.kind.with_endpoint(endpoint)))
}

/// Fetches names, owner tags and model rate limits, and inserts them into `store`. Values that cannot be read remain
/// unchanged. Keys do not depend on them, so a role without access to them affects nothing else.
pub(super) async fn fetch_details(
    client: Arc<Client>,
    org: OrgId,
    listed_name: Option<String>,
    owner_tag: Option<String>,
    store: Arc<InventoryStore>,
    now: Timestamp,
) -> TaskOutput {
    let name = async {
        if listed_name.is_some() {
            return listed_name;
        }
        let name = catch_panic(Endpoint::Org, client.get_org_name(&org)).await;
        ok_or_log(&org, name).flatten()
    };
    let projects = catch_panic(
        Endpoint::Groups,
        client.list_projects(&org, owner_tag.as_deref()),
    );
    let limits = catch_panic(
        Endpoint::AiModelApiRateLimits,
        client.list_model_limits(&org),
    );
    let (name, projects, limits) = tokio::join!(name, projects, limits);
    let previous = store.details(&org);
    let mut details = previous.map_or_else(OrgDetails::default, Arc::unwrap_or_clone);
    details.name = name.or(details.name);
    if let Some(projects) = ok_or_log(&org, projects) {
        details.projects = projects;
        details.owner_tag = owner_tag;
    }
    if let Some(limits) = ok_or_log(&org, limits) {
        details.limits = limits;
    }
    details.fetched_at = Some(now);
    let details = Arc::new(details);
    let (inserted, id) = (Arc::clone(&details), org.clone());
    let insert = move || store.insert_details(&id, &inserted);
    // A panic has been logged.
    let _ = tokio::task::spawn_blocking(insert).await;
    TaskOutput::DetailsFetched { org, details }
}

fn ok_or_log<T>(org: &OrgId, response: Result<T, Error>) -> Option<T> {
    response
        .inspect_err(|error| {
            debug!(%org, operation = %error.endpoint, reason = %error.kind.reason(), "names or limits unavailable; keeping previous values");
        })
        .ok()
}

pub(super) async fn list_orgs(client: Arc<Client>) -> TaskOutput {
    TaskOutput::OrgsListed {
        credential: Arc::clone(client.credential_name()),
        result: catch_panic(Endpoint::Orgs, client.list_orgs()).await,
    }
}

pub(super) async fn fetch_rate_limits(client: Arc<Client>, org: OrgId) -> TaskOutput {
    TaskOutput::RateLimitsFetched {
        credential: Arc::clone(client.credential_name()),
        result: catch_panic(Endpoint::RateLimits, client.list_rate_limits(&org)).await,
    }
}

/// Lists the client secrets of a service account: tries the organizations in order, up to the organization of the account.
pub(super) async fn fetch_client_secrets(client: Arc<Client>, orgs: Vec<OrgId>) -> TaskOutput {
    let (mut last_org, mut result) = (None, Ok(None));
    for org in orgs {
        let request = client.list_client_secrets(&org);
        result = catch_panic(Endpoint::ServiceAccount, request).await;
        last_org = Some(org);
        if !matches!(result, Ok(None)) {
            break;
        }
    }
    TaskOutput::ClientSecretsFetched {
        credential: Arc::clone(client.credential_name()),
        last_org,
        result,
    }
}

pub(super) async fn revoke_token(client: Arc<Client>) -> TaskOutput {
    // A token that is not revoked expires within an hour.
    let _ = AssertUnwindSafe(client.revoke_token()).catch_unwind().await;
    TaskOutput::TokenRevoked
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb_atlas_client::FailureReason;

    #[tokio::test]
    async fn panicking_save_is_reported_as_failed() {
        let dir = tempfile::tempdir().expect("a directory");
        let storage = Storage::open(dir.path()).expect("opened");
        let file = StateFile::Credential("default".into());
        let output = save(storage.clone(), file.clone(), |_, _| panic!("a bug")).await;
        let TaskOutput::SaveFinished { result, .. } = output else {
            panic!("the result of another task");
        };
        let error = result.expect_err("a panic").to_string();
        assert!(error.contains("panicked"), "{error}");
        let output = save(storage, file, |_, _| Ok(())).await;
        assert!(matches!(
            output,
            TaskOutput::SaveFinished { result: Ok(()), .. }
        ));
    }

    #[tokio::test]
    async fn panicking_request_is_reported_as_failed() {
        let panics = async { panic!("a bug") };
        let error = catch_panic::<()>(Endpoint::Orgs, panics).await;
        let error = error.expect_err("a panic");
        assert_eq!(error.endpoint, Endpoint::Orgs);
        assert_eq!(error.kind.reason(), FailureReason::InvalidResponse);
    }
}
