//! The page for people: what it says, what it escapes, what it keeps to itself, and that it stays
//! small however many keys there are. A real browser looks at it in `real_page`.
use std::time::{Duration, Instant};

use crate::common::{TestExporter, static_sim};
use atlas_ai_keys_exporter::failure::Explanation;
use mongodb_atlas_client::FailureReason;
use mongodb_atlas_sim::{Effect, ErrorBodyFormat, Fault, SimEndpoint};

/// The texts of all elements `<TAG …>TEXT</TAG>` whose beginning contains `mark`.
fn texts_after(page: &str, mark: &str) -> Vec<String> {
    page.match_indices(mark)
        .filter_map(|(at, _)| page[at..].split_once('>')?.1.split_once('<'))
        .map(|(text, _)| text.to_owned())
        .collect()
}

fn count_rows(page: &str) -> usize {
    page.matches("<tr role=\"row\" data-key=").count()
}

/// Asks for the page until it has `part`.
async fn wait_page_contains(lab: &TestExporter, path: &str, part: &str) -> String {
    let begun = Instant::now();
    loop {
        let (status, page) = lab.get(path).await;
        assert_eq!(status, 200);
        if page.contains(part) {
            return page;
        }
        assert!(
            begun.elapsed() < crate::common::WAIT_TIMEOUT,
            "in vain: {part}\n{page}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn page_shows_the_simulator_state() {
    let lab = TestExporter::start(static_sim(3, 1200), &[]).await;
    lab.wait_polled().await;
    let page = wait_page_contains(&lab, "/", "Organizations fresh</dt><dd class=\"good\">3<").await;
    assert_eq!(texts_after(&page, "id=\"all-keys\""), ["1,200"]);
    let (never, by_status) = lab.sim.with_world(|world| {
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
        page.contains("<strong class=\"so-so\">never used</strong>"),
        "the most idle ones were never used"
    );
    // every key is on exactly one part
    let mut ids: Vec<String> = Vec::new();
    for part in 1..=24 {
        let (_, page) = lab.get(&format!("/?page={part}&sort=name")).await;
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
        crate::common::expected_sim_keys(&lab.sim)
            .into_keys()
            .collect::<Vec<_>>()
    );
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_escapes_names() {
    let lab = TestExporter::start(static_sim(1, 3), &["--atlas.poll-interval=1s"]).await;
    let names = [
        "<script>alert(1)</script>",
        "{{7*7}}",
        "\"><img src=x onerror=alert(1)>",
        "{% raw %}",
        "&amp;",
        "' onmouseover='alert(1)",
    ];
    let org = lab.sim.org_ids()[0].clone();
    lab.sim.with_world(|world| {
        for name in names {
            world.create_key(&org, name).unwrap();
        }
    });
    let page = wait_page_contains(&lab, "/", "&#60;script&#62;alert(1)&#60;/script&#62;").await;
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
    // what a reader types comes back as text as well
    for query in [
        "q=%3Cscript%3Ealert(2)%3C/script%3E",
        "q=%22%3E%3Cimg+src%3Dx%3E",
        "org=%22%3E%3Cscript%3E",
        "sort=%22%3E%3Cscript%3E&page=%3Cscript%3E",
    ] {
        let (status, page) = lab.get(&format!("/?{query}")).await;
        assert!(
            status == 200 && page.matches("<script").count() == 1 && !page.contains("<img"),
            "{query}: {page}"
        );
    }
    let (_, page) = lab.get("/?q=%22%3E%3CIMG").await;
    assert_eq!(count_rows(&page), 1, "and finds what is called so");
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_omits_data_that_is_not_exported() {
    for (labels, name, person, masked) in [
        ("name,status", true, false, false),
        ("status", false, false, false),
        ("name,created_by,masked_secret", true, true, true),
    ] {
        let flag = format!("--metrics.key-labels={labels}");
        let lab = TestExporter::start(static_sim(1, 40), &[&flag]).await;
        lab.wait_polled().await;
        let (_, page) = lab.get("/").await;
        let named = lab.sim.with_world(|world| {
            let org = &world.org_ids()[0];
            world
                .keys(org)
                .iter()
                .any(|key| key.name.len() > 5 && page.contains(&format!(">{}<", key.name)))
        });
        assert_eq!(named, name, "{labels}");
        assert_eq!(page.contains("Ada Example"), person, "{labels}");
        assert_eq!(page.contains("al-****"), masked, "{labels}");
        lab.stop().await.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn page_explains_failures_with_remedies() {
    let lab = TestExporter::start(
        static_sim(2, 20),
        &["--atlas.poll-interval=1s", "--atlas.max-staleness=2s"],
    )
    .await;
    lab.wait_polled().await;
    lab.sim.add_fault(Fault::new(
        SimEndpoint::AiModelApiKeys,
        Effect::Status {
            status: 403,
            retry_after: None,
            body: ErrorBodyFormat::default(),
        },
    ));
    let page =
        wait_page_contains(&lab, "/", "Organizations failing</dt><dd class=\"bad\">2<").await;
    assert!(
        page.contains("Organization Read Only") && page.contains("IP access list"),
        "{page}"
    );
    for reason in FailureReason::ALL {
        let runbook = format!(
            "/-/docs/runbooks/{}",
            Explanation::for_reason(reason).runbook
        );
        let (status, text) = lab.get(&runbook).await;
        assert!(status == 200 && text.contains("## Do"), "{reason}: {text}");
    }
    wait_page_contains(&lab, "/", "older than --atlas.max-staleness").await;
    lab.stop().await.stop().await;
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
    let lab = TestExporter::start_with(sim, variables, &flags).await;
    let page = wait_page_contains(&lab, "/", "of the credential default cannot be listed").await;
    assert!(
        page.contains("Organization Read Only") && page.contains("No organization is watched yet")
    );
    lab.sim.clear_faults();
    wait_page_contains(&lab, "/", "<strong class=\"good\">Fresh</strong>").await;
    assert!(!lab.get("/").await.1.contains("cannot be listed"));
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_renders_before_the_first_poll() {
    let sim = crate::common::start_sim(static_sim(1, 5)).await;
    sim.add_fault(Fault::new(
        SimEndpoint::AiModelApiKeys,
        Effect::Delay { seconds: 3600.0 },
    ));
    let variables = crate::common::sim_env(&sim);
    let lab = TestExporter::start_with(sim, variables, &[]).await;
    let page = wait_page_contains(&lab, "/", "<strong class=\"so-so\">Waiting</strong>").await;
    assert!(
        page.contains("none yet") && page.contains("Next walk</dt><dd>under way"),
        "{page}"
    );
    assert_eq!(count_rows(&page), 0);
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_size_is_bounded() {
    let lab = TestExporter::start(crate::common::unlimited_sim(45, 50_000), &[]).await;
    lab.wait_polled().await;
    let (_, page) = lab.get("/").await;
    assert!(page.len() < 150_000, "{} bytes", page.len());
    assert_eq!(page.matches("<article").count(), 20);
    let (_, last) = lab.get("/?orgs=3&page=1000").await;
    assert_eq!(last.matches("<article").count(), 5);
    assert!(
        last.contains("page 1000 of 1000") && last.contains("41 to 45 of 45"),
        "{last}"
    );
    let org = &lab.sim.org_ids()[7];
    let keys = lab.sim.with_world(|world| world.keys(org).len());
    let (_, one) = lab.get(&format!("/?org={org}")).await;
    assert!(one.contains(&format!("in organization {org}")));
    assert_eq!(count_rows(&one), keys.min(50));
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_loads_only_own_resources() {
    let lab = TestExporter::start(static_sim(1, 5), &[]).await;
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
        let answer = client
            .get(format!("{}{path}", lab.base_url))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let headers = answer.headers().clone();
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
        let text = answer.text().await.unwrap();
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
        assert_eq!(lab.get(path).await.0, 404, "{path}");
    }
    lab.stop().await.stop().await;
}
