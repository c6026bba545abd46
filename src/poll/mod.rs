//! From Atlas to the shelf: reading every page of an organization, and deciding when.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `walk` | one pass over the pages, and what it takes to believe it |
//! | `round` | walks and second looks, made into an inventory |
//! | `changes` | what happened between two inventories |
//! | `fleet` | which organizations are watched, with which credential |
//! | `schedule`, `pace` | when an organization is due; what the request budget allows |
//! | `watch`, `scheduler`, `jobs` | the state of one organization, the task that lets things happen, what they are |
//! | `storage` | what survives a restart |

mod changes;
mod fleet;
mod jobs;
mod pace;
mod round;
mod schedule;
mod scheduler;
mod storage;
mod walk;
mod watch;

pub use changes::{Change, Counts, KeyChange, between};
pub use fleet::{Member, Plan};
pub use round::{Manner, Prepare, Report, read, walk_timeout};
pub use schedule::{Backoff, Schedule};
pub use scheduler::{Command, Scheduler, Watcher};
pub use storage::{Account, Deferred, Saved, Storage, StorageError, Stored};
pub use walk::{Place, Shortfall, Walk, WalkError, walk};
