//! The request budget: nobody's quota is burnt, and nothing is lost to a refusal. In simulated time.
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::scripted::{START_TIME, ScriptedTransport, response};
use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{expected_sim_keys, exposed_keys, static_sim};
use jiff::Timestamp;
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{OptionalFields, Response};
use mongodb_atlas_sim::{
    BucketConfig, BucketScope, Effect, ErrorBodyFormat, Fault, SimConfig, SimEndpoint, SimHandle,
};

const KEYS: SimEndpoint = SimEndpoint::AiModelApiKeys;
const MINUTE: Duration = Duration::from_mins(1);

fn status_effect(status: u16, retry_after: Option<u32>) -> Effect {
    Effect::Status {
        status,
        body: ErrorBodyFormat::Json,
        retry_after,
    }
}

/// Seconds between the answers to requests for keys.
fn request_gaps(exporter: &SimHarness) -> Vec<i64> {
    let at: Vec<Timestamp> = exporter
        .requests_to(KEYS)
        .iter()
        .map(|asked| asked.at)
        .collect();
    at.windows(2)
        .map(|pair| pair[1].duration_since(pair[0]).as_secs())
        .collect()
}

fn small_bucket_sim(orgs: usize, keys: usize, scope: BucketScope) -> SimConfig {
    SimConfig {
        org_bucket: BucketConfig::SMALLEST,
        bucket_scope: scope,
        ..static_sim(orgs, keys)
    }
}

/// Atlas does not tell its rate limits but by refusing.
fn hide_rate_limits(sim: &SimHandle) {
    sim.add_fault(Fault::new(
        SimEndpoint::RateLimits,
        status_effect(403, None),
    ));
    sim.add_fault(Fault::new(KEYS, Effect::NoRateLimitHeaders));
    sim.add_fault(Fault::new(KEYS, Effect::BareRefusals));
    sim.add_fault(Fault::new(
        SimEndpoint::AiModelApiRateLimits,
        status_effect(404, None),
    ));
}

#[tokio::test(start_paused = true)]
async fn repeated_429s_back_off_without_failing_the_poll() {
    for code in [429, 503] {
        let sim = in_process_sim(&static_sim(1, 5));
        sim.add_fault(
            Fault::new(KEYS, status_effect(code, None)).times(if code == 429 { 4 } else { 1 }),
        );
        let exporter = SimHarness::start(&sim, &[]).await;
        let scrape = exporter.wait_polled(1).await;
        assert_eq!(
            scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
            0.0
        );
        let pauses = request_gaps(&exporter);
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
async fn retry_after_is_the_minimum_wait() {
    for code in [429, 503] {
        let sim = in_process_sim(&static_sim(1, 5));
        sim.add_fault(Fault::new(KEYS, status_effect(code, Some(25))).times(1));
        let exporter = SimHarness::start(&sim, &[]).await;
        exporter.wait_polled(1).await;
        let pauses = request_gaps(&exporter);
        assert!((25..=32).contains(&pauses[0]), "{pauses:?}");
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn outage_fails_the_poll_instead_of_waiting() {
    let sim = in_process_sim(&static_sim(1, 5));
    let org = sim.org_ids()[0].clone();
    let exporter = SimHarness::start(&sim, &[]).await;
    exporter.wait_polled(1).await;
    sim.add_fault(Fault::new(KEYS, status_effect(503, None)));
    exporter
        .wait_until("the outage to be told", |scrape| {
            scrape.poll_failures(&org, "server_error") > 0.0
        })
        .await;
    let last_good = exporter
        .requests_to(KEYS)
        .iter()
        .rfind(|asked| asked.status == 200)
        .unwrap()
        .at;
    let first_bad = exporter
        .requests_to(KEYS)
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
async fn known_bucket_is_never_exceeded() {
    for scope in [BucketScope::Organization, BucketScope::User] {
        // three organizations of three to six pages, five requests a minute: it does not fit
        let sim = in_process_sim(&small_bucket_sim(3, 120, scope));
        let exporter =
            SimHarness::start(&sim, &["--atlas.page-size=10", "--atlas.poll-interval=1m"]).await;
        exporter.wait_polled(3).await;
        exporter.advance(Duration::from_hours(8)).await;
        assert_eq!(exporter.count_responses(429), 0, "{scope:?}");
        let scrape = exporter.scrape();
        assert_eq!(
            scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
            0.0
        );
        assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
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
async fn part_of_the_bucket_is_reserved_for_other_clients() {
    let sim = in_process_sim(&small_bucket_sim(1, 100, BucketScope::Organization));
    let org = sim.org_ids()[0].clone();
    let exporter =
        SimHarness::start(&sim, &["--atlas.page-size=10", "--atlas.poll-interval=1m"]).await;
    exporter.wait_polled(1).await;
    let name = "atlas_ai_keys_exporter_api_rate_limit_remaining";
    let labels: &[(&str, &str)] = &[("endpoint", "ai_model_api_keys"), ("org_id", &org)];
    for _ in 0..600 {
        exporter.advance(Duration::from_secs(7)).await;
        let remaining = exporter.scrape().get(name, labels).unwrap();
        assert!(
            remaining >= 2.0,
            "two of ten are somebody else's: {remaining}"
        );
    }
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn polls_without_rate_limit_headers() {
    for scope in [BucketScope::Organization, BucketScope::User] {
        let sim = in_process_sim(&small_bucket_sim(8, 160, scope));
        hide_rate_limits(&sim);
        let exporter = SimHarness::start(&sim, &["--atlas.page-size=10"]).await;
        let scrape = exporter.wait_polled(8).await;
        assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim), "{scope:?}");
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn rate_limit_body_updates_bucket_parameters() {
    let sim = in_process_sim(&small_bucket_sim(1, 200, BucketScope::Organization));
    // nor that the limits of the models draw on the same bucket, once an hour
    for endpoint in [SimEndpoint::RateLimits, SimEndpoint::AiModelApiRateLimits] {
        sim.add_fault(Fault::new(endpoint, status_effect(404, None)));
    }
    sim.add_fault(Fault::new(KEYS, Effect::NoRateLimitHeaders));
    let exporter =
        SimHarness::start(&sim, &["--atlas.page-size=10", "--atlas.poll-interval=1m"]).await;
    exporter.wait_polled(1).await;
    let learning = exporter.count_responses(429);
    assert!(
        (1..=4).contains(&learning),
        "{learning} pages under way at once"
    );
    exporter.advance(Duration::from_hours(6)).await;
    assert_eq!(
        exporter.count_responses(429),
        learning,
        "once learnt, none any more"
    );
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn consumption_by_other_clients_is_detected() {
    let sim = in_process_sim(&small_bucket_sim(1, 60, BucketScope::Organization));
    let org = sim.org_ids()[0].clone();
    let exporter =
        SimHarness::start(&sim, &["--atlas.page-size=10", "--atlas.poll-interval=2m"]).await;
    exporter.wait_polled(1).await;
    let exporter = Arc::new(exporter);
    // another tool takes two a minute
    for _ in 0..120 {
        sim.take_tokens(&org, 2);
        exporter.advance(MINUTE).await;
    }
    assert!(
        exporter.count_responses(429) <= 2,
        "{}",
        exporter.count_responses(429)
    );
    assert_eq!(
        exporter
            .scrape()
            .sum("atlas_ai_keys_exporter_org_poll_failures_total"),
        0.0
    );
}

const TOKEN_ENV: &[(&str, &str)] = &[("MONGODB_ATLAS_ACCESS_TOKEN", "a-ready-token")];
const DAY: Duration = Duration::from_hours(24);

fn org_id() -> OrgId {
    OrgId::parse("32b6e34b3d91647abb20e7b8").unwrap()
}

/// How long the next request for keys has to wait after a request for keys had this response.
async fn delay_after_response(answer: impl Fn() -> Response + Send + Sync + 'static) -> Duration {
    let (client, _) = ScriptedTransport::client(TOKEN_ENV, move |_| answer());
    let _ = client
        .list_keys_page(&org_id(), 1, 500, OptionalFields::default())
        .await;
    client.next_delay(&org_id())
}

#[tokio::test(start_paused = true)]
async fn retry_after_accepts_seconds_and_dates() {
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
            let delay = delay_after_response(move || response(status, &headers, "{}")).await;
            let range = Duration::from_secs(least)..=Duration::from_secs(least * 5 / 4 + 1);
            assert!(range.contains(&delay), "{status} {delay:?} of {least}");
        }
    }
    assert_eq!(
        START_TIME, "2026-03-01T12:00:00Z",
        "what the dates are relative to"
    );
}

#[tokio::test(start_paused = true)]
async fn retry_delay_is_capped_at_one_day() {
    for retry_after in [
        "86401",
        "999999999999",
        "18446744073709551616",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Sun, 01 Mar 2099 12:00:00 GMT",
    ] {
        for status in [429, 503] {
            let delay = delay_after_response(move || {
                response(status, &[("retry-after", retry_after)], "{}")
            })
            .await;
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
        let delay = delay_after_response(move || response(429, &[], &body)).await;
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
            let delay =
                delay_after_response(move || response(200, &headers, "{\"results\":[]}")).await;
            assert!(
                delay <= Duration::from_mins(10),
                "{limit} {remaining}: {delay:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn invalid_rate_limits_are_ignored() {
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
        let (client, _) = ScriptedTransport::client(TOKEN_ENV, move |request| {
            let is_limits = request.url().path().ends_with("rateLimits");
            let empty = "{\"results\":[]}".to_owned();
            let body = if is_limits {
                next.lock().unwrap().clone()
            } else {
                empty
            };
            response(200, &[], &body)
        });
        let sets = client.list_rate_limits(&org_id()).await.unwrap();
        client.set_rate_limits(sets);
        let supply = client.sustained_rate(&org_id()).per_second;
        assert_eq!(supply.is_some(), known, "{set}");
        assert!(supply.is_none_or(f64::is_finite));
        for _ in 0..3 {
            client
                .list_keys_page(&org_id(), 1, 500, OptionalFields::default())
                .await
                .unwrap();
            assert!(client.next_delay(&org_id()) <= DAY, "{set}");
        }
    }
}
