//! Cost of encoding one scrape from the inventory in each format, compared with the `prometheus` crate, with
//! `prometheus-client`, and with a copy of the encoded bytes, which is the lower bound. Elements are series.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;
use std::sync::Arc;

use atlas_ai_keys_exporter::inventory::{
    ApiKey, ApiTime, Inventory, InventorySnapshot, KeyAttributes,
};
use atlas_ai_keys_exporter::metrics::{
    ChunkSource as _, Compressor, ExporterMetrics, Exposition, Format, KeyLabel, KeySeriesOptions,
    PerKeyMode, ScrapeSnapshot,
};
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use jiff::{SignedDuration, Timestamp};
use mongodb_atlas_client::{KeyId, OrgId, ProjectId};
use prometheus::{Encoder as _, GaugeVec, Opts, Registry, TextEncoder};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

const ORG: &str = "32b6e34b3d91647abb20e7b8";
/// Families with one value per key, which are compared with both crates.
const NUMERIC_FAMILIES: [&str; 5] = ["created", "last_used", "last_used_age", "idle", "used"];

fn records(keys: usize) -> Vec<ApiKey> {
    let now = Timestamp::now();
    let ago = |seconds: usize| {
        let seconds = i64::try_from(seconds).unwrap();
        now - SignedDuration::new(seconds, 123_456_000)
    };
    (0..keys)
        .map(|n| ApiKey {
            id: KeyId::new(format!("key{n:021}")),
            project: ProjectId::new(format!("{:024x}", n % 40)),
            name: format!("search-prod-{n}"),
            masked_secret: String::new(),
            attributes: KeyAttributes {
                status: "ACTIVE".into(),
                cloud: "ANY".into(),
                geography: "ANY".into(),
                endpoint: "ai.mongodb.com".into(),
                created_by: String::new(),
            },
            created: ApiTime::Valid(ago(10_000_000 + n)),
            last_used: ApiTime::Valid(ago(n)),
            ..ApiKey::default()
        })
        .collect()
}

fn build_snapshot(records: Vec<ApiKey>) -> ScrapeSnapshot {
    let (org, now) = (OrgId::parse(ORG).unwrap(), Timestamp::now());
    let inventory = Arc::new(Inventory::from_records(org, now, records));
    let shown = InventorySnapshot {
        inventories: vec![inventory.into()],
        details: Vec::new(),
    };
    let selection = KeySeriesOptions {
        per_key: PerKeyMode::All,
        labels: KeyLabel::ALL[..5].into(),
        max_keys: 10_000_000,
        thresholds: [].into(),
    };
    ScrapeSnapshot::new(shown, Arc::new(selection), now)
}

/// The numbers of each key as gauges of the `prometheus` crate, set at each scrape.
struct PrometheusCrate {
    registry: Registry,
    gauges: Vec<GaugeVec>,
}

impl PrometheusCrate {
    fn new() -> Self {
        let registry = Registry::new();
        let gauges = NUMERIC_FAMILIES
            .map(|name| {
                let labels = ["org_id", "project_id", "api_key_id"];
                let gauge = GaugeVec::new(Opts::new(name, "A number."), &labels).unwrap();
                registry.register(Box::new(gauge.clone())).unwrap();
                gauge
            })
            .to_vec();
        Self { registry, gauges }
    }

    fn scrape(&self, records: &[ApiKey]) -> Vec<u8> {
        for (number, gauge) in (1_u32..).zip(&self.gauges) {
            for record in records {
                let labels = [ORG, record.project.as_str(), record.id.as_str()];
                gauge.with_label_values(&labels).set(f64::from(number));
            }
        }
        let mut out = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut out)
            .unwrap();
        out
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
#[allow(clippy::struct_field_names, reason = "these are the labels")]
struct Labels {
    org_id: String,
    project_id: String,
    api_key_id: String,
}

/// The same gauges with `prometheus-client`, set in advance, so that only encoding is measured.
fn prometheus_client_registry(records: &[ApiKey]) -> prometheus_client::registry::Registry {
    let mut registry = prometheus_client::registry::Registry::default();
    for name in NUMERIC_FAMILIES {
        let family = Family::<Labels, Gauge>::default();
        for record in records {
            let labels = Labels {
                org_id: ORG.to_owned(),
                project_id: record.project.to_string(),
                api_key_id: record.id.to_string(),
            };
            family.get_or_create(&labels).set(1_790_000_000);
        }
        registry.register(name, "A number", family);
    }
    registry
}

fn bench_formats(group: &mut BenchmarkGroup<'_, WallTime>, keys: usize, snapshot: &ScrapeSnapshot) {
    let own = ExporterMetrics::new().unwrap();
    for format in Format::ALL {
        group.bench_with_input(
            BenchmarkId::new(format!("{format:?}"), keys),
            &(),
            |b, ()| {
                b.iter(|| {
                    let mut exposition = Exposition::new(format, own.gather(), snapshot.clone());
                    while let Some(piece) = exposition.next_chunk() {
                        black_box(piece);
                    }
                });
            },
        );
    }
    group.bench_with_input(BenchmarkId::new("Text, gzip", keys), &(), |b, ()| {
        b.iter(|| {
            let mut compressor = Compressor::new(Format::Text, snapshot.clone());
            let mut chunks = Vec::new();
            while compressor.advance(&mut chunks) {
                chunks.drain(..).for_each(|chunk| drop(black_box(chunk)));
            }
            let checksum = compressor.checksum();
            black_box((
                chunks,
                Compressor::finish(Format::Text, &own.gather(), checksum),
            ));
        });
    });
    let mut exposition = Exposition::new(Format::Text, own.gather(), snapshot.clone());
    let chunks = std::iter::from_fn(|| exposition.next_chunk());
    let finished: Vec<u8> = chunks.flatten().collect();
    group.bench_with_input(BenchmarkId::new("copy", keys), &(), |b, ()| {
        b.iter(|| black_box(finished.clone()));
    });
}

fn bench_encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("writing");
    group.sample_size(10);
    for keys in [1_000, 10_000, 100_000, 1_000_000] {
        let records = records(keys);
        let peers = keys <= 100_000;
        // Six families per key, including the info metric.
        group.throughput(Throughput::Elements(6 * keys as u64));
        bench_formats(&mut group, keys, &build_snapshot(records.clone()));
        if !peers {
            // The two crates would need minutes and gigabytes here.
            continue;
        }
        group.throughput(Throughput::Elements((NUMERIC_FAMILIES.len() * keys) as u64));
        let stock = PrometheusCrate::new();
        group.bench_with_input(BenchmarkId::new("prometheus", keys), &(), |b, ()| {
            b.iter(|| black_box(stock.scrape(&records)));
        });
        let client = prometheus_client_registry(&records);
        group.bench_with_input(BenchmarkId::new("prometheus-client", keys), &(), |b, ()| {
            b.iter(|| {
                let mut out = String::new();
                prometheus_client::encoding::text::encode(&mut out, &client).unwrap();
                black_box(out)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench_encode);
criterion_main!(benches);
