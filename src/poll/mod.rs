//! Polls organizations on schedule: reads every page of an organization, and publishes its inventory.
//!
//! | module | purpose |
//! | --- | --- |
//! | `walk` | one pass over all pages, and its consistency |
//! | `collect` | walks and rechecks of one poll, built into an inventory |
//! | `diff` | the changes between two inventories |
//! | `event` | the events of the scheduler |
//! | `targets` | the organizations that are polled, and their credentials |
//! | `schedule`, `intervals` | regular times and backoff; the intervals that the rate limit allows |
//! | `org_state` | the state of one organization |
//! | `client_secrets` | the client secrets of a credential's service account |
//! | `scheduler`, `tasks` | the main loop; the tasks that it spawns |
//! | `dispatch`, `completion` | starts due tasks; handles finished tasks |
//! | `persistence` | state that survives a restart |

mod audit_log;
mod client_secrets;
mod collect;
mod completion;
mod diff;
mod dispatch;
mod event;
mod intervals;
mod org_state;
mod persistence;
mod schedule;
mod scheduler;
mod targets;
mod tasks;
#[cfg(test)]
mod tests;
mod walk;

pub use client_secrets::MAX_ACCOUNT_ORGS;
pub use collect::{PollOptions, PollReport, PrepareInventory, collect, walk_timeout};
pub use diff::{Change, KeyChange, diff};
pub use event::{PollEvent, PollObserver};
pub use schedule::{BackoffState, PollBackoff, Schedule};
pub use scheduler::{Scheduler, SchedulerCommand};
pub use targets::{CredentialTarget, PollPlan};
pub use walk::{KeyWalk, LocatedItem, Shortfall, WalkError, walk_pages};
