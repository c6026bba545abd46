//! Failures of Atlas: the published data and the counted reason.

mod contents;
#[cfg(target_os = "linux")]
mod gzip_bomb;
mod last_poll;
mod pages;

use std::time::Duration;

use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{
    Scrape, TestExporter, expected_keys, expected_sim_keys, exposed_keys, static_sim,
};
use futures_util::future::join_all;
use mongodb_atlas_sim::{Effect, ErrorBodyFormat, Fault, SimEndpoint, SimHandle};

fn replace_effect(old: &str, new: &str) -> Effect {
    Effect::Replace {
        old: old.to_owned(),
        new: new.to_owned(),
    }
}

/// Request timeout where it does not matter: more than a loaded machine needs.
const TIMEOUT: &str = "2m";

/// Request timeout of tests of the timeout: long enough for a response that is not delayed.
const SHORT_TIMEOUT: &str = "2s";

const FLAGS: &[&str] = &[
    "--atlas.poll-interval",
    "1s",
    "--atlas.timeout",
    TIMEOUT,
    "--atlas.page-size",
    "10",
];

const UP: &str = "atlas_ai_keys_exporter_org_up";

const SUCCESS: &str = "atlas_ai_keys_exporter_org_last_success_timestamp_seconds";

fn status_effect(status: u16, body: ErrorBodyFormat, retry_after: Option<u32>) -> Effect {
    Effect::Status {
        status,
        body,
        retry_after,
    }
}

fn keys_fault(effect: Effect) -> Fault {
    Fault::new(SimEndpoint::AiModelApiKeys, effect)
}

/// Adds the fault to page 2 of 3, and deletes a key of page 1.
fn add_fault_and_delete_key(sim: &SimHandle, effect: Effect) {
    sim.add_fault(keys_fault(effect).for_page(2));
    sim.with_world(|world| {
        let org = world.org_ids()[0].clone();
        let first = world.keys(&org)[0].id.clone();
        assert!(world.delete_key(&org, &first));
    });
}

/// Asserts that the last inventory is retained, `org_up` is 0, the time of success does not advance, and one reason is
/// counted.
fn assert_retained(before: &Scrape, after: &Scrape, name: &str) {
    assert_eq!(
        after.inventory_series(),
        before.inventory_series(),
        "{name}: the last inventory is retained"
    );
    assert_eq!(exposed_keys(after).len(), 25, "{name}");
    assert_eq!(after.values(UP), [0.0], "{name}");
    let reasons = after.with_name("atlas_ai_keys_exporter_org_poll_failures_total");
    let counted = reasons.filter(|series| series.value > 0.0).count();
    assert_eq!(counted, 1, "{name}: one reason");
    let attempt = after.values("atlas_ai_keys_exporter_org_last_attempt_timestamp_seconds");
    let success = after.values(SUCCESS);
    assert!(success >= before.values(SUCCESS), "{name}");
    assert!(success < attempt, "{name}: {success:?}, {attempt:?}");
}

/// Polls once, then adds the fault to page 2 of 3 and changes the keys. Asserts that two polls fail with `reason`, that
/// the last inventory is retained, and that the change is exported after the fault. In simulated time.
async fn assert_data_retained(effect: Effect, reason: &str) {
    let name = format!("{effect:?}");
    let sim = in_process_sim(&static_sim(1, 25));
    let org = sim.org_ids()[0].clone();
    let exporter = SimHarness::start(&sim, &["--atlas.page-size=10"]).await;
    exporter.wait_polled(1).await;
    exporter.advance(Duration::from_secs(1)).await;
    let before = exporter.scrape();
    add_fault_and_delete_key(&sim, effect);
    for failures in [1.0, 2.0] {
        let what = format!("{name} to be counted as {reason}");
        let counted = |scrape: &Scrape| scrape.poll_failures(&org, reason) >= failures;
        let after = exporter.wait_until(&what, counted).await;
        assert_retained(&before, &after, &name);
        assert_eq!(after.values(SUCCESS), before.values(SUCCESS), "{name}");
        assert_eq!(exporter.readiness().0, 200, "{name}");
    }
    sim.clear_faults();
    let healed = exporter.wait_polled(1).await;
    assert_eq!(exposed_keys(&healed), expected_sim_keys(&sim), "{name}");
    assert_eq!(exposed_keys(&healed).len(), 24, "{name}");
    assert!(healed.values(SUCCESS) > before.values(SUCCESS), "{name}");
    exporter.stop().await;
}

/// The same over HTTP and in real time, with one failed poll.
async fn assert_data_retained_over_http(timeout: &str, effect: Effect, reason: &str) {
    let name = format!("{effect:?}");
    let flags: Vec<&str> = FLAGS
        .iter()
        .map(|flag| if *flag == TIMEOUT { timeout } else { flag })
        .collect();
    let exporter = TestExporter::start(static_sim(1, 25), &flags).await;
    let org = exporter.sim.org_ids()[0].clone();
    let before = exporter.wait_polled_with_names().await;
    add_fault_and_delete_key(&exporter.sim, effect);
    let after = exporter
        .wait_until(&format!("{name} to be counted as {reason}"), |scrape| {
            scrape.poll_failures(&org, reason) >= 1.0
        })
        .await;
    assert_retained(&before, &after, &name);
    let ready = exporter.get("/-/ready").await;
    assert_eq!(ready.0, 200, "{name}");
    exporter.sim.clear_faults();
    let healed = exporter
        .wait_until(&format!("{name} to heal"), |scrape| {
            scrape.values(UP) == [1.0]
        })
        .await;
    let expected = expected_sim_keys(&exporter.sim);
    assert_eq!(exposed_keys(&healed), expected, "{name}");
    assert!(healed.values(SUCCESS) > before.values(SUCCESS), "{name}");
    exporter.stop().await.stop().await;
}

#[tokio::test(start_paused = true)]
async fn error_statuses_retain_the_last_inventory() {
    for (code, reason) in [
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "not_found"),
        (500, "server_error"),
        (503, "server_error"),
    ] {
        assert_data_retained(status_effect(code, ErrorBodyFormat::Json, None), reason).await;
    }
    for body in [ErrorBodyFormat::Html, ErrorBodyFormat::Empty] {
        for (code, reason) in [(401, "unauthorized"), (503, "server_error")] {
            assert_data_retained(status_effect(code, body, None), reason).await;
        }
    }
    for (code, body, retry_after, reason) in [
        (429, ErrorBodyFormat::Json, Some(1), "rate_limited"),
        (429, ErrorBodyFormat::Html, None, "rate_limited"),
        (400, ErrorBodyFormat::Json, None, "invalid_response"),
        (406, ErrorBodyFormat::Json, None, "invalid_response"),
        // A truncated body is a connection error, whatever its status.
        (503, ErrorBodyFormat::Truncated, None, "connection"),
    ] {
        assert_data_retained(status_effect(code, body, retry_after), reason).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_bodies_and_failed_connections_retain_the_last_inventory() {
    let content_type = |value: &str| Effect::ContentType {
        value: value.into(),
    };
    let redirect = |location: &str| Effect::Redirect {
        location: location.into(),
    };
    let drip = Effect::Drip {
        bytes: 1,
        every_ms: 50,
    };
    let cut_error = status_effect(503, ErrorBodyFormat::Truncated, None);
    let cases = [
        (SHORT_TIMEOUT, Effect::Delay { seconds: 300.0 }, "timeout"),
        (SHORT_TIMEOUT, drip, "timeout"),
        (TIMEOUT, Effect::TruncatedBody, "connection"),
        (TIMEOUT, cut_error, "connection"),
        (TIMEOUT, Effect::Reset, "connection"),
        (TIMEOUT, content_type("text/html"), "invalid_response"),
        (TIMEOUT, Effect::InvalidJson, "invalid_response"),
        (
            TIMEOUT,
            redirect("http://127.0.0.1:9/elsewhere"),
            "invalid_response",
        ),
    ];
    let polls = cases
        .map(|(timeout, effect, reason)| assert_data_retained_over_http(timeout, effect, reason));
    join_all(polls).await;
}

/// However long 32 MiB take on this machine: the number of bytes ends the request.
#[tokio::test(flavor = "multi_thread")]
async fn endless_body_retains_the_last_inventory() {
    assert_data_retained_over_http(TIMEOUT, Effect::EndlessBody, "invalid_response").await;
}

/// Asserts that a fault affects no key: everything is published, and no failure is counted.
async fn assert_unaffected(effect: Effect) {
    assert_only_page_count_differs(effect, 3.0).await;
}

/// Starts an exporter of 25 keys with a fault in their list.
async fn start_with_keys_fault(effect: Effect) -> TestExporter {
    let sim = crate::common::start_sim(static_sim(1, 25)).await;
    sim.add_fault(keys_fault(effect));
    let variables = crate::common::sim_env(&sim);
    TestExporter::start_with(sim, variables, FLAGS).await
}

/// The same with another number of pages per walk.
async fn assert_only_page_count_differs(effect: Effect, pages: f64) {
    let name = format!("{effect:?}");
    let exporter = start_with_keys_fault(effect).await;
    let scrape = exporter.wait_polled().await;
    assert_eq!(
        exposed_keys(&scrape),
        expected_sim_keys(&exporter.sim),
        "{name}"
    );
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
        0.0,
        "{name}"
    );
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_org_poll_pages"),
        pages,
        "{name}: pages of one walk"
    );
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn harmless_response_variations_are_accepted() {
    join_all(vec![
        assert_unaffected(Effect::NoRateLimitHeaders),
        assert_unaffected(Effect::RateLimitZero),
        assert_unaffected(Effect::TotalCount { value: 0 }),
        assert_unaffected(Effect::TotalCount { value: 7 }),
        assert_unaffected(Effect::TotalCount { value: -1 }),
        assert_unaffected(replace_effect("\"totalCount\":25", "\"totalCount\":\"25\"")),
        assert_unaffected(replace_effect("\"totalCount\":25", "\"totalCount\":1e999")),
        assert_unaffected(replace_effect(
            "\"totalCount\":25",
            "\"totalCount\":{\"a\":[]}",
        )),
        assert_unaffected(replace_effect("\"links\"", "\"links\":1e999,\"links\"")),
        assert_unaffected(replace_effect(
            "\"results\"",
            "\"\\ud83d\":-1e999,\"results\"",
        )),
        assert_unaffected(replace_effect("\"results\"", "\"status\":200,\"results\"")),
        assert_unaffected(replace_effect("\"apiKeyId\":", "\n\t\"apiKeyId\" :\r\n ")),
        assert_unaffected(replace_effect(
            "\"apiKeyId\"",
            "\"apiKeyId\":7,\"name\":{},\"apiKeyId\"",
        )),
        assert_unaffected(replace_effect("\"apiKeyId\"", "\"\\u0061piKeyId\"")),
        assert_unaffected(replace_effect(
            "\"apiKeyId\"",
            &format!("\"a\":{},\"apiKeyId\"", "9".repeat(100_000)),
        )),
        assert_unaffected(replace_effect(
            "\"apiKeyId\"",
            &format!(
                "\"a\":{}{},\"apiKeyId\"",
                "[".repeat(100_000),
                "]".repeat(100_000)
            ),
        )),
        assert_unaffected(Effect::NoTotalCount),
        assert_unaffected(Effect::NoLinks),
        assert_unaffected(Effect::Secret),
        assert_unaffected(Effect::Gzip),
        assert_unaffected(Effect::Drip {
            bytes: 4000,
            every_ms: 1,
        }),
        assert_unaffected(Effect::MissingFields {
            fields: vec!["cloud".into(), "createdBy".into(), "endpoint".into()],
        }),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_organization_does_not_affect_others() {
    let sim = crate::common::start_sim(static_sim(3, 60)).await;
    let orgs = sim.org_ids();
    sim.add_fault(keys_fault(status_effect(403, ErrorBodyFormat::Json, None)).for_org(&orgs[1]));
    let variables = crate::common::sim_env(&sim);
    let exporter = TestExporter::start_with(sim, variables, FLAGS).await;
    let scrape = exporter
        .wait_until("two walks and a failure", |scrape| {
            scrape.sum("atlas_ai_keys_exporter_org_up") == 2.0
                && scrape.poll_failures(&orgs[1], "forbidden") >= 1.0
        })
        .await;
    assert_eq!(
        scrape.get("atlas_ai_keys_exporter_org_up", &[("org_id", &orgs[1])]),
        Some(0.0)
    );
    let (code, text) = exporter.get("/-/ready").await;
    assert_eq!(code, 503);
    assert!(
        text.contains(&orgs[1]) && !text.contains(&orgs[0]),
        "{text}"
    );
    let others = exporter.sim.with_world(|world| {
        let others = [&orgs[0], &orgs[2]];
        expected_keys(others.into_iter().flat_map(|org| world.keys(org)))
    });
    assert_eq!(exposed_keys(&scrape), others);
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unsupported_api_version_falls_back_to_preview_once() {
    let exporter = TestExporter::start(
        static_sim(1, 25),
        &[
            "--atlas.api-version",
            "2031-01-01",
            "--atlas.page-size",
            "10",
        ],
    )
    .await;
    let scrape = exporter.wait_polled().await;
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&exporter.sim));
    let refused = exporter
        .sim
        .requests()
        .iter()
        .filter(|request| request.endpoint == SimEndpoint::AiModelApiKeys && request.status == 406)
        .count();
    assert_eq!(refused, 1);
    let retries = scrape.get(
        "atlas_ai_keys_exporter_api_retries_total",
        &[
            ("operation", "ai_model_api_keys"),
            ("reason", "not_acceptable"),
        ],
    );
    assert_eq!(retries, Some(1.0));
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transient_error_does_not_fail_the_poll() {
    let sim = crate::common::start_sim(static_sim(1, 25)).await;
    sim.add_fault(keys_fault(Effect::Reset).for_page(2).times(1));
    sim.add_fault(
        keys_fault(status_effect(502, ErrorBodyFormat::Html, None))
            .for_page(3)
            .times(1),
    );
    let variables = crate::common::sim_env(&sim);
    let exporter = TestExporter::start_with(sim, variables, FLAGS).await;
    let scrape = exporter.wait_polled().await;
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_org_poll_failures_total"),
        0.0
    );
    assert_eq!(
        scrape.get(
            "atlas_ai_keys_exporter_api_retries_total",
            &[("operation", "ai_model_api_keys"), ("reason", "connection")]
        ),
        Some(1.0)
    );
    assert_eq!(
        scrape.get(
            "atlas_ai_keys_exporter_api_retries_total",
            &[
                ("operation", "ai_model_api_keys"),
                ("reason", "server_error")
            ]
        ),
        Some(1.0)
    );
    exporter.stop().await.stop().await;
}
