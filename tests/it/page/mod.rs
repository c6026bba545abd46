//! Tests of the page: content, escaping, omitted data, and its maximum size. `tests/e2e/browser.rs` opens the page in a
//! browser.

mod documents;
mod escaping;

use std::collections::BTreeMap;

use crate::common::{TestExporter, eventually, static_sim};
use atlas_ai_keys_exporter::failure::Explanation;
use mongodb_atlas_client::FailureReason;
use mongodb_atlas_sim::{Effect, ErrorBodyFormat, Fault, SimEndpoint, SimKey};

/// Returns the texts of all elements `<TAG …>TEXT</TAG>` with `mark` in the start tag.
fn texts_after(page: &str, mark: &str) -> Vec<String> {
    page.match_indices(mark)
        .filter_map(|(at, _)| page[at..].split_once('>')?.1.split_once('<'))
        .map(|(text, _)| text.to_owned())
        .collect()
}

/// Returns the values of the attribute `data-key` of all rows.
fn row_ids(page: &str) -> Vec<String> {
    let ids = page.split("<tr role=\"row\" data-key=\"").skip(1);
    ids.map(|rest| rest.split_once('"').unwrap().0.to_owned())
        .collect()
}

/// Returns the figures of each organization: title and text.
fn org_figures(page: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let articles = page.split("data-org=\"").skip(1).map(|article| {
        let (org, rest) = article.split_once('"').unwrap();
        let figures = rest.split("</article>").next().unwrap();
        let figures = figures.split("<dt>").skip(1).map(|figure| {
            let (title, rest) = figure.split_once("</dt>").unwrap();
            let value = rest.split("</dd>").next().unwrap();
            // Remove the tags around the text.
            let mut texts = value.split(['<', '>']).skip(2).step_by(2);
            let text = texts.find(|text| !text.is_empty()).unwrap_or_default();
            (title.to_owned(), text.replace(',', ""))
        });
        (org.to_owned(), figures.collect())
    });
    articles.collect()
}

/// Requests the page until it contains `part`.
async fn wait_page_contains(exporter: &TestExporter, path: &str, part: &str) -> String {
    eventually(&format!("{path} contains {part}"), async || {
        let (status, page) = exporter.get(path).await;
        assert_eq!(status, 200);
        if page.contains(part) {
            Ok(page)
        } else {
            Err(page)
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn page_shows_the_simulator_state() {
    let exporter = TestExporter::start(static_sim(3, 1200), &[]).await;
    exporter.wait_polled().await;
    let page = wait_page_contains(
        &exporter,
        "/",
        "Organizations: fresh</dt><dd class=\"ok\">3<",
    )
    .await;
    assert_eq!(texts_after(&page, "id=\"all-keys\""), ["1,200"]);
    let keys: BTreeMap<String, Vec<SimKey>> = exporter.sim.with_world(|world| {
        let orgs = world.org_ids().into_iter();
        orgs.map(|org| (org.clone(), world.keys(&org).to_vec()))
            .collect()
    });
    let count = |keys: &[SimKey], condition: &dyn Fn(&SimKey) -> bool| {
        keys.iter().filter(|key| condition(key)).count()
    };
    let is_enabled = |key: &SimKey| key.status == "ACTIVE";
    let disabled = |key: &SimKey| !is_enabled(key);
    let never_used = |key: &SimKey| is_enabled(key) && key.last_used.is_none();
    let limit = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(90 * 24);
    let idle = |key: &SimKey| is_enabled(key) && key.last_used.is_some_and(|at| at <= limit);
    let all = keys.values().flatten().cloned().collect::<Vec<_>>();
    for (id, expected) in [
        ("all-never", count(&all, &never_used)),
        ("all-idle", count(&all, &idle)),
        ("all-disabled", count(&all, &disabled)),
    ] {
        assert!(expected > 0, "{id}");
        let shown = texts_after(&page, &format!("id=\"{id}\"")).concat();
        assert_eq!(shown.replace(',', ""), expected.to_string(), "{id}");
    }
    let figures = org_figures(&page);
    assert!(figures.keys().eq(keys.keys()), "{figures:?}");
    for (org, keys) in &keys {
        let shown = &figures[org];
        for (title, expected) in [
            ("Keys", keys.len()),
            ("Never used", count(keys, &never_used)),
            ("ACTIVE", count(keys, &|key| key.status == "ACTIVE")),
            ("INACTIVE", count(keys, &|key| key.status == "INACTIVE")),
        ] {
            assert!(expected > 0, "{org}: {title}");
            assert_eq!(shown[title], expected.to_string(), "{org}: {title}");
        }
        assert!(
            shown["Rate limit"].contains("requests remaining"),
            "{shown:?}"
        );
        assert!(shown["Next poll"].starts_with("in "), "{shown:?}");
    }
    // The chart counts every key once.
    let charts = texts_after(&page, "<title id=\"chart-");
    let total = |chart: &String| {
        let (_, bars) = chart.split_once(": ").unwrap();
        let bars = bars.split(", ").filter_map(|bar| {
            let (number, _) = bar.split_once(' ')?;
            number.replace(',', "").parse::<usize>().ok()
        });
        bars.sum::<usize>()
    };
    assert_eq!(charts.len(), 3);
    assert_eq!(charts.iter().map(total).sum::<usize>(), 1200, "{charts:?}");
    assert_eq!(row_ids(&page).len(), 50);
    assert!(
        page.contains("<strong class=\"warn\">never used</strong>"),
        "the longest-idle keys were never used"
    );
    // Every key is on exactly one page.
    let mut ids: Vec<String> = Vec::new();
    for part in 1..=24 {
        let (_, page) = exporter.get(&format!("/?page={part}&sort=name")).await;
        ids.extend(row_ids(&page));
    }
    ids.sort();
    let expected = crate::common::expected_sim_keys(&exporter.sim).into_keys();
    assert_eq!(ids, expected.collect::<Vec<_>>());
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_omits_data_that_is_not_exported() {
    for (labels, name, person, masked) in [
        ("name,status", true, false, false),
        ("status", false, false, false),
        ("name,created_by,masked_secret", true, true, true),
    ] {
        let flag = format!("--metrics.key-labels={labels}");
        let exporter = TestExporter::start(static_sim(1, 40), &[&flag]).await;
        exporter.wait_polled().await;
        let (_, page) = exporter.get("/").await;
        let named = exporter.sim.with_world(|world| {
            let org = &world.org_ids()[0];
            world
                .keys(org)
                .iter()
                .any(|key| key.name.len() > 5 && page.contains(&format!(">{}<", key.name)))
        });
        assert_eq!(named, name, "{labels}");
        assert_eq!(page.contains("Ada Example"), person, "{labels}");
        assert_eq!(page.contains("al-****"), masked, "{labels}");
        exporter.stop().await.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn page_explains_failures_with_remedies() {
    let exporter = TestExporter::start(
        static_sim(2, 20),
        &["--atlas.poll-interval=1s", "--atlas.max-staleness=2s"],
    )
    .await;
    exporter.wait_polled().await;
    exporter.sim.add_fault(Fault::new(
        SimEndpoint::AiModelApiKeys,
        Effect::Status {
            status: 403,
            retry_after: None,
            body: ErrorBodyFormat::default(),
        },
    ));
    let page = wait_page_contains(
        &exporter,
        "/",
        "Organizations: failing</dt><dd class=\"error\">2<",
    )
    .await;
    assert!(
        page.contains("Organization Read Only") && page.contains("IP access list"),
        "{page}"
    );
    for link in [
        "\">Metrics (docs)</a>",
        "\">Configuration (docs)</a>",
        "\">TLS and auth (docs)</a>",
        "\">Failure modes (docs)</a>",
        "Failing</strong> for <time datetime=\"",
    ] {
        assert!(page.contains(link), "{link}: {page}");
    }
    for reason in FailureReason::ALL {
        let runbook = format!(
            "/-/docs/runbooks/{}",
            Explanation::for_reason(reason).runbook
        );
        let (status, text) = exporter.get(&runbook).await;
        assert!(
            status == 200 && text.contains("<h2 id=\""),
            "{reason}: {text}"
        );
    }
    wait_page_contains(&exporter, "/", "older than --atlas.max-staleness").await;
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_reports_discovery_failures() {
    let sim = crate::common::start_sim(static_sim(1, 5)).await;
    sim.add_fault(Fault::new(
        SimEndpoint::Orgs,
        Effect::Status {
            status: 403,
            retry_after: None,
            body: ErrorBodyFormat::default(),
        },
    ));
    let dir = tempfile::tempdir().unwrap();
    let account = sim.credentials();
    let config = dir.path().join("config.yml");
    let text = format!(
        "credentials:\n- name: <i title='\n  client_id: {}\n  client_secret_file: secret\n  discover_orgs: true\n",
        account.client_id
    );
    std::fs::write(&config, text).unwrap();
    std::fs::write(dir.path().join("secret"), account.client_secret).unwrap();
    let variables = vec![("MONGODB_ATLAS_BASE_URL".to_owned(), sim.base_url())];
    let flag = format!("--config.file={}", config.display());
    let flags = [flag.as_str(), "--atlas.poll-interval=1s"];
    let exporter = TestExporter::start_with(sim, variables, &flags).await;
    let words = "Organization discovery failed for credential &#60;i title=&#39;.";
    let page = wait_page_contains(&exporter, "/", words).await;
    assert!(
        page.contains("Organization Read Only") && page.contains("No organization is watched yet")
    );
    assert!(!page.contains("<i "), "{page}");
    exporter.sim.clear_faults();
    wait_page_contains(&exporter, "/", "<strong class=\"ok\">Fresh</strong>").await;
    assert!(!exporter.get("/").await.1.contains("discovery failed"));
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_renders_before_the_first_poll() {
    let sim = crate::common::start_sim(static_sim(1, 5)).await;
    sim.add_fault(Fault::new(
        SimEndpoint::AiModelApiKeys,
        Effect::Delay { seconds: 3600.0 },
    ));
    let variables = crate::common::sim_env(&sim);
    let exporter = TestExporter::start_with(sim, variables, &[]).await;
    let page = wait_page_contains(
        &exporter,
        "/",
        "<strong class=\"warn\">No poll yet</strong>",
    )
    .await;
    assert!(
        page.contains("Data age</dt><dd>no data") && page.contains("Next poll</dt><dd>in progress"),
        "{page}"
    );
    let summary = "Organizations: no poll yet</dt><dd class=\"warn\">1<";
    assert!(page.contains(summary), "{page}");
    assert_eq!(row_ids(&page).len(), 0);
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_size_is_bounded() {
    let exporter = TestExporter::start(crate::common::unlimited_sim(45, 50_000), &[]).await;
    exporter.wait_polled().await;
    let (_, page) = exporter.get("/").await;
    assert!(page.len() < 150_000, "{} bytes", page.len());
    assert_eq!(page.matches("<article").count(), 20);
    let (_, last) = exporter.get("/?orgs=3&page=1000").await;
    assert_eq!(last.matches("<article").count(), 5);
    assert!(
        last.contains("page 1000 of 1000") && last.contains("41 to 45 of 45"),
        "{last}"
    );
    let org = &exporter.sim.org_ids()[7];
    let keys = exporter.sim.with_world(|world| world.keys(org).len());
    let (_, one) = exporter.get(&format!("/?org={org}")).await;
    assert!(one.contains(&format!("in organization {org}")));
    assert_eq!(row_ids(&one).len(), keys.min(50));
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_loads_only_own_resources() {
    let exporter = TestExporter::start(static_sim(1, 5), &[]).await;
    exporter.wait_polled().await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut kinds = Vec::new();
    for path in [
        "/",
        "/-/page/page.css",
        "/-/page/page.js",
        "/-/page/icon.svg",
        "/-/docs/configuration",
        "/-/docs/failure-modes",
        "/-/docs/metrics",
        "/-/docs/web",
    ] {
        let response = client
            .get(format!("{}{path}", exporter.base_url))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let headers = response.headers().clone();
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none'")
                && policy.contains("frame-ancestors 'none'")
                && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["x-frame-options"], "DENY");
        kinds.push(headers["content-type"].to_str().unwrap().to_owned());
        let text = response.text().await.unwrap();
        if path == "/" {
            for loaded in [
                "href=\"-/page/page.css\"",
                "src=\"-/page/page.js\"",
                "href=\"-/page/icon.svg\"",
            ] {
                assert!(text.contains(loaded), "{text}");
            }
            // The browser loads nothing from links to Atlas.
            let atlas = format!("<a href=\"{}/v2/", exporter.sim.base_url());
            assert!(text.contains(&atlas), "{text}");
            let text = text.replace(&atlas, "");
            for forbidden in ["://", "style=", "onclick"] {
                assert!(!text.contains(forbidden), "{forbidden}: {text}");
            }
        }
    }
    assert!(
        kinds[0].starts_with("text/html")
            && kinds[1].starts_with("text/css")
            && kinds[2].starts_with("text/javascript")
    );
    for path in [
        "/-/page/",
        "/-/page/page.html",
        "/-/page/../../Cargo.toml",
        "/-/docs/x",
    ] {
        assert_eq!(exporter.get(path).await.0, 404, "{path}");
    }
    exporter.stop().await.stop().await;
}
