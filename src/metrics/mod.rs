//! What the world sees: every metric family once, in the catalogue; the exporter's own metrics;
//! the exposition of both.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `catalogue` | every family: name, type, labels, help |
//! | `own` | the exporter's metrics about itself, as verbs |
//! | `exposition` | one scrape, in pieces of bounded size |
//! | `series` | the families of the inventory, written from it directly |
//! | `number` | numbers as text |

pub mod catalogue;
mod exposition;
mod number;
mod own;
mod series;
mod threshold;

pub use exposition::{Exposition, TEXT_CONTENT_TYPE};
pub use own::{Gathered, Own};
pub use threshold::Threshold;
