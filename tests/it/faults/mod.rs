//! Failures of Atlas: the published data and the counted reason.

mod contents;
mod pages;

use crate::common::{TestExporter, expected_sim_keys, exposed_keys, static_sim};
use futures_util::future::join_all;
use mongodb_atlas_sim::{Effect, ErrorBodyFormat, Fault, SimEndpoint};

fn replace_effect(old: &str, new: &str) -> Effect {
    Effect::Replace {
        old: old.to_owned(),
        new: new.to_owned(),
    }
}

/// Request timeout where it does not matter: more than a loaded machine needs.
const TIMEOUT: &str = "20s";

/// Request timeout of tests of the timeout.
const SHORT_TIMEOUT: &str = "400ms";

const FLAGS: &[&str] = &[
    "--atlas.poll-interval",
    "1s",
    "--atlas.timeout",
    TIMEOUT,
    "--atlas.page-size",
    "10",
];

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

/// Polls once, then adds the fault to page 2 of 3 and changes the keys.
/// Asserts that the last inventory is retained, `org_up` is 0 and the time of success does not advance.
async fn assert_data_retained(effect: Effect, reason: &str) {
    assert_data_retained_within(TIMEOUT, effect, reason).await;
}

/// The same with another request timeout.
async fn assert_data_retained_within(timeout: &str, effect: Effect, reason: &str) {
    let name = format!("{effect:?}");
    let flags: Vec<&str> = FLAGS
        .iter()
        .map(|flag| if *flag == TIMEOUT { timeout } else { flag })
        .collect();
    let exporter = TestExporter::start(static_sim(1, 25), &flags).await;
    let org = exporter.sim.org_ids()[0].clone();
    let before = exporter.wait_polled_with_names().await;
    exporter.sim.add_fault(keys_fault(effect).for_page(2));
    exporter.sim.with_world(|world| {
        let first = world.keys(&org)[0].id.clone();
        assert!(world.delete_key(&org, &first));
    });
    let after = exporter
        .wait_until(&format!("{name} to be counted as {reason}"), |scrape| {
            scrape.poll_failures(&org, reason) >= 1.0
        })
        .await;
    assert_eq!(
        after.inventory_series(),
        before.inventory_series(),
        "{name}: the last complete truth stays"
    );
    let own = |name: &str| format!("atlas_ai_keys_exporter_{name}");
    assert_eq!(after.values(&own("org_up")), [0.0], "{name}");
    let success = own("org_last_success_timestamp_seconds");
    assert_eq!(
        after
            .with_name(&own("org_poll_failures_total"))
            .filter(|s| s.value > 0.0)
            .count(),
        1,
        "{name}: one reason alone"
    );
    let (before_success, after_success) = (before.values(&success), after.values(&success));
    assert!(
        after_success >= before_success
            && after_success[0] <= after.values(&own("org_last_attempt_timestamp_seconds"))[0]
    );
    let ready = exporter.get("/-/ready").await;
    assert_eq!(ready.0, 200, "{name}: there is an inventory to show");
    // After recovery, the change is exported.
    exporter.sim.clear_faults();
    let healed = exporter
        .wait_until(&format!("{name} to heal"), |scrape| {
            scrape.values(&own("org_up")) == [1.0]
        })
        .await;
    assert_eq!(
        exposed_keys(&healed),
        expected_sim_keys(&exporter.sim),
        "{name}"
    );
    assert!(healed.values(&success) > before_success, "{name}");
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn error_statuses_retain_the_last_inventory() {
    let mut cases = Vec::new();
    for body in [
        ErrorBodyFormat::Json,
        ErrorBodyFormat::Html,
        ErrorBodyFormat::Empty,
    ] {
        for (code, reason) in [
            (401, "unauthorized"),
            (403, "forbidden"),
            (404, "not_found"),
            (500, "server_error"),
            (503, "server_error"),
        ] {
            cases.push(assert_data_retained(
                status_effect(code, body, None),
                reason,
            ));
        }
    }
    cases.push(assert_data_retained(
        status_effect(429, ErrorBodyFormat::Json, Some(1)),
        "rate_limited",
    ));
    cases.push(assert_data_retained(
        status_effect(429, ErrorBodyFormat::Html, None),
        "rate_limited",
    ));
    cases.push(assert_data_retained(
        status_effect(400, ErrorBodyFormat::Json, None),
        "invalid_response",
    ));
    cases.push(assert_data_retained(
        status_effect(406, ErrorBodyFormat::Json, None),
        "invalid_response",
    ));
    // A truncated body is a connection error, whatever its status.
    cases.push(assert_data_retained(
        status_effect(503, ErrorBodyFormat::Cut, None),
        "connection",
    ));
    join_all(cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_bodies_and_connections_retain_the_last_inventory() {
    let content_type = |value: &str| Effect::ContentType {
        value: value.into(),
    };
    let redirect = |location: &str| Effect::Redirect {
        location: location.into(),
    };
    join_all(vec![
        assert_data_retained_within(SHORT_TIMEOUT, Effect::Delay { seconds: 5.0 }, "timeout"),
        assert_data_retained_within(
            SHORT_TIMEOUT,
            Effect::Drip {
                bytes: 1,
                every_ms: 50,
            },
            "timeout",
        ),
        assert_data_retained_within(TIMEOUT, Effect::CutBody, "connection"),
        assert_data_retained_within(TIMEOUT, Effect::Reset, "connection"),
        assert_data_retained_within(TIMEOUT, content_type("text/html"), "invalid_response"),
        assert_data_retained_within(TIMEOUT, Effect::InvalidJson, "invalid_response"),
        assert_data_retained_within(
            TIMEOUT,
            redirect("http://127.0.0.1:9/elsewhere"),
            "invalid_response",
        ),
    ])
    .await;
}

/// However long 32 MiB take on this machine: the number of bytes ends the request.
#[tokio::test(flavor = "multi_thread")]
async fn endless_body_retains_the_last_inventory() {
    assert_data_retained_within("25s", Effect::EndlessBody, "invalid_response").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gzip_bomb_is_rejected_in_bounded_memory() {
    let exporter = TestExporter::start(
        static_sim(1, 25),
        &["--atlas.poll-interval", "1s", "--atlas.page-size", "10"],
    )
    .await;
    let org = exporter.sim.org_ids()[0].clone();
    let before = exporter.wait_polled_with_names().await;
    exporter.sim.add_fault(keys_fault(Effect::GzipBomb));
    let after = exporter
        .wait_until("the bomb to be refused", |scrape| {
            scrape.poll_failures(&org, "invalid_response") >= 1.0
        })
        .await;
    assert_eq!(after.inventory_series(), before.inventory_series());
    exporter.stop().await.stop().await;
}

/// Asserts that a fault affects no key: everything is published, and no failure is counted.
async fn assert_unaffected(effect: Effect) {
    assert_only_page_count_differs(effect, 3.0).await;
}

/// The same with another number of pages per walk.
async fn assert_only_page_count_differs(effect: Effect, pages: f64) {
    let name = format!("{effect:?}");
    let sim = crate::common::start_sim(static_sim(1, 25)).await;
    sim.add_fault(keys_fault(effect));
    let variables = crate::common::sim_env(&sim);
    let exporter = TestExporter::start_with(sim, variables, FLAGS).await;
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
        assert_unaffected(Effect::MissingMembers {
            members: vec!["cloud".into(), "createdBy".into(), "endpoint".into()],
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
    assert!(
        scrape
            .with_name("mongodbatlas_ai_model_api_keys")
            .all(|series| series.labels["org_id"] != orgs[1])
    );
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
            ("endpoint", "ai_model_api_keys"),
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
            &[("endpoint", "ai_model_api_keys"), ("reason", "connection")]
        ),
        Some(1.0)
    );
    assert_eq!(
        scrape.get(
            "atlas_ai_keys_exporter_api_retries_total",
            &[
                ("endpoint", "ai_model_api_keys"),
                ("reason", "server_error")
            ]
        ),
        Some(1.0)
    );
    exporter.stop().await.stop().await;
}
