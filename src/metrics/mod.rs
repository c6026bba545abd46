//! What the world sees: every metric family once, in the catalogue; the exporter's own metrics;
//! the exposition of both in three forms.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `catalogue` | every family: name, type, labels, help |
//! | `own` | the exporter's metrics about itself, as verbs |
//! | `selection`, `scene` | which keys have series of their own; what one scrape shows |
//! | `series` | the families of the inventory, written from it directly |
//! | `exposition`, `packed`, `batch` | one scrape in pieces of bounded size; packed; shared |
//! | `format` | which form a scraper wants |
//! | `encoder`, `text`, `proto`, `number` | the three forms |

mod batch;
pub mod catalogue;
mod encoder;
mod exposition;
mod format;
mod number;
mod own;
mod packed;
mod proto;
mod scene;
mod selection;
mod series;
mod text;
mod threshold;

pub use batch::{Aborted, BodyReader, Chunk, ChunkSource, SharedBody};
pub use exposition::Exposition;
pub use format::{Format, wants_gzip};
pub use own::{Gathered, Own};
pub use packed::{Compressor, Sum, pack_end, pack_scene, prepare};
pub use scene::Scene;
pub use selection::{KeyLabel, PerKey, Selection};
pub use threshold::Threshold;
