//! From Atlas to the shelf: reading every page of an organization, and deciding when.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `walk` | one pass over the pages, and what it takes to believe it |
//! | `collect` | walks and second looks, made into an inventory |
//! | `diff` | what happened between two inventories |
//! | `targets` | which organizations are watched, with which credential |
//! | `schedule`, `intervals`, `interval_updates` | when an organization is due; what the request budget allows |
//! | `dispatch`, `completion` | starts what is due; handles what has completed |
//! | `restore`, `save_failures` | state of an earlier process; state that could not be written |
//! | `org_state`, `scheduler`, `tasks` | the state of one organization, the task that lets things happen, what they are |

mod collect;
mod completion;
mod diff;
mod dispatch;
mod interval_updates;
mod intervals;
mod org_state;
mod restore;
mod save_failures;
mod schedule;
mod scheduler;
mod targets;
mod tasks;
mod walk;

pub use collect::{InventoryHook, PollOptions, PollReport, collect, walk_timeout};
pub use diff::{Change, ChangeCounts, KeyChange, diff};
pub use schedule::{PollBackoff, Schedule};
pub use scheduler::{PollObserver, Scheduler, SchedulerCommand};
pub use targets::{CredentialTarget, PollPlan};
pub use walk::{KeyWalk, LocatedItem, Shortfall, WalkError, walk_pages};
