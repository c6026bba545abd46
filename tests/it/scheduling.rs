//! When organizations are walked: in turn, at their own times, and slower where walking does not
//! help. In simulated time.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::common::sim_harness::{Simulated, simulated_atlas};
use crate::common::{Scrape, shown, still, world};
use jiff::Timestamp;
use mongodb_atlas_sim::{BodyForm, BucketScope, BucketSize, Effect, Fault, SimConfig, SimEndpoint};

const KEYS: SimEndpoint = SimEndpoint::AiModelApiKeys;

fn status(status: u16) -> Effect {
    Effect::Status {
        status,
        body: BodyForm::Json,
        retry_after: None,
    }
}

/// When each organization was walked.
fn walks(exporter: &Simulated) -> BTreeMap<String, Vec<Timestamp>> {
    let mut walks: BTreeMap<String, Vec<Timestamp>> = BTreeMap::new();
    for asked in exporter
        .asked(KEYS)
        .iter()
        .filter(|asked| asked.status == 200)
    {
        walks
            .entry(asked.org.clone().unwrap())
            .or_default()
            .push(asked.at);
    }
    walks
}

fn seconds(from: Timestamp, to: Timestamp) -> i64 {
    to.duration_since(from).as_secs()
}

#[tokio::test(start_paused = true)]
async fn a_day_of_polling_costs_what_it_must_and_no_two_come_at_once() {
    let sim = simulated_atlas(&still(5, 100));
    let exporter = Simulated::watching(&sim, &[]).await;
    exporter.walked(5).await;
    let first = exporter.asked(KEYS).len();
    assert_eq!(first, 5, "one page each");
    exporter.pass(Duration::from_hours(24)).await;
    let all = exporter.asked(KEYS).len() - first;
    assert!((5 * 287..=5 * 289).contains(&all), "{all} in a day");
    for (org, times) in walks(&exporter) {
        let regular = times.windows(2).skip(1);
        for pair in regular {
            let pause = seconds(pair[0], pair[1]);
            assert!((299..=301).contains(&pause), "{org}: {pause}");
        }
    }
    let later = exporter.asked(KEYS).into_iter().skip(5);
    let instants: BTreeSet<i64> = later.map(|asked| asked.at.as_second()).collect();
    assert_eq!(instants.len(), all, "no two in the same second");
    // hourly, beside the keys: name, projects and limits of each, and the rate limits and a token
    let hourly = exporter.sim.requests().len() - exporter.asked(KEYS).len();
    assert!(hourly <= 25 * (5 * 3 + 1 + 2), "{hourly}");
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn five_hundred_organizations_on_the_smallest_bucket_are_walked_in_turn() {
    let sim = simulated_atlas(&SimConfig {
        org_bucket: BucketSize::SMALLEST,
        bucket_scope: BucketScope::User,
        ..still(500, 2000)
    });
    let exporter = Simulated::watching(&sim, &[]).await;
    while walks(&exporter).len() < 500 {
        exporter.pass(Duration::from_mins(1)).await;
    }
    exporter.pass(Duration::from_mins(1)).await;
    let scrape = exporter.scrape();
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_up"), 500.0);
    assert_eq!(shown(&scrape), world(&sim));
    let interval = scrape
        .values("atlas_ai_keys_exporter_org_poll_interval_seconds")
        .into_iter()
        .fold(0.0, f64::max);
    assert!(
        (7400.0..7700.0).contains(&interval),
        "500 at 4 a minute: {interval}"
    );
    exporter.pass(Duration::from_hours(12)).await;
    assert_eq!(exporter.answered(429), 0);
    let walks = walks(&exporter);
    assert_eq!(walks.len(), 500, "none starves");
    for (org, times) in &walks {
        for pair in times.windows(2) {
            let pause = seconds(pair[0], pair[1]);
            #[allow(clippy::cast_possible_truncation, reason = "an interval")]
            let most = (interval * 1.6) as i64;
            assert!(pause < most, "{org} waited {pause} s");
        }
    }
    let now = sim.clock().now();
    let ages: Vec<i64> = walks
        .values()
        .map(|times| seconds(*times.last().unwrap(), now))
        .collect();
    assert!(
        *ages.iter().max().unwrap() < 12_000,
        "{:?}",
        ages.iter().max()
    );
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_oldest_inventory_is_renewed_first() {
    let sim = simulated_atlas(&SimConfig {
        org_bucket: BucketSize::SMALLEST,
        bucket_scope: BucketScope::User,
        ..still(40, 40)
    });
    let exporter = Simulated::watching(&sim, &["--atlas.poll-interval=1m"]).await;
    exporter.walked(40).await;
    exporter.pass(Duration::from_hours(3)).await;
    let order: Vec<String> = exporter
        .asked(KEYS)
        .into_iter()
        .map(|asked| asked.org.unwrap())
        .collect();
    // in every stretch of two rounds each organization has had its turn
    for stretch in order.windows(80) {
        let seen: BTreeSet<&String> = stretch.iter().collect();
        assert_eq!(seen.len(), 40);
    }
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lasting_refusal_is_tried_at_a_slower_pace_and_disturbs_nobody() {
    for (code, reason) in [
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "not_found"),
    ] {
        let sim = simulated_atlas(&still(3, 30));
        let orgs = sim.org_ids();
        let exporter = Simulated::watching(&sim, &[]).await;
        exporter.walked(3).await;
        sim.add_fault(Fault::new(KEYS, status(code)).on_org(&orgs[1]));
        exporter.pass(Duration::from_hours(24)).await;
        let scrape = exporter.scrape();
        let failures = scrape.failures(&orgs[1], reason);
        assert!(
            (20.0..60.0).contains(&failures),
            "{reason}: {failures} in a day"
        );
        assert_eq!(
            scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
            failures,
            "the others are undisturbed"
        );
        assert_eq!(shown(&scrape), world(&sim), "and what was known stays");
        for org in [&orgs[0], &orgs[2]] {
            let times = &walks(&exporter)[org];
            assert!(times.len() >= 288, "{}", times.len());
        }
        sim.clear_faults();
        let healed = exporter.walked(3).await;
        assert_eq!(healed.sum("atlas_ai_keys_exporter_org_up"), 3.0);
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_credential_without_budget_does_not_hold_up_another() {
    // two accounts see the same Atlas here; what tells them apart is their name
    let sim = simulated_atlas(&still(40, 400));
    let orgs = sim.org_ids();
    let account = sim.account();
    let dir = tempfile::tempdir().unwrap();
    let list = |orgs: &[String]| {
        format!(
            "[{}]",
            orgs.iter()
                .map(|org| format!("'{org}'"))
                .collect::<Vec<_>>()
                .join(", ")
        )
    };
    let secret = dir.path().join("secret");
    std::fs::write(&secret, &account.client_secret).unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, &account.access_token).unwrap();
    let file = dir.path().join("config.yml");
    std::fs::write(
        &file,
        format!(
            "credentials:\n- name: slow\n  client_id: {}\n  client_secret_file: secret\n  org_ids: {}\n- name: quick\n  access_token_file: token\n  org_ids: {}\n",
            account.client_id,
            list(&orgs[..30]),
            list(&orgs[30..]),
        ),
    )
    .unwrap();
    for org in &orgs[..30] {
        let limited = Effect::Status {
            status: 429,
            body: BodyForm::Json,
            retry_after: Some(3000),
        };
        sim.add_fault(Fault::new(KEYS, limited).on_org(org));
    }
    let variables = vec![("MONGODB_ATLAS_BASE_URL".to_owned(), sim.base_url())];
    let flag = format!("--config.file={}", file.display());
    let exporter = Simulated::told(&sim, variables, &[&flag]).await;
    exporter.walked(10).await;
    exporter.pass(Duration::from_hours(1)).await;
    for org in &orgs[30..] {
        assert!(walks(&exporter)[org].len() >= 12);
    }
    exporter.stop().await;
}

/// What a week was like, as somebody who looks every five minutes has seen it.
#[derive(Default)]
struct Seen {
    oldest: f64,
    oldest_while_up: f64,
    down: u32,
}

impl Seen {
    fn look(&mut self, scrape: &Scrape, now: f64) {
        for series in scrape.all("atlas_ai_keys_exporter_org_last_success_timestamp_seconds") {
            let org = &series.labels["org_id"];
            let up = scrape.get("atlas_ai_keys_exporter_org_up", &[("org_id", org)]);
            let age = now - series.value;
            self.oldest = self.oldest.max(age);
            if up == Some(1.0) {
                self.oldest_while_up = self.oldest_while_up.max(age);
            } else {
                self.down += 1;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
#[allow(clippy::cast_precision_loss, reason = "seconds of this era")]
async fn a_week_with_outages_costs_no_quota_and_hides_nothing() {
    let sim = simulated_atlas(&SimConfig {
        org_bucket: BucketSize::new(60, 30),
        ..still(4, 60)
    });
    let orgs = sim.org_ids();
    let hour = 3600.0;
    let outage = |after: f64, length: f64, effect: Effect| Fault {
        after_seconds: after * hour,
        for_seconds: Some(length * hour),
        ..Fault::new(KEYS, effect)
    };
    for fault in [
        outage(20.0, 3.0, status(503)),
        outage(50.0, 1.0, Effect::Reset),
        outage(70.0, 12.0, status(403)).on_org(&orgs[2]),
        outage(100.0, 2.0, Effect::InvalidJson),
        outage(130.0, 6.0, status(500)),
    ] {
        sim.add_fault(fault);
    }
    let exporter = Simulated::watching(&sim, &[]).await;
    exporter.walked(4).await;
    let mut seen = Seen::default();
    for _ in 0..7 * 24 * 12 {
        exporter.pass(Duration::from_mins(5)).await;
        let now = sim.clock().now().as_second() as f64;
        seen.look(&exporter.scrape(), now);
    }
    assert_eq!(exporter.answered(429), 0);
    let requests = exporter.asked(KEYS).len();
    let regular = 4 * 7 * 288;
    assert!(
        (regular * 9 / 10..regular * 13 / 10).contains(&requests),
        "{requests} requests, {regular} walks of one page"
    );
    assert!(
        seen.oldest_while_up < 900.0,
        "{} s old and called up",
        seen.oldest_while_up
    );
    assert!(
        (11.0 * hour..14.0 * hour).contains(&seen.oldest),
        "the longest outage of one was twelve hours: {}",
        seen.oldest
    );
    // times at which one of the four was not up: 4 × (3 + 1 + 2 + 6) hours, and 12 of one
    let hours = f64::from(seen.down) / 12.0;
    assert!((50.0..66.0).contains(&hours), "{hours} hours down");
    let scrape = exporter.scrape();
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_up"), 4.0);
    assert_eq!(shown(&scrape), world(&sim));
    exporter.stop().await;
}
