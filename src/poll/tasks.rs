//! What the scheduler's tasks do, each to its end, and what they report.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::debug;

use super::collect::{self, PollOptions, PollReport};
use super::diff::ChangeCounts;
use super::walk::WalkError;
use crate::inventory::{Inventory, ModelRateLimit, OrgDetails, ProjectName};
use crate::storage::{
    BackoffState, CredentialSnapshot, SAVE_TIMEOUT, Saved, StateFile, Storage, StorageError,
};
use exporter_toolkit::bounded_file::READ_TIMEOUT;
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{Client, Endpoint, EndpointSet, Error, OrgList};

/// The report of a task.
pub(super) enum TaskOutput {
    /// A walk.
    PollFinished {
        org: OrgId,
        duration: Duration,
        result: Result<PollReport, WalkError>,
    },
    /// Something was kept, or not.
    SaveFinished {
        file: StateFile,
        result: Result<(), StorageError>,
    },
    /// Names and limits were asked for.
    DetailsFetched { org: OrgId, details: OrgDetails },
    /// The organizations that a credential can see.
    OrgsListed {
        credential: Arc<str>,
        result: Result<OrgList, Error>,
    },
    /// The rate limits of a credential.
    RateLimitsFetched {
        credential: Arc<str>,
        result: Result<Vec<EndpointSet>, Error>,
    },
    /// A client that is no longer used has given back its token.
    TokenRevoked,
}

/// A walk. `if_killed` is kept before it begins, and forgotten when it was complete.
pub(super) async fn run_poll(
    client: Arc<Client>,
    org: OrgId,
    manner: PollOptions,
    previous: Option<Arc<Inventory>>,
    if_killed: Option<(Storage, BackoffState)>,
) -> TaskOutput {
    let begun = Instant::now();
    if let Some((storage, deferred)) = if_killed {
        let id = org.clone();
        // a disk that takes nothing is told when the result is to be kept
        let _ = storage
            .run_blocking(READ_TIMEOUT, move |storage| {
                storage.save_backoff(&id, deferred)
            })
            .await;
    }
    // a bug that strikes one organization must not end the watch over it
    let result = AssertUnwindSafe(collect::collect(&client, &org, &manner, previous))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(collect::panic_error()));
    TaskOutput::PollFinished {
        org,
        duration: begun.elapsed(),
        result,
    }
}

/// Keeps a complete walk.
pub(super) async fn save_inventory(
    storage: Storage,
    inventory: Arc<Inventory>,
    requests: u32,
    counts: ChangeCounts,
) -> TaskOutput {
    let paper = StateFile::Inventory(inventory.org().clone());
    save(storage, paper, move |storage| {
        storage.save_inventory(&Saved {
            inventory: &inventory,
            requests,
            change_counts: &counts,
        })
    })
    .await
}

/// Keeps that a walk failed.
pub(super) async fn save_backoff(
    storage: Storage,
    org: OrgId,
    deferred: BackoffState,
) -> TaskOutput {
    let paper = StateFile::Backoff(org.clone());
    save(storage, paper, move |storage| {
        storage.save_backoff(&org, deferred)
    })
    .await
}

/// Keeps names and limits.
pub(super) async fn save_details(
    storage: Storage,
    org: OrgId,
    details: Arc<OrgDetails>,
) -> TaskOutput {
    let paper = StateFile::Details(org.clone());
    save(storage, paper, move |storage| {
        storage.save_details(&org, &details)
    })
    .await
}

/// Keeps what a credential can see.
pub(super) async fn save_credential(
    storage: Storage,
    credential: Arc<str>,
    account: CredentialSnapshot,
) -> TaskOutput {
    let paper = StateFile::Credential(Arc::clone(&credential));
    save(storage, paper, move |storage| {
        storage.save_credential(&credential, &account)
    })
    .await
}

/// Writes to storage and reports the result. Neither a panic nor a file system that does not answer is a success.
async fn save(
    storage: Storage,
    paper: StateFile,
    write: impl FnOnce(&Storage) -> Result<(), StorageError> + Send + 'static,
) -> TaskOutput {
    let result = storage.run_blocking(SAVE_TIMEOUT, write).await.flatten();
    TaskOutput::SaveFinished {
        file: paper,
        result,
    }
}

/// Returns the result of `request`, and an error where it panics: a task that reports nothing would never be
/// repeated.
async fn catch_panic<T>(
    endpoint: Endpoint,
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let result = AssertUnwindSafe(request).catch_unwind().await;
    result.unwrap_or_else(|_| Err(collect::panic_error().error.kind.with_endpoint(endpoint)))
}

/// Asks for names and limits. What is not told stays as it was `before`; nothing of it matters to
/// the keys, so that a role which does not allow it breaks nothing.
pub(super) async fn fetch_details(
    client: Arc<Client>,
    org: OrgId,
    listed_name: Option<String>,
    before: Option<Arc<OrgDetails>>,
    now: Timestamp,
) -> TaskOutput {
    let before = before.map(|before| (*before).clone()).unwrap_or_default();
    let name = async {
        if listed_name.is_some() {
            return listed_name;
        }
        let name = catch_panic(Endpoint::Org, client.get_org_name(&org)).await;
        ok_or_log(&org, name).flatten()
    };
    let projects = catch_panic(Endpoint::Groups, client.list_projects(&org));
    let limits = catch_panic(
        Endpoint::AiModelApiRateLimits,
        client.list_model_limits(&org),
    );
    let (name, projects, limits) = tokio::join!(name, projects, limits);
    let projects = ok_or_log(&org, projects).map(|projects| {
        projects
            .into_iter()
            .map(|project| ProjectName {
                id: project.id,
                name: project.name,
            })
            .collect()
    });
    let limits = ok_or_log(&org, limits).map(|limits| {
        limits
            .into_iter()
            .map(|limit| ModelRateLimit {
                group: limit.model_group,
                cloud: limit.cloud,
                geography: limit.geography,
                requests_per_minute: limit.requests_per_minute,
                tokens_per_minute: limit.tokens_per_minute,
            })
            .collect()
    });
    let details = OrgDetails {
        name: name.or(before.name),
        projects: projects.unwrap_or(before.projects),
        limits: limits.unwrap_or(before.limits),
        asked_at: Some(now),
    };
    TaskOutput::DetailsFetched { org, details }
}

fn ok_or_log<T>(org: &OrgId, answer: Result<T, Error>) -> Option<T> {
    answer
        .inspect_err(|error| {
            debug!(%org, endpoint = %error.endpoint, reason = %error.kind.reason(), "not told; what was known stays");
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

pub(super) async fn revoke_token(client: Arc<Client>) -> TaskOutput {
    // the token ends by itself within the hour, whatever happens here
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
        let paper = StateFile::Credential("default".into());
        let ended = save(storage.clone(), paper.clone(), |_| panic!("a bug")).await;
        let TaskOutput::SaveFinished { result, .. } = ended else {
            panic!("a report of another task");
        };
        let error = result.expect_err("a panic").to_string();
        assert!(error.contains("panicked"), "{error}");
        let saved = save(storage, paper, |_| Ok(())).await;
        assert!(matches!(
            saved,
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
