//! Unexpected values in responses.

use super::{FLAGS, keys_fault, replace_effect, status_effect};
use crate::common::{ChildProcess, TestExporter, exposed_keys, sim_env, static_sim};
use futures_util::future::join_all;
use mongodb_atlas_sim::{Effect, ErrorBodyFormat, Fault, SimEndpoint};
use rustix::process::Signal;

/// Returns the exported names when each `old` in a response is replaced by `new`.
async fn key_names_after_replace(old: &str, new: &str) -> Vec<String> {
    let sim = crate::common::start_sim(static_sim(1, 25)).await;
    sim.add_fault(keys_fault(replace_effect(old, new)));
    let variables = crate::common::sim_env(&sim);
    let flags = [FLAGS, &["--metrics.key-labels=name,created_by,status"]].concat();
    let exporter = TestExporter::start_with(sim, variables, &flags).await;
    let scrape = exporter.wait_polled().await;
    assert_eq!(exposed_keys(&scrape).len(), 25, "{new}");
    let info = scrape.with_name("mongodbatlas_ai_model_api_key_info");
    let names = info.map(|series| series.labels["name"].clone()).collect();
    exporter.stop().await.stop().await;
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
    let polls = cases.map(|(json, shown)| async move {
        let names =
            key_names_after_replace("\"name\":\"", &format!("\"name\":\"{json}\",\"other\":\""))
                .await;
        assert!(names.iter().all(|name| name == shown), "{names:?}");
    });
    join_all(polls).await;
    // In any other field, known or not, and in the name of one.
    let half = "\\ud83d";
    let polls = [
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
    join_all(polls).await;
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
        let exporter = TestExporter::start_with(sim, variables, FLAGS).await;
        let scrape = exporter.wait_polled().await;
        let info = scrape.with_name("mongodbatlas_ai_model_api_key_info");
        let named = info.filter(|series| series.labels["name"] == shown);
        assert_eq!(named.count(), 25, "{json:.20}");
        let name = "atlas_ai_keys_exporter_names_truncated";
        assert_eq!(scrape.values(name), [truncated], "{json:.20}");
        exporter.stop().await.stop().await;
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
    let exporter = TestExporter::start_with(sim, variables, &[labels]).await;
    let scrape = exporter.wait_polled_with_names().await;
    for series in scrape.series() {
        for (label, value) in series.labels {
            assert!(value.chars().count() <= 250, "{} {label}", series.name);
        }
    }
    let truncated = "x".repeat(250);
    for (name, label, count) in [
        ("ai_model_api_key_info", "status", 25),
        ("ai_model_api_key_info", "created_by", 25),
        ("ai_model_api_key_info", "masked_secret", 25),
        ("organization_info", "org_name", 1),
    ] {
        let family = format!("mongodbatlas_{name}");
        let series = scrape.with_name(&family);
        let long = series.filter(|series| series.labels[label] == truncated);
        assert_eq!(long.count(), count, "{name} {label}");
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
    exporter.stop().await.stop().await;
}

/// JSON variants of null and of numbers, in the responses that have one.
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
    let exporter = TestExporter::start_with(sim, variables, FLAGS).await;
    let scrape = exporter.wait_polled().await;
    assert!(exposed_keys(&scrape).is_empty());
    exporter.stop().await.stop().await;
    for life in ["\"3600\"", "3600.0", "3.6e3", "null", "\"soon\"", "[3600]"] {
        let sim = crate::common::start_sim(static_sim(1, 25)).await;
        let new = format!("\"expires_in\":{life}");
        sim.add_fault(Fault::new(
            SimEndpoint::Token,
            replace_effect("\"expires_in\":3600", &new),
        ));
        let variables = crate::common::sim_env(&sim);
        let exporter = TestExporter::start_with(sim, variables, FLAGS).await;
        assert_eq!(
            exposed_keys(&exporter.wait_polled().await).len(),
            25,
            "{life}"
        );
        exporter.stop().await.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_without_id_are_counted_and_skipped() {
    let sim = crate::common::start_sim(static_sim(1, 25)).await;
    sim.add_fault(keys_fault(Effect::MissingFields {
        fields: vec!["apiKeyId".into()],
    }));
    let variables = crate::common::sim_env(&sim);
    let exporter = TestExporter::start_with(sim, variables, FLAGS).await;
    let scrape = exporter.wait_polled().await;
    // Every second key of pages with 10, 10 and 5.
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_keys_dropped"), 12.0);
    assert_eq!(exposed_keys(&scrape).len(), 13);
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_up"), 1.0);
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_date_omits_only_its_series() {
    let sim = crate::common::start_sim(static_sim(1, 25)).await;
    sim.add_fault(keys_fault(Effect::InvalidTimestamps));
    let variables = crate::common::sim_env(&sim);
    let exporter = TestExporter::start_with(sim, variables, FLAGS).await;
    let scrape = exporter.wait_polled().await;
    // Every third key of pages with 10, 10 and 5.
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
    exporter.stop().await.stop().await;
}

/// The first five invalid keys are logged one by one, and the others are counted.
#[tokio::test(flavor = "multi_thread")]
async fn invalid_keys_are_logged_up_to_a_limit() {
    // Every second key is invalid.
    for (keys, logged, more) in [(10, 5, None), (12, 5, Some(1)), (25, 5, Some(7))] {
        let sim = crate::common::start_sim(static_sim(1, keys)).await;
        sim.add_fault(keys_fault(Effect::MissingFields {
            fields: vec!["apiKeyId".into()],
        }));
        let flags = ["--web.listen-address=127.0.0.1:0", "--atlas.page-size=10"];
        let mut program = ChildProcess::exporter(&flags, &sim_env(&sim));
        program.wait_for_output("msg=\"poll succeeded\"");
        program.signal(Signal::TERM);
        let (code, output, _) = program.wait_exit();
        assert_eq!(code, Some(0), "{output}");
        let message = "msg=\"invalid key in response\"";
        assert_eq!(output.matches(message).count(), logged, "{keys}: {output}");
        let first = output.lines().find(|line| line.contains(message)).unwrap();
        assert!(
            first.contains("page=1 index=1 error=\"apiKeyId is missing or not a string\""),
            "{first}"
        );
        let rest = output
            .lines()
            .find(|line| line.contains("more invalid keys in response"));
        let expected = more.map(|more| format!(" keys={more}"));
        match (rest, expected) {
            (None, None) => {}
            (Some(line), Some(expected)) => assert!(line.ends_with(&expected), "{line}"),
            (rest, _) => panic!("{keys}: {rest:?}"),
        }
        sim.stop().await;
    }
}

/// An error is classified by its status, however large its body is.
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
    let exporter = TestExporter::start_with(sim, variables, &flags).await;
    exporter
        .wait_until("the status to be counted", |scrape| {
            scrape.poll_failures(&org, "forbidden") >= 1.0
        })
        .await;
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zero_rate_limit_is_ignored() {
    let sim = crate::common::start_sim(static_sim(1, 5)).await;
    sim.add_fault(keys_fault(Effect::RateLimitZero));
    let variables = crate::common::sim_env(&sim);
    let exporter = TestExporter::start_with(sim, variables, FLAGS).await;
    let scrape = exporter.wait_polled().await;
    let keys = &[("operation", "ai_model_api_keys")];
    for name in ["capacity", "remaining"] {
        let name = format!("atlas_ai_keys_exporter_api_rate_limit_{name}");
        assert_eq!(scrape.get(&name, keys), None);
    }
    exporter.sim.clear_faults();
    let name = "atlas_ai_keys_exporter_api_rate_limit_capacity";
    exporter
        .wait_until("a real limit to be learnt", |scrape| {
            scrape.get(name, keys) == Some(500.0)
        })
        .await;
    exporter.stop().await.stop().await;
}
