//! What the scheduler's tasks do, each to its end, and what they report.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::debug;

use super::collect::{self, Manner, Report};
use super::diff::Counts;
use super::walk::WalkError;
use crate::inventory::{Details, Inventory, Limit, ProjectName};
use crate::storage::{Account, Deferred, Paper, SAVE_TIMEOUT, Saved, Storage, StorageError};
use exporter_toolkit::bounded_file::READ_TIMEOUT;
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{Client, Endpoint, EndpointSet, Error, OrgList};

/// The report of a task.
pub(super) enum Ended {
    /// A walk.
    Walk {
        org: OrgId,
        took: Duration,
        result: Result<Report, WalkError>,
    },
    /// Something was kept, or not.
    Kept {
        paper: Paper,
        result: Result<(), StorageError>,
    },
    /// Names and limits were asked for.
    Details { org: OrgId, details: Details },
    /// The organizations that a credential can see.
    Listed {
        credential: Arc<str>,
        result: Result<OrgList, Error>,
    },
    /// The rate limits of a credential.
    Limits {
        credential: Arc<str>,
        result: Result<Vec<EndpointSet>, Error>,
    },
    /// A client that is no longer used has given back its token.
    Closed,
}

/// A walk. `if_killed` is kept before it begins, and forgotten when it was complete.
pub(super) async fn walk(
    client: Arc<Client>,
    org: OrgId,
    manner: Manner,
    previous: Option<Arc<Inventory>>,
    if_killed: Option<(Storage, Deferred)>,
) -> Ended {
    let begun = Instant::now();
    if let Some((storage, deferred)) = if_killed {
        let id = org.clone();
        // a disk that takes nothing is told when the result is to be kept
        let _ = storage
            .run(READ_TIMEOUT, move |storage| storage.defer(&id, deferred))
            .await;
    }
    // a bug that strikes one organization must not end the watch over it
    let result = AssertUnwindSafe(collect::read(&client, &org, &manner, previous))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(collect::bug()));
    Ended::Walk {
        org,
        took: begun.elapsed(),
        result,
    }
}

/// Keeps a complete walk.
pub(super) async fn keep(
    storage: Storage,
    inventory: Arc<Inventory>,
    requests: u32,
    counts: Counts,
) -> Ended {
    let paper = Paper::Walk(inventory.org().clone());
    save(storage, paper, move |storage| {
        storage.save(&Saved {
            inventory: &inventory,
            requests,
            counts: &counts,
        })
    })
    .await
}

/// Keeps that a walk failed.
pub(super) async fn defer(storage: Storage, org: OrgId, deferred: Deferred) -> Ended {
    let paper = Paper::Deferral(org.clone());
    save(storage, paper, move |storage| storage.defer(&org, deferred)).await
}

/// Keeps names and limits.
pub(super) async fn keep_details(storage: Storage, org: OrgId, details: Arc<Details>) -> Ended {
    let paper = Paper::Details(org.clone());
    save(storage, paper, move |storage| {
        storage.save_details(&org, &details)
    })
    .await
}

/// Keeps what a credential can see.
pub(super) async fn keep_account(
    storage: Storage,
    credential: Arc<str>,
    account: Account,
) -> Ended {
    let paper = Paper::Account(Arc::clone(&credential));
    save(storage, paper, move |storage| {
        storage.save_account(&credential, &account)
    })
    .await
}

/// Writes to storage and reports the result. Neither a panic nor a file system that does not answer is a success.
async fn save(
    storage: Storage,
    paper: Paper,
    write: impl FnOnce(&Storage) -> Result<(), StorageError> + Send + 'static,
) -> Ended {
    let result = storage.run(SAVE_TIMEOUT, write).await.flatten();
    Ended::Kept { paper, result }
}

/// Returns the result of `request`, and an error where it panics: a task that reports nothing would never be
/// repeated.
async fn catch_panic<T>(
    endpoint: Endpoint,
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let result = AssertUnwindSafe(request).catch_unwind().await;
    result.unwrap_or_else(|_| Err(collect::bug().error.problem.at(endpoint)))
}

/// Asks for names and limits. What is not told stays as it was `before`; nothing of it matters to
/// the keys, so that a role which does not allow it breaks nothing.
pub(super) async fn details(
    client: Arc<Client>,
    org: OrgId,
    listed_name: Option<String>,
    before: Option<Arc<Details>>,
    now: Timestamp,
) -> Ended {
    let before = before.map(|before| (*before).clone()).unwrap_or_default();
    let name = async {
        if listed_name.is_some() {
            return listed_name;
        }
        let name = catch_panic(Endpoint::Org, client.org_name(&org)).await;
        told(&org, name).flatten()
    };
    let projects = catch_panic(Endpoint::Groups, client.projects(&org));
    let limits = catch_panic(Endpoint::AiModelApiRateLimits, client.model_limits(&org));
    let (name, projects, limits) = tokio::join!(name, projects, limits);
    let projects = told(&org, projects).map(|projects| {
        projects
            .into_iter()
            .map(|project| ProjectName {
                id: project.id,
                name: project.name,
            })
            .collect()
    });
    let limits = told(&org, limits).map(|limits| {
        limits
            .into_iter()
            .map(|limit| Limit {
                group: limit.group,
                cloud: limit.cloud,
                geography: limit.geography,
                requests_per_minute: limit.requests_per_minute,
                tokens_per_minute: limit.tokens_per_minute,
            })
            .collect()
    });
    let details = Details {
        name: name.or(before.name),
        projects: projects.unwrap_or(before.projects),
        limits: limits.unwrap_or(before.limits),
        asked_at: Some(now),
    };
    Ended::Details { org, details }
}

fn told<T>(org: &OrgId, answer: Result<T, Error>) -> Option<T> {
    answer
        .inspect_err(|error| {
            debug!(%org, endpoint = %error.endpoint, reason = %error.problem.reason(), "not told; what was known stays");
        })
        .ok()
}

pub(super) async fn list(client: Arc<Client>) -> Ended {
    Ended::Listed {
        credential: Arc::clone(client.name()),
        result: catch_panic(Endpoint::Orgs, client.orgs()).await,
    }
}

pub(super) async fn limits(client: Arc<Client>, org: OrgId) -> Ended {
    Ended::Limits {
        credential: Arc::clone(client.name()),
        result: catch_panic(Endpoint::RateLimits, client.rate_limits(&org)).await,
    }
}

pub(super) async fn close(client: Arc<Client>) -> Ended {
    // the token ends by itself within the hour, whatever happens here
    let _ = AssertUnwindSafe(client.close()).catch_unwind().await;
    Ended::Closed
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb_atlas_client::Reason;

    #[tokio::test]
    async fn a_save_that_panics_is_no_success() {
        let dir = tempfile::tempdir().expect("a directory");
        let storage = Storage::open(dir.path()).expect("opened");
        let paper = Paper::Account("default".into());
        let ended = save(storage.clone(), paper.clone(), |_| panic!("a bug")).await;
        let Ended::Kept { result, .. } = ended else {
            panic!("a report of another task");
        };
        let error = result.expect_err("a panic").to_string();
        assert!(error.contains("panicked"), "{error}");
        let saved = save(storage, paper, |_| Ok(())).await;
        assert!(matches!(saved, Ended::Kept { result: Ok(()), .. }));
    }

    #[tokio::test]
    async fn a_request_that_panics_is_reported_as_failed() {
        let panics = async { panic!("a bug") };
        let error = catch_panic::<()>(Endpoint::Orgs, panics).await;
        let error = error.expect_err("a panic");
        assert_eq!(error.endpoint, Endpoint::Orgs);
        assert_eq!(error.problem.reason(), Reason::InvalidResponse);
    }
}
