//! Cost of owners and exemptions: a scrape of 100,000 keys in 2,000 projects without exemptions, and with 1,000 exemptions
//! and an owner of each project. `classify` is the work of a poll or a reload, which does not run on the serving threads.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use atlas_ai_keys_exporter::inventory::{
    ApiKey, ApiTime, ClassifiedInventory, DetailsWithOwners, Inventory, InventorySnapshot,
    KeyAttributes, OrgDetails,
};
use atlas_ai_keys_exporter::key_policy::{
    Exemption, Exemptions, KeyPolicy, KeySelector, OwnerRule, OwnerRules, ProjectPattern,
};
use atlas_ai_keys_exporter::metrics::{
    ChunkSource as _, Compressor, ExporterMetrics, Exposition, Format, IdleThreshold, KeyLabel,
    KeySeriesOptions, PerKeyMode, ScrapeSnapshot,
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use jiff::{SignedDuration, Timestamp};
use mongodb_atlas_client::{KeyId, OrgId, Project, ProjectId};

const ORG: &str = "32b6e34b3d91647abb20e7b8";
const KEYS: usize = 100_000;
const PROJECTS: usize = 2_000;
const EXEMPTIONS: usize = 1_000;

fn project_id(n: usize) -> ProjectId {
    ProjectId::new(format!("{n:024x}"))
}

fn inventory() -> Arc<Inventory> {
    let now = Timestamp::now();
    let ago = |seconds: usize| now - SignedDuration::from_secs(i64::try_from(seconds).unwrap());
    let records = (0..KEYS).map(|n| ApiKey {
        id: KeyId::new(format!("key{n:021}")),
        project: project_id(n % PROJECTS),
        name: format!("search-prod-{n}"),
        attributes: KeyAttributes {
            status: if n % 10 == 0 { "INACTIVE" } else { "ACTIVE" }.into(),
            ..KeyAttributes::default()
        },
        created: ApiTime::Valid(ago(20_000_000 + n)),
        last_used: match n % 3 {
            0 => ApiTime::Missing,
            _ => ApiTime::Valid(ago(n * 137)),
        },
        ..ApiKey::default()
    });
    let org = OrgId::parse(ORG).unwrap();
    Arc::new(Inventory::from_records(org, now, records))
}

/// Half of the exemptions select a key by id, a quarter by name in one project, and a quarter by name in all projects.
fn policy() -> Arc<KeyPolicy> {
    let exemptions = (0..EXEMPTIONS).map(|n| {
        let project = |text: String| Some(ProjectPattern::parse(&text).unwrap());
        let name = format!("search-*-{n}");
        let of_project = format!("s*-{n}");
        let selector = match n % 4 {
            0 | 1 => KeySelector::Id(KeyId::new(format!("key{:021}", n * 97))),
            2 => KeySelector::parse_name(&name, None).unwrap(),
            _ => KeySelector::parse_name(&of_project, project(format!("project-{n}"))).unwrap(),
        };
        Exemption {
            selector,
            reason: "disaster recovery".into(),
            until: format!("2099-01-{:02}", n % 28 + 1).parse().unwrap(),
        }
    });
    let owners = (0..100).map(|n| OwnerRule {
        projects: vec![ProjectPattern::parse(&format!("project-{n}*")).unwrap()],
        owner: format!("team-{n}").into(),
    });
    Arc::new(KeyPolicy {
        owners: OwnerRules::new(owners.collect()),
        exemptions: Exemptions::new(exemptions.collect()).unwrap(),
    })
}

fn details() -> Arc<OrgDetails> {
    let projects = (0..PROJECTS).map(|n| Project {
        id: project_id(n),
        name: format!("project-{n}"),
        tag: None,
    });
    Arc::new(OrgDetails {
        projects: projects.collect(),
        ..OrgDetails::default()
    })
}

fn snapshot(inventory: &Arc<Inventory>, policy: &Arc<KeyPolicy>) -> ScrapeSnapshot {
    let details = details();
    let (inventory, org) = (Arc::clone(inventory), OrgId::parse(ORG).unwrap());
    let visible = InventorySnapshot {
        inventories: vec![ClassifiedInventory::new(inventory, policy, Some(&details))],
        details: vec![(org, Arc::new(DetailsWithOwners::new(details, policy)))],
    };
    let day = Duration::from_hours(24);
    let options = KeySeriesOptions {
        per_key: PerKeyMode::All,
        labels: KeyLabel::ALL[..5].into(),
        max_keys: 10_000_000,
        thresholds: [7, 30, 90]
            .map(|days| IdleThreshold::new(day * days))
            .into(),
    };
    ScrapeSnapshot::new(visible, Arc::new(options), Timestamp::now())
}

fn bench_exemptions(criterion: &mut Criterion) {
    let inventory = inventory();
    let own = ExporterMetrics::new().unwrap();
    let mut group = criterion.benchmark_group("exemptions");
    group.sample_size(20);
    let policies = [("none", Arc::default()), ("1000", policy())];
    for (name, policy) in &policies {
        let snapshot = snapshot(&inventory, policy);
        group.bench_function(BenchmarkId::new("plain", name), |b| {
            b.iter(|| {
                let mut exposition = Exposition::new(Format::Text, own.gather(), snapshot.clone());
                while let Some(chunk) = exposition.next_chunk() {
                    black_box(chunk);
                }
            });
        });
        group.bench_function(BenchmarkId::new("gzip", name), |b| {
            b.iter(|| {
                let mut compressor = Compressor::new(Format::Text, snapshot.clone());
                let mut chunks = Vec::new();
                while compressor.advance(&mut chunks) {
                    chunks.drain(..).for_each(|chunk| drop(black_box(chunk)));
                }
                black_box(chunks);
            });
        });
    }
    for (name, policy) in &policies {
        let details = details();
        group.bench_function(BenchmarkId::new("classify", name), |b| {
            b.iter(|| {
                let inventory = Arc::clone(&inventory);
                black_box(ClassifiedInventory::new(inventory, policy, Some(&details)))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench_exemptions);
criterion_main!(benches);
