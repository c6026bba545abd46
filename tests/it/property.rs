//! For all changes between and during walks, every published key is in a state that the
//! simulated Atlas had during the walk, and no key is lost that the pages contain.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::scripted::NoopObserver;
use crate::common::sim_harness::sim_at;
use crate::common::sim_transport::SimTransport;
use crate::common::{Scrape, expected_keys, exposed_keys, static_sim};
use atlas_ai_keys_exporter::credentials::{self, Environment};
use atlas_ai_keys_exporter::inventory::{Inventory, InventorySnapshot};
use atlas_ai_keys_exporter::metrics::{
    ExporterMetrics, Exposition, Format, KeyLabel, KeySeriesOptions, PerKeyMode, ScrapeSnapshot,
};
use atlas_ai_keys_exporter::poll::{self, PollOptions};
use jiff::Timestamp;
use mongodb_atlas_client::{
    ApiVersion, Client, ClientConfig, ClientDeps, Clock, OptionalFields, OrgId, ProxyRoute,
};
use mongodb_atlas_sim::{Effect, ErrorBodyFormat, Fault, SimEndpoint, SimHandle, World};
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, TestRunner};

type ExposedKeys = BTreeMap<String, (String, String, Option<String>)>;

const PAGE_SIZE: u32 = 5;

#[derive(Debug, Clone)]
enum SimEvent {
    Create,
    Delete(prop::sample::Index),
    Rename(prop::sample::Index, String),
    Use(prop::sample::Index),
    Toggle(prop::sample::Index),
}

fn any_sim_event() -> impl Strategy<Value = SimEvent> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        2 => Just(SimEvent::Create),
        3 => index().prop_map(SimEvent::Delete),
        1 => (index(), "\\PC{1,20}").prop_map(|(i, name)| SimEvent::Rename(i, name)),
        2 => index().prop_map(SimEvent::Use),
        1 => index().prop_map(SimEvent::Toggle),
    ]
}

fn any_effect() -> impl Strategy<Value = Effect> {
    let status = |status| Effect::Status {
        status,
        body: ErrorBodyFormat::Json,
        retry_after: None,
    };
    prop_oneof![
        Just(status(503)),
        Just(status(404)),
        Just(Effect::InvalidJson),
        Just(Effect::TruncatedBody),
        Just(Effect::RepeatKeys),
        Just(Effect::NoLinks),
        Just(Effect::NoNextLink),
        Just(Effect::NoTotalCount),
        (-2_i64..60).prop_map(|value| Effect::TotalCount { value }),
        Just(Effect::RateLimitZero),
    ]
}

fn apply_event(world: &mut World, org: &str, what: &SimEvent) {
    let pick = |world: &World, index: &prop::sample::Index| {
        let keys = world.keys(org);
        (!keys.is_empty()).then(|| index.get(keys).id.clone())
    };
    match what {
        SimEvent::Create => drop(world.create_key(org, "new")),
        SimEvent::Delete(index) => {
            pick(world, index).map(|id| world.delete_key(org, &id));
        }
        SimEvent::Rename(index, name) => {
            pick(world, index).map(|id| world.rename_key(org, &id, name));
        }
        SimEvent::Use(index) => {
            pick(world, index).map(|id| world.mark_used(org, &id));
        }
        SimEvent::Toggle(index) => {
            pick(world, index).map(|id| world.set_key_status(org, &id, "INACTIVE"));
        }
    }
}

fn sim_client(sim: &Arc<SimHandle>, clock: Clock) -> Client {
    let environment = Environment::from_vars(crate::common::sim_env(sim));
    let config = ClientConfig {
        credential_name: "default".into(),
        user_agent: "test".to_owned(),
        credential: credentials::from_env(&environment).unwrap().to_client(),
        base_url: reqwest::Url::parse(&format!("{}/", sim.base_url())).unwrap(),
        route: ProxyRoute::Direct,
        api_version: ApiVersion::Date("2025-03-12".into()),
        request_timeout: Duration::from_secs(10),
        max_retry_wait: Duration::ZERO,
    };
    let context = ClientDeps {
        transport: Arc::new(SimTransport(Arc::clone(sim))),
        rate_limiter: Arc::default(),
        token_store: None,
        observer: Arc::new(NoopObserver),
        clock,
    };
    Client::new(config, context).unwrap()
}

fn parse_exposition(inventory: &Arc<Inventory>) -> ExposedKeys {
    let standing = InventorySnapshot {
        inventories: vec![Arc::clone(inventory).into()],
        details: Vec::new(),
    };
    let own = ExporterMetrics::new().unwrap().gather();
    let selection = KeySeriesOptions {
        per_key: PerKeyMode::All,
        labels: [KeyLabel::Name, KeyLabel::Status].into(),
        max_keys: 1000,
        thresholds: [].into(),
    };
    let mut exposition = Exposition::new(
        Format::Text,
        own,
        ScrapeSnapshot::new(standing, Arc::new(selection), Timestamp::now()),
    );
    let chunks = std::iter::from_fn(|| exposition.next_chunk());
    let text = chunks.flatten().collect();
    exposed_keys(&Scrape::parse(&String::from_utf8(text).unwrap()))
}

/// The keys before each page was built, and at the end.
#[derive(Default)]
struct History {
    snapshots: Vec<ExposedKeys>,
    /// Index of the snapshot of each page of the last walk, by page number.
    pages: BTreeMap<u32, usize>,
}

impl History {
    /// Returns the number of keys that deletions can have moved from an unread page to a page that was already read: one for
    /// each deletion between a page and the next one.
    fn max_shifted(&self) -> usize {
        let deleted = |pair: &[ExposedKeys]| {
            let keys = pair[0].keys();
            keys.filter(|id| !pair[1].contains_key(*id)).count()
        };
        let boundaries = self.pages.iter().filter_map(|(page, start)| {
            let end = *self.pages.get(&(page + 1))?;
            self.snapshots.get(*start..=end)
        });
        let deletions = boundaries.map(|between| between.windows(2).map(deleted).sum::<usize>());
        deletions.sum()
    }
}

/// Totals of all cases.
#[derive(Debug, Default)]
struct Totals {
    polls: AtomicUsize,
    successful: AtomicUsize,
    with_single_requests: AtomicUsize,
    lost: AtomicUsize,
    max_shifted: AtomicUsize,
}

impl Totals {
    fn add(counter: &AtomicUsize, number: usize) {
        counter.fetch_add(number, Ordering::Relaxed);
    }
}

fn check_published_keys(
    published: &ExposedKeys,
    before: &ExposedKeys,
    history: &History,
    (pages, requests): (u32, u32),
    totals: &Totals,
) -> Result<(), TestCaseError> {
    let held = |id: &str| -> Vec<Option<&(String, String, Option<String>)>> {
        history.snapshots.iter().map(|keys| keys.get(id)).collect()
    };
    for (id, key) in published {
        prop_assert!(
            held(id).into_iter().any(|version| version == Some(key)),
            "{id} was never {key:?}"
        );
    }
    let first = &history.snapshots[0];
    let unchanged = |id: &str, key| held(id).into_iter().all(|version| version == Some(key));
    for id in before.keys().filter(|id| first.contains_key(*id)) {
        // A known key that existed during the whole poll is never considered deleted.
        let gone = held(id).iter().any(Option::is_none);
        prop_assert!(gone || published.contains_key(id), "{id} was lost");
    }
    let lost = first
        .iter()
        .filter(|(id, key)| unchanged(id, key) && !published.contains_key(*id))
        .count();
    let max_shifted = history.max_shifted();
    Totals::add(&totals.lost, lost);
    Totals::add(&totals.max_shifted, max_shifted);
    // Only moved keys can be hidden.
    prop_assert!(
        lost <= max_shifted,
        "{lost} unchanged keys lost, and {max_shifted} can have moved"
    );
    // At most as many keys as the pages contain, and one per request for a single key.
    let singles = (requests - pages) as usize;
    Totals::add(&totals.with_single_requests, usize::from(singles > 0));
    prop_assert!(
        published.len() <= (PAGE_SIZE * pages) as usize + singles,
        "{} keys on {pages} pages and {singles} by themselves",
        published.len()
    );
    Ok(())
}

async fn run_history(
    keys: usize,
    rounds: Vec<Vec<(u64, SimEvent)>>,
    faults: Vec<(usize, Effect, u32)>,
    totals: &Totals,
) -> Result<(), TestCaseError> {
    let clock = Clock::simulated(Timestamp::now());
    let sim = Arc::new(sim_at(&static_sim(1, keys), &clock));
    let org = sim.org_ids()[0].clone();
    let org_id = OrgId::parse(&org).unwrap();
    let client = sim_client(&sim, clock.clone());
    let mut previous: Option<Arc<Inventory>> = None;
    for (number, plan) in rounds.into_iter().enumerate() {
        sim.clear_faults();
        for (_, effect, page) in faults.iter().filter(|(round, ..)| *round == number) {
            sim.add_fault(
                Fault::new(SimEndpoint::AiModelApiKeys, effect.clone())
                    .for_page(*page)
                    .times(1),
            );
        }
        let history = Arc::new(Mutex::new(History::default()));
        let (recorder, org_of_hook) = (Arc::clone(&history), org.clone());
        let started_at = Mutex::new(None);
        sim.set_page_hook(move |call, page, world| {
            let call = call - *started_at.lock().unwrap().get_or_insert(call);
            let mut history = recorder.lock().unwrap();
            if page == 1 {
                history.pages.clear();
            }
            history
                .snapshots
                .push(expected_keys(world.keys(&org_of_hook)));
            for (_, what) in plan.iter().filter(|(at, _)| *at == call) {
                apply_event(world, &org_of_hook, what);
                history
                    .snapshots
                    .push(expected_keys(world.keys(&org_of_hook)));
            }
            // A page that is requested again counts when it was last built.
            let built_from = history.snapshots.len() - 1;
            history.pages.insert(page, built_from);
        });
        let manner = PollOptions {
            page_size: PAGE_SIZE,
            revived_after: Duration::from_hours(90 * 24),
            optional_fields: OptionalFields::default(),
            prepare_inventory: Arc::new(Into::into),
            log_key_names: true,
            walk_timeout: Duration::from_hours(1),
            clock: clock.clone(),
        };
        let read = poll::collect(&client, &org_id, &manner, previous.clone()).await;
        Totals::add(&totals.polls, 1);
        let Ok(report) = read else {
            // Nothing is published, and the previous inventory is retained.
            continue;
        };
        Totals::add(&totals.successful, 1);
        let inventory = report.inventory.inventory;
        let before = previous.as_ref().map(parse_exposition).unwrap_or_default();
        let published = parse_exposition(&inventory);
        let requests = (report.pages, report.requests);
        check_published_keys(
            &published,
            &before,
            &history.lock().unwrap(),
            requests,
            totals,
        )?;
        previous = Some(inventory);
    }
    client.revoke_token().await;
    prop_assert_eq!(sim.live_token_count(), 0);
    Ok(())
}

/// Runs histories of up to three polls. Most polls must succeed, because failed polls are not checked.
fn run_histories(event: impl Strategy<Value = SimEvent>, name: &'static str) -> Totals {
    let rounds = prop::collection::vec((0_u64..16, event), 0..6);
    let rounds = prop::collection::vec(rounds, 1..4);
    let faults = prop::collection::vec((0_usize..3, any_effect(), 1_u32..9), 0..3);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 256,
        max_shrink_iters: 200,
        source_file: Some(file!()),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource(
            "proptest-regressions",
        ))),
        test_name: Some(name),
        ..ProptestConfig::default()
    });
    let totals = Totals::default();
    let result = runner.run(&(0_usize..40, rounds, faults), |(keys, rounds, faults)| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run_history(keys, rounds, faults, &totals))
    });
    result.unwrap_or_else(|error| panic!("{error}\n{runner}"));
    println!("{totals:?}");
    let (polls, successful) = (
        totals.polls.load(Ordering::Relaxed),
        totals.successful.load(Ordering::Relaxed),
    );
    assert!(polls > 256 && successful * 2 > polls, "{totals:?}");
    totals
}

#[test]
fn published_inventory_matches_some_sim_state() {
    let totals = run_histories(
        any_sim_event(),
        "published_inventory_matches_some_sim_state",
    );
    // On average 25 keys can have moved, and 46 polls search for missing keys.
    assert!(totals.max_shifted.into_inner() > 5);
    assert!(totals.with_single_requests.into_inner() > 10);
}

#[test]
fn keys_are_never_lost_without_deletions() {
    let is_kept = |event: &SimEvent| !matches!(event, SimEvent::Delete(_));
    let event = any_sim_event().prop_filter("no deletion", is_kept);
    let totals = run_histories(event, "keys_are_never_lost_without_deletions");
    assert_eq!(totals.lost.into_inner(), 0);
}
