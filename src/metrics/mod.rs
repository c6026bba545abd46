//! The exposition: the list of metric families, the exporter's own metrics, and both as a response body.
//!
//! | module | purpose |
//! | --- | --- |
//! | `families` | every family: name, type, labels, help |
//! | `exporter_metrics`, `metric_snapshot` | the exporter's own metrics, updated by events; their values in one scrape |
//! | `selection` | selection of keys with per-key series; idle thresholds |
//! | `snapshot` | the data of one scrape |
//! | `key_families` | the families of the inventory, written directly from the inventory |
//! | `exposition`, `gzip`, `shared_body` | one scrape in bounded chunks; compression; sharing between concurrent scrapes |
//! | `negotiate` | content negotiation |
//! | `text` | the two text formats |

mod exporter_metrics;
mod exposition;
pub mod families;
mod gzip;
mod key_families;
mod metric_snapshot;
mod negotiate;
mod selection;
mod shared_body;
mod snapshot;
mod text;

pub use crate::inventory::KeyLabel;
pub use exporter_metrics::ExporterMetrics;
pub(crate) use exporter_metrics::RateLimit;
pub use exposition::Exposition;
pub use gzip::{Checksum, Compressor};
pub use metric_snapshot::MetricSnapshot;
pub use negotiate::{Format, accepts_gzip};
pub use selection::{IdleThreshold, KeySeriesOptions, PerKeyMode};
pub use shared_body::{Aborted, BodyReader, Chunk, ChunkSource, SharedBody};
pub use snapshot::ScrapeSnapshot;
