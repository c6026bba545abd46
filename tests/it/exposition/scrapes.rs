//! Scrapes of a running exporter.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::series_from_text;
use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{Scrape, TestExporter, static_sim};
use atlas_ai_keys_exporter::web::{self};
use exporter_toolkit::server::{Server, ServerLimits};
use flate2::read::GzDecoder;
use mongodb_atlas_sim::SimConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

async fn request_metrics(
    exporter: &TestExporter,
    accept: &str,
    encoding: &str,
) -> reqwest::Response {
    // Built without decoding: the raw response is compared.
    let client = reqwest::Client::builder()
        .no_proxy()
        .no_gzip()
        .build()
        .unwrap();
    client
        .get(format!("{}/metrics", exporter.base_url))
        .header("accept", accept)
        .header("accept-encoding", encoding)
        .send()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn format_and_encoding_follow_the_request_headers() {
    let exporter = TestExporter::start(static_sim(2, 300), &[]).await;
    exporter.wait_polled().await;
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
        let response = request_metrics(&exporter, accept, "identity;q=1, gzip;q=0").await;
        assert_eq!(response.headers()["content-type"], content_type);
        assert!(response.headers().get("content-encoding").is_none());
        let text = response.text().await.unwrap();
        assert!(text.ends_with(end));
        let response = request_metrics(&exporter, accept, "gzip").await;
        assert_eq!(response.headers()["content-type"], content_type);
        assert_eq!(response.headers()["content-encoding"], "gzip");
        assert_eq!(response.headers()["vary"], "Accept, Accept-Encoding");
        let mut unpacked = String::new();
        GzDecoder::new(&*response.bytes().await.unwrap())
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
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gzip_responses_show_a_new_poll_immediately() {
    let exporter = TestExporter::start(static_sim(1, 50), &["--atlas.poll-interval=1s"]).await;
    let org = exporter.sim.org_ids()[0].clone();
    exporter.wait_polled().await;
    for n in 0..5 {
        let name = format!("renamed {n}");
        exporter.sim.with_world(|world| {
            let id = world.keys(&org)[3].id.clone();
            world.rename_key(&org, &id, &name);
        });
        // The scrapes of the test exporter are compressed.
        exporter
            .wait_until("the new name", |scrape| scrape.text.contains(&name))
            .await;
    }
    exporter.stop().await.stop().await;
}

/// The last waiting request is rejected: see the tests of `request_limiter`.
#[tokio::test(flavor = "multi_thread")]
async fn stalled_scrapes_release_their_permits() {
    let exporter = TestExporter::start(
        crate::common::unlimited_sim(1, 30_000),
        &["--web.max-requests=2"],
    )
    .await;
    let address = exporter
        .base_url
        .strip_prefix("http://")
        .unwrap()
        .to_owned();
    let hang = || {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        stream
            .write_all(format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())
            .unwrap();
        stream
    };
    while exporter
        .scrape()
        .await
        .sum("mongodbatlas_ai_model_api_keys")
        == 0.0
    {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Far more than there are permits; each lost response is requested again.
    let mut hanging: Vec<_> = (0..6).map(|_| hang()).collect();
    for encoding in ["identity", "gzip"] {
        for _ in 0..3 {
            let response = request_metrics(&exporter, "", encoding).await;
            assert_eq!(response.status(), 200);
            assert_eq!(
                exporter.get("/-/healthy").await.0,
                200,
                "the other routes are not concerned"
            );
            hanging.extend([hang(), hang()]);
        }
    }
    drop(hanging);
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_reader_is_disconnected_without_blocking_others() {
    let exporter = TestExporter::start(crate::common::unlimited_sim(1, 30_000), &[]).await;
    exporter.wait_polled().await;
    // The same routes behind a server with shorter timeouts.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let server = Server {
        listeners: vec![listener],
        router: web::router(Arc::clone(&exporter.app)),
        limits: ServerLimits {
            write_stall_timeout: Duration::from_millis(500),
            ..ServerLimits::default()
        },
        web_config: None,
        name: "test",
    };
    let serving = tokio::spawn(exporter_toolkit::server::serve(
        vec![server],
        Arc::default(),
        shutdown.clone(),
    ));
    let mut stalled = std::net::TcpStream::connect(address).unwrap();
    stalled
        .write_all(format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())
        .unwrap();
    let started_at = Instant::now();
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
    assert!(started_at.elapsed() < Duration::from_secs(20));
    assert!(
        end.is_err() || !all.ends_with(b"0\r\n\r\n"),
        "it was cut off: {} bytes",
        all.len()
    );
    shutdown.cancel();
    serving.await.unwrap();
    exporter.stop().await.stop().await;
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
