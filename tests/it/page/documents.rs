//! Tests of the documents and runbooks that the exporter serves.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Url;

use crate::common::{TestExporter, static_sim};

/// Returns the values of an attribute.
fn attributes(page: &str, name: &str) -> Vec<String> {
    let mark = format!(" {name}=\"");
    let parts = page.split(&mark).skip(1);
    let values = parts.filter_map(|part| part.split_once('"'));
    values.map(|(value, _)| value.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_served_with_valid_links() {
    let exporter = TestExporter::start(static_sim(1, 5), &[]).await;
    let base = Url::parse(&exporter.base_url).unwrap();
    let names = |directory: &str| {
        let directory = format!("{}/{directory}", env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(directory).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let names = names.filter_map(|name| name.strip_suffix(".md").map(str::to_owned));
        names.collect::<BTreeSet<_>>()
    };
    let documents = names("docs")
        .into_iter()
        .map(|name| format!("/-/docs/{name}"));
    let runbooks = names("dashboards/runbooks").into_iter();
    let runbooks = runbooks.map(|name| format!("/-/docs/runbooks/{name}"));
    let paths: Vec<String> = documents.chain(runbooks).collect();
    assert!(paths.len() > 20, "{paths:?}");
    let mut pages = BTreeMap::new();
    for path in &paths {
        let (status, page) = exporter.get(path).await;
        assert_eq!(status, 200, "{path}");
        assert!(
            page.contains("<h1 id=\"") && page.contains("<title>"),
            "{path}: {page}"
        );
        for forbidden in ["<script", "<img", " style=", " onclick"] {
            assert!(!page.contains(forbidden), "{path}: {forbidden}");
        }
        pages.insert(base.join(path).unwrap().path().to_owned(), page);
    }
    for (path, page) in &pages {
        for link in attributes(page, "href") {
            let target = base.join(path).unwrap().join(&link).unwrap();
            if target.host() != base.host() {
                assert_eq!(target.scheme(), "https", "{path}: {link}");
                continue;
            }
            let Some(linked) = pages.get(target.path()) else {
                assert_eq!(exporter.get(target.path()).await.0, 200, "{path}: {link}");
                continue;
            };
            if let Some(anchor) = target.fragment() {
                assert!(
                    attributes(linked, "id").iter().any(|id| id == anchor),
                    "{path}: {link}"
                );
            }
        }
    }
    let metrics = &pages["/-/docs/metrics"];
    let cell = "<td><code>unauthorized</code></td>";
    assert!(metrics.contains(cell), "tables are rendered: {metrics}");
    exporter.stop().await.stop().await;
}
