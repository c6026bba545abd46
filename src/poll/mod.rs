//! From Atlas to the shelf: reading every page of an organization, and deciding when.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `walk` | one pass over the pages, and what it takes to believe it |
//! | `round` | a walk, once more if the keys do not add up, made into an inventory |
//! | `schedule` | when an organization is due |
//! | `scheduler` | the task that lets it happen |

mod round;
mod schedule;
mod scheduler;
mod walk;

pub use round::{Report, read};
pub use schedule::{Backoff, Schedule};
pub use scheduler::{Org, Scheduler, Watcher};
pub use walk::{Place, Walk, WalkError, walk};
