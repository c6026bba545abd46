//! Whatever Atlas answers: what is published, and which reason is counted.
use crate::common::{TestExporter, expected_sim_keys, exposed_keys, static_sim};
use futures_util::future::join_all;
use mongodb_atlas_sim::{Effect, ErrorBodyFormat, Fault, SimEndpoint};

/// What a request may take, where it is no matter: more than a loaded machine needs.
const TIMEOUT: &str = "20s";
/// What it may take where a timeout is what is tested.
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

/// A first walk is good; then the fault comes on page 2 of 3 and the keys of the world change.
/// The last complete truth must stay, `org_up` must say 0, the time of success must not move.
async fn assert_data_retained(effect: Effect, reason: &str) {
    assert_data_retained_within(TIMEOUT, effect, reason).await;
}

/// The same with another time that a request may take.
async fn assert_data_retained_within(timeout: &str, effect: Effect, reason: &str) {
    let name = format!("{effect:?}");
    let flags: Vec<&str> = FLAGS
        .iter()
        .map(|flag| if *flag == TIMEOUT { timeout } else { flag })
        .collect();
    let lab = TestExporter::start(static_sim(1, 25), &flags).await;
    let org = lab.sim.org_ids()[0].clone();
    let before = lab.wait_polled_with_names().await;
    lab.sim.add_fault(keys_fault(effect).for_page(2));
    lab.sim.with_world(|world| {
        let first = world.keys(&org)[0].id.clone();
        assert!(world.delete_key(&org, &first));
    });
    let after = lab
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
    let ready = lab.get("/-/ready").await;
    assert_eq!(ready.0, 200, "{name}: there is an inventory to show");
    // and when all is well again, the change shows
    lab.sim.clear_faults();
    let healed = lab
        .wait_until(&format!("{name} to heal"), |scrape| {
            scrape.values(&own("org_up")) == [1.0]
        })
        .await;
    assert_eq!(exposed_keys(&healed), expected_sim_keys(&lab.sim), "{name}");
    assert!(healed.values(&success) > before_success, "{name}");
    lab.stop().await.stop().await;
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
    // a body that is cut off is a matter of the connection, whatever its status was to be
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

/// However long 32 MiB take on the machine: it is their number that ends them.
#[tokio::test(flavor = "multi_thread")]
async fn endless_body_retains_the_last_inventory() {
    assert_data_retained_within("25s", Effect::EndlessBody, "invalid_response").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gzip_bomb_is_rejected_in_bounded_memory() {
    let lab = TestExporter::start(
        static_sim(1, 25),
        &["--atlas.poll-interval", "1s", "--atlas.page-size", "10"],
    )
    .await;
    let org = lab.sim.org_ids()[0].clone();
    let before = lab.wait_polled_with_names().await;
    lab.sim.add_fault(keys_fault(Effect::GzipBomb));
    let after = lab
        .wait_until("the bomb to be refused", |scrape| {
            scrape.poll_failures(&org, "invalid_response") >= 1.0
        })
        .await;
    assert_eq!(after.inventory_series(), before.inventory_series());
    lab.stop().await.stop().await;
}

/// A fault that leaves the keys whole: everything is published, nothing is counted as a failure.
async fn assert_unaffected(effect: Effect) {
    assert_only_page_count_differs(effect, 3.0).await;
}

/// The same where a walk takes another number of pages.
async fn assert_only_page_count_differs(effect: Effect, pages: f64) {
    let name = format!("{effect:?}");
    let sim = crate::common::start_sim(static_sim(1, 25)).await;
    sim.add_fault(keys_fault(effect));
    let variables = crate::common::sim_env(&sim);
    let lab = TestExporter::start_with(sim, variables, FLAGS).await;
    let scrape = lab.wait_polled().await;
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&lab.sim), "{name}");
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
    lab.stop().await.stop().await;
}

/// As long as more is promised than came, one page more is asked for; it is empty.
#[tokio::test(flavor = "multi_thread")]
async fn overstated_total_costs_one_extra_request() {
    let totals = [99, i64::MAX].map(|value| Effect::TotalCount { value });
    join_all(totals.map(|effect| assert_only_page_count_differs(effect, 4.0))).await;
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

fn replace_effect(old: &str, new: &str) -> Effect {
    Effect::Replace {
        old: old.to_owned(),
        new: new.to_owned(),
    }
}

/// The names as they are shown when the answers say `new` for each `old`.
async fn key_names_after_replace(old: &str, new: &str) -> Vec<String> {
    let sim = crate::common::start_sim(static_sim(1, 25)).await;
    sim.add_fault(keys_fault(replace_effect(old, new)));
    let variables = crate::common::sim_env(&sim);
    let flags = [FLAGS, &["--metrics.key-labels=name,created_by,status"]].concat();
    let lab = TestExporter::start_with(sim, variables, &flags).await;
    let scrape = lab.wait_polled().await;
    assert_eq!(exposed_keys(&scrape).len(), 25, "{new}");
    let info = scrape.with_name("mongodbatlas_ai_model_api_key_info");
    let names = info.map(|series| series.labels["name"].clone()).collect();
    lab.stop().await.stop().await;
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_character_is_replaced_without_failing_the_page() {
    let cases = [
        ("team rocket \\ud83d", "team rocket \u{fffd}"),
        ("\\uDE00", "\u{fffd}"),
        ("\\ud83d\\ud83d\\ude00", "\u{fffd}😀"),
        ("\\\\ud83d", "\\ud83d"),
        ("nul \\u0000", "nul \0"),
        ("raw \u{1} control", "raw   control"),
        ("😀", "😀"),
    ];
    let asked = cases.map(|(json, shown)| async move {
        let names =
            key_names_after_replace("\"name\":\"", &format!("\"name\":\"{json}\",\"other\":\""))
                .await;
        assert!(names.iter().all(|name| name == shown), "{names:?}");
    });
    join_all(asked).await;
    // in any other field, known or not, and in the name of one
    let half = "\\ud83d";
    let asked = [
        "createdBy",
        "status",
        "groupId",
        "cloud",
        "secret",
        "apiKeyId",
    ]
    .map(|field| {
        let (old, new) = (format!("\"{field}\":\""), format!("\"{field}\":\"{half}"));
        async move { key_names_after_replace(&old, &new).await }
    });
    join_all(asked).await;
    key_names_after_replace("\"name\"", "\"\\udc00\":\"\\udc00\",\"name\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overlong_names_are_truncated_and_counted() {
    for (json, shown, truncated) in [
        ("x".repeat(60_000), "x".repeat(250), 25.0),
        ("ä".repeat(251), "ä".repeat(250), 25.0),
        ("ä".repeat(250), "ä".repeat(250), 0.0),
        ("\\ud83d\\ude00".repeat(251), "😀".repeat(250), 25.0),
    ] {
        let sim = crate::common::start_sim(static_sim(1, 25)).await;
        let (old, new) = ("\"name\":\"", format!("\"name\":\"{json}\",\"other\":\""));
        sim.add_fault(keys_fault(replace_effect(old, &new)));
        let variables = crate::common::sim_env(&sim);
        let lab = TestExporter::start_with(sim, variables, FLAGS).await;
        let scrape = lab.wait_polled().await;
        let mut info = scrape.with_name("mongodbatlas_ai_model_api_key_info");
        assert!(info.all(|series| series.labels["name"] == shown));
        let name = "atlas_ai_keys_exporter_names_truncated";
        assert_eq!(scrape.values(name), [truncated], "{json:.20}");
        lab.stop().await.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn response_texts_are_bounded_in_length() {
    let sim = crate::common::start_sim(static_sim(1, 25)).await;
    let long = "x".repeat(60_000);
    for field in ["status", "cloud", "geography", "createdBy", "maskedSecret"] {
        let (old, new) = (format!("\"{field}\":\""), format!("\"{field}\":\"{long}"));
        sim.add_fault(keys_fault(replace_effect(&old, &new)));
    }
    for endpoint in [
        SimEndpoint::Org,
        SimEndpoint::Groups,
        SimEndpoint::AiModelApiRateLimits,
    ] {
        for field in ["name", "modelGroupName", "cloud", "geography"] {
            let (old, new) = (format!("\"{field}\":\""), format!("\"{field}\":\"{long}"));
            sim.add_fault(Fault::new(endpoint, replace_effect(&old, &new)));
        }
    }
    let variables = crate::common::sim_env(&sim);
    let labels = "--metrics.key-labels=name,status,cloud,geography,created_by,masked_secret";
    let lab = TestExporter::start_with(sim, variables, &[labels]).await;
    let scrape = lab.wait_polled_with_names().await;
    for series in scrape.series() {
        for (label, value) in series.labels {
            assert!(value.chars().count() <= 250, "{} {label}", series.name);
        }
    }
    assert_eq!(
        scrape
            .with_name("mongodbatlas_ai_model_api_key_info")
            .count(),
        25
    );
    assert_eq!(
        scrape.with_name("mongodbatlas_organization_info").count(),
        1
    );
    lab.stop().await.stop().await;
}

/// Forms that JSON has for nothing and for a number, in the answers that have one.
#[tokio::test(flavor = "multi_thread")]
async fn null_results_and_numeric_variants_are_accepted() {
    let sim = crate::common::start_sim(static_sim(1, 0)).await;
    sim.add_fault(keys_fault(replace_effect(
        "\"results\":[]",
        "\"results\":null",
    )));
    for (endpoint, results) in [
        (SimEndpoint::Groups, "\"results\":null"),
        (SimEndpoint::RateLimits, "\"results\":null"),
    ] {
        let text = format!("{{{results}}}");
        sim.add_fault(Fault::new(endpoint, Effect::Body { text }));
    }
    let variables = crate::common::sim_env(&sim);
    let lab = TestExporter::start_with(sim, variables, FLAGS).await;
    let scrape = lab.wait_polled().await;
    assert!(exposed_keys(&scrape).is_empty());
    lab.stop().await.stop().await;
    for life in ["\"3600\"", "3600.0", "3.6e3", "null", "\"soon\"", "[3600]"] {
        let sim = crate::common::start_sim(static_sim(1, 25)).await;
        let new = format!("\"expires_in\":{life}");
        sim.add_fault(Fault::new(
            SimEndpoint::Token,
            replace_effect("\"expires_in\":3600", &new),
        ));
        let variables = crate::common::sim_env(&sim);
        let lab = TestExporter::start_with(sim, variables, FLAGS).await;
        assert_eq!(exposed_keys(&lab.wait_polled().await).len(), 25, "{life}");
        lab.stop().await.stop().await;
    }
}

/// An error is known by its status, however large what it says is.
#[tokio::test(flavor = "multi_thread")]
async fn error_body_read_is_bounded() {
    let sim = crate::common::start_sim(static_sim(1, 25)).await;
    let org = sim.org_ids()[0].clone();
    sim.add_fault(keys_fault(status_effect(
        403,
        ErrorBodyFormat::Endless,
        None,
    )));
    let variables = crate::common::sim_env(&sim);
    let flags = ["--atlas.timeout=25s", "--atlas.poll-interval=1s"];
    let lab = TestExporter::start_with(sim, variables, &flags).await;
    lab.wait_until("the status to be counted", |scrape| {
        scrape.poll_failures(&org, "forbidden") >= 1.0
    })
    .await;
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_page_is_rejected() {
    for result in ["{}", "0", "\"a\"", "[[]]", "{\"apiKeyId\":\"a\"}"] {
        let text = format!("{{\"results\":[{}]}}", [result; 11].join(","));
        assert_data_retained(Effect::Body { text }, "invalid_response").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn zero_rate_limit_is_ignored() {
    let sim = crate::common::start_sim(static_sim(1, 5)).await;
    sim.add_fault(keys_fault(Effect::RateLimitZero));
    let variables = crate::common::sim_env(&sim);
    let lab = TestExporter::start_with(sim, variables, FLAGS).await;
    let scrape = lab.wait_polled().await;
    let keys = &[("endpoint", "ai_model_api_keys")];
    for name in ["capacity", "remaining"] {
        let name = format!("atlas_ai_keys_exporter_api_rate_limit_{name}");
        assert_eq!(scrape.get(&name, keys), None);
    }
    lab.sim.clear_faults();
    let name = "atlas_ai_keys_exporter_api_rate_limit_capacity";
    lab.wait_until("a real limit to be learnt", |scrape| {
        scrape.get(name, keys) == Some(500.0)
    })
    .await;
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_keys_trigger_a_rescan_and_are_merged() {
    let sim = crate::common::start_sim(static_sim(1, 25)).await;
    sim.add_fault(keys_fault(Effect::RepeatKeys));
    let variables = crate::common::sim_env(&sim);
    let lab = TestExporter::start_with(sim, variables, FLAGS).await;
    let scrape = lab.wait_polled().await;
    assert_eq!(
        exposed_keys(&scrape),
        expected_sim_keys(&lab.sim),
        "repeats are merged"
    );
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_org_poll_pages"),
        6.0,
        "two walks of three pages"
    );
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skipped_keys_trigger_a_rescan() {
    let sim = crate::common::start_sim(static_sim(1, 25)).await;
    // one key is missing from page 2 of the first walk alone
    sim.add_fault(keys_fault(Effect::SkipKeys).for_page(2).times(1));
    let variables = crate::common::sim_env(&sim);
    let lab = TestExporter::start_with(sim, variables, FLAGS).await;
    let scrape = lab.wait_polled().await;
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&lab.sim));
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_org_poll_pages"),
        7.0,
        "two walks of three pages, and a page for the key that totalCount promised"
    );
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn short_page_with_next_link_continues_the_walk() {
    let sim = crate::common::start_sim(static_sim(1, 25)).await;
    sim.add_fault(keys_fault(Effect::SkipKeys).for_page(2));
    let variables = crate::common::sim_env(&sim);
    let lab = TestExporter::start_with(sim, variables, FLAGS).await;
    let scrape = lab.wait_polled().await;
    // what the second walk says is published, and page 3 with it
    assert_eq!(exposed_keys(&scrape).len(), 24);
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_without_id_are_counted_and_skipped() {
    let sim = crate::common::start_sim(static_sim(1, 25)).await;
    sim.add_fault(keys_fault(Effect::MissingMembers {
        members: vec!["apiKeyId".into()],
    }));
    let variables = crate::common::sim_env(&sim);
    let lab = TestExporter::start_with(sim, variables, FLAGS).await;
    let scrape = lab.wait_polled().await;
    // every second key of pages with 10, 10 and 5
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_keys_dropped"), 12.0);
    assert_eq!(exposed_keys(&scrape).len(), 13);
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_up"), 1.0);
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_date_omits_only_its_series() {
    let sim = crate::common::start_sim(static_sim(1, 25)).await;
    sim.add_fault(keys_fault(Effect::BrokenDates));
    let variables = crate::common::sim_env(&sim);
    let lab = TestExporter::start_with(sim, variables, FLAGS).await;
    let scrape = lab.wait_polled().await;
    // every third key of pages with 10, 10 and 5
    let broken = 3 + 3 + 1;
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_keys_dropped"),
        f64::from(broken)
    );
    assert_eq!(
        exposed_keys(&scrape).len(),
        25,
        "the keys are known by name and status"
    );
    assert_eq!(
        scrape.sum("mongodbatlas_ai_model_api_keys"),
        25.0,
        "and counted"
    );
    for family in ["created_timestamp_seconds", "used", "idle_seconds"] {
        let count = scrape
            .with_name(&format!("mongodbatlas_ai_model_api_key_{family}"))
            .count();
        assert_eq!(count, 18, "{family}: no value is made up");
    }
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_organization_does_not_affect_others() {
    let sim = crate::common::start_sim(static_sim(3, 60)).await;
    let orgs = sim.org_ids();
    sim.add_fault(keys_fault(status_effect(403, ErrorBodyFormat::Json, None)).for_org(&orgs[1]));
    let variables = crate::common::sim_env(&sim);
    let lab = TestExporter::start_with(sim, variables, FLAGS).await;
    let scrape = lab
        .wait_until("two walks and a failure", |scrape| {
            scrape.sum("atlas_ai_keys_exporter_org_up") == 2.0
                && scrape.poll_failures(&orgs[1], "forbidden") >= 1.0
        })
        .await;
    assert_eq!(
        scrape.get("atlas_ai_keys_exporter_org_up", &[("org_id", &orgs[1])]),
        Some(0.0)
    );
    let (code, text) = lab.get("/-/ready").await;
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
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unsupported_api_version_falls_back_to_preview_once() {
    let lab = TestExporter::start(
        static_sim(1, 25),
        &[
            "--atlas.api-version",
            "2031-01-01",
            "--atlas.page-size",
            "10",
        ],
    )
    .await;
    let scrape = lab.wait_polled().await;
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&lab.sim));
    let refused = lab
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
    lab.stop().await.stop().await;
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
    let lab = TestExporter::start_with(sim, variables, FLAGS).await;
    let scrape = lab.wait_polled().await;
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
    lab.stop().await.stop().await;
}
