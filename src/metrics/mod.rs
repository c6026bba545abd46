//! What the world sees: every metric family once, in the catalogue; the exporter's own metrics;
//! the exposition of both in three forms.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `families` | every family: name, type, labels, help |
//! | `exporter_metrics` | the exporter's metrics about itself, as verbs |
//! | `selection`, `scene` | which keys have series of their own; what one scrape shows |
//! | `key_families` | the families of the inventory, written from it directly |
//! | `exposition`, `packed`, `batch` | one scrape in pieces of bounded size; packed; shared |
//! | `negotiate` | which form a scraper wants |
//! | `encoder`, `text`, `proto`, `number` | the three forms |

mod encoder;
mod exporter_metrics;
mod exposition;
pub mod families;
mod gzip;
mod key_families;
mod negotiate;
mod proto;
mod selection;
mod shared_body;
mod snapshot;
mod text;
mod threshold;
mod write_number;

pub use exporter_metrics::{ExporterMetrics, MetricSnapshot};
pub use exposition::Exposition;
pub use gzip::{Checksum, Compressor, compress_snapshot, compress_trailer, precompress};
pub use negotiate::{Format, accepts_gzip};
pub use selection::{KeyLabel, KeySeriesOptions, PerKeyMode};
pub use shared_body::{Aborted, BodyReader, Chunk, ChunkSource, SharedBody};
pub use snapshot::ScrapeSnapshot;
pub use threshold::IdleThreshold;
