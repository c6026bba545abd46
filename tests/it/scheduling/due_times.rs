//! Regular poll times, and retries after failures.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::scripted::{START_TIME, ScriptedTransport, response};
use atlas_ai_keys_exporter::inventory::InventoryStore;
use atlas_ai_keys_exporter::poll::{
    CredentialTarget, PollBackoff, PollEvent, PollObserver, PollOptions, PollPlan, Schedule,
    Scheduler,
};
use atlas_ai_keys_exporter::shard::Shard;
use exporter_toolkit::liveness::LivenessMonitor;
use jiff::Timestamp;
use mongodb_atlas_client::{Clock, FailureReason, OptionalFields, OrgId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const INTERVAL: Duration = Duration::from_secs(1);

/// Records the times of the next polls.
#[derive(Default)]
struct DueTimes(Mutex<Vec<(OrgId, Timestamp)>>);

impl PollObserver for DueTimes {
    fn on_event(&self, event: PollEvent<'_>) {
        if let PollEvent::DueChanged { org, due_at } = event {
            self.0.lock().unwrap().push((org.clone(), due_at));
        }
    }
}

/// Returns two organizations with the same regular poll times.
fn orgs_with_equal_times() -> [OrgId; 2] {
    let mut known = HashMap::new();
    for n in 0..1_000_000_u32 {
        let org = OrgId::parse(&format!("{n:024x}")).unwrap();
        let wait = Schedule::new(&org, INTERVAL).time_until_next(Timestamp::UNIX_EPOCH);
        if let Some(other) = known.insert(wait, org.clone()) {
            return [other, org];
        }
    }
    panic!("no two organizations with the same poll times");
}

#[tokio::test(start_paused = true)]
async fn organizations_with_equal_poll_times_are_polled_sequentially() {
    let orgs = orgs_with_equal_times();
    let variables = [("MONGODB_ATLAS_ACCESS_TOKEN", "a-token")];
    let (client, transport) = ScriptedTransport::client(&variables, |request| {
        if request.url().path().ends_with("/aiModelApiKeys") {
            return response(200, &[], r#"{"results":[],"totalCount":0}"#);
        }
        response(404, &[], "{}")
    });
    let clock = Clock::simulated(START_TIME.parse().unwrap());
    let plan = PollPlan {
        credentials: vec![CredentialTarget {
            client: Arc::new(client),
            orgs: orgs.to_vec(),
            discover: false,
        }],
        shard: Shard::ALL,
        max_orgs: 10,
        owner_tag: None,
        interval: INTERVAL,
        options: PollOptions {
            page_size: 100,
            revived_after: Duration::from_hours(24),
            optional_fields: OptionalFields::default(),
            log_key_names: true,
            walk_timeout: Duration::from_mins(10),
            clock: clock.clone(),
            prepare_inventory: Arc::new(Into::into),
        },
        storage: None,
    };
    let (observer, started_at) = (Arc::new(DueTimes::default()), clock.now());
    let telling = Arc::clone(&observer) as Arc<dyn PollObserver>;
    let scheduler =
        Scheduler::start(plan, Arc::new(InventoryStore::default()), telling, clock).await;
    let (_commands, receiver) = mpsc::channel(1);
    let (shutdown, heartbeat) = (
        CancellationToken::new(),
        LivenessMonitor::default().register("scheduler"),
    );
    let running = tokio::spawn(scheduler.run(receiver, heartbeat, shutdown.clone()));
    tokio::time::sleep(INTERVAL * 60).await;
    shutdown.cancel();
    running.await.unwrap();
    assert!(transport.request_count("/aiModelApiKeys") >= 118);
    let times = observer.0.lock().unwrap();
    let [first, second] = orgs.map(|org| -> BTreeSet<Timestamp> {
        let times = times
            .iter()
            .filter(|(polled, at)| *polled == org && *at > started_at);
        times.map(|(_, at)| *at).collect()
    });
    assert!(
        first.len() >= 58 && second.len() >= 58,
        "{} and {}",
        first.len(),
        second.len()
    );
    assert!(first.is_disjoint(&second), "{first:?} and {second:?}");
}

#[test]
fn transient_failures_are_retried_every_ten_minutes_within_a_long_interval() {
    let interval = Duration::from_hours(1);
    let org = OrgId::parse(&"a".repeat(24)).unwrap();
    let schedule = Schedule::new(&org, interval);
    let mut backoff = PollBackoff::default();
    let waits: Vec<Duration> = (0..200)
        .map(|_| backoff.on_failure(FailureReason::ServerError, &schedule, interval))
        .collect();
    let longest = *waits.iter().max().unwrap();
    let ten_minutes = Duration::from_mins(10);
    assert!(
        longest <= ten_minutes && longest > ten_minutes * 9 / 10,
        "{longest:?}"
    );
    let shortest = *waits[20..].iter().min().unwrap();
    assert!(shortest >= ten_minutes / 2, "{shortest:?}");
}
