//! Inconsistent pages.

use super::{
    FLAGS, assert_data_retained, assert_only_page_count_differs, keys_fault, start_with_keys_fault,
};
use crate::common::{
    ChildProcess, TestExporter, eventually, expected_sim_keys, exposed_keys, sim_env, static_sim,
};
use futures_util::future::join_all;
use mongodb_atlas_sim::Effect;
use rustix::process::Signal;

/// If the total exceeds the keys read, one more page is requested, which is empty.
#[tokio::test(flavor = "multi_thread")]
async fn overstated_total_costs_one_extra_request() {
    let totals = [99, i64::MAX].map(|value| Effect::TotalCount { value });
    join_all(totals.map(|effect| assert_only_page_count_differs(effect, 4.0))).await;
}

#[tokio::test(start_paused = true)]
async fn oversized_page_is_rejected() {
    for result in ["{}", "0", "\"a\"", "[[]]", "{\"apiKeyId\":\"a\"}"] {
        let text = format!("{{\"results\":[{}]}}", [result; 11].join(","));
        assert_data_retained(Effect::Body { text }, "invalid_response").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_keys_trigger_a_rescan_and_are_merged() {
    let exporter = start_with_keys_fault(Effect::RepeatKeys).await;
    let scrape = exporter.wait_polled().await;
    assert_eq!(
        exposed_keys(&scrape),
        expected_sim_keys(&exporter.sim),
        "duplicates are merged"
    );
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_org_poll_pages"),
        6.0,
        "two walks of three pages"
    );
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skipped_keys_trigger_a_rescan() {
    let sim = crate::common::start_sim(static_sim(1, 25)).await;
    // One key is missing on page 2 of the first walk only.
    sim.add_fault(keys_fault(Effect::SkipKeys).for_page(2).times(1));
    let variables = crate::common::sim_env(&sim);
    let exporter = TestExporter::start_with(sim, variables, FLAGS).await;
    let scrape = exporter.wait_polled().await;
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&exporter.sim));
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_org_poll_pages"),
        7.0,
        "two walks of three pages, and one page for the key missing from totalCount"
    );
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn short_page_with_next_link_continues_the_walk() {
    let sim = crate::common::start_sim(static_sim(1, 25)).await;
    sim.add_fault(keys_fault(Effect::SkipKeys).for_page(2));
    let variables = crate::common::sim_env(&sim);
    let exporter = TestExporter::start_with(sim, variables, FLAGS).await;
    let scrape = exporter.wait_polled().await;
    // The result of the rescan is published, including page 3.
    assert_eq!(exposed_keys(&scrape).len(), 24);
    exporter.stop().await.stop().await;
}

/// `totalCount` is an estimate: a total that no poll reaches is logged once, not by each poll.
#[tokio::test(flavor = "multi_thread")]
async fn unmet_total_is_logged_once() {
    let sim = crate::common::start_sim(static_sim(1, 25)).await;
    sim.add_fault(keys_fault(Effect::TotalCount { value: 99 }));
    let flags = [FLAGS, &["--web.listen-address=127.0.0.1:0"]].concat();
    let mut program = ChildProcess::exporter(&flags, &sim_env(&sim));
    let line = program.wait_for_output("msg=\"fewer keys than totalCount\"");
    assert!(line.contains("read=25 total=99"), "{line}");
    // Four requests of each poll.
    eventually("three more polls", async || match sim.requests().len() {
        0..20 => Err("not yet"),
        _ => Ok(()),
    })
    .await;
    program.signal(Signal::TERM);
    let (code, output, _) = program.wait_exit();
    assert_eq!(code, Some(0), "{output}");
    let warnings = output.matches("fewer keys than totalCount").count();
    assert_eq!(warnings, 1, "{output}");
    assert!(!output.contains("poll failed"), "{output}");
    sim.stop().await;
}
