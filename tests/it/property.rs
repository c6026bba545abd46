//! Whatever happens between and within walks, what is published is a truth: every key as the
//! simulated Atlas held it at some moment of the walk, and no key lost that pages do not lose.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::sim_harness::sim_at;
use crate::common::sim_transport::Wire;
use crate::common::{Scrape, shown, still, truth};
use atlas_ai_keys_exporter::credentials::{self, Environment};
use atlas_ai_keys_exporter::inventory::{Inventory, Shown};
use atlas_ai_keys_exporter::metrics::{
    Exposition, Format, KeyLabel, Own, PerKey, Scene, Selection,
};
use atlas_ai_keys_exporter::poll::{self, Manner, Prepare};
use jiff::Timestamp;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{
    Client, ClientConfig, Context, Endpoint, Members, Observer, Outcome, Retry, Route,
    TokenOutcome, Version,
};
use mongodb_atlas_sim::{BodyForm, Effect, Fault, SimEndpoint, SimHandle, World};
use proptest::prelude::*;

type Keys = BTreeMap<String, (String, String, Option<String>)>;

const PAGE: u32 = 5;

#[derive(Debug, Clone)]
enum Happening {
    Create,
    Delete(prop::sample::Index),
    Rename(prop::sample::Index, String),
    Use(prop::sample::Index),
    Toggle(prop::sample::Index),
}

fn happening() -> impl Strategy<Value = Happening> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        2 => Just(Happening::Create),
        3 => index().prop_map(Happening::Delete),
        1 => (index(), "\\PC{1,20}").prop_map(|(i, name)| Happening::Rename(i, name)),
        2 => index().prop_map(Happening::Use),
        1 => index().prop_map(Happening::Toggle),
    ]
}

fn effect() -> impl Strategy<Value = Effect> {
    let status = |status| Effect::Status {
        status,
        body: BodyForm::Json,
        retry_after: None,
    };
    prop_oneof![
        Just(status(503)),
        Just(status(404)),
        Just(Effect::InvalidJson),
        Just(Effect::CutBody),
        Just(Effect::RepeatKeys),
        Just(Effect::NoLinks),
        Just(Effect::NoNextLink),
        Just(Effect::NoTotalCount),
        (-2_i64..60).prop_map(|value| Effect::TotalCount { value }),
        Just(Effect::RateLimitZero),
    ]
}

fn happen(world: &mut World, org: &str, what: &Happening) {
    let pick = |world: &World, index: &prop::sample::Index| {
        let keys = world.keys(org);
        (!keys.is_empty()).then(|| index.get(keys).id.clone())
    };
    match what {
        Happening::Create => drop(world.create(org, "new")),
        Happening::Delete(index) => {
            pick(world, index).map(|id| world.delete(org, &id));
        }
        Happening::Rename(index, name) => {
            pick(world, index).map(|id| world.rename(org, &id, name));
        }
        Happening::Use(index) => {
            pick(world, index).map(|id| world.use_key(org, &id));
        }
        Happening::Toggle(index) => {
            pick(world, index).map(|id| world.set_status(org, &id, "INACTIVE"));
        }
    }
}

struct Deaf;

impl Observer for Deaf {
    fn request(&self, _: Endpoint, _: Outcome, _: Duration) {}
    fn retry(&self, _: Endpoint, _: Retry) {}
    fn rate_limit(&self, _: Endpoint, _: Option<&OrgId>, _: Option<u64>, _: Option<u64>) {}
    fn throttled(&self, _: Endpoint, _: Option<&OrgId>, _: Duration) {}
    fn token(&self, _: &str, _: TokenOutcome) {}
    fn token_ends(&self, _: &str, _: Timestamp) {}
    fn token_refused(&self, _: &str) {}
}

fn client(sim: &Arc<SimHandle>, clock: Clock) -> Client {
    let environment = Environment::fixed(crate::common::sim_variables(sim));
    let config = ClientConfig {
        name: "default".into(),
        credential: credentials::find(&environment).unwrap().to_client(),
        base_url: reqwest::Url::parse(&format!("{}/", sim.base_url())).unwrap(),
        route: Route::Direct,
        version: Version::Date("2025-03-12".into()),
        timeout: Duration::from_secs(10),
        patience: Duration::ZERO,
    };
    let context = Context {
        transport: Arc::new(Wire(Arc::clone(sim))),
        budgets: Arc::default(),
        tokens: None,
        observer: Arc::new(Deaf),
        clock,
    };
    Client::new(config, context).unwrap()
}

fn expose(inventory: &Arc<Inventory>) -> Keys {
    let standing = Shown {
        inventories: vec![Arc::clone(inventory)],
        details: Vec::new(),
    };
    let own = Own::new().unwrap().gather();
    let selection = Selection {
        per_key: PerKey::All,
        labels: [KeyLabel::Name, KeyLabel::Status].into(),
        max_keys: 1000,
        thresholds: [].into(),
    };
    let text = Exposition::new(
        Format::Text,
        own,
        Scene::new(standing, Arc::new(selection), Timestamp::now()),
    )
    .whole();
    shown(&Scrape::parse(&String::from_utf8(text).unwrap()))
}

/// The world before each page that was cut, and at the end.
#[derive(Default)]
struct History {
    snapshots: Vec<Keys>,
    /// Where the walk begins that is published.
    last_walk: usize,
}

fn check(
    published: &Keys,
    before: &Keys,
    history: &History,
    (pages, requests): (u32, u32),
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
        // what was known and has been there all the time is never believed deleted
        let gone = held(id).iter().any(Option::is_none);
        prop_assert!(gone || published.contains_key(id), "{id} was lost");
    }
    let lost = first
        .iter()
        .filter(|(id, key)| unchanged(id, key) && !published.contains_key(*id))
        .count();
    // a deletion while the published walk runs moves every later key to an earlier place, at most
    // one over the border of each page that was read already; nothing else can hide a key
    let walk = &history.snapshots[history.last_walk..];
    let gone = |pair: &[Keys]| {
        pair[0]
            .keys()
            .filter(|id| !pair[1].contains_key(*id))
            .count()
    };
    let deleted: usize = walk.windows(2).map(gone).sum();
    prop_assert!(
        lost <= deleted * pages as usize,
        "{lost} unchanged keys lost with {deleted} deletions"
    );
    // no more than fits onto the pages, and one for each request for a single key
    let singles = (requests - pages) as usize;
    prop_assert!(
        published.len() <= (PAGE * pages) as usize + singles,
        "{} keys on {pages} pages and {singles} by themselves",
        published.len()
    );
    Ok(())
}

async fn play(
    keys: usize,
    rounds: Vec<Vec<(u64, Happening)>>,
    faults: Vec<(usize, Effect, u32)>,
) -> Result<(), TestCaseError> {
    let clock = Clock::virtual_from(Timestamp::now());
    let sim = Arc::new(sim_at(&still(1, keys), &clock));
    let org = sim.org_ids()[0].clone();
    let org_id = OrgId::parse(&org).unwrap();
    let client = client(&sim, clock.clone());
    let mut previous: Option<Arc<Inventory>> = None;
    for (number, plan) in rounds.into_iter().enumerate() {
        sim.clear_faults();
        for (_, effect, page) in faults.iter().filter(|(round, ..)| *round == number) {
            sim.add_fault(
                Fault::new(SimEndpoint::AiModelApiKeys, effect.clone())
                    .on_page(*page)
                    .times(1),
            );
        }
        let history = Arc::new(Mutex::new(History::default()));
        let (recorder, org_of_hook) = (Arc::clone(&history), org.clone());
        let begun = Mutex::new(None);
        sim.before_each_page(move |call, page, world| {
            let call = call - *begun.lock().unwrap().get_or_insert(call);
            let mut history = recorder.lock().unwrap();
            if page == 1 {
                history.last_walk = history.snapshots.len();
            }
            history.snapshots.push(truth(world.keys(&org_of_hook)));
            for (_, what) in plan.iter().filter(|(at, _)| *at == call) {
                happen(world, &org_of_hook, what);
                history.snapshots.push(truth(world.keys(&org_of_hook)));
            }
        });
        let manner = Manner {
            page_size: PAGE,
            revived_after: Duration::from_hours(90 * 24),
            members: Members::default(),
            prepare: Prepare::default(),
            walk_timeout: Duration::from_hours(1),
            clock: clock.clone(),
        };
        let read = poll::read(&client, &org_id, &manner, previous.clone()).await;
        let Ok(report) = read else {
            // nothing is published, and what stood still stands
            continue;
        };
        let inventory = report.inventory;
        let before = previous.as_ref().map(expose).unwrap_or_default();
        let published = expose(&inventory);
        let asked = (report.pages, report.requests);
        check(&published, &before, &history.lock().unwrap(), asked)?;
        previous = Some(inventory);
    }
    client.close().await;
    prop_assert_eq!(sim.live_tokens(), 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_published_was_true(
        keys in 0_usize..40,
        rounds in prop::collection::vec(prop::collection::vec((0_u64..16, happening()), 0..6), 1..4),
        faults in prop::collection::vec((0_usize..3, effect(), 1_u32..9), 0..3),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(play(keys, rounds, faults))?;
    }

    #[test]
    fn without_deletions_no_key_is_ever_lost(
        keys in 0_usize..40,
        rounds in prop::collection::vec(prop::collection::vec((0_u64..16, happening().prop_filter("no deletion", |what| !matches!(what, Happening::Delete(_)))), 0..6), 1..4),
        faults in prop::collection::vec((0_usize..3, effect(), 1_u32..9), 0..3),
    ) {
        // with no deletion the bound on lost keys is zero
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(play(keys, rounds, faults))?;
    }
}
