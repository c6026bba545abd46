//! What one scrape costs to write: from the inventory directly, the stock way of the `prometheus`
//! crate with the same series, and a copy of the finished bytes, which is the limit.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;
use std::sync::Arc;

use atlas_ai_keys_exporter::ids::{KeyId, OrgId, ProjectId};
use atlas_ai_keys_exporter::inventory::{Inventory, KeyKind, KeyRecord, Moment, Shown};
use atlas_ai_keys_exporter::metrics::{
    Exposition, Format, KeyLabel, Own, PerKey, Scene, Selection,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jiff::{SignedDuration, Timestamp};
use prometheus::{Encoder as _, GaugeVec, Opts, Registry, TextEncoder};

const ORG: &str = "32b6e34b3d91647abb20e7b8";

fn records(keys: usize) -> Vec<KeyRecord> {
    let now = Timestamp::now();
    let ago = |seconds: usize| {
        let seconds = i64::try_from(seconds).unwrap();
        now - SignedDuration::new(seconds, 123_456_000)
    };
    (0..keys)
        .map(|n| KeyRecord {
            id: KeyId::new(format!("key{n:021}")),
            project: ProjectId::new(format!("{:024x}", n % 40)),
            name: format!("search-prod-{n}"),
            masked_secret: String::new(),
            kind: KeyKind {
                status: "ACTIVE".into(),
                cloud: "ANY".into(),
                geography: "ANY".into(),
                endpoint: "ai.mongodb.com".into(),
                created_by: String::new(),
            },
            created: Moment::At(ago(10_000_000 + n)),
            last_used: Moment::At(ago(n)),
        })
        .collect()
}

/// The numbers of each key as gauges: what an exporter does that sets them at each scrape.
struct Stock {
    registry: Registry,
    gauges: Vec<GaugeVec>,
}

impl Stock {
    fn new() -> Self {
        let registry = Registry::new();
        let gauges = ["created", "last_used", "last_used_age", "idle", "used"]
            .map(|name| {
                let labels = ["org_id", "project_id", "api_key_id"];
                let gauge = GaugeVec::new(Opts::new(name, "A number."), &labels).unwrap();
                registry.register(Box::new(gauge.clone())).unwrap();
                gauge
            })
            .to_vec();
        Self { registry, gauges }
    }

    fn scrape(&self, records: &[KeyRecord]) -> Vec<u8> {
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

fn writing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("writing");
    for keys in [1_000, 10_000, 100_000] {
        let records = records(keys);
        let org = OrgId::parse(ORG).unwrap();
        let now = Timestamp::now();
        let inventory = Arc::new(Inventory::new(org, (now, now), records.clone(), 0, &[]));
        let own = Own::new().unwrap();
        let selection = Arc::new(Selection {
            per_key: PerKey::All,
            labels: KeyLabel::ALL[..5].into(),
            max_keys: 1_000_000,
            thresholds: [].into(),
        });
        let scrape = || {
            let shown = Shown {
                inventories: vec![Arc::clone(&inventory)],
                details: Vec::new(),
            };
            let scene = Scene::new(shown, Arc::clone(&selection), now);
            Exposition::new(Format::Text, own.gather(), scene)
        };
        // six families a key, the info metric among them
        group.throughput(Throughput::Elements(6 * keys as u64));
        group.bench_with_input(BenchmarkId::new("inventory", keys), &(), |b, ()| {
            b.iter(|| {
                let mut exposition = scrape();
                while let Some(piece) = exposition.next_piece() {
                    black_box(piece);
                }
            });
        });
        let finished = scrape().whole();
        group.bench_with_input(BenchmarkId::new("copy", keys), &(), |b, ()| {
            b.iter(|| black_box(finished.clone()));
        });
        let stock = Stock::new();
        group.throughput(Throughput::Elements(5 * keys as u64));
        group.sample_size(10);
        group.bench_with_input(BenchmarkId::new("stock", keys), &(), |b, ()| {
            b.iter(|| black_box(stock.scrape(&records)));
        });
    }
    group.finish();
}

criterion_group!(benches, writing);
criterion_main!(benches);
