//! Scrapes of single organizations (`?org=`) and of the process (`?scope=`), service discovery, and organizations with
//! stale data, in every format and encoding. In simulated time.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{Scrape, Series, error_fault, sim_env, static_sim};
use atlas_ai_keys_exporter::metrics::Format;
use atlas_ai_keys_exporter::web;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use flate2::read::GzDecoder;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use mongodb_atlas_sim::{SimEndpoint, SimHandle};
use serde_json::Value;

/// Every format and encoding of a scrape.
fn encodings() -> impl Iterator<Item = (Format, &'static str)> {
    let encodings = ["identity", "gzip"];
    let formats = Format::ALL.into_iter();
    formats.flat_map(move |format| encodings.map(|encoding| (format, encoding)))
}

/// Scrapes with a query, such as `?org=ID`.
async fn scrape(
    exporter: &SimHarness,
    method: Method,
    query: &str,
    (format, encoding): (Format, &str),
) -> (StatusCode, Scrape) {
    let request = Request::builder()
        .method(method)
        .uri(format!("/metrics{query}"))
        .header(
            "accept",
            format.content_type().replace("; charset=utf-8", ""),
        )
        .header("accept-encoding", encoding)
        .body(Body::empty())
        .unwrap();
    let router = web::router(Arc::clone(&exporter.app));
    let response = TowerToHyperService::new(router).call(request).await;
    let (parts, body) = response.unwrap().into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let mut text = String::from_utf8_lossy(&body).into_owned();
    if parts.status == StatusCode::OK {
        assert_eq!(parts.headers["content-type"], format.content_type());
        let compressed = parts.headers.get("content-encoding");
        assert_eq!(compressed.is_some(), encoding == "gzip", "{query}");
        if compressed.is_some() {
            text.clear();
            let read = GzDecoder::new(&*body).read_to_string(&mut text);
            read.unwrap();
        }
    }
    (parts.status, Scrape::parse(&text))
}

/// Name and labels of a series.
type SeriesId = (String, BTreeMap<String, String>);

/// Name and labels of a series, and its value if the value changes only with a poll.
type ComparedSeries = (String, BTreeMap<String, String>, Option<String>);

/// Returns the series of a scrape that belong to one of `orgs`.
fn series_of(scrape: &Scrape, orgs: &[&str]) -> BTreeSet<ComparedSeries> {
    let polled: BTreeSet<_> = scrape.inventory_series().into_iter().collect();
    let series = scrape.series().into_iter().map(|series| {
        let value = (series.name, series.labels, series.value.to_string());
        let is_polled = polled.contains(&value);
        (value.0, value.1, is_polled.then_some(value.2))
    });
    let concerns = |series: &ComparedSeries| {
        let org = series.1.get("org_id");
        org.is_some_and(|org| orgs.contains(&org.as_str()))
    };
    series.filter(concerns).collect()
}

#[tokio::test(start_paused = true)]
async fn org_parameter_selects_organizations_in_every_encoding() {
    let sim = in_process_sim(&static_sim(3, 60));
    // Ten keys have no series, for any selection of organizations.
    let exporter = SimHarness::start(&sim, &["--metrics.max-keys=50"]).await;
    exporter.wait_polled(3).await;
    exporter.advance(Duration::from_mins(20)).await;
    let orgs = sim.org_ids();
    let [a, b, c] = [0, 1, 2].map(|n: usize| orgs[n].as_str());
    for encoding in encodings() {
        let (status, all) = scrape(&exporter, Method::GET, "", encoding).await;
        assert_eq!(status, 200);
        let keys = all.with_name("mongodbatlas_ai_model_api_key_info").count();
        assert!((40..=50).contains(&keys), "{keys} keys with series");
        for (query, selected) in [
            (format!("?org={a}"), &[a][..]),
            (format!("?org={c}&x=1"), &[c]),
            (format!("?org={b}&org={b}"), &[b]),
            (format!("?org={c}&org={a}"), &[a, c]),
            (format!("?org={a}&org={b}&org={c}&org={a}"), &[a, b, c]),
        ] {
            let (status, some) = scrape(&exporter, Method::GET, &query, encoding).await;
            assert_eq!(status, 200, "{query}");
            let shown = series_of(&some, &[a, b, c]);
            assert_eq!(shown, series_of(&all, selected), "{query} {encoding:?}");
            assert_eq!(some.series().len(), shown.len(), "{query}: no others");
            for family in [
                "mongodbatlas_organization_info",
                "atlas_ai_keys_exporter_org_up",
                "atlas_ai_keys_exporter_keys_dropped",
            ] {
                let of_orgs = some.with_name(family);
                let of_orgs: BTreeSet<_> = of_orgs.map(|it| it.labels["org_id"].clone()).collect();
                let expected = selected.iter().map(|org| (*org).to_owned());
                assert_eq!(of_orgs, expected.collect(), "{family}");
            }
        }
        let (_, other) = scrape(&exporter, Method::GET, "?x=1", encoding).await;
        let count = |scrape: &Scrape| scrape.series().len();
        assert_eq!(count(&other), count(&all), "unknown parameters are ignored");
        let unknown = "0123456789abcdef01234567";
        for query in [
            format!("?org={unknown}"),
            format!("?org={a}&org={unknown}"),
            "?org=".to_owned(),
            format!("?org={a},{b}"),
        ] {
            for method in [Method::GET, Method::HEAD] {
                let (status, text) = scrape(&exporter, method, &query, encoding).await;
                assert_eq!(status, 404, "{query}");
                assert!(!text.text.contains("atlas_ai"), "{query}: {}", text.text);
            }
        }
    }
    exporter.stop().await;
}

/// Starts an exporter with organization discovery: the requests of the discovery belong to no organization.
async fn start_discovery(sim: &Arc<SimHandle>, flags: &[&str]) -> SimHarness {
    let mut variables = sim_env(sim);
    variables.retain(|(name, _)| name != "MONGODB_ATLAS_ORG_ID");
    let flags = [&["--atlas.discover-orgs"], flags].concat();
    SimHarness::start_with(sim, variables, &flags).await
}

/// Returns names and labels of all series, and asserts that there are no duplicates.
fn unique_series(series: impl IntoIterator<Item = Series>) -> BTreeSet<SeriesId> {
    let mut unique = BTreeSet::new();
    for series in series {
        let id = (series.name, series.labels);
        assert!(unique.insert(id.clone()), "twice: {id:?}");
    }
    unique
}

#[tokio::test(start_paused = true)]
async fn discovered_targets_have_every_series_exactly_once() {
    let sim = in_process_sim(&static_sim(3, 60));
    let dir = tempfile::tempdir().unwrap();
    let storage = format!("--storage.path={}", dir.path().display());
    let exporter = start_discovery(&sim, &["--metrics.max-keys=50", &storage]).await;
    exporter.wait_polled(3).await;
    exporter.advance(Duration::from_mins(20)).await;
    let targets = discover(&exporter).await;
    assert_eq!(targets.len(), 4);
    for encoding in encodings() {
        let (_, all) = scrape(&exporter, Method::GET, "", encoding).await;
        let mut parts = Vec::new();
        for target in &targets {
            let query = target_query(target);
            let (status, part) = scrape(&exporter, Method::GET, &query, encoding).await;
            assert_eq!(status, 200, "{query}");
            assert!(part.series().len() > 20, "{query}: {}", part.text);
            let names = part.series().into_iter().map(|series| series.name);
            let names: BTreeSet<String> = names.collect();
            let headers = part
                .text
                .lines()
                .filter_map(|line| line.strip_prefix("# TYPE "));
            for family in headers.map(|header| header.split(' ').next().unwrap()) {
                let has_series = names.iter().any(|name| name.starts_with(family));
                assert!(has_series, "{query}: {family} has no series");
            }
            parts.extend(part.series());
        }
        assert_eq!(unique_series(parts), unique_series(all.series()));
        let (_, own) = scrape(&exporter, Method::GET, "?scope=exporter", encoding).await;
        for family in [
            "atlas_ai_keys_exporter_build_info",
            "atlas_ai_keys_exporter_storage_last_write_failed",
            "process_start_time_seconds",
        ] {
            assert_eq!(own.with_name(family).count(), 1, "{family}");
        }
        // Requests that belong to no organization have an empty label.
        let orgs = own.series().into_iter();
        let orgs: BTreeSet<_> = orgs
            .filter_map(|it| it.labels.get("org_id").cloned())
            .collect();
        assert_eq!(orgs, BTreeSet::from([String::new()]));
        assert!(!own.text.contains("mongodbatlas_"), "{}", own.text);
    }
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn invalid_scopes_are_rejected_with_400() {
    let sim = in_process_sim(&static_sim(1, 5));
    let exporter = SimHarness::start(&sim, &[]).await;
    let org = exporter.wait_polled(1).await;
    let org = org.with_name("atlas_ai_keys_exporter_org_up").next();
    let org = org.unwrap().labels["org_id"].clone();
    for (query, part) in [
        ("?scope=".to_owned(), "expected exporter"),
        ("?scope=all".to_owned(), "expected exporter"),
        ("?scope=exporter&scope=exporter".to_owned(), "duplicate"),
        (format!("?org={org}&scope=exporter"), "either org or scope"),
        (format!("?scope=exporter&org={org}"), "either org or scope"),
    ] {
        for encoding in encodings() {
            for method in [Method::GET, Method::HEAD] {
                let (status, text) = scrape(&exporter, method.clone(), &query, encoding).await;
                assert_eq!(status, 400, "{query}");
                let is_explained = text.text.contains(part) || method == Method::HEAD;
                assert!(is_explained, "{query}: {}", text.text);
                assert!(!text.text.contains("atlas_ai"), "{query}: {}", text.text);
            }
        }
    }
    exporter.stop().await;
}

/// Returns the target groups of `/sd`.
async fn discover(exporter: &SimHarness) -> Vec<Value> {
    let request = Request::get("/sd").header("host", "exporter:1234");
    let request = request.body(Body::empty()).unwrap();
    let router = TowerToHyperService::new(web::router(Arc::clone(&exporter.app)));
    let response = router.call(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await;
    serde_json::from_slice(&body.unwrap()).unwrap()
}

/// Returns the query that Prometheus sends to a target.
fn target_query(group: &Value) -> String {
    let labels = group["labels"].as_object().unwrap().iter();
    let mut parameters = labels.filter_map(|(name, value)| {
        let name = name.strip_prefix("__param_")?;
        Some(format!("?{name}={}", value.as_str().unwrap()))
    });
    let query = parameters.next().expect("a parameter");
    assert_eq!(parameters.next(), None, "{group}");
    query
}

#[tokio::test(start_paused = true)]
async fn service_discovery_lists_the_exporter_and_each_organization() {
    let sim = in_process_sim(&static_sim(3, 30));
    let exporter = SimHarness::start(&sim, &[]).await;
    exporter.wait_polled(3).await;
    exporter.advance(Duration::from_mins(20)).await;
    let (mut listed, mut instances) = (BTreeSet::new(), BTreeSet::new());
    for group in &discover(&exporter).await {
        assert_eq!(group["targets"], serde_json::json!(["exporter:1234"]));
        let labels = group["labels"].as_object().unwrap();
        let label = |name: &str| labels.get(name).map_or("", |value| value.as_str().unwrap());
        assert_eq!(label("__scheme__"), "http", "{group}");
        assert_eq!(label("__metrics_path__"), "/metrics", "{group}");
        assert!(instances.insert(label("instance").to_owned()), "{group}");
        let org = label("__param_org");
        if org.is_empty() {
            assert_eq!(label("__param_scope"), "exporter", "{group}");
            assert_eq!(label("instance"), "exporter:1234", "{group}");
            assert_eq!(labels.len(), 4, "{group}");
            continue;
        }
        assert_eq!(label("__meta_mongodbatlas_org_id"), org, "{group}");
        assert_eq!(label("instance"), format!("exporter:1234/{org}"));
        // A scrape with the parameter returns this organization.
        let query = target_query(group);
        let (_, some) = scrape(&exporter, Method::GET, &query, (Format::Text, "gzip")).await;
        let info: Vec<_> = some.with_name("mongodbatlas_organization_info").collect();
        assert_eq!(info.len(), 1, "{group}");
        assert_eq!(info[0].labels["org_id"], org);
        let name = label("__meta_mongodbatlas_org_name");
        assert_eq!(info[0].labels["org_name"], name);
        assert!(listed.insert(org.to_owned()), "{org} twice");
    }
    assert_eq!(listed, sim.org_ids().into_iter().collect());
    assert!(instances.contains("exporter:1234"), "{instances:?}");
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn stale_organization_keeps_only_its_own_series_in_every_encoding() {
    let sim = in_process_sim(&static_sim(2, 60));
    let exporter = SimHarness::start(&sim, &["--atlas.max-staleness=1h"]).await;
    exporter.wait_polled(2).await;
    exporter.advance(Duration::from_mins(20)).await;
    let (failing, other) = (sim.org_ids().remove(0), sim.org_ids().remove(1));
    let keys = [&failing, &other].map(|org| sim.with_world(|world| world.keys(org).len()));
    sim.add_fault(error_fault(
        SimEndpoint::AiModelApiKeys,
        Some(&failing),
        500,
    ));
    let success = "atlas_ai_keys_exporter_org_last_success_timestamp_seconds";
    let label = [("org_id", failing.as_str())];
    let succeeded_at = exporter.scrape().get(success, &label).unwrap();
    // One minute before and after the limit.
    for (age, expected) in [
        (Duration::from_mins(59), keys[0]),
        (Duration::from_mins(61), 0),
    ] {
        #[allow(clippy::cast_precision_loss, reason = "seconds since 1970")]
        let now = sim.now().as_second() as f64;
        let past = Duration::from_secs_f64(now - succeeded_at);
        exporter.advance(age.saturating_sub(past)).await;
        for encoding in encodings() {
            let (_, all) = scrape(&exporter, Method::GET, "", encoding).await;
            let of = |org: &str, prefix: &str| {
                let series = all.series().into_iter();
                let series = series.filter(|it| it.name.starts_with(prefix));
                series
                    .filter(|it| it.labels.get("org_id").is_some_and(|id| id == org))
                    .count()
            };
            let info = "mongodbatlas_ai_model_api_key_info";
            assert_eq!(of(&failing, info), expected, "{age:?} {encoding:?}");
            assert_eq!(of(&other, info), keys[1], "{age:?} {encoding:?}");
            if expected == 0 {
                assert_eq!(of(&failing, "mongodbatlas_ai_model_api_keys"), 0);
            }
            assert_eq!(of(&failing, success), 1);
            assert_eq!(all.poll_failures(&other, "server_error"), 0.0);
            assert!(all.poll_failures(&failing, "server_error") > 5.0);
            let query = format!("?org={failing}");
            let (status, some) = scrape(&exporter, Method::GET, &query, encoding).await;
            assert_eq!(status, 200);
            assert_eq!(
                series_of(&some, &[&failing, &other]),
                series_of(&all, &[&failing])
            );
        }
    }
    sim.clear_faults();
    exporter.wait_polled(2).await;
    for encoding in encodings() {
        let (_, all) = scrape(&exporter, Method::GET, "", encoding).await;
        let shown = all.with_name("mongodbatlas_ai_model_api_key_info").count();
        assert_eq!(shown, keys[0] + keys[1], "{encoding:?}");
    }
    exporter.stop().await;
}
