//! Whatever Atlas answers: what is published, and which reason is counted.
use crate::common::{Lab, shown, still, world};
use futures_util::future::join_all;
use mongodb_atlas_sim::{BodyForm, Effect, Fault, SimEndpoint};

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

fn status(status: u16, body: BodyForm, retry_after: Option<u32>) -> Effect {
    Effect::Status {
        status,
        body,
        retry_after,
    }
}

fn on_keys(effect: Effect) -> Fault {
    Fault::new(SimEndpoint::AiModelApiKeys, effect)
}

/// A first walk is good; then the fault comes on page 2 of 3 and the keys of the world change.
/// The last complete truth must stay, `org_up` must say 0, the time of success must not move.
async fn stays_and_counts(effect: Effect, reason: &str) {
    stays_and_counts_within(TIMEOUT, effect, reason).await;
}

/// The same with another time that a request may take.
async fn stays_and_counts_within(timeout: &str, effect: Effect, reason: &str) {
    let name = format!("{effect:?}");
    let flags: Vec<&str> = FLAGS
        .iter()
        .map(|flag| if *flag == TIMEOUT { timeout } else { flag })
        .collect();
    let lab = Lab::start(still(1, 25), &flags).await;
    let org = lab.sim.org_ids()[0].clone();
    let before = lab.named().await;
    lab.sim.add_fault(on_keys(effect).on_page(2));
    lab.sim.with_world(|world| {
        let first = world.keys(&org)[0].id.clone();
        assert!(world.delete(&org, &first));
    });
    let after = lab
        .wait(&format!("{name} to be counted as {reason}"), |scrape| {
            scrape.failures(&org, reason) >= 1.0
        })
        .await;
    assert_eq!(
        after.inventory(),
        before.inventory(),
        "{name}: the last complete truth stays"
    );
    let own = |name: &str| format!("atlas_ai_keys_exporter_{name}");
    assert_eq!(after.values(&own("org_up")), [0.0], "{name}");
    let success = own("org_last_success_timestamp_seconds");
    assert_eq!(
        after
            .all(&own("org_poll_failures_total"))
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
        .wait(&format!("{name} to heal"), |scrape| {
            scrape.values(&own("org_up")) == [1.0]
        })
        .await;
    assert_eq!(shown(&healed), world(&lab.sim), "{name}");
    assert!(healed.values(&success) > before_success, "{name}");
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn error_statuses_keep_the_last_truth() {
    let mut cases = Vec::new();
    for body in [BodyForm::Json, BodyForm::Html, BodyForm::Empty] {
        for (code, reason) in [
            (401, "unauthorized"),
            (403, "forbidden"),
            (404, "not_found"),
            (500, "server_error"),
            (503, "server_error"),
        ] {
            cases.push(stays_and_counts(status(code, body, None), reason));
        }
    }
    cases.push(stays_and_counts(
        status(429, BodyForm::Json, Some(1)),
        "rate_limited",
    ));
    cases.push(stays_and_counts(
        status(429, BodyForm::Html, None),
        "rate_limited",
    ));
    cases.push(stays_and_counts(
        status(400, BodyForm::Json, None),
        "invalid_response",
    ));
    cases.push(stays_and_counts(
        status(406, BodyForm::Json, None),
        "invalid_response",
    ));
    // a body that is cut off is a matter of the connection, whatever its status was to be
    cases.push(stays_and_counts(
        status(503, BodyForm::Cut, None),
        "connection",
    ));
    join_all(cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_connections_that_break_keep_the_last_truth() {
    let content_type = |value: &str| Effect::ContentType {
        value: value.into(),
    };
    let redirect = |location: &str| Effect::Redirect {
        location: location.into(),
    };
    join_all(vec![
        stays_and_counts_within(SHORT_TIMEOUT, Effect::Delay { seconds: 5.0 }, "timeout"),
        stays_and_counts_within(
            SHORT_TIMEOUT,
            Effect::Drip {
                bytes: 1,
                every_ms: 50,
            },
            "timeout",
        ),
        stays_and_counts_within(TIMEOUT, Effect::CutBody, "connection"),
        stays_and_counts_within(TIMEOUT, Effect::Reset, "connection"),
        stays_and_counts_within(TIMEOUT, content_type("text/html"), "invalid_response"),
        stays_and_counts_within(TIMEOUT, Effect::InvalidJson, "invalid_response"),
        stays_and_counts_within(
            TIMEOUT,
            redirect("http://127.0.0.1:9/elsewhere"),
            "invalid_response",
        ),
    ])
    .await;
}

/// However long 32 MiB take on the machine: it is their number that ends them.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_end_keeps_the_last_truth() {
    stays_and_counts_within("25s", Effect::EndlessBody, "invalid_response").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gzip_bomb_is_refused_in_bounded_memory() {
    let lab = Lab::start(
        still(1, 25),
        &["--atlas.poll-interval", "1s", "--atlas.page-size", "10"],
    )
    .await;
    let org = lab.sim.org_ids()[0].clone();
    let before = lab.named().await;
    lab.sim.add_fault(on_keys(Effect::GzipBomb));
    let after = lab
        .wait("the bomb to be refused", |scrape| {
            scrape.failures(&org, "invalid_response") >= 1.0
        })
        .await;
    assert_eq!(after.inventory(), before.inventory());
    lab.stop().await.stop().await;
}

/// A fault that leaves the keys whole: everything is published, nothing is counted as a failure.
async fn changes_nothing(effect: Effect) {
    changes_nothing_but_pages(effect, 3.0).await;
}

/// The same where a walk takes another number of pages.
async fn changes_nothing_but_pages(effect: Effect, pages: f64) {
    let name = format!("{effect:?}");
    let sim = crate::common::sim(still(1, 25)).await;
    sim.add_fault(on_keys(effect));
    let variables = crate::common::sim_variables(&sim);
    let lab = Lab::watching(sim, variables, FLAGS).await;
    let scrape = lab.walked().await;
    assert_eq!(shown(&scrape), world(&lab.sim), "{name}");
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
async fn a_total_that_is_too_high_costs_one_request() {
    let totals = [99, i64::MAX].map(|value| Effect::TotalCount { value });
    join_all(totals.map(|effect| changes_nothing_but_pages(effect, 4.0))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oddities_that_change_nothing() {
    join_all(vec![
        changes_nothing(Effect::NoRateLimitHeaders),
        changes_nothing(Effect::RateLimitZero),
        changes_nothing(Effect::TotalCount { value: 0 }),
        changes_nothing(Effect::TotalCount { value: 7 }),
        changes_nothing(Effect::TotalCount { value: -1 }),
        changes_nothing(replace("\"totalCount\":25", "\"totalCount\":\"25\"")),
        changes_nothing(replace("\"totalCount\":25", "\"totalCount\":1e999")),
        changes_nothing(replace("\"totalCount\":25", "\"totalCount\":{\"a\":[]}")),
        changes_nothing(replace("\"links\"", "\"links\":1e999,\"links\"")),
        changes_nothing(replace("\"results\"", "\"\\ud83d\":-1e999,\"results\"")),
        changes_nothing(replace("\"results\"", "\"status\":200,\"results\"")),
        changes_nothing(replace("\"apiKeyId\":", "\n\t\"apiKeyId\" :\r\n ")),
        changes_nothing(replace(
            "\"apiKeyId\"",
            "\"apiKeyId\":7,\"name\":{},\"apiKeyId\"",
        )),
        changes_nothing(replace("\"apiKeyId\"", "\"\\u0061piKeyId\"")),
        changes_nothing(replace(
            "\"apiKeyId\"",
            &format!("\"a\":{},\"apiKeyId\"", "9".repeat(100_000)),
        )),
        changes_nothing(replace(
            "\"apiKeyId\"",
            &format!(
                "\"a\":{}{},\"apiKeyId\"",
                "[".repeat(100_000),
                "]".repeat(100_000)
            ),
        )),
        changes_nothing(Effect::NoTotalCount),
        changes_nothing(Effect::NoLinks),
        changes_nothing(Effect::Secret),
        changes_nothing(Effect::Gzip),
        changes_nothing(Effect::Drip {
            bytes: 4000,
            every_ms: 1,
        }),
        changes_nothing(Effect::MissingMembers {
            members: vec!["cloud".into(), "createdBy".into(), "endpoint".into()],
        }),
    ])
    .await;
}

fn replace(old: &str, new: &str) -> Effect {
    Effect::Replace {
        old: old.to_owned(),
        new: new.to_owned(),
    }
}

/// The names as they are shown when the answers say `new` for each `old`.
async fn names_with(old: &str, new: &str) -> Vec<String> {
    let sim = crate::common::sim(still(1, 25)).await;
    sim.add_fault(on_keys(replace(old, new)));
    let variables = crate::common::sim_variables(&sim);
    let flags = [FLAGS, &["--metrics.key-labels=name,created_by,status"]].concat();
    let lab = Lab::watching(sim, variables, &flags).await;
    let scrape = lab.walked().await;
    assert_eq!(shown(&scrape).len(), 25, "{new}");
    let info = scrape.all("mongodbatlas_ai_model_api_key_info");
    let names = info.map(|series| series.labels["name"].clone()).collect();
    lab.stop().await.stop().await;
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_character_that_is_none_costs_that_character_and_no_page() {
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
        let names = names_with("\"name\":\"", &format!("\"name\":\"{json}\",\"other\":\"")).await;
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
        async move { names_with(&old, &new).await }
    });
    join_all(asked).await;
    names_with("\"name\"", "\"\\udc00\":\"\\udc00\",\"name\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_too_long_are_cut_and_counted() {
    for (json, shown, truncated) in [
        ("x".repeat(60_000), "x".repeat(250), 25.0),
        ("ä".repeat(251), "ä".repeat(250), 25.0),
        ("ä".repeat(250), "ä".repeat(250), 0.0),
        ("\\ud83d\\ude00".repeat(251), "😀".repeat(250), 25.0),
    ] {
        let sim = crate::common::sim(still(1, 25)).await;
        let (old, new) = ("\"name\":\"", format!("\"name\":\"{json}\",\"other\":\""));
        sim.add_fault(on_keys(replace(old, &new)));
        let variables = crate::common::sim_variables(&sim);
        let lab = Lab::watching(sim, variables, FLAGS).await;
        let scrape = lab.walked().await;
        let mut info = scrape.all("mongodbatlas_ai_model_api_key_info");
        assert!(info.all(|series| series.labels["name"] == shown));
        let name = "atlas_ai_keys_exporter_names_truncated";
        assert_eq!(scrape.values(name), [truncated], "{json:.20}");
        lab.stop().await.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_of_any_length_are_bounded() {
    let sim = crate::common::sim(still(1, 25)).await;
    let long = "x".repeat(60_000);
    for field in ["status", "cloud", "geography", "createdBy", "maskedSecret"] {
        let (old, new) = (format!("\"{field}\":\""), format!("\"{field}\":\"{long}"));
        sim.add_fault(on_keys(replace(&old, &new)));
    }
    for endpoint in [
        SimEndpoint::Org,
        SimEndpoint::Groups,
        SimEndpoint::AiModelApiRateLimits,
    ] {
        for field in ["name", "modelGroupName", "cloud", "geography"] {
            let (old, new) = (format!("\"{field}\":\""), format!("\"{field}\":\"{long}"));
            sim.add_fault(Fault::new(endpoint, replace(&old, &new)));
        }
    }
    let variables = crate::common::sim_variables(&sim);
    let labels = "--metrics.key-labels=name,status,cloud,geography,created_by,masked_secret";
    let lab = Lab::watching(sim, variables, &[labels]).await;
    let scrape = lab.named().await;
    for series in scrape.series() {
        for (label, value) in series.labels {
            assert!(value.chars().count() <= 250, "{} {label}", series.name);
        }
    }
    assert_eq!(scrape.all("mongodbatlas_ai_model_api_key_info").count(), 25);
    assert_eq!(scrape.all("mongodbatlas_organization_info").count(), 1);
    lab.stop().await.stop().await;
}

/// Forms that JSON has for nothing and for a number, in the answers that have one.
#[tokio::test(flavor = "multi_thread")]
async fn null_for_no_keys_and_other_forms_of_a_number_are_accepted() {
    let sim = crate::common::sim(still(1, 0)).await;
    sim.add_fault(on_keys(replace("\"results\":[]", "\"results\":null")));
    for (endpoint, results) in [
        (SimEndpoint::Groups, "\"results\":null"),
        (SimEndpoint::RateLimits, "\"results\":null"),
    ] {
        let text = format!("{{{results}}}");
        sim.add_fault(Fault::new(endpoint, Effect::Body { text }));
    }
    let variables = crate::common::sim_variables(&sim);
    let lab = Lab::watching(sim, variables, FLAGS).await;
    let scrape = lab.walked().await;
    assert!(shown(&scrape).is_empty());
    lab.stop().await.stop().await;
    for life in ["\"3600\"", "3600.0", "3.6e3", "null", "\"soon\"", "[3600]"] {
        let sim = crate::common::sim(still(1, 25)).await;
        let new = format!("\"expires_in\":{life}");
        sim.add_fault(Fault::new(
            SimEndpoint::Token,
            replace("\"expires_in\":3600", &new),
        ));
        let variables = crate::common::sim_variables(&sim);
        let lab = Lab::watching(sim, variables, FLAGS).await;
        assert_eq!(shown(&lab.walked().await).len(), 25, "{life}");
        lab.stop().await.stop().await;
    }
}

/// An error is known by its status, however large what it says is.
#[tokio::test(flavor = "multi_thread")]
async fn of_an_error_no_more_is_read_than_its_beginning() {
    let sim = crate::common::sim(still(1, 25)).await;
    let org = sim.org_ids()[0].clone();
    sim.add_fault(on_keys(status(403, BodyForm::Endless, None)));
    let variables = crate::common::sim_variables(&sim);
    let flags = ["--atlas.timeout=25s", "--atlas.poll-interval=1s"];
    let lab = Lab::watching(sim, variables, &flags).await;
    lab.wait("the status to be counted", |scrape| {
        scrape.failures(&org, "forbidden") >= 1.0
    })
    .await;
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_results_than_were_asked_for_are_refused() {
    for result in ["{}", "0", "\"a\"", "[[]]", "{\"apiKeyId\":\"a\"}"] {
        let text = format!("{{\"results\":[{}]}}", [result; 11].join(","));
        stays_and_counts(Effect::Body { text }, "invalid_response").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_zero_teaches_nothing() {
    let sim = crate::common::sim(still(1, 5)).await;
    sim.add_fault(on_keys(Effect::RateLimitZero));
    let variables = crate::common::sim_variables(&sim);
    let lab = Lab::watching(sim, variables, FLAGS).await;
    let scrape = lab.walked().await;
    let keys = &[("endpoint", "ai_model_api_keys")];
    for name in ["capacity", "remaining"] {
        let name = format!("atlas_ai_keys_exporter_api_rate_limit_{name}");
        assert_eq!(scrape.get(&name, keys), None);
    }
    lab.sim.clear_faults();
    let name = "atlas_ai_keys_exporter_api_rate_limit_capacity";
    lab.wait("a real limit to be learnt", |scrape| {
        scrape.get(name, keys) == Some(500.0)
    })
    .await;
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_keys_are_walked_once_more_and_merged() {
    let sim = crate::common::sim(still(1, 25)).await;
    sim.add_fault(on_keys(Effect::RepeatKeys));
    let variables = crate::common::sim_variables(&sim);
    let lab = Lab::watching(sim, variables, FLAGS).await;
    let scrape = lab.walked().await;
    assert_eq!(shown(&scrape), world(&lab.sim), "repeats are merged");
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_org_poll_pages"),
        6.0,
        "two walks of three pages"
    );
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skipped_keys_are_looked_for_in_a_second_walk() {
    let sim = crate::common::sim(still(1, 25)).await;
    // one key is missing from page 2 of the first walk alone
    sim.add_fault(on_keys(Effect::SkipKeys).on_page(2).times(1));
    let variables = crate::common::sim_variables(&sim);
    let lab = Lab::watching(sim, variables, FLAGS).await;
    let scrape = lab.walked().await;
    assert_eq!(shown(&scrape), world(&lab.sim));
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_org_poll_pages"),
        7.0,
        "two walks of three pages, and a page for the key that totalCount promised"
    );
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_page_with_a_next_link_is_not_the_end() {
    let sim = crate::common::sim(still(1, 25)).await;
    sim.add_fault(on_keys(Effect::SkipKeys).on_page(2));
    let variables = crate::common::sim_variables(&sim);
    let lab = Lab::watching(sim, variables, FLAGS).await;
    let scrape = lab.walked().await;
    // what the second walk says is published, and page 3 with it
    assert_eq!(shown(&scrape).len(), 24);
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_without_an_id_are_counted_and_the_rest_stands() {
    let sim = crate::common::sim(still(1, 25)).await;
    sim.add_fault(on_keys(Effect::MissingMembers {
        members: vec!["apiKeyId".into()],
    }));
    let variables = crate::common::sim_variables(&sim);
    let lab = Lab::watching(sim, variables, FLAGS).await;
    let scrape = lab.walked().await;
    // every second key of pages with 10, 10 and 5
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_keys_dropped"), 12.0);
    assert_eq!(shown(&scrape).len(), 13);
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_up"), 1.0);
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_date_costs_its_series_and_nothing_else() {
    let sim = crate::common::sim(still(1, 25)).await;
    sim.add_fault(on_keys(Effect::BrokenDates));
    let variables = crate::common::sim_variables(&sim);
    let lab = Lab::watching(sim, variables, FLAGS).await;
    let scrape = lab.walked().await;
    // every third key of pages with 10, 10 and 5
    let broken = 3 + 3 + 1;
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_keys_dropped"),
        f64::from(broken)
    );
    assert_eq!(
        shown(&scrape).len(),
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
            .all(&format!("mongodbatlas_ai_model_api_key_{family}"))
            .count();
        assert_eq!(count, 18, "{family}: no value is made up");
    }
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_organization_in_trouble_does_not_disturb_the_others() {
    let sim = crate::common::sim(still(3, 60)).await;
    let orgs = sim.org_ids();
    sim.add_fault(on_keys(status(403, BodyForm::Json, None)).on_org(&orgs[1]));
    let variables = crate::common::sim_variables(&sim);
    let lab = Lab::watching(sim, variables, FLAGS).await;
    let scrape = lab
        .wait("two walks and a failure", |scrape| {
            scrape.sum("atlas_ai_keys_exporter_org_up") == 2.0
                && scrape.failures(&orgs[1], "forbidden") >= 1.0
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
            .all("mongodbatlas_ai_model_api_keys")
            .all(|series| series.labels["org_id"] != orgs[1])
    );
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_atlas_lacks_falls_back_to_the_preview_once() {
    let lab = Lab::start(
        still(1, 25),
        &[
            "--atlas.api-version",
            "2031-01-01",
            "--atlas.page-size",
            "10",
        ],
    )
    .await;
    let scrape = lab.walked().await;
    assert_eq!(shown(&scrape), world(&lab.sim));
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
async fn a_moment_of_trouble_does_not_cost_the_walk() {
    let sim = crate::common::sim(still(1, 25)).await;
    sim.add_fault(on_keys(Effect::Reset).on_page(2).times(1));
    sim.add_fault(
        on_keys(status(502, BodyForm::Html, None))
            .on_page(3)
            .times(1),
    );
    let variables = crate::common::sim_variables(&sim);
    let lab = Lab::watching(sim, variables, FLAGS).await;
    let scrape = lab.walked().await;
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
