//! Tests that the page escapes every text from Atlas, configuration and query.

use std::fmt::Write as _;

use super::{row_ids, wait_page_contains};
use crate::common::{TestExporter, static_sim};
use mongodb_atlas_sim::{Effect, Fault, SimEndpoint};

/// Escapes a text for HTML.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        if "&<>\"'".contains(letter) {
            let _ = write!(escaped, "&#{};", u32::from(letter));
        } else {
            escaped.push(letter);
        }
    }
    escaped
}

#[tokio::test(flavor = "multi_thread")]
async fn page_escapes_names() {
    let exporter = TestExporter::start(static_sim(1, 3), &["--atlas.poll-interval=1s"]).await;
    let names = [
        "{{7*7}}",
        "{% raw %}",
        "&amp;",
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "' onmouseover='alert(1)",
        "\" onfocus=\"alert(1)",
    ];
    let org = exporter.sim.org_ids()[0].clone();
    exporter.sim.with_world(|world| {
        for name in names {
            world.create_key(&org, name).unwrap();
        }
    });
    let mark = "data-label=\"Key\"><bdi class=\"name\">";
    let page = wait_page_contains(&exporter, "/", &format!("{mark}{}", escape(names[6]))).await;
    for name in names {
        let shown = format!("{mark}{}</bdi>", escape(name));
        assert_eq!(page.matches(&shown).count(), 1, "{name}: {page}");
        // Escaping does not change a name without special characters.
        let occurrences = usize::from(escape(name) == name);
        assert_eq!(page.matches(name).count(), occurrences, "{name}: {page}");
    }
    assert_eq!(page.matches("<script").count(), 1, "the page's own script");
    assert!(!page.contains(">49<"), "{page}");
    // The filter is escaped as well: in its input field, in the number of keys, and in links.
    for name in names {
        let encode = |text| url::form_urlencoded::byte_serialize(text).collect::<String>();
        let query = format!("q={}", encode(name.as_bytes()));
        let (status, page) = exporter.get(&format!("/?{query}")).await;
        assert_eq!(status, 200);
        assert_eq!(row_ids(&page).len(), 1, "{name}: {page}");
        for part in [
            format!(" value=\"{}\" ", escape(name)),
            format!(" matching “{}”", escape(name)),
            format!("href=\"?{query}&#38;sort=name\""),
        ] {
            assert_eq!(page.matches(&part).count(), 1, "{part}: {page}");
        }
        let occurrences = if escape(name) == name { 3 } else { 0 };
        assert_eq!(page.matches(name).count(), occurrences, "{name}: {page}");
    }
    for query in [
        "org=%22%3E%3Cscript%3E",
        "sort=%22%3E%3Cscript%3E&page=%3Cscript%3E",
        "order=%22%3E%3Cscript%3E&orgs=%3Cscript%3E",
    ] {
        let (status, page) = exporter.get(&format!("/?{query}")).await;
        assert!(
            status == 200 && page.matches("<script").count() == 1,
            "{query}: {page}"
        );
    }
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_escapes_every_text_of_atlas() {
    const HOSTILE: &str = "<i title='";
    let replace = |field: &str| Effect::Replace {
        old: format!("\"{field}\":\""),
        new: format!("\"{field}\":\"{HOSTILE}"),
    };
    let labels = "--metrics.key-labels=name,status,created_by,masked_secret";
    let sim = crate::common::start_sim(static_sim(2, 20)).await;
    let variables = crate::common::sim_env(&sim);
    for endpoint in [SimEndpoint::Org, SimEndpoint::Groups] {
        sim.add_fault(Fault::new(endpoint, replace("name")));
    }
    for field in ["apiKeyId", "name", "status", "createdBy", "maskedSecret"] {
        sim.add_fault(Fault::new(SimEndpoint::AiModelApiKeys, replace(field)));
    }
    // The projects of the second organization have no name.
    let orgs = sim.org_ids();
    sim.add_fault(Fault {
        org: Some(orgs[1].clone()),
        ..Fault::new(SimEndpoint::AiModelApiKeys, replace("groupId"))
    });
    let exporter = TestExporter::start_with(sim, variables, &[labels]).await;
    exporter.wait_polled_with_names().await;
    let named = format!("in Atlas\"><bdi>{}", escape(HOSTILE));
    let page = wait_page_contains(&exporter, "/", &named).await;
    assert_eq!(row_ids(&page).len(), 20);
    let escaped = escape(HOSTILE);
    let mut expected = 0;
    for (place, count) in [
        ("<tr role=\"row\" data-key=\"", 20),
        ("data-label=\"Key\"><bdi class=\"name\">", 20),
        ("</bdi> <small>", 20),
        ("</bdi></a> <small>", 20),
        (" · ", 40),
        ("title=\"Keys of the project in Atlas\"><bdi>", 20),
        (" <small>by ", 20),
        (&format!("<h3 id=\"org-{}\">", orgs[0]), 1),
        (&format!("<h3 id=\"org-{}\">", orgs[1]), 1),
        (" keys of ", 2),
        (
            "<dt>",
            page.matches(&format!("<dt>{escaped}")).count().max(2),
        ),
    ] {
        let shown = page.matches(&format!("{place}{escaped}")).count();
        assert_eq!(shown, count, "{place}: {page}");
        expected += count;
    }
    assert_eq!(page.matches(&escaped).count(), expected, "{page}");
    assert!(!page.contains("<i "), "{page}");
    exporter.stop().await.stop().await;
}
