//! The page: contents, escaping, omissions, and a bounded size
//! however many keys there are. `tests/e2e/browser.rs` opens it in a browser.
use std::time::{Duration, Instant};

use crate::common::{TestExporter, static_sim};
use atlas_ai_keys_exporter::failure::Explanation;
use mongodb_atlas_client::FailureReason;
use mongodb_atlas_sim::{Effect, ErrorBodyFormat, Fault, SimEndpoint};

/// Returns the texts of all elements `<TAG …>TEXT</TAG>` whose start tag contains `mark`.
fn texts_after(page: &str, mark: &str) -> Vec<String> {
    page.match_indices(mark)
        .filter_map(|(at, _)| page[at..].split_once('>')?.1.split_once('<'))
        .map(|(text, _)| text.to_owned())
        .collect()
}

fn count_rows(page: &str) -> usize {
    page.matches("<tr role=\"row\" data-key=").count()
}

/// Requests the page until it contains `part`.
async fn wait_page_contains(exporter: &TestExporter, path: &str, part: &str) -> String {
    let started_at = Instant::now();
    loop {
        let (status, page) = exporter.get(path).await;
        assert_eq!(status, 200);
        if page.contains(part) {
            return page;
        }
        assert!(
            started_at.elapsed() < crate::common::wait_timeout(),
            "in vain: {part}\n{page}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn page_shows_the_simulator_state() {
    let exporter = TestExporter::start(static_sim(3, 1200), &[]).await;
    exporter.wait_polled().await;
    let page = wait_page_contains(
        &exporter,
        "/",
        "Organizations fresh</dt><dd class=\"ok\">3<",
    )
    .await;
    assert_eq!(texts_after(&page, "id=\"all-keys\""), ["1,200"]);
    let (never, by_status) = exporter.sim.with_world(|world| {
        let orgs = world.org_ids();
        let never = orgs
            .iter()
            .flat_map(|org| world.keys(org))
            .filter(|key| key.last_used.is_none())
            .count();
        (never, world.count_by_status())
    });
    assert_eq!(texts_after(&page, "id=\"all-never\""), [never.to_string()]);
    let active: u64 = texts_after(&page, "<dt>ACTIVE</dt><dd")
        .iter()
        .filter_map(|text| text.replace(',', "").parse::<u64>().ok())
        .sum();
    let counted: u64 = page
        .match_indices("<dt>ACTIVE</dt><dd>")
        .filter_map(|(at, mark)| {
            page[at + mark.len()..]
                .split_once('<')?
                .0
                .replace(',', "")
                .parse::<u64>()
                .ok()
        })
        .sum();
    assert_eq!(counted.max(active), by_status["ACTIVE"]);
    assert_eq!(page.matches("<svg class=\"chart\"").count(), 3);
    assert!(page.contains("requests left") && page.contains("Next walk</dt><dd>in "));
    assert_eq!(count_rows(&page), 50);
    assert!(
        page.contains("<strong class=\"warn\">never used</strong>"),
        "the most idle ones were never used"
    );
    // Every key is on exactly one part.
    let mut ids: Vec<String> = Vec::new();
    for part in 1..=24 {
        let (_, page) = exporter.get(&format!("/?page={part}&sort=name")).await;
        ids.extend(page.match_indices("data-key=\"").map(|(at, mark)| {
            page[at + mark.len()..]
                .split_once('"')
                .unwrap()
                .0
                .to_owned()
        }));
    }
    ids.sort();
    ids.dedup();
    assert_eq!(
        ids,
        crate::common::expected_sim_keys(&exporter.sim)
            .into_keys()
            .collect::<Vec<_>>()
    );
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_escapes_names() {
    let exporter = TestExporter::start(static_sim(1, 3), &["--atlas.poll-interval=1s"]).await;
    let names = [
        "<script>alert(1)</script>",
        "{{7*7}}",
        "\"><img src=x onerror=alert(1)>",
        "{% raw %}",
        "&amp;",
        "' onmouseover='alert(1)",
    ];
    let org = exporter.sim.org_ids()[0].clone();
    exporter.sim.with_world(|world| {
        for name in names {
            world.create_key(&org, name).unwrap();
        }
    });
    let page =
        wait_page_contains(&exporter, "/", "&#60;script&#62;alert(1)&#60;/script&#62;").await;
    assert_eq!(page.matches("<script").count(), 1, "the page's own");
    assert!(page.contains("{{7*7}}") && !page.contains(">49<") && page.contains("{% raw %}"));
    assert!(
        !page.contains("<img") && !page.contains("onerror=alert(1)>")
            || page.contains("onerror=alert(1)&#62;")
    );
    assert!(
        page.contains("&#38;amp;"),
        "as it is written, not as it is meant"
    );
    // The filter text is returned as text as well.
    for query in [
        "q=%3Cscript%3Ealert(2)%3C/script%3E",
        "q=%22%3E%3Cimg+src%3Dx%3E",
        "org=%22%3E%3Cscript%3E",
        "sort=%22%3E%3Cscript%3E&page=%3Cscript%3E",
    ] {
        let (status, page) = exporter.get(&format!("/?{query}")).await;
        assert!(
            status == 200 && page.matches("<script").count() == 1 && !page.contains("<img"),
            "{query}: {page}"
        );
    }
    let (_, page) = exporter.get("/?q=%22%3E%3CIMG").await;
    assert_eq!(count_rows(&page), 1, "and finds what is called so");
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
        "Organizations failing</dt><dd class=\"error\">2<",
    )
    .await;
    assert!(
        page.contains("Organization Read Only") && page.contains("IP access list"),
        "{page}"
    );
    for reason in FailureReason::ALL {
        let runbook = format!(
            "/-/docs/runbooks/{}",
            Explanation::for_reason(reason).runbook
        );
        let (status, text) = exporter.get(&runbook).await;
        assert!(status == 200 && text.contains("## Do"), "{reason}: {text}");
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
    let mut variables = crate::common::sim_env(&sim);
    variables.retain(|(name, _)| name != "MONGODB_ATLAS_ORG_ID");
    let flags = ["--atlas.discover-orgs", "--atlas.poll-interval=1s"];
    let exporter = TestExporter::start_with(sim, variables, &flags).await;
    let page =
        wait_page_contains(&exporter, "/", "of the credential default cannot be listed").await;
    assert!(
        page.contains("Organization Read Only") && page.contains("No organization is watched yet")
    );
    exporter.sim.clear_faults();
    wait_page_contains(&exporter, "/", "<strong class=\"ok\">Fresh</strong>").await;
    assert!(!exporter.get("/").await.1.contains("cannot be listed"));
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
    let page = wait_page_contains(&exporter, "/", "<strong class=\"warn\">Waiting</strong>").await;
    assert!(
        page.contains("none yet") && page.contains("Next walk</dt><dd>under way"),
        "{page}"
    );
    assert_eq!(count_rows(&page), 0);
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
    assert_eq!(count_rows(&one), keys.min(50));
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_loads_only_own_resources() {
    let exporter = TestExporter::start(static_sim(1, 5), &[]).await;
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
            assert!(
                !text.contains("://") && !text.contains("style=") && !text.contains("onclick"),
                "{text}"
            );
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
