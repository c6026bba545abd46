//! What the scheduler's tasks do, each to its end, and what they report.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::debug;

use super::changes::Counts;
use super::round::{self, Manner, Report};
use super::storage::{Account, Deferred, Paper, Saved, Storage, StorageError};
use super::walk::WalkError;
use crate::atlas::{Client, EndpointSet, Error, ListedOrg};
use crate::ids::OrgId;
use crate::inventory::{Details, Inventory, Limit, ProjectName};

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
        result: Result<Vec<ListedOrg>, Error>,
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
        let _ = tokio::task::spawn_blocking(move || storage.defer(&id, deferred)).await;
    }
    // a bug that strikes one organization must not end the watch over it
    let result = AssertUnwindSafe(round::read(&client, &org, &manner, previous))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(round::bug()));
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
    let org = inventory.org().clone();
    let kept = tokio::task::spawn_blocking(move || {
        storage.save(&Saved {
            inventory: &inventory,
            requests,
            counts: &counts,
        })
    });
    Ended::Kept {
        paper: Paper::Walk(org),
        // a task that panicked has told so already
        result: kept.await.unwrap_or(Ok(())),
    }
}

/// Keeps that a walk failed.
pub(super) async fn defer(storage: Storage, org: OrgId, deferred: Deferred) -> Ended {
    let id = org.clone();
    let kept = tokio::task::spawn_blocking(move || storage.defer(&id, deferred));
    Ended::Kept {
        paper: Paper::Deferral(org),
        result: kept.await.unwrap_or(Ok(())),
    }
}

/// Keeps names and limits.
pub(super) async fn keep_details(storage: Storage, org: OrgId, details: Arc<Details>) -> Ended {
    let paper = Paper::Details(org.clone());
    let kept = tokio::task::spawn_blocking(move || storage.save_details(&org, &details));
    Ended::Kept {
        paper,
        result: kept.await.unwrap_or(Ok(())),
    }
}

/// Keeps what a credential can see.
pub(super) async fn keep_account(
    storage: Storage,
    credential: Arc<str>,
    account: Account,
) -> Ended {
    let name = Arc::clone(&credential);
    let kept = tokio::task::spawn_blocking(move || storage.save_account(&name, &account));
    Ended::Kept {
        paper: Paper::Account(credential),
        result: kept.await.unwrap_or(Ok(())),
    }
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
        match listed_name {
            Some(name) => Some(name),
            None => told(&org, client.org_name(&org).await).flatten(),
        }
    };
    let (name, projects, limits) =
        tokio::join!(name, client.projects(&org), client.model_limits(&org));
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
        result: client.orgs().await,
    }
}

pub(super) async fn limits(client: Arc<Client>, org: OrgId) -> Ended {
    Ended::Limits {
        credential: Arc::clone(client.name()),
        result: client.rate_limits(&org).await,
    }
}

pub(super) async fn close(client: Arc<Client>) -> Ended {
    client.close().await;
    Ended::Closed
}
