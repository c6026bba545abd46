//! The request budget: nobody's quota is burnt, and nothing is lost to a refusal. In simulated time.
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::scripted::{START, Scripted, response};
use crate::common::sim_harness::{Simulated, simulated_atlas};
use crate::common::{shown, still, world};
use jiff::Timestamp;
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{Answer, Members};
use mongodb_atlas_sim::{
    BodyForm, BucketScope, BucketSize, Effect, Fault, SimConfig, SimEndpoint, SimHandle,
};

const KEYS: SimEndpoint = SimEndpoint::AiModelApiKeys;
const MINUTE: Duration = Duration::from_mins(1);

fn status(status: u16, retry_after: Option<u32>) -> Effect {
    Effect::Status {
        status,
        body: BodyForm::Json,
        retry_after,
    }
}

/// Seconds between the answers to requests for keys.
fn pauses(exporter: &Simulated) -> Vec<i64> {
    let at: Vec<Timestamp> = exporter.asked(KEYS).iter().map(|asked| asked.at).collect();
    at.windows(2)
        .map(|pair| pair[1].duration_since(pair[0]).as_secs())
        .collect()
}

fn small(orgs: usize, keys: usize, scope: BucketScope) -> SimConfig {
    SimConfig {
        org_bucket: BucketSize::SMALLEST,
        bucket_scope: scope,
        ..still(orgs, keys)
    }
}

/// Atlas does not tell its rate limits but by refusing.
fn tells_nothing(sim: &SimHandle) {
    sim.add_fault(Fault::new(SimEndpoint::RateLimits, status(403, None)));
    sim.add_fault(Fault::new(KEYS, Effect::NoRateLimitHeaders));
    sim.add_fault(Fault::new(KEYS, Effect::BareRefusals));
    sim.add_fault(Fault::new(
        SimEndpoint::AiModelApiRateLimits,
        status(404, None),
    ));
}

#[tokio::test(start_paused = true)]
async fn refusals_are_waited_for_longer_each_time_and_cost_no_walk() {
    for code in [429, 503] {
        let sim = simulated_atlas(&still(1, 5));
        sim.add_fault(Fault::new(KEYS, status(code, None)).times(if code == 429 { 4 } else { 1 }));
        let exporter = Simulated::watching(&sim, &[]).await;
        let scrape = exporter.walked(1).await;
        assert_eq!(
            scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
            0.0
        );
        let pauses = pauses(&exporter);
        let least: &[i64] = if code == 429 {
            &[10, 20, 40, 80]
        } else {
            &[10]
        };
        assert_eq!(pauses.len(), least.len(), "{pauses:?}");
        for (pause, least) in pauses.iter().zip(least) {
            assert!((*least..=least * 5 / 4 + 1).contains(pause), "{pauses:?}");
        }
        let throttled = scrape.sum("atlas_ai_keys_exporter_api_throttled_seconds_total");
        let waited: i64 = pauses.iter().sum();
        #[allow(clippy::cast_precision_loss, reason = "seconds")]
        let difference = (throttled - waited as f64).abs();
        assert!(
            difference < 5.0,
            "the waiting is visible: {throttled} of {waited}"
        );
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_the_least_that_is_waited() {
    for code in [429, 503] {
        let sim = simulated_atlas(&still(1, 5));
        sim.add_fault(Fault::new(KEYS, status(code, Some(25))).times(1));
        let exporter = Simulated::watching(&sim, &[]).await;
        exporter.walked(1).await;
        let pauses = pauses(&exporter);
        assert!((25..=32).contains(&pauses[0]), "{pauses:?}");
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_not_waited_out_but_told() {
    let sim = simulated_atlas(&still(1, 5));
    let org = sim.org_ids()[0].clone();
    let exporter = Simulated::watching(&sim, &[]).await;
    exporter.walked(1).await;
    sim.add_fault(Fault::new(KEYS, status(503, None)));
    exporter
        .until("the outage to be told", |scrape| {
            scrape.failures(&org, "server_error") > 0.0
        })
        .await;
    let last_good = exporter
        .asked(KEYS)
        .iter()
        .rfind(|asked| asked.status == 200)
        .unwrap()
        .at;
    let first_bad = exporter
        .asked(KEYS)
        .iter()
        .find(|asked| asked.status == 503)
        .unwrap()
        .at;
    let told = sim.clock().now();
    assert!(told.duration_since(first_bad).as_secs() < 60);
    assert!(told.duration_since(last_good).as_secs() < 600);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_is_known_never_refuses_anything() {
    for scope in [BucketScope::Organization, BucketScope::User] {
        // three organizations of three to six pages, five requests a minute: it does not fit
        let sim = simulated_atlas(&small(3, 120, scope));
        let exporter =
            Simulated::watching(&sim, &["--atlas.page-size=10", "--atlas.poll-interval=1m"]).await;
        exporter.walked(3).await;
        exporter.pass(Duration::from_hours(8)).await;
        assert_eq!(exporter.answered(429), 0, "{scope:?}");
        let scrape = exporter.scrape();
        assert_eq!(
            scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
            0.0
        );
        assert_eq!(shown(&scrape), world(&sim));
        assert_eq!(
            scrape.values("atlas_ai_keys_exporter_api_rate_limit_capacity")[0],
            10.0
        );
        assert!(
            scrape
                .values("atlas_ai_keys_exporter_org_poll_interval_seconds")
                .iter()
                .any(|interval| *interval > 60.0),
            "and the interval in force says so"
        );
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_share_is_left_to_the_accounts_other_tools() {
    let sim = simulated_atlas(&small(1, 100, BucketScope::Organization));
    let org = sim.org_ids()[0].clone();
    let exporter =
        Simulated::watching(&sim, &["--atlas.page-size=10", "--atlas.poll-interval=1m"]).await;
    exporter.walked(1).await;
    let name = "atlas_ai_keys_exporter_api_rate_limit_remaining";
    let labels: &[(&str, &str)] = &[("endpoint", "ai_model_api_keys"), ("org_id", &org)];
    for _ in 0..600 {
        exporter.pass(Duration::from_secs(7)).await;
        let remaining = exporter.scrape().get(name, labels).unwrap();
        assert!(
            remaining >= 2.0,
            "two of ten are somebody else's: {remaining}"
        );
    }
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn it_works_where_atlas_tells_nothing_at_all() {
    for scope in [BucketScope::Organization, BucketScope::User] {
        let sim = simulated_atlas(&small(8, 160, scope));
        tells_nothing(&sim);
        let exporter = Simulated::watching(&sim, &["--atlas.page-size=10"]).await;
        let scrape = exporter.walked(8).await;
        assert_eq!(shown(&scrape), world(&sim), "{scope:?}");
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_teaches_what_the_headers_did_not() {
    let sim = simulated_atlas(&small(1, 200, BucketScope::Organization));
    // nor that the limits of the models draw on the same bucket, once an hour
    for endpoint in [SimEndpoint::RateLimits, SimEndpoint::AiModelApiRateLimits] {
        sim.add_fault(Fault::new(endpoint, status(404, None)));
    }
    sim.add_fault(Fault::new(KEYS, Effect::NoRateLimitHeaders));
    let exporter =
        Simulated::watching(&sim, &["--atlas.page-size=10", "--atlas.poll-interval=1m"]).await;
    exporter.walked(1).await;
    let learning = exporter.answered(429);
    assert!(
        (1..=4).contains(&learning),
        "{learning} pages under way at once"
    );
    exporter.pass(Duration::from_hours(6)).await;
    assert_eq!(
        exporter.answered(429),
        learning,
        "once learnt, none any more"
    );
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn others_who_use_the_same_bucket_are_noticed() {
    let sim = simulated_atlas(&small(1, 60, BucketScope::Organization));
    let org = sim.org_ids()[0].clone();
    let exporter =
        Simulated::watching(&sim, &["--atlas.page-size=10", "--atlas.poll-interval=2m"]).await;
    exporter.walked(1).await;
    let exporter = Arc::new(exporter);
    // another tool takes two a minute
    for _ in 0..120 {
        sim.take_tokens(&org, 2);
        exporter.pass(MINUTE).await;
    }
    assert!(exporter.answered(429) <= 2, "{}", exporter.answered(429));
    assert_eq!(
        exporter
            .scrape()
            .sum("atlas_ai_keys_exporter_org_poll_failures_total"),
        0.0
    );
}

const TOKEN: &[(&str, &str)] = &[("MONGODB_ATLAS_ACCESS_TOKEN", "a-ready-token")];
const DAY: Duration = Duration::from_hours(24);

fn org() -> OrgId {
    OrgId::parse("32b6e34b3d91647abb20e7b8").unwrap()
}

/// How long the next request for keys has to wait after a request for keys had this response.
async fn delay_after(answer: impl Fn() -> Answer + Send + Sync + 'static) -> Duration {
    let (client, _) = Scripted::client(TOKEN, move |_| answer());
    let _ = client.keys(&org(), 1, 500, Members::default()).await;
    client.delay(&org())
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_understood_in_all_its_forms() {
    let server = ("date", "Sun, 01 Mar 2026 13:00:00 GMT");
    for (headers, least) in [
        // relative to the server's clock, which is an hour ahead
        (
            vec![server, ("retry-after", "Sun, 01 Mar 2026 13:01:00 GMT")],
            60,
        ),
        (
            vec![server, ("retry-after", "Sunday, 01-Mar-26 13:01:00 GMT")],
            60,
        ),
        (
            vec![server, ("retry-after", "Sun Mar  1 13:01:00 2026")],
            60,
        ),
        (vec![server, ("retry-after", "60")], 60),
        // and to our own where it does not say its time
        (vec![("retry-after", "Sun, 01 Mar 2026 12:01:00 GMT")], 60),
        (
            vec![
                ("date", "now"),
                ("retry-after", "Sun, 01 Mar 2026 12:01:00 GMT"),
            ],
            60,
        ),
        // what is over, and what is none, asks for no wait: there is the first pause of 10 s
        (
            vec![server, ("retry-after", "Sun, 01 Mar 2026 12:59:00 GMT")],
            10,
        ),
        (vec![server, ("retry-after", "in a minute")], 10),
        (vec![server, ("retry-after", "-60")], 10),
        (vec![], 10),
    ] {
        for status in [429, 503] {
            let headers = headers.clone();
            let delay = delay_after(move || response(status, &headers, "{}")).await;
            let range = Duration::from_secs(least)..=Duration::from_secs(least * 5 / 4 + 1);
            assert!(range.contains(&delay), "{status} {delay:?} of {least}");
        }
    }
    assert_eq!(
        START, "2026-03-01T12:00:00Z",
        "what the dates are relative to"
    );
}

#[tokio::test(start_paused = true)]
async fn no_response_stops_the_polls_for_more_than_a_day() {
    for retry_after in [
        "86401",
        "999999999999",
        "18446744073709551616",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Sun, 01 Mar 2099 12:00:00 GMT",
    ] {
        for status in [429, 503] {
            let delay =
                delay_after(move || response(status, &[("retry-after", retry_after)], "{}")).await;
            assert!(delay <= DAY, "{retry_after}: {delay:?}");
            assert!(delay >= DAY * 9 / 10, "{retry_after}: {delay:?}");
        }
    }
    let max = u64::MAX;
    for parameters in [
        "[\"p\", 1, 1000000000000, 1, 86400]".to_owned(),
        "[\"p\", 1, 1000000000000, 1, 1]".to_owned(),
        format!("[\"p\", 1, {max}, {max}, {max}]"),
        format!("[\"p\", 1, {max}, 1, 1]"),
        format!("[\"p\", 1, {max}, {max}, 86400]"),
        "[\"p\", 1, 10, 1, 86400]".to_owned(),
        "[\"p\", 1, 10, 5, 0]".to_owned(),
        "[\"p\", -1, -1, -1, -1]".to_owned(),
        "[\"p\", 1e300, 1e300, 1e300, 1e300]".to_owned(),
        "[]".to_owned(),
        "7".to_owned(),
    ] {
        let body =
            format!("{{\"errorCode\":\"RATE_LIMITED_TOKEN_BUCKET\",\"parameters\":{parameters}}}");
        let shown = parameters.clone();
        let delay = delay_after(move || response(429, &[], &body)).await;
        let absurd = shown.starts_with("[\"p\", 1, 1000000000000, 1");
        let longest = if absurd { Duration::from_secs(13) } else { DAY };
        assert!(delay <= longest, "{shown}: {delay:?}");
    }
    for limit in [
        "0",
        "1",
        "18446744073709551615",
        "18446744073709551616",
        "-1",
        "1e99",
    ] {
        for remaining in ["0", "1", "18446744073709551615", "-1"] {
            let headers = [
                ("ratelimit-limit", limit),
                ("ratelimit-remaining", remaining),
            ];
            let delay = delay_after(move || response(200, &headers, "{\"results\":[]}")).await;
            assert!(
                delay <= Duration::from_mins(10),
                "{limit} {remaining}: {delay:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rate_limits_that_make_no_sense_are_ignored() {
    let set = |capacity: u64, refill: u64, seconds: u64| {
        format!(
            r#"{{"endpointSetId":"s","scope":"ORGANIZATION","capacity":{{"value":{capacity}}},"refillRate":{{"value":{refill}}},"refillDurationSeconds":{{"value":{seconds}}},"endpoints":[{{"method":"GET","path":"/api/atlas/v2/orgs/{{orgId}}/aiModelApiKeys"}}]}}"#
        )
    };
    for (set, known) in [
        (set(1_000_000_000_000, 1, 86_400), false),
        (set(10, 1, 86_400), false),
        (set(u64::MAX, 1, 1), false),
        (set(u64::MAX, u64::MAX, 86_400), true),
        (set(10, 5, 60), true),
        (set(10, 5, u64::MAX), false),
        (set(0, 0, 0), false),
    ] {
        let body = Arc::new(Mutex::new(format!("{{\"results\":[{set}]}}")));
        let next = Arc::clone(&body);
        let (client, _) = Scripted::client(TOKEN, move |request| {
            let is_limits = request.url().path().ends_with("rateLimits");
            let empty = "{\"results\":[]}".to_owned();
            let body = if is_limits {
                next.lock().unwrap().clone()
            } else {
                empty
            };
            response(200, &[], &body)
        });
        let sets = client.rate_limits(&org()).await.unwrap();
        client.learn(sets);
        let supply = client.supply(&org()).1;
        assert_eq!(supply.is_some(), known, "{set}");
        assert!(supply.is_none_or(f64::is_finite));
        for _ in 0..3 {
            client
                .keys(&org(), 1, 500, Members::default())
                .await
                .unwrap();
            assert!(client.delay(&org()) <= DAY, "{set}");
        }
    }
}
