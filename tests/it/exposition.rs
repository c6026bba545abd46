//! Both text formats have the same series, whatever is in a label, compressed or not; also for readers that stall.
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{Scrape, TestExporter, static_sim};
use atlas_ai_keys_exporter::inventory::{
    Inventory, InventorySnapshot, KeyAttributes, KeyRecord, ModelRateLimit, Moment, OrgDetails,
    ProjectName,
};
use atlas_ai_keys_exporter::metrics::{
    ChunkSource as _, Compressor, ExporterMetrics, Exposition, Format, IdleThreshold, KeyLabel,
    KeySeriesOptions, PerKeyMode, ScrapeSnapshot,
};
use atlas_ai_keys_exporter::web::{self};
use exporter_toolkit::server::{Server, ServerLimits};
use flate2::read::GzDecoder;
use jiff::Timestamp;
use mongodb_atlas_client::{KeyId, OrgId, ProjectId};
use mongodb_atlas_sim::SimConfig;
use proptest::prelude::*;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Name, labels and value of every series; values as text, so that they can be in a set.
type SeriesSet = BTreeSet<(String, BTreeMap<String, String>, String)>;

fn series_from_text(text: &str) -> SeriesSet {
    Scrape::parse(text)
        .series()
        .into_iter()
        .filter(|series| !series.name.ends_with("_bucket"))
        .map(|series| (series.name, series.labels, format!("{:?}", series.value)))
        .collect()
}

fn selection() -> KeySeriesOptions {
    KeySeriesOptions {
        per_key: PerKeyMode::All,
        labels: KeyLabel::ALL.into(),
        max_keys: 1_000_000,
        thresholds: [7, 30]
            .map(|days| IdleThreshold::new(Duration::from_hours(days * 24)))
            .into(),
    }
}

fn encode_identity(format: Format, own: &ExporterMetrics, scene: &ScrapeSnapshot) -> Vec<u8> {
    Exposition::new(format, own.gather(), scene.clone()).into_bytes()
}

fn encode_gzip(format: Format, own: &ExporterMetrics, scene: &ScrapeSnapshot) -> Vec<u8> {
    let mut compressor = Compressor::new(format, scene.clone());
    let mut chunks = Vec::new();
    while compressor.advance(&mut chunks) {}
    chunks.push(Compressor::finish(
        format,
        &own.gather(),
        compressor.checksum(),
    ));
    let bytes = chunks.concat();
    let mut out = Vec::new();
    GzDecoder::new(&*bytes).read_to_end(&mut out).unwrap();
    out
}

/// Without the series of the process itself, which move while one looks.
fn time_independent_series(series: SeriesSet) -> SeriesSet {
    series
        .into_iter()
        .filter(|(name, ..)| !name.starts_with("process_"))
        .collect()
}

/// Any text, with those characters in it more often that have a meaning somewhere.
fn any_text() -> impl Strategy<Value = String> {
    let special = prop::sample::select(vec![
        "\"",
        "\\",
        "\n",
        "\r",
        "\0",
        "\t",
        "{",
        "}",
        ",",
        "=",
        "#",
        " ",
        "\u{feff}",
        "\u{2028}",
        "🔑",
        "ü",
        "\\n",
        "\"}",
        "# EOF\n",
        "\u{7f}",
        "\u{10ffff}",
    ]);
    let part = prop_oneof![
        special.prop_map(str::to_owned),
        ".{0,6}".prop_map(|text| text)
    ];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

fn any_api_time() -> impl Strategy<Value = Moment> {
    prop_oneof![
        (0_i64..4_000_000_000_000_000)
            .prop_map(|micros| Moment::Valid(Timestamp::from_microsecond(micros).unwrap())),
        (-1_000_000_i64..1_000_000)
            .prop_map(|micros| Moment::Valid(Timestamp::from_microsecond(micros).unwrap())),
        Just(Moment::Missing),
        Just(Moment::Invalid),
    ]
}

prop_compose! {
    fn any_record()(
        id in any_text(), project in any_text(), name in any_text(), masked_secret in any_text(),
        kind in prop::collection::vec(any_text(), 5), created in any_api_time(), last_used in any_api_time(),
    ) -> KeyRecord {
        let [status, cloud, geography, endpoint, created_by] = <[String; 5]>::try_from(kind).unwrap();
        KeyRecord {
            id: KeyId::new(id),
            project: ProjectId::new(project),
            name,
            masked_secret,
            attributes: KeyAttributes { status, cloud, geography, endpoint, created_by },
            created,
            last_used,
            ..KeyRecord::default()
        }
    }
}

fn build_snapshot(records: &[KeyRecord], texts: &[String]) -> ScrapeSnapshot {
    let org = |n: u32| OrgId::parse(&format!("{n:024x}")).unwrap();
    let at = Timestamp::from_second(1_790_000_000).unwrap();
    let (first, second) = records.split_at(records.len() / 2);
    let inventories = [first, second].into_iter().zip(0..).map(|(records, n)| {
        Arc::new(Inventory::new(
            org(n),
            (at, at),
            records.iter().cloned(),
            0,
            &[],
        ))
    });
    let details = OrgDetails {
        name: Some(texts[0].clone()),
        projects: vec![ProjectName {
            id: ProjectId::new(texts[1].clone()),
            name: texts[2].clone(),
        }],
        limits: vec![ModelRateLimit {
            group: texts[3].clone(),
            cloud: texts[4].clone(),
            geography: texts[5].clone(),
            requests_per_minute: Some(7),
            tokens_per_minute: None,
        }],
        asked_at: None,
    };
    let shown = InventorySnapshot {
        inventories: inventories.collect(),
        details: vec![(org(1), Arc::new(details))],
    };
    ScrapeSnapshot::new(shown, Arc::new(selection()), at)
}

/// The info series that the keys must have.
fn expected_info_labels(records: &[KeyRecord]) -> BTreeSet<BTreeMap<String, String>> {
    let (first, second) = records.split_at(records.len() / 2);
    let mut by_id: BTreeMap<(usize, &str), &KeyRecord> = BTreeMap::new();
    for (org, records) in [first, second].into_iter().enumerate() {
        for record in records {
            by_id.insert((org, record.id.as_str()), record);
        }
    }
    by_id
        .into_iter()
        .map(|((org, id), record)| {
            [
                ("org_id", format!("{org:024x}")),
                ("project_id", record.project.to_string()),
                ("api_key_id", id.to_owned()),
                ("name", record.name.clone()),
                ("status", record.attributes.status.clone()),
                ("cloud", record.attributes.cloud.clone()),
                ("geography", record.attributes.geography.clone()),
                ("endpoint", record.attributes.endpoint.clone()),
                ("created_by", record.attributes.created_by.clone()),
                ("masked_secret", record.masked_secret.clone()),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into()
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_format_encodes_the_same_series_for_any_label(
        records in prop::collection::vec(any_record(), 0..12),
        texts in prop::collection::vec(any_text(), 6),
    ) {
        let scene = build_snapshot(&records, &texts);
        let own = ExporterMetrics::new().unwrap();
        own.init_credential(&texts[0], ["issued"]);
        let text = String::from_utf8(encode_identity(Format::Text, &own, &scene)).unwrap();
        let series = time_independent_series(series_from_text(&text));
        let info = "mongodbatlas_ai_model_api_key_info";
        let shown: BTreeSet<_> = series
            .iter()
            .filter(|(name, ..)| name == info)
            .map(|(_, labels, _)| labels.clone())
            .collect();
        prop_assert_eq!(shown, expected_info_labels(&records), "what went in comes out");
        let open = String::from_utf8(encode_identity(Format::OpenMetrics, &own, &scene)).unwrap();
        prop_assert!(open.ends_with("# EOF\n"));
        prop_assert_eq!(time_independent_series(series_from_text(&open)), series.clone());
        for format in Format::ALL {
            let unpacked = encode_gzip(format, &own, &scene);
            let unpacked = series_from_text(std::str::from_utf8(&unpacked).unwrap());
            prop_assert_eq!(time_independent_series(unpacked), series.clone(), "{:?} packed", format);
        }
    }
}

#[test]
fn each_family_appears_once_in_every_format() {
    let record = |n: usize| KeyRecord {
        id: KeyId::new(format!("key{n}")),
        project: ProjectId::new("p"),
        created: Moment::Valid(Timestamp::UNIX_EPOCH),
        last_used: Moment::Valid(Timestamp::UNIX_EPOCH),
        ..KeyRecord::default()
    };
    let records: Vec<_> = (0..2000).map(record).collect();
    let scene = build_snapshot(&records, &[const { String::new() }; 6]);
    let own = ExporterMetrics::new().unwrap();
    let encoders = [encode_identity, encode_gzip];
    for (format, encode) in Format::ALL
        .into_iter()
        .flat_map(|it| encoders.map(|encode| (it, encode)))
    {
        let text = String::from_utf8(encode(format, &own, &scene)).unwrap();
        for head in ["# HELP ", "# TYPE "] {
            let mut names: Vec<&str> = text
                .lines()
                .filter_map(|line| line.strip_prefix(head)?.split(' ').next())
                .collect();
            let before = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), before, "{format:?}: {head}");
        }
    }
}

async fn request_metrics(lab: &TestExporter, accept: &str, encoding: &str) -> reqwest::Response {
    // built without decoding: what comes is looked at as it is
    let client = reqwest::Client::builder()
        .no_proxy()
        .no_gzip()
        .build()
        .unwrap();
    client
        .get(format!("{}/metrics", lab.base_url))
        .header("accept", accept)
        .header("accept-encoding", encoding)
        .send()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn format_and_encoding_follow_the_request_headers() {
    let lab = TestExporter::start(static_sim(2, 300), &[]).await;
    lab.wait_polled().await;
    for (accept, content_type, end) in [
        (
            "text/plain",
            "text/plain; version=0.0.4; charset=utf-8",
            "\n",
        ),
        (
            "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "\n# EOF\n",
        ),
    ] {
        let answer = request_metrics(&lab, accept, "identity;q=1, gzip;q=0").await;
        assert_eq!(answer.headers()["content-type"], content_type);
        assert!(answer.headers().get("content-encoding").is_none());
        let text = answer.text().await.unwrap();
        assert!(text.ends_with(end));
        let answer = request_metrics(&lab, accept, "gzip").await;
        assert_eq!(answer.headers()["content-type"], content_type);
        assert_eq!(answer.headers()["content-encoding"], "gzip");
        assert_eq!(answer.headers()["vary"], "Accept, Accept-Encoding");
        let mut unpacked = String::new();
        GzDecoder::new(&*answer.bytes().await.unwrap())
            .read_to_string(&mut unpacked)
            .unwrap();
        let names = |text: &str| {
            series_from_text(text)
                .into_iter()
                .map(|(name, labels, _)| (name, labels))
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(names(&unpacked), names(&text));
    }
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gzip_responses_show_a_new_poll_immediately() {
    let lab = TestExporter::start(static_sim(1, 50), &["--atlas.poll-interval=1s"]).await;
    let org = lab.sim.org_ids()[0].clone();
    lab.wait_polled().await;
    for n in 0..5 {
        let name = format!("renamed {n}");
        lab.sim.with_world(|world| {
            let id = world.keys(&org)[3].id.clone();
            world.rename_key(&org, &id, &name);
        });
        // the laboratory's scrapes are packed ones
        lab.wait_until("the new name", |scrape| scrape.text.contains(&name))
            .await;
    }
    lab.stop().await.stop().await;
}

/// A request that waits in the end is refused: see the tests of `web::request_limiter`.
#[tokio::test(flavor = "multi_thread")]
async fn stalled_scrapes_release_their_permits() {
    let lab = TestExporter::start(
        crate::common::unlimited_sim(1, 30_000),
        &["--web.max-requests=2"],
    )
    .await;
    let address = lab.base_url.strip_prefix("http://").unwrap().to_owned();
    let hang = || {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        stream
            .write_all(format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())
            .unwrap();
        stream
    };
    while lab.scrape().await.sum("mongodbatlas_ai_model_api_keys") == 0.0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // far more than there are places, and each of them is asked for again once it is lost
    let mut hanging: Vec<_> = (0..6).map(|_| hang()).collect();
    for encoding in ["identity", "gzip"] {
        for _ in 0..3 {
            let response = request_metrics(&lab, "", encoding).await;
            assert_eq!(response.status(), 200);
            assert_eq!(
                lab.get("/-/healthy").await.0,
                200,
                "the other routes are not concerned"
            );
            hanging.extend([hang(), hang()]);
        }
    }
    drop(hanging);
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_reader_is_disconnected_without_blocking_others() {
    let lab = TestExporter::start(crate::common::unlimited_sim(1, 30_000), &[]).await;
    lab.wait_polled().await;
    // the same routes behind a door that is less patient
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let door = Server {
        listeners: vec![listener],
        router: web::router(Arc::clone(&lab.app)),
        limits: ServerLimits {
            write_stall_timeout: Duration::from_millis(500),
            ..ServerLimits::default()
        },
        web_config: None,
        log_message: "a door that is less patient",
    };
    let serving = tokio::spawn(exporter_toolkit::server::serve(
        vec![door],
        Arc::default(),
        shutdown.clone(),
    ));
    let mut stalled = std::net::TcpStream::connect(address).unwrap();
    stalled
        .write_all(format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())
        .unwrap();
    let begun = Instant::now();
    let (code, text) = crate::common::get(&format!("http://{address}/metrics")).await;
    assert!(
        code == 200 && text.contains("process_threads"),
        "somebody else's scrape"
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let read = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        let end = stalled.read_to_end(&mut all);
        (all, end)
    });
    let (all, end) = read.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(
        end.is_err() || !all.ends_with(b"0\r\n\r\n"),
        "it was cut off: {} bytes",
        all.len()
    );
    shutdown.cancel();
    serving.await.unwrap();
    lab.stop().await.stop().await;
}

#[tokio::test(start_paused = true)]
async fn personal_data_is_exported_and_stored_only_when_enabled() {
    let sim = in_process_sim(&static_sim(1, 60));
    let dir = tempfile::tempdir().unwrap();
    let storage = format!("--storage.path={}", dir.path().display());
    let kept = || {
        let files = std::fs::read_dir(dir.path()).unwrap();
        let texts = files.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
        texts.collect::<String>()
    };
    let exporter = SimHarness::start(&sim, &[&storage]).await;
    let scrape = exporter.wait_polled(1).await;
    exporter.advance(Duration::from_secs(5)).await;
    for text in [&scrape.text, &kept()] {
        assert!(
            !text.contains("Example\"") && !text.contains("al-****"),
            "{text}"
        );
    }
    exporter.stop().await;
    std::fs::remove_dir_all(dir.path()).unwrap();
    let labels = "--metrics.key-labels=created_by,masked_secret";
    let exporter = SimHarness::start(&sim, &[&storage, labels]).await;
    let scrape = exporter.wait_polled(1).await;
    exporter.advance(Duration::from_secs(5)).await;
    let info = scrape
        .with_name("mongodbatlas_ai_model_api_key_info")
        .next()
        .unwrap();
    assert_eq!(info.labels.len(), 5);
    assert!(info.labels["masked_secret"].starts_with("al-****"));
    assert!(scrape.text.contains("created_by=\"Ada Example\"") && kept().contains("Ada Example"));
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn max_keys_retains_the_most_idle_keys_across_polls() {
    let sim = in_process_sim(&SimConfig {
        orgs: 3,
        keys: 400,
        ..SimConfig::default()
    });
    let exporter = SimHarness::start(&sim, &["--metrics.max-keys=100"]).await;
    let ids = |scrape: &Scrape| -> BTreeSet<String> {
        let series = scrape.with_name("mongodbatlas_ai_model_api_key_idle_seconds");
        series
            .map(|series| series.labels["api_key_id"].clone())
            .collect()
    };
    let first = exporter.wait_polled(3).await;
    assert_eq!(ids(&first).len(), 100);
    assert_eq!(first.sum("atlas_ai_keys_exporter_keys_dropped"), 300.0);
    assert_eq!(first.sum("mongodbatlas_ai_model_api_keys"), 400.0);
    let idle = first.values("mongodbatlas_ai_model_api_key_idle_seconds");
    let least = idle.iter().copied().fold(f64::MAX, f64::min);
    assert!(
        least > 86_400.0,
        "those in daily use are cut first: {least}"
    );
    let later = exporter.wait_polled_again().await;
    let kept = ids(&first).intersection(&ids(&later)).count();
    assert!(
        kept >= 97,
        "{kept} of 100 stay while keys are used and come and go"
    );
    exporter.stop().await;
}
